use super::*;
use crate::plan::GRACE;

type Rows = (BTreeMap<SetKey, Steps>, BTreeMap<(u32, IpNet), u32>, BTreeMap<u32, EndpointPolicy>, Standing);

/// The maps, as writes leave them; every step is asked whether each endpoint
/// finds what it should.
#[derive(Default)]
struct Maps {
    steps: BTreeMap<u32, PolicyStep>,
    rows: Rows,
}

impl Maps {
    fn apply(&mut self, writes: &[PolicyWrite]) {
        for write in writes {
            let (sets, classes, policies, standing) = &mut self.rows;
            match write {
                PolicyWrite::Steps(base, steps) => {
                    self.steps.extend((*base..).zip(steps.iter().copied()));
                }
                PolicyWrite::Set(key, Some(row)) => drop(sets.insert(*key, *row)),
                PolicyWrite::Set(key, None) => drop(sets.remove(key)),
                PolicyWrite::Class { generation, peer, class: Some(class) } => {
                    classes.insert((*generation, *peer), *class);
                }
                PolicyWrite::Class { generation, peer, class: None } => {
                    classes.remove(&(*generation, *peer));
                }
                PolicyWrite::Policy(row, row_sets) => drop(policies.insert(*row, *row_sets)),
                PolicyWrite::Stand(now) => *standing = *now,
            }
        }
    }

    /// What comes to an endpoint with an index finds, as a program does it.
    fn ask(&self, index: u16, peer: &str, place: u32) -> Option<u32> {
        let (sets, classes, policies, standing) = &self.rows;
        let set = policies.get(&standing.row(index))?.ingress;
        if set == 0 {
            return None;
        }
        let peer: IpNet = peer.parse().unwrap();
        let class = classes.get(&(standing.generation(), peer)).copied().unwrap_or(OTHERS);
        let key = SetKey { set, class };
        let at =
            sets.get(&key).or_else(|| sets.get(&SetKey { set, class: OTHERS })).expect("a set without rows");
        let step =
            policy::find(*at, place, |index| self.steps.get(&index).copied()).expect("a list without steps");
        Some(step.rule())
    }

    fn left(&self, indexes: BTreeMap<Arc<str>, u16>) -> Left {
        Left {
            standing: self.rows.3,
            sets: self.rows.0.iter().map(|(key, row)| (*key, *row)).collect(),
            classes: self.rows.1.keys().copied().collect(),
            indexes,
        }
    }
}

fn steps(rules: &[u32]) -> Arc<[PolicyStep]> {
    (0..).step_by(100).zip(rules).map(|(from, rule)| PolicyStep::new(from, Outcome::Deny, *rule)).collect()
}

fn planner() -> PolicyPlanner {
    PolicyPlanner::adopt(Left::default(), 64, 8)
}

fn delta(sets: &[(u32, u32, &[u32])], endpoints: &[(&str, u32)]) -> Delta {
    let mut delta = Delta::default();
    for (set, class, rules) in sets {
        delta.sets.put.insert(SetKey { set: *set, class: *class }, steps(rules));
    }
    for (name, set) in endpoints {
        delta.endpoints.put.insert((*name).into(), EndpointPolicy { ingress: *set, egress: 0 });
    }
    delta
}

fn all(plan: &PolicyPlan) -> Vec<PolicyWrite> {
    [plan.before.clone(), plan.flip.clone(), plan.after.clone()].concat()
}

#[test]
fn endpoints_change_over_at_once() {
    let (mut planner, mut maps) = (planner(), Maps::default());
    maps.apply(&PolicyPlanner::seal());
    let first = planner.plan(&delta(&[(1, 0, &[7]), (2, 0, &[8])], &[("a", 1), ("b", 2)])).unwrap();
    maps.apply(&first.before);
    let index = |planner: &PolicyPlanner, name| planner.index(name).unwrap();
    let (a, b) = (index(&planner, "a"), index(&planner, "b"));
    assert_eq!((maps.ask(a, "10.0.0.1/32", 0), maps.ask(b, "10.0.0.1/32", 0)), (None, None));
    maps.apply(&first.flip);
    assert_eq!((maps.ask(a, "10.0.0.1/32", 0), maps.ask(b, "10.0.0.1/32", 0)), (Some(7), Some(8)));
    // Swapped: each write before the last leaves both as they are.
    let second = planner.plan(&delta(&[], &[("a", 2), ("b", 1)])).unwrap();
    for write in &second.before {
        maps.apply(std::slice::from_ref(write));
        assert_eq!((maps.ask(a, "10.0.0.1/32", 0), maps.ask(b, "10.0.0.1/32", 0)), (Some(7), Some(8)));
    }
    assert_eq!(second.flip.len(), 1);
    maps.apply(&second.flip);
    assert_eq!((maps.ask(a, "10.0.0.1/32", 0), maps.ask(b, "10.0.0.1/32", 0)), (Some(8), Some(7)));
    assert!(second.after.is_empty());
    // Without sets an endpoint is not asked about; its index rests.
    let mut third = delta(&[], &[]);
    third.endpoints.gone.insert("a".into());
    let third = planner.plan(&third).unwrap();
    maps.apply(&all(&third));
    assert_eq!(planner.index("a"), Some(a), "until all have changed over");
    assert!(planner.changed_over() && !planner.changed_over());
    assert_eq!((planner.index("a"), maps.ask(a, "10.0.0.1/32", 0)), (Some(0), None));
    assert_eq!(maps.ask(b, "10.0.0.1/32", 0), Some(7));
    assert_eq!(planner.sets_of("b").ingress & ((1 << TAG) - 1), 1);
}

#[test]
fn a_new_agent_changes_over_at_once() {
    let mut maps = Maps::default();
    maps.apply(&PolicyPlanner::seal());
    let mut before = planner();
    let mut first = delta(&[(1, 0, &[7]), (1, 3, &[9])], &[("a", 1)]);
    let peer = "10.0.0.1/32";
    first.classes.put.insert(peer.parse().unwrap(), 3);
    maps.apply(&all(&before.plan(&first).unwrap()));
    let index = before.index("a").unwrap();
    assert_eq!(maps.ask(index, peer, 0), Some(9));

    let mut after = PolicyPlanner::adopt(maps.left([("a".into(), index)].into()), 64, 8);
    assert!(!after.stands());
    assert_eq!((after.index("a"), after.index("new")), (Some(index), Some(SEALED)));
    assert_eq!(maps.ask(SEALED, peer, 0), Some(NO_RULE), "a sealed endpoint is denied everything");
    // The same numbers mean something else now.
    let mut again = delta(&[(1, 0, &[5]), (1, 4, &[6])], &[("a", 1)]);
    again.classes.put.insert(peer.parse().unwrap(), 4);
    let plan = after.plan(&again).unwrap();
    for write in &plan.before {
        maps.apply(std::slice::from_ref(write));
        assert_eq!(maps.ask(index, peer, 0), Some(9), "{write:?}");
    }
    maps.apply(&plan.flip);
    assert_eq!(maps.ask(index, peer, 0), Some(6));
    for write in &plan.after {
        maps.apply(std::slice::from_ref(write));
        assert_eq!(maps.ask(index, peer, 0), Some(6), "{write:?}");
    }
    let (sets, classes, ..) = &maps.rows;
    assert_eq!((sets.len(), classes.len()), (3, 1), "nothing of the first agent is left but what is sealed");
    assert_eq!(after.index("new"), Some(0));
}

#[test]
fn equal_lists_stand_once_and_room_is_given_back() {
    let mut planner = planner();
    let long: Vec<u32> = (1..=31).collect();
    for round in 0..20 {
        let set = round + 1;
        let plan = planner.plan(&delta(&[(set, 0, &long), (set, 1, &long)], &[("a", set)])).unwrap();
        let written = plan.before.iter().filter(|write| matches!(write, PolicyWrite::Steps(..))).count();
        assert_eq!(written, usize::from(round == 0));
        let mut gone = Delta::default();
        gone.sets.gone.extend([0, 1].map(|class| SetKey { set: round, class }));
        planner.plan(&gone).unwrap();
    }
    let other: Vec<u32> = (50..=90).collect();
    let refused = planner.plan(&delta(&[(99, 0, &other)], &[])).unwrap_err();
    assert!(refused.to_string().contains("capacity.policy_steps"), "{refused}");
    let mut gone = Delta::default();
    gone.sets.gone.extend([0, 1].map(|class| SetKey { set: 20, class }));
    planner.plan(&gone).unwrap();
    for now in [Duration::ZERO, GRACE] {
        planner.release(now);
    }
    planner.plan(&delta(&[(99, 0, &other)], &[])).unwrap();
}
