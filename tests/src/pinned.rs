//! The hand of a stranger: the agent's pinned maps and links, opened, read and
//! spoilt behind its back.

use std::{
    fs,
    io::Error,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::maps::{Array, HashMap, Map, MapData};
use bytemuck::Pod;
use causeway_schema::{Backend, Cell, Frontend, FrontendKey, Port, Service, V4, choice, hash::flow_hash};

/// The maps under an agent's pins.
pub struct Pinned {
    root: PathBuf,
}

impl Pinned {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The file a map is pinned as.
    pub fn file(&self, map: &str) -> PathBuf {
        let files = files(&self.root);
        let found = files.iter().find(|path| path.file_name().is_some_and(|name| name == map));
        found.unwrap_or_else(|| panic!("no pin {map} among {files:?}")).clone()
    }

    fn map(&self, name: &str) -> MapData {
        MapData::from_pin(self.file(name)).unwrap_or_else(|error| panic!("open {name}: {error}"))
    }

    /// A hash map, keys and rows as bytes.
    pub fn table<const K: usize, const V: usize>(&self, name: &str) -> HashMap<MapData, [u8; K], [u8; V]> {
        HashMap::try_from(Map::HashMap(self.map(name))).unwrap()
    }

    /// A hash map, for [`Table::of`](crate::table::Table::of).
    pub fn hash_map(&self, name: &str) -> Map {
        Map::HashMap(self.map(name))
    }

    /// A prefix trie, likewise.
    pub fn trie(&self, name: &str) -> Map {
        Map::LpmTrie(self.map(name))
    }

    pub fn array<const N: usize>(&self, name: &str) -> Array<MapData, [u8; N]> {
        Array::try_from(Map::Array(self.map(name))).unwrap()
    }

    /// Every row of an array.
    fn rows<const N: usize, T: Pod>(&self, name: &str) -> Vec<T> {
        let array = self.array::<N>(name);
        (0..array.len()).map(|index| bytemuck::pod_read_unaligned(&array.get(&index, 0).unwrap())).collect()
    }

    /// All that is needed to choose backends as the kernel does.
    pub fn choice(&self) -> ChoiceTables {
        let frontends = self.table::<8, 8>("FRONTENDS_V4");
        ChoiceTables {
            frontends: frontends
                .iter()
                .map(|row| row.map(|(key, row)| (bytemuck::cast(key), bytemuck::cast(row))).unwrap())
                .collect(),
            services: self.rows::<16, _>("SERVICES_V4"),
            backends: self.rows::<8, _>("BACKENDS_V4"),
            arena: self.rows::<64, _>("ARENA_V4"),
        }
    }

    /// Makes a map refuse every write from userspace (EPERM), for good.
    pub fn freeze(&self, map: &str) {
        let map = self.map(map);
        let descriptor = std::os::fd::AsFd::as_fd(map.fd()).as_raw_fd();
        bpf(BPF_MAP_FREEZE, &(descriptor as u32).to_ne_bytes()).unwrap();
    }

    /// Programs that are attached by a pinned link; `bpftool net` of Debian 12
    /// does not know tcx.
    pub fn attached(&self) -> usize {
        let is_attached = |path: &PathBuf| {
            let Ok(object) = open(path) else { return false };
            // `struct bpf_link_info` of a tcx link: type, id, program, padding,
            // interface (0 once it is detached), attach type.
            let mut info = [0_u32; 6];
            let mut attributes = Vec::from((object.as_raw_fd() as u32).to_ne_bytes());
            attributes.extend((size_of_val(&info) as u32).to_ne_bytes());
            attributes.extend((info.as_mut_ptr() as u64).to_ne_bytes());
            bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes).is_ok() && info[4] != 0
        };
        let is_link = |path: &&PathBuf| path.to_string_lossy().contains("/links/");
        files(&self.root).iter().filter(is_link).filter(|path| is_attached(path)).count()
    }

    /// Detaches every program that is attached by a pinned link; how many.
    pub fn detach_links(&self) -> usize {
        let detach = |path: &PathBuf| {
            let object = open(path)?;
            bpf(BPF_LINK_DETACH, &(object.as_raw_fd() as u32).to_ne_bytes())
        };
        // Maps and programs are no links and refuse.
        files(&self.root).iter().filter(|path| detach(path).is_ok()).count()
    }
}

/// A copy of the maps that choose.
pub struct ChoiceTables {
    frontends: std::collections::HashMap<FrontendKey<V4>, Frontend>,
    services: Vec<Service>,
    backends: Vec<Backend<V4>>,
    arena: Vec<Cell>,
}

impl ChoiceTables {
    /// The backend that a new flow gets; `None` when nobody serves there.
    pub fn backend(
        &self,
        client: SocketAddrV4,
        frontend: SocketAddrV4,
        protocol: u8,
    ) -> Option<SocketAddrV4> {
        let [(source, source_port), (address, port)] =
            [client, frontend].map(|end| (V4::from(*end.ip()), Port::new(end.port())));
        let frontend = self.frontends.get(&FrontendKey::new(address, port, protocol))?;
        let target = self.services.get(frontend.service as usize)?.target;
        let hash = flow_hash(&source, source_port, &address, port, protocol);
        let backend = self.backends.get(choice::choose(self.arena.as_slice(), target, hash)? as usize)?;
        let port = if target.port() == Port::NONE { backend.port } else { target.port() };
        Some(SocketAddrV4::new(Ipv4Addr::from(backend.addr), port.get()))
    }

    /// As [`ChoiceTables::backend`], for `count` clients spread over addresses
    /// and ports.
    pub fn backends(&self, frontend: SocketAddrV4, protocol: u8, count: u32) -> Vec<SocketAddrV4> {
        let client = |index: u32| {
            SocketAddrV4::new(
                Ipv4Addr::new(10, 250, (index >> 12) as u8, (index >> 4) as u8),
                1024 + (index % 50_000) as u16,
            )
        };
        let backend = |index| self.backend(client(index), frontend, protocol);
        (0..count)
            .map(|index| backend(index).unwrap_or_else(|| panic!("no backend for {frontend}")))
            .collect()
    }
}

/// Makes a plain hash table of a row at most, and pins it: one that refuses
/// where others would put a row out. Sizes in bytes.
pub fn pin_narrow(path: &Path, key: usize, row: usize) {
    const HASH: u32 = 1;
    let shape = [HASH, key as u32, row as u32, 1].map(u32::to_ne_bytes).concat();
    let descriptor = bpf(BPF_MAP_CREATE, &shape).unwrap_or_else(|error| panic!("make a map: {error}"));
    // SAFETY: the kernel just gave us this descriptor.
    let map = unsafe { OwnedFd::from_raw_fd(descriptor as i32) };
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let mut attributes = Vec::from((name.as_ptr() as u64).to_ne_bytes());
    attributes.extend((map.as_raw_fd() as u32).to_ne_bytes());
    bpf(BPF_OBJ_PIN, &attributes).unwrap_or_else(|error| panic!("pin {}: {error}", path.display()));
}

/// Every file below `root`.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

// Commands of bpf(2), from linux/bpf.h.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_FREEZE: libc::c_long = 22;
const BPF_LINK_DETACH: libc::c_long = 34;

/// bpf(2) with the beginning of its attributes; the rest is zero.
fn bpf(command: libc::c_long, attributes: &[u8]) -> Result<libc::c_long, Error> {
    let mut block = [0_u8; 128];
    block[..attributes.len()].copy_from_slice(attributes);
    // SAFETY: the block is longer than what any of these commands reads, and
    // pointers within it outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, block.as_ptr(), block.len()) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// Opens a pinned object, whatever it is.
fn open(path: &Path) -> Result<OwnedFd, Error> {
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    let descriptor = bpf(BPF_OBJ_GET, &(name.as_ptr() as u64).to_ne_bytes())?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}
