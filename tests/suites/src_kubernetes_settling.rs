//! SRC-07: when may the policies of an API server be put in force? When all that
//! they are about is known, or is refused for good: without a kernel.

use causeway_testkit::{
    apiserver::{DISCOVERY, Fault, kind, stock::stocked},
    watcher::{TIMING, Watcher, block_on},
};

/// What the model needs to know of pods and policies comes as soon as it is
/// known, whatever becomes of other kinds.
#[test]
fn a_kind_that_cannot_be_listed_holds_up_no_other() {
    block_on(async {
        let api = stocked();
        api.plan(kind("Namespace"), vec![Fault::Broken; 10_000]);
        api.allow(DISCOVERY, false);
        let mut watcher = Watcher::start(&api).await;
        watcher.until("pods", |watcher| watcher.model.pods().count() == 3).await;
        watcher.until("policies", |watcher| watcher.model.policy_count() == 3).await;
        let named = |watcher: &Watcher| {
            ["Namespace: ", "Egress: "]
                .iter()
                .all(|name| watcher.problems.iter().any(|problem| problem.contains(name)))
        };
        watcher.until("the problems", named).await;
        assert!(!watcher.model.synced());
    });
}

/// Policies may be put in force without kinds that must not be read, and not
/// without others.
#[test]
fn policies_wait_for_what_is_to_come_and_not_for_what_is_forbidden() {
    block_on(async {
        let api = stocked();
        for name in ["AdminNetworkPolicy", "Policy"] {
            api.install(kind(name), true);
        }
        api.allow(kind("AdminNetworkPolicy"), false);
        api.plan(kind("Policy"), [Fault::Broken; 30]);
        let mut watcher = Watcher::start(&api).await;
        watcher.until("policies", |watcher| watcher.model.policies_known()).await;
        assert_eq!((api.planned(), watcher.model.policy_count()), (0, 3));
        assert!(!watcher.model.synced());
        let named = |problem: &String| {
            problem.contains("AdminNetworkPolicy: must not be read") && problem.contains("hold without it")
        };
        watcher.until("the problem", |watcher| watcher.problems.iter().any(named)).await;
        // A kind of every server's.
        api.allow(kind("Pod"), false);
        let mut other = Watcher::start(&api).await;
        other.until("services", |watcher| watcher.model.services() == 3).await;
        other.hear(TIMING.longest * 5).await;
        assert!(!other.model.policies_known(), "pods are not known");
        api.allow(kind("Pod"), true);
        other.until("policies", |watcher| watcher.model.policies_known()).await;
    });
}
