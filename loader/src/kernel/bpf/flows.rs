//! Which flows are there, and which are idle?

use std::{collections::BTreeMap, io, os::fd::OwnedFd, time::Duration};

use causeway_schema::{
    Flow, FlowKey, NodeConfig, SWEEP_KEYS, TraceRecord, V4, flow::flags, protocol, verdict,
};

use super::{BpfError, batch, object::Object, object::SWEEP, sys};

type Entry = (FlowKey<V4>, Flow<V4>);

/// How long a flow may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub tcp: Duration,
    pub udp: Duration,
    /// After a FIN or RST of one side: the other may still have much to say.
    pub half_closed: Duration,
    /// After a FIN or RST of both sides.
    pub closing: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp: Duration::from_secs(3600),
            udp: Duration::from_secs(60),
            half_closed: Duration::from_secs(120),
            closing: Duration::from_secs(10),
        }
    }
}

impl Timeouts {
    fn of(&self, protocol: u8, flow: &Flow<V4>, twin: Option<&Flow<V4>>) -> Duration {
        let closes = |flow: &Flow<V4>| flow.flags & flags::CLOSING != 0;
        match (protocol, closes(flow), twin.is_none_or(closes)) {
            (protocol::UDP, ..) => self.udp,
            (_, true, true) => self.closing,
            (_, true, false) => self.half_closed,
            // A twin that is not there closes nothing.
            (_, false, true) if twin.is_some() => self.half_closed,
            _ => self.tcp,
        }
    }
}

/// Flow tables, counters and trace of one family.
pub struct Flows {
    established: OwnedFd,
    embryonic: OwnedFd,
    counters: OwnedFd,
    config: OwnedFd,
    trace: OwnedFd,
    sweep: OwnedFd,
    cpus: usize,
    ticks_per_second: u32,
}

impl Flows {
    pub(super) fn open(object: &Object) -> Result<Self, BpfError> {
        let possible = aya::util::nr_cpus().map_err(|(_, cause)| BpfError::call("count", "CPUs")(cause))?;
        Ok(Self {
            established: object.map("FLOWS_V4")?,
            embryonic: object.map("EMBRYONIC_V4")?,
            counters: object.map("COUNTERS")?,
            config: object.map("CONFIG")?,
            trace: object.map("TRACE")?,
            sweep: object.program(SWEEP)?,
            cpus: possible,
            ticks_per_second: super::object::ticks_per_second(),
        })
    }

    /// Entries of the two tables, and the clock to compare their age with.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn entries(&self) -> io::Result<(Vec<Entry>, Vec<Entry>)> {
        Ok((batch::read(&self.established)?, batch::read(&self.embryonic)?))
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

    /// Whole seconds since an entry saw a packet.
    pub fn idle_seconds(&self, flow: &Flow<V4>, now: u32) -> u64 {
        u64::from(now.wrapping_sub(flow.last_seen) / self.ticks_per_second)
    }

    /// The kernel's clock, in ticks.
    ///
    /// # Errors
    /// When the sweep program cannot be run.
    pub fn now(&mut self) -> io::Result<u32> {
        Ok(self.run_sweep(0, &[])?.backend)
    }

    /// Removes flows of which both directions have been silent too long; the
    /// number of flows removed and of entries that remain.
    ///
    /// # Errors
    /// When a table cannot be read or the sweep program cannot be run.
    pub fn expire(&mut self, timeouts: &Timeouts) -> io::Result<(u64, u64)> {
        let now = self.now()?;
        let silent = |flow: &Flow<V4>, timeout: Duration| {
            u64::from(now.wrapping_sub(flow.last_seen)) >= self.ticks(timeout)
        };
        let shortest = timeouts.tcp.min(timeouts.udp).min(timeouts.half_closed).min(timeouts.closing);
        // The table is large and most of it is busy: only what might be idle is kept.
        let mut suspects: Vec<Entry> = Vec::new();
        let mut total = 0;
        batch::scan(&self.established, |key: &FlowKey<V4>, flow: &Flow<V4>| {
            total += 1;
            if silent(flow, shortest) {
                suspects.push((*key, *flow));
            }
        })?;
        // By timeout, since a run of the program has one for all its keys.
        let mut idle: BTreeMap<Duration, Vec<FlowKey<V4>>> = BTreeMap::new();
        for (key, flow) in &suspects {
            let twin: Option<Flow<V4>> = sys::map_lookup(&self.established, &flow.twin(key.protocol))?;
            // A flow is judged by its request entry, unless only the reply is left.
            if flow.flags & flags::REPLY != 0 && twin.is_some() {
                continue;
            }
            let timeout = timeouts.of(key.protocol, flow, twin.as_ref());
            if silent(flow, timeout) && twin.is_none_or(|twin| silent(&twin, timeout)) {
                idle.entry(timeout).or_default().push(*key);
            }
        }
        let mut removed = 0;
        for (timeout, keys) in idle {
            for chunk in keys.chunks(SWEEP_KEYS) {
                let timeout = u32::try_from(self.ticks(timeout)).unwrap_or(u32::MAX);
                removed += u64::from(self.run_sweep(timeout, chunk)?.service);
            }
        }
        Ok((removed, u64::saturating_sub(total, removed * 2)))
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
        let config: NodeConfig =
            sys::map_lookup(&self.config, &0_u32)?.unwrap_or(bytemuck::Zeroable::zeroed());
        sys::map_update(&self.config, &0_u32, &NodeConfig { trace_mark: mark, ..config })?;
        let mut out = vec![0; packet.len() + 256];
        let ran = sys::test_run(program, &context(mark, ifindex), packet, &mut out);
        let reset = sys::map_update(&self.config, &0_u32, &NodeConfig { trace_mark: 0, ..config });
        let (result, length) = ran?;
        reset?;
        out.truncate(length);
        let none = TraceRecord { verdict: u32::MAX, service: u32::MAX, backend: u32::MAX, ifindex: 0 };
        let record = sys::map_lookup(&self.trace, &0_u32)?.unwrap_or(none);
        Ok((result as i32, record, out))
    }

    fn ticks(&self, duration: Duration) -> u64 {
        duration.as_secs() * u64::from(self.ticks_per_second)
    }

    fn run_sweep(&mut self, timeout: u32, keys: &[FlowKey<V4>]) -> io::Result<TraceRecord> {
        let mut packet = vec![0_u8; 14];
        packet.extend_from_slice(&timeout.to_ne_bytes());
        packet.extend_from_slice(&(keys.len() as u32).to_ne_bytes());
        packet.extend_from_slice(bytemuck::cast_slice(keys));
        let mut out = vec![0; packet.len() + 64];
        sys::test_run(&self.sweep, &context(0, 0), &packet, &mut out)?;
        sys::map_lookup(&self.trace, &0_u32)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// `struct __sk_buff` as far as a traced packet needs it: mark at byte 8,
/// ifindex at byte 40 (linux/bpf.h).
fn context(mark: u32, ifindex: u32) -> [u8; 192] {
    let mut context = [0; 192];
    context[8..12].copy_from_slice(&mark.to_ne_bytes());
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context
}
