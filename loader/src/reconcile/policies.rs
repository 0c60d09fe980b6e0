//! Who may talk to whom on this node: what the compiler says, the rows it
//! becomes, and what that means for flows that are under way.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_schema::{Flow, FlowKey, V4, V6};

use super::{agent::Agent, plane::Plane};
use crate::{
    event::Problem,
    kernel::bpf::{Dataplane, PolicyTables, PolicyWalk},
    plan::{
        Capacity, Family, PolicyPlan, PolicyPlanner, PolicyWrite,
        policy::{Left, NoRoom},
    },
    policy::{Compiler, Delta, Here, RuleName, Talk},
};

/// A program that has read the rows from before a change may remember a flow
/// for as long as this.
const LATE: Duration = Duration::from_millis(10);
/// At most a part of so many of the time goes into reading back.
const READING: u32 = 10;
/// After flows could not be judged.
const AGAIN: Duration = Duration::from_secs(1);

pub struct Policies {
    pub compiler: Compiler,
    planner: PolicyPlanner,
    tables: PolicyTables,
    /// What is not planned yet, because there was no room.
    pending: Delta,
    /// The compiler has rows left that nothing needs any more.
    pub leftovers: bool,
    /// When flows under way are to be judged by what holds now.
    judge_due: Option<Instant>,
    /// What was written and not read back yet.
    unread: Vec<PolicyWrite>,
    /// A write has failed. Until all has been read back nobody knows how far it came,
    /// and what must not be written before the rest.
    broken: bool,
    /// How far all rows have been read back, and when to go on with that.
    walk: PolicyWalk,
    walk_due: Option<Instant>,
    /// What was written has been read back, and no other row is known to be wrong.
    pub stand: bool,
    /// It may have become known whose some endpoints are, or begun to matter.
    pub introduced: bool,
    /// Endpoints whose rows say that nobody knows whose they are, and those of them for
    /// whom that is to stand until the others' rows have changed over.
    pub sealed: BTreeSet<String>,
    pub unsealing: BTreeSet<String>,
    /// What policies say in vain.
    pub problems: Vec<Problem>,
    /// As of which revisions of the compiler and the model.
    linted: (u64, u64),
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
            leftovers: false,
            judge_due: None,
            unread: Vec::new(),
            broken: false,
            walk: PolicyWalk::default(),
            walk_due: None,
            stand: false,
            introduced: false,
            sealed: BTreeSet::new(),
            unsealing: BTreeSet::new(),
            problems: Vec::new(),
            linted: (0, 0),
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
        self.leftovers = false;
        let delta = self.compiler.commit();
        if delta.is_empty() && self.pending.is_empty() && self.planner.stands() {
            return Ok(None);
        }
        self.pending.follow(delta);
        let mut plan = self.planner.plan(&self.pending).map_err(|error: NoRoom| error.to_string())?;
        self.pending = Delta::default();
        self.stand = false;
        if self.broken {
            // What this plan takes to be there may be missing.
            self.walk(true)?;
        } else {
            self.write(&plan.before)?;
        }
        self.unread.append(&mut plan.before);
        self.unread.extend(plan.flip.iter().chain(&plan.after).cloned());
        Ok(Some(plan))
    }

    /// Makes the endpoints, whose rows name their indexes by now, change over.
    ///
    /// True when some rows name an index that they should not any more.
    ///
    /// # Errors
    /// What a map refused.
    pub fn change_over(&mut self, plan: &PolicyPlan) -> Result<bool, String> {
        self.write(&plan.flip)?;
        let left = self.planner.changed_over();
        self.write(&plan.after)?;
        if plan.decides_anew {
            self.judge_due = Some(Instant::now() + LATE);
        }
        Ok(left)
    }

    /// Reads back what was written, and writes again what is not as it should be; says
    /// what that was.
    ///
    /// # Errors
    /// What a map refused.
    pub fn confirm(&mut self, now: Duration) -> Result<Vec<String>, String> {
        if !self.planner.stands() || self.broken {
            return Ok(Vec::new());
        }
        let repairs = self.tables.unlike(self.planner.image(), &self.unread).map_err(unreadable)?;
        self.repair(&repairs)?;
        self.unread = Vec::new();
        self.stand = self.pending.is_empty();
        if let Some(revision) = self.planner.release(now) {
            self.leftovers |= self.compiler.release(revision);
        }
        Ok(told(&repairs))
    }

    /// Reads back all rows, a piece of them or, to be sure of them, at once; puts right
    /// what is not as it should be, and says what that was.
    ///
    /// # Errors
    /// As above.
    pub fn walk(&mut self, at_once: bool) -> Result<Vec<String>, String> {
        if !self.planner.stands() {
            return Ok(Vec::new());
        }
        let began = Instant::now();
        // In trouble the next look at everything is soon enough.
        self.walk_due = None;
        let at_once = at_once || self.broken;
        if at_once {
            self.walk = PolicyWalk::default();
        }
        let repairs = self.tables.audit(self.planner.image(), &mut self.walk, at_once).map_err(unreadable)?;
        self.repair(&repairs)?;
        if self.broken {
            self.unread = Vec::new();
            self.broken = false;
        }
        if !self.walk.is_at_its_start() {
            self.walk_due = Some(Instant::now() + began.elapsed() * READING);
        }
        Ok(told(&repairs))
    }

    fn repair(&mut self, repairs: &[PolicyWrite]) -> Result<(), String> {
        if repairs.is_empty() {
            return Ok(());
        }
        self.stand = false;
        // Flows may have begun, or failed to, by what was wrong.
        self.judge_due = Some(Instant::now() + LATE);
        self.write(repairs)?;
        match self.tables.unlike(self.planner.image(), repairs) {
            Ok(wrong) if wrong.is_empty() => Ok(()),
            Ok(_) => Err("the policy maps do not read back as written".into()),
            Err(error) => Err(unreadable(error)),
        }
    }

    fn write(&mut self, writes: &[PolicyWrite]) -> Result<(), String> {
        let written = self.tables.apply(writes);
        self.broken |= written.is_err();
        written
    }

    /// How long the loop may sleep before further rows are to be read back.
    pub fn until_walk(&self, now: Instant) -> Duration {
        self.walk_due.map_or(Duration::MAX, |due| due.saturating_duration_since(now))
    }

    /// Ends flows that are not allowed any more, when it is time to.
    ///
    /// # Errors
    /// When the flow tables cannot be read, or the program cannot be run.
    pub fn judge(&mut self, here: &Here, v4: &mut Plane<V4>, v6: &mut Plane<V6>) -> io::Result<()> {
        if self.judge_due.is_none_or(|due| Instant::now() < due) {
            return Ok(());
        }
        // One family's trouble is not the other's.
        let v4 = v4.revoke(|key, flow| self.denies(here, key, flow));
        let judged = v4.and(v6.revoke(|key, flow| self.denies(here, key, flow)));
        self.judge_due = judged.is_err().then(|| Instant::now() + AGAIN);
        judged
    }

    /// How long the loop may sleep before flows are to be judged.
    pub fn until_judgement(&self, now: Instant) -> Duration {
        self.judge_due.map_or(Duration::MAX, |due| due.saturating_duration_since(now))
    }

    /// As the programs would decide about a flow that begins now.
    fn denies<A: Family>(&self, here: &Here, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        let (from, to) = (key.src.to_ip(), flow.dst.to_ip());
        let talk = Talk::new(from, to, key.protocol, flow.dst_port.get());
        here.concerns(&talk) && self.compiler.judge(here, &talk).denies()
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

fn unreadable(error: io::Error) -> String {
    format!("read the policy maps: {error}")
}

fn told(repairs: &[PolicyWrite]) -> Vec<String> {
    repairs.iter().map(|repair| format!("policy: {repair:?}")).collect()
}

/// What the status calls trouble with policies.
const POLICIES: &str = "keep policies";

impl Agent {
    /// Writes what the compiler has been told, once all sources have spoken of it.
    pub fn commit_policies(&mut self) {
        if !self.model.containers_known() || self.dataplane.is_none() {
            return;
        }
        let committed = self.policies.commit();
        let introduced = std::mem::take(&mut self.policies.introduced);
        let Some(Some(plan)) = self.note(POLICIES, committed) else {
            if introduced {
                self.plan_endpoints();
            }
            return;
        };
        // The rows name their indexes before any is asked for; who was cut off stays so
        // until what is asked for stands.
        self.policies.unsealing = std::mem::take(&mut self.policies.sealed);
        self.plan_endpoints();
        let done = self.policies.change_over(&plan);
        let unsealed = !std::mem::take(&mut self.policies.unsealing).is_empty();
        if self.note(POLICIES, done) == Some(true) || unsealed {
            self.plan_endpoints();
        }
        self.audit_soon();
    }

    /// Reads back what was written.
    pub fn confirm_policies(&mut self) {
        let confirmed = self.policies.confirm(self.started.elapsed());
        // What has no room goes on to have none.
        if confirmed.is_err() || self.policies.stand {
            self.note(POLICIES, confirmed.as_ref().map(drop));
        }
        self.note_repairs(confirmed.unwrap_or_default());
        if self.policies.leftovers {
            self.commit_policies();
        }
        self.lint_policies();
        self.judge_flows();
    }

    /// Reads back further rows, or all of them.
    pub fn walk_policies(&mut self, at_once: bool) {
        let walked = self.policies.walk(at_once);
        let repairs = self.note("read policies back", walked).unwrap_or_default();
        if !repairs.is_empty() {
            self.note_repairs(repairs);
            self.audit_soon();
        }
    }

    fn note_repairs(&mut self, repairs: Vec<String>) {
        if !repairs.is_empty() {
            self.plan_endpoints();
        }
        repairs.into_iter().for_each(|repair| self.remember_repair(repair));
    }

    /// Looks for what policies say in vain, if anything has changed.
    fn lint_policies(&mut self) {
        let now = (self.policies.compiler.revision(), self.model.revision());
        if self.policies.linted != now {
            let mut problems = self.policies.compiler.problems(|name| self.model.backend_ports(name));
            self.model.place_policies(&mut problems);
            (self.policies.problems, self.policies.linted) = (problems, now);
        }
    }

    /// Ends flows that policies do not allow any more, when it is time to.
    pub fn judge_flows(&mut self) {
        let endpoints = self.store.iter().flat_map(|(name, stored)| {
            let name: Arc<str> = name.as_str().into();
            stored.endpoint.addresses.iter().map(move |address| (*address, name.clone()))
        });
        // The node's own packets are of no flow.
        let here = Here { endpoints: endpoints.collect(), own: BTreeSet::new() };
        let judged = self.policies.judge(&here, &mut self.v4, &mut self.v6);
        self.note("end flows that are not allowed", judged);
    }
}
