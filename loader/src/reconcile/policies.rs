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
    attach::Stored,
    event::{Problem, pod_name},
    kernel::bpf::{Dataplane, PolicyTables},
    model::Touched,
    plan::{
        Capacity, Family, PolicyPlan, PolicyPlanner,
        policy::{Left, NoRoom, SEALED},
    },
    policy::{Compiler, Delta, Here, Name, Pod, RuleName, Subject, Talk},
};

/// A program that has read the rows from before a change may remember a flow
/// for as long as this.
const LATE: Duration = Duration::from_millis(10);
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
    /// The rows were as they should be when last looked at.
    pub stand: bool,
    /// It may have become known whose some endpoints are, or begun to matter.
    introduced: bool,
    /// Endpoints whose rows say that nobody knows whose they are, and those of them for
    /// whom that is to stand until the others' rows have changed over.
    pub sealed: BTreeSet<String>,
    unsealing: BTreeSet<String>,
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
        let plan = self.planner.plan(&self.pending).map_err(|error: NoRoom| error.to_string())?;
        self.pending = Delta::default();
        self.stand = false;
        self.tables.apply(&plan.before)?;
        Ok(Some(plan))
    }

    /// Makes the endpoints, whose rows name their indexes by now, change over.
    ///
    /// True when some rows name an index that they should not any more.
    ///
    /// # Errors
    /// What a map refused.
    pub fn change_over(&mut self, plan: &PolicyPlan) -> Result<bool, String> {
        self.tables.apply(&plan.flip)?;
        let left = self.planner.changed_over();
        self.tables.apply(&plan.after)?;
        if plan.decides_anew {
            self.judge_due = Some(Instant::now() + LATE);
        }
        Ok(left)
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
            // Flows may have begun, or failed to, by what was wrong.
            self.judge_due = Some(Instant::now() + LATE);
            if !wrong(&self.tables, &self.planner)?.is_empty() {
                return Err("the policy maps do not read back as written".into());
            }
        }
        self.stand = self.pending.is_empty();
        if let Some(revision) = self.planner.release(now) {
            self.leftovers |= self.compiler.release(revision);
        }
        Ok(repairs.iter().map(|repair| format!("policy: {repair:?}")).collect())
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

/// What the status calls trouble with policies.
const POLICIES: &str = "keep policies";

impl Agent {
    /// Tells the compiler what the sources have changed.
    pub fn tell_policies(&mut self, touched: &Touched) {
        for name in &touched.namespaces {
            let labels = self.model.namespace_labels(name);
            self.policies.compiler.set_namespace(name.clone(), Some(labels));
        }
        for key in &touched.policies {
            let object = self.model.policy(key).map(|policy| policy.object);
            self.policies.compiler.set_policy(key.into(), object);
        }
        // Whether there are any decides over who is not known yet.
        self.policies.introduced |= !touched.policies.is_empty() || touched.egress;
        let moved = self.moved_between_networks(touched);
        for name in touched.pods.union(&moved) {
            self.tell_pod(name);
        }
        let named = self.policies.compiler.services();
        let served: BTreeSet<Name> = if touched.policies.is_empty() {
            let touched = touched.services.iter().map(|id| (id.namespace.clone(), id.name.clone()));
            touched.filter(|name| named.contains(name)).collect()
        } else {
            named
        };
        for name in served {
            let addresses = self.model.backend_addresses(&name);
            self.policies.compiler.set_service(name, addresses);
        }
    }

    /// What an endpoint's row is to say: its rules, or that nobody has said yet which
    /// are its own.
    pub fn policy_of(&self, name: &str, stored: &Stored) -> Option<u16> {
        // Docker's driver is not told whose endpoint it makes; the engine tells us soon
        // after. While no source is known, what held goes on to hold.
        let told_later = stored.request.handover && self.config.docker.is_some();
        let is_nobody =
            || self.model.pod(&pod_name(name)).is_none() || self.policies.unsealing.contains(name);
        let rules = || self.model.policies().next().is_some() || self.model.egresses().next().is_some();
        let matters = || self.model.containers_known() && rules();
        if told_later && is_nobody() && matters() { Some(SEALED) } else { self.policies.index(name) }
    }

    /// An endpoint came, went, or has other labels.
    pub fn tell_endpoint(&mut self, name: &str) {
        self.tell_pod(&pod_name(name));
        if self.store.get(name).is_none() {
            self.policies.compiler.set_endpoint(name.into(), None);
        }
    }

    /// A pod as a peer, and as the one that policies are about where it is an
    /// endpoint: what its object says, and what is known of it here.
    fn tell_pod(&mut self, name: &Name) {
        let mut pod = self.model.pod(name).map(|object| {
            let pod = Pod::from(&**object);
            Pod { labels: self.admitted(&name.0, pod.labels.clone()), ..pod }
        });
        if let Some((endpoint, stored)) = self.endpoint_of(name) {
            let (namespace, labels) = self.model.endpoint_labels(endpoint, &stored.request.labels);
            let labels = self.admitted(&namespace, labels);
            let here = Pod::here(pod, labels, &stored.endpoint.addresses);
            let subject = Subject { namespace, labels: here.labels.clone(), ports: here.ports.clone() };
            let (endpoint, introduced) = (endpoint.into(), stored.request.handover);
            self.policies.introduced |= introduced;
            self.policies.compiler.set_endpoint(endpoint, Some(subject));
            pod = Some(here);
        }
        self.policies.compiler.set_pod(name.clone(), pod);
    }

    /// The endpoint of a pod, if it is one of this node.
    fn endpoint_of(&self, (namespace, name): &Name) -> Option<(&str, &Stored)> {
        let full = format!("{namespace}/{name}");
        let bare = if &**namespace == "default" { &**name } else { "" };
        [full.as_str(), bare].into_iter().find_map(|name| self.store.get_key_value(name))
    }

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

    pub fn audit_policies(&mut self) {
        let audited = self.policies.audit(self.started.elapsed());
        let repairs = self.note(POLICIES, audited).unwrap_or_default();
        if !repairs.is_empty() {
            self.plan_endpoints();
        }
        repairs.into_iter().for_each(|repair| self.remember_repair(repair));
        if self.policies.leftovers {
            self.commit_policies();
        }
        self.lint_policies();
        self.judge_flows();
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
