//! Which flows are there, and which are idle?

use std::{
    collections::{BTreeMap, HashMap},
    io,
    marker::PhantomData,
    net::SocketAddr,
    os::fd::OwnedFd,
    time::Duration,
};

use causeway_schema::{Flow, FlowKey, Port, SWEEP_KEYS, TraceRecord, flow::flags, protocol};

use super::{BpfError, batch, object::Object, object::sweep_program, sys, tracer::context};
use crate::plan::Family;

type Entry<A> = (FlowKey<A>, Flow<A>);
/// Of the established flows, and of the embryonic ones.
type Entries<A> = (Vec<Entry<A>>, Vec<Entry<A>>);

/// How long a flow may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub tcp: Duration,
    pub udp: Duration,
    /// After a FIN or RST of one side: the other may still have much to say.
    pub half_closed: Duration,
    /// After a FIN or RST of both sides, and after the end was declared.
    pub closing: Duration,
}

/// What became of idle flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    pub removed: u64,
    /// Entries that remain.
    pub left: u64,
    /// Of connections whose end was declared, for each side: whom it believes
    /// to talk to, and itself.
    pub told: Vec<(SocketAddr, SocketAddr)>,
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
    /// `own`: what the flow's service has instead.
    fn of<A>(&self, protocol: u8, flow: &Flow<A>, twin: Option<&Flow<A>>, own: Option<Duration>) -> Duration {
        let closes = |flow: &Flow<A>| flow.flags & flags::CLOSING != 0;
        match (protocol, closes(flow), twin.is_none_or(closes)) {
            (protocol::TCP, ..) if flow.flags & flags::EXPIRED != 0 => self.closing,
            (protocol::TCP, true, true) => self.closing,
            (protocol::TCP, true, false) => self.half_closed,
            // A twin that is not there closes nothing.
            (protocol::TCP, false, true) if twin.is_some() => self.half_closed,
            (protocol::TCP, ..) => own.unwrap_or(self.tcp),
            _ => own.unwrap_or(self.udp),
        }
    }
}

/// The flow tables of one family.
pub struct Flows<A> {
    established: OwnedFd,
    embryonic: OwnedFd,
    trace: OwnedFd,
    sweep: OwnedFd,
    ticks_per_second: u32,
    family: PhantomData<A>,
}

impl<A: Family> Flows<A> {
    pub(super) fn open(object: &Object) -> Result<Self, BpfError> {
        Ok(Self {
            established: object.map(&format!("FLOWS{}", A::MAP_SUFFIX))?,
            embryonic: object.map(&format!("EMBRYONIC{}", A::MAP_SUFFIX))?,
            trace: object.map("TRACE")?,
            sweep: object.program(sweep_program::<A>())?,
            ticks_per_second: super::object::ticks_per_second(),
            family: PhantomData,
        })
    }

    /// Entries of the two tables, and the clock to compare their age with.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn entries(&self) -> io::Result<Entries<A>> {
        Ok((batch::read(&self.established)?, batch::read(&self.embryonic)?))
    }

    /// Shows the request entries of all flows that go on to `visit`, whatever
    /// table they are in.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn requests(&self, mut visit: impl FnMut(&FlowKey<A>, &Flow<A>)) -> io::Result<()> {
        [&self.established, &self.embryonic].into_iter().try_for_each(|table| {
            batch::scan(table, |key, flow: &Flow<A>| {
                if flow.flags & (flags::REPLY | flags::EXPIRED) == 0 {
                    visit(key, flow);
                }
            })
        })
    }

    /// Whole seconds since an entry saw a packet.
    pub fn idle_seconds(&self, flow: &Flow<A>, now: u32) -> u64 {
        u64::from(now.wrapping_sub(flow.last_seen) / self.ticks_per_second)
    }

    /// The kernel's clock, in ticks.
    ///
    /// # Errors
    /// When the sweep program cannot be run.
    pub fn now(&mut self) -> io::Result<u32> {
        Ok(self.run_sweep(0, &[], false)?.backend)
    }

    /// Ends flows of which both directions have been silent too long. A
    /// connection that nobody has closed is declared ended first, and removed
    /// when its sides have had time to hear of it; everything else goes at once.
    /// `own`: timeouts of single services, by their ids.
    ///
    /// # Errors
    /// When a table cannot be read or the sweep program cannot be run.
    pub fn expire(&mut self, timeouts: &Timeouts, own: &HashMap<u32, Duration>) -> io::Result<Expired> {
        let now = self.now()?;
        let silent = |flow: &Flow<A>, timeout: Duration| {
            u64::from(now.wrapping_sub(flow.last_seen)) >= self.ticks(timeout)
        };
        let common = [timeouts.tcp, timeouts.udp, timeouts.half_closed, timeouts.closing];
        let shortest = common.iter().chain(own.values()).min().copied().unwrap_or_default();
        // The table is large and most of it is busy: only what might be idle is kept.
        let mut suspects: Vec<Entry<A>> = Vec::new();
        let mut total = 0;
        batch::scan(&self.established, |key: &FlowKey<A>, flow: &Flow<A>| {
            total += 1;
            if silent(flow, shortest) {
                suspects.push((*key, *flow));
            }
        })?;
        // By timeout and by what is to become of them, since a run of the
        // program has one of each for all its keys.
        let mut idle: BTreeMap<(Duration, bool), Vec<FlowKey<A>>> = BTreeMap::new();
        for (key, flow) in &suspects {
            let twin: Option<Flow<A>> = sys::map_lookup(&self.established, &flow.twin(key.protocol))?;
            // A flow is judged by its request entry, unless only the reply is left.
            if flow.flags & flags::REPLY != 0 && twin.is_some() {
                continue;
            }
            let timeout = timeouts.of(key.protocol, flow, twin.as_ref(), own.get(&flow.service).copied());
            if silent(flow, timeout) && twin.is_none_or(|twin| silent(&twin, timeout)) {
                let over = flags::CLOSING | flags::EXPIRED;
                let open = key.protocol == protocol::TCP
                    && (flow.flags | twin.map_or(over, |twin| twin.flags)) & over == 0;
                idle.entry((timeout, open)).or_default().push(*key);
            }
        }
        let mut expired = Expired::default();
        for ((timeout, open), keys) in idle {
            for chunk in keys.chunks(SWEEP_KEYS) {
                let timeout = u32::try_from(self.ticks(timeout)).unwrap_or(u32::MAX);
                let ended = self.run_sweep(timeout, chunk, open)?.service;
                if open {
                    self.ends_of(chunk, &mut expired.told)?;
                } else {
                    expired.removed += u64::from(ended);
                }
            }
        }
        expired.left = u64::saturating_sub(total, expired.removed * 2);
        Ok(expired)
    }

    /// Ends the flows that `denies` names, by their requests' tuples before and
    /// after: of connections the end is declared, everything else goes at once.
    ///
    /// # Errors
    /// As [`Flows::expire`].
    pub fn revoke(&mut self, denies: impl Fn(&FlowKey<A>, &Flow<A>) -> bool) -> io::Result<Expired> {
        self.end(denies, true)
    }

    /// As [`Flows::revoke`]; connections are forgotten like all others unless
    /// their end is to be declared.
    ///
    /// # Errors
    /// As [`Flows::expire`].
    pub fn end(
        &mut self,
        denies: impl Fn(&FlowKey<A>, &Flow<A>) -> bool,
        declare: bool,
    ) -> io::Result<Expired> {
        let mut expired = Expired::default();
        let is_denied = |key: &FlowKey<A>, flow: &Flow<A>| {
            flow.flags & (flags::REPLY | flags::EXPIRED) == 0 && denies(key, flow)
        };
        let mut embryonic = Vec::new();
        batch::scan(&self.embryonic, |key, flow| {
            if is_denied(key, flow) {
                embryonic.extend([*key, flow.twin(key.protocol)]);
            }
        })?;
        // What takes its place asks again; nobody has been answered yet.
        expired.removed += embryonic.len() as u64 / 2;
        batch::delete(&self.embryonic, &embryonic)
            .into_iter()
            .next()
            .map_or(Ok(()), |(_, error)| Err(error))?;
        let mut denied: BTreeMap<bool, Vec<FlowKey<A>>> = BTreeMap::new();
        batch::scan(&self.established, |key: &FlowKey<A>, flow: &Flow<A>| {
            if is_denied(key, flow) {
                denied.entry(declare && key.protocol == protocol::TCP).or_default().push(*key);
            }
        })?;
        for (open, keys) in denied {
            for chunk in keys.chunks(SWEEP_KEYS) {
                let ended = self.run_sweep(0, chunk, open)?.service;
                expired.removed += u64::from(ended);
                if open {
                    self.ends_of(chunk, &mut expired.told)?;
                }
            }
        }
        Ok(expired)
    }

    /// The sides of those connections whose end is declared.
    fn ends_of(&self, keys: &[FlowKey<A>], told: &mut Vec<(SocketAddr, SocketAddr)>) -> io::Result<()> {
        for key in keys {
            let flow: Option<Flow<A>> = sys::map_lookup(&self.established, key)?;
            let Some(flow) = flow.filter(|flow| flow.flags & flags::EXPIRED != 0) else { continue };
            let end = |address: A, port: Port| SocketAddr::new(address.to_ip(), port.get());
            told.push((end(key.dst, key.dst_port), end(key.src, key.src_port)));
            told.push((end(flow.src, flow.src_port), end(flow.dst, flow.dst_port)));
        }
        Ok(())
    }

    fn ticks(&self, duration: Duration) -> u64 {
        duration.as_secs() * u64::from(self.ticks_per_second)
    }

    fn run_sweep(&mut self, timeout: u32, keys: &[FlowKey<A>], declare: bool) -> io::Result<TraceRecord> {
        let mut packet = vec![0_u8; 14];
        packet.extend_from_slice(&timeout.to_ne_bytes());
        packet.extend_from_slice(&(keys.len() as u32).to_ne_bytes());
        packet.extend_from_slice(&u32::from(declare).to_ne_bytes());
        packet.extend_from_slice(bytemuck::cast_slice(keys));
        let mut out = vec![0; packet.len() + 64];
        sys::test_run(&self.sweep, &context(0, 0), &packet, &mut out)?;
        sys::map_lookup(&self.trace, &0_u32)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}
