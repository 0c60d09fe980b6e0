//! Who may talk to whom on this node: what the compiler says, the rows it
//! becomes, and what that means for flows that are under way.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_schema::{
    Flow, FlowKey, Port, V4, V6,
    policy::{EndpointPolicy, Outcome, place},
    protocol,
};

use super::plane::Plane;
use crate::{
    kernel::bpf::{Dataplane, PolicyTables},
    plan::{
        Capacity, Family, PolicyPlan, PolicyPlanner,
        policy::{Left, NoRoom},
    },
    policy::{Compiler, Delta, RuleName},
};

/// A program that has read the rows from before a change may remember a flow
/// for as long as this.
const LATE: Duration = Duration::from_millis(10);

pub struct Policies {
    pub compiler: Compiler,
    planner: PolicyPlanner,
    tables: PolicyTables,
    /// What is not planned yet, because there was no room.
    pending: Delta,
    /// Written, not read back yet.
    written: u64,
    /// When flows under way are to be judged by what holds now.
    judge_due: Option<Instant>,
    /// The rows were as they should be when last looked at.
    pub stand: bool,
}

impl Policies {
    /// Takes over what an earlier agent has left, which goes on to hold until
    /// the first commit. `indexes`: of the endpoints that are still there.
    ///
    /// # Errors
    /// When the maps cannot be opened, read or written.
    pub fn adopt(
        dataplane: &Dataplane,
        capacity: Capacity,
        indexes: BTreeMap<Arc<str>, u16>,
    ) -> anyhow::Result<Self> {
        let mut tables = dataplane.policies()?;
        let classes = tables.classes()?.into_iter().map(|(generation, peer, _)| (generation, peer));
        let left =
            Left { standing: tables.standing(), sets: tables.sets()?, classes: classes.collect(), indexes };
        tables.apply(&PolicyPlanner::seal()).map_err(anyhow::Error::msg)?;
        tables.clear_counts()?;
        Ok(Self {
            compiler: Compiler::default(),
            planner: PolicyPlanner::adopt(left, capacity.policy_steps, capacity.endpoints),
            tables,
            pending: Delta::default(),
            written: 0,
            judge_due: None,
            stand: false,
        })
    }

    /// What an endpoint's row is to say. See [`PolicyPlanner::index`].
    pub fn index(&self, endpoint: &str) -> Option<u16> {
        self.planner.index(endpoint)
    }

    /// Plans what the compiler has been told, and writes what nothing names
    /// yet. `None`: nothing has changed.
    ///
    /// # Errors
    /// What does not fit, or what a map refused; all goes on as it was, and the
    /// next commit tries again.
    pub fn commit(&mut self) -> Result<Option<PolicyPlan>, String> {
        let delta = self.compiler.commit();
        if delta.is_empty() && self.pending.is_empty() && self.planner.stands() {
            return Ok(None);
        }
        self.pending.follow(delta);
        let plan = self.planner.plan(&self.pending).map_err(|error: NoRoom| error.to_string())?;
        self.written = self.pending.revision;
        self.pending = Delta::default();
        self.stand = false;
        self.tables.apply(&plan.before)?;
        Ok(Some(plan))
    }

    /// Makes the endpoints, whose rows name their indexes by now, change over.
    ///
    /// # Errors
    /// What a map refused.
    pub fn change_over(&mut self, plan: &PolicyPlan) -> Result<(), String> {
        self.tables.apply(&plan.flip)?;
        self.tables.apply(&plan.after)?;
        if plan.decides_anew {
            self.judge_due = Some(Instant::now() + LATE);
        }
        Ok(())
    }

    /// Reads everything back and puts right what is not as it should be; says
    /// what that was.
    ///
    /// # Errors
    /// What a map refused.
    pub fn audit(&mut self, now: Duration) -> Result<Vec<String>, String> {
        if !self.planner.stands() {
            return Ok(Vec::new());
        }
        let wrong = |tables: &PolicyTables, planner: &PolicyPlanner| {
            tables.audit(planner.image()).map_err(|error| format!("read the policy maps: {error}"))
        };
        let repairs = wrong(&self.tables, &self.planner)?;
        if !repairs.is_empty() {
            self.stand = false;
            self.tables.apply(&repairs)?;
            if !wrong(&self.tables, &self.planner)?.is_empty() {
                return Err("the policy maps do not read back as written".into());
            }
        }
        self.stand = self.pending.is_empty();
        self.compiler.release(self.written);
        self.planner.release(now);
        Ok(repairs.iter().map(|repair| format!("policy: {repair:?}")).collect())
    }

    /// Ends flows that are not allowed any more, when it is time to.
    ///
    /// # Errors
    /// When the flow tables cannot be read, or the program cannot be run.
    pub fn judge(
        &mut self,
        endpoints: &BTreeMap<Arc<str>, Vec<IpAddr>>,
        v4: &mut Plane<V4>,
        v6: &mut Plane<V6>,
    ) -> io::Result<()> {
        if self.judge_due.is_none_or(|due| Instant::now() < due) {
            return Ok(());
        }
        self.judge_due = None;
        let sets: HashMap<IpAddr, EndpointPolicy> = endpoints
            .iter()
            .flat_map(|(name, addresses)| {
                let sets = self.planner.sets_of(name);
                addresses.iter().map(move |address| (*address, sets))
            })
            .filter(|(_, sets)| *sets != EndpointPolicy::default())
            .collect();
        v4.revoke(|key, flow| self.denies(&sets, key, flow))?;
        v6.revoke(|key, flow| self.denies(&sets, key, flow))
    }

    /// How long the loop may sleep before flows are to be judged.
    pub fn until_judgement(&self, now: Instant) -> Option<Duration> {
        self.judge_due.map(|due| due.saturating_duration_since(now))
    }

    /// As the programs would decide about a flow that begins now.
    fn denies<A: Family>(
        &self,
        sets: &HashMap<IpAddr, EndpointPolicy>,
        key: &FlowKey<A>,
        flow: &Flow<A>,
    ) -> bool {
        if key.src == flow.dst {
            return false;
        }
        let ported = matches!(key.protocol, protocol::TCP | protocol::UDP);
        let place = place(key.protocol, if ported { flow.dst_port } else { Port::NONE });
        let own = |address: A| sets.get(&address.to_ip()).copied().unwrap_or_default();
        let asked = [(own(key.src).egress, flow.dst), (own(flow.dst).ingress, key.src)];
        asked.into_iter().filter(|(set, _)| *set != 0).any(|(set, peer)| {
            let step = self.planner.image().find(set, peer.to_ip(), place);
            !matches!(step.map(|step| step.outcome()), Some(Outcome::Allow | Outcome::Audit))
        })
    }

    /// How often each rule has decided since the agent's start.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn counts(&self) -> io::Result<Vec<(Arc<RuleName>, u64)>> {
        let rules = self.compiler.image().rules.rows();
        let counts = self.tables.rule_counts(rules.keys().copied())?;
        Ok(counts.into_iter().filter_map(|(rule, count)| Some((rules.get(&rule)?.clone(), count))).collect())
    }

    /// Who is meant by a rule's number.
    pub fn rule(&self, number: u32) -> Option<&Arc<RuleName>> {
        self.compiler.image().rules.rows().get(&number)
    }
}
