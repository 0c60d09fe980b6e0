//! What do the programs count, and what would they do with a packet?

use std::{io, os::fd::OwnedFd};

use bytemuck::Zeroable;
use causeway_schema::{NodeConfig, TraceRecord, verdict};

use super::{BpfError, object::Object, sys};

/// Counters and traces, of both families.
pub struct Tracer {
    counters: OwnedFd,
    config: OwnedFd,
    trace: OwnedFd,
    cpus: usize,
}

impl Tracer {
    pub(super) fn open(object: &Object) -> Result<Self, BpfError> {
        let possible = aya::util::nr_cpus().map_err(|(_, cause)| BpfError::call("count", "CPUs")(cause))?;
        Ok(Self {
            counters: object.map("COUNTERS")?,
            config: object.map("CONFIG")?,
            trace: object.map("TRACE")?,
            cpus: possible,
        })
    }

    fn config(&self) -> io::Result<NodeConfig> {
        Ok(sys::map_lookup(&self.config, &0_u32)?.unwrap_or_default())
    }

    /// Every counter, summed over CPUs, by index.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> io::Result<Vec<u64>> {
        let mut row = vec![0_u64; self.cpus];
        let mut sums = Vec::new();
        for index in 0..verdict::COUNTERS {
            let found = sys::map_lookup_bytes(&self.counters, &index, bytemuck::cast_slice_mut(&mut row))?;
            sums.push(if found { row.iter().sum() } else { 0 });
        }
        Ok(sums)
    }

    /// Lets a program judge a packet without any effect; its return value, the
    /// record it left, and the packet that would leave.
    ///
    /// # Errors
    /// When the program cannot be run over this packet.
    pub fn trace(
        &mut self,
        program: &OwnedFd,
        ifindex: u32,
        packet: &[u8],
    ) -> io::Result<(i32, TraceRecord, Vec<u8>)> {
        let mut mark = 0_u32;
        while mark == 0 {
            let mut bytes = [0; 4];
            io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
            mark = u32::from_ne_bytes(bytes);
        }
        let config = self.config()?;
        sys::map_update(&self.config, &0_u32, &NodeConfig { trace_mark: mark, ..config })?;
        // A packet of which no rule is asked leaves that field as it is.
        sys::map_update(&self.trace, &0_u32, &TraceRecord::zeroed())?;
        let mut out = vec![0; packet.len() + 256];
        let ran = sys::test_run(program, &context(mark, ifindex), packet, &mut out);
        let reset = sys::map_update(&self.config, &0_u32, &NodeConfig { trace_mark: 0, ..config });
        let (result, length) = ran?;
        reset?;
        out.truncate(length);
        let none =
            TraceRecord { verdict: u32::MAX, service: u32::MAX, backend: u32::MAX, ifindex: 0, rule: 0 };
        let record = sys::map_lookup(&self.trace, &0_u32)?.unwrap_or(none);
        Ok((result as i32, record, out))
    }
}

/// `struct __sk_buff` as far as a traced packet needs it: mark at byte 8,
/// ifindex at byte 40 (linux/bpf.h).
pub(super) fn context(mark: u32, ifindex: u32) -> [u8; 192] {
    let mut context = [0; 192];
    context[8..12].copy_from_slice(&mark.to_ne_bytes());
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context
}
