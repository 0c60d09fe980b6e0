//! Which programs does no packet wait for? Those for sockets, and what they know.

use std::collections::HashMap;

use causeway_schema::{SOCK_LIST, socket::Peers};

use super::{
    super::{BpfError, cgroup::SOCKETS, programs, sys},
    Object, SOCKET_STORAGE, read, shapes,
};
use crate::plan::Capacity;

impl Object {
    /// Loads the programs for sockets too: a third of all instructions, and
    /// nothing that a packet waits for at the start.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn load_sockets(&mut self, capacity: &Capacity) -> Result<(), BpfError> {
        self.load_late(&SOCKETS, capacity, |kind| kind == SOCKET_STORAGE.0)
    }

    /// And at last the one that lists the sockets.
    ///
    /// # Errors
    /// What the kernel refuses, and that it does not describe itself (BTF).
    pub fn load_sock_list(&mut self, capacity: &Capacity) -> Result<(), BpfError> {
        // It is given its map when it is run.
        let loaded = self.load_late(&[SOCK_LIST], capacity, |_| false);
        self.rest = None;
        loaded
    }

    /// `on`: kinds of maps that they work on.
    fn load_late(
        &mut self,
        names: &[&'static str],
        capacity: &Capacity,
        on: impl Fn(u32) -> bool,
    ) -> Result<(), BpfError> {
        if names.iter().all(|name| self.programs.contains_key(name)) {
            return Ok(());
        }
        let mut ebpf = match self.rest.take() {
            Some(ebpf) => ebpf,
            None => {
                if let Some(programs) = self.inherited(names, on) {
                    self.programs.extend(programs);
                    return Ok(());
                }
                read(&self.pins, &shapes(capacity))?
            }
        };
        let programs = programs::load(&mut ebpf, names);
        self.rest = Some(ebpf);
        self.publish(programs?)
    }

    /// See [`Dataplane::named`](super::Dataplane::named).
    ///
    /// # Errors
    /// When the kernel cannot list them.
    pub fn named(&self) -> Result<HashMap<u64, Peers>, BpfError> {
        let Some(program) = self.programs.get(SOCK_LIST) else { return Ok(HashMap::new()) };
        let rows = sys::list(program, &self.map("PEERS")?).map_err(BpfError::call("list", "the sockets"))?;
        let row = |row: &[u8]| {
            let (cookie, peers) = row.split_at(size_of::<u64>());
            (bytemuck::pod_read_unaligned(cookie), bytemuck::pod_read_unaligned(peers))
        };
        Ok(rows.chunks_exact(size_of::<u64>() + size_of::<Peers>()).map(row).collect())
    }
}
