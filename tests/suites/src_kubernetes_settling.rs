//! SRC-07: when may the policies of an API server be put in force? When all that
//! they are about is known, or is refused for good: without a kernel.

use causeway_testkit::{
    apiserver::{
        ApiServer, DISCOVERY, Fault, KINDS, kind,
        stock::{object, stocked},
    },
    random::Random,
    watcher::{TIMING, Watcher, block_on},
};

/// A server that has an AdminNetworkPolicy, too.
fn with_admin() -> ApiServer {
    let (api, admin) = (stocked(), kind("AdminNetworkPolicy"));
    api.install(admin, true);
    api.apply(&object(&mut Random::new(1), admin, 0).1);
    api
}

fn says(watcher: &Watcher, name: &str, what: &str) -> bool {
    watcher.problems.iter().any(|problem| problem.contains(name) && problem.contains(what))
}

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
        watcher.until("policies", |watcher| watcher.model.containers_known()).await;
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
        assert!(!other.model.containers_known(), "pods are not known");
        api.allow(kind("Pod"), true);
        other.until("policies", |watcher| watcher.model.containers_known()).await;
    });
}

/// What must not be said is which kinds there are. Each may be read all the same,
/// and that there is none is not taken from an answer that anybody can give.
#[test]
fn policies_wait_for_kinds_that_must_not_be_asked_for() {
    block_on(async {
        let api = with_admin();
        api.allow(DISCOVERY, false);
        let mut watcher = Watcher::start(&api).await;
        let settled = |watcher: &Watcher| (watcher.model.containers_known(), watcher.model.policy_count());
        watcher.until("either", |watcher| matches!(settled(watcher), (true, _) | (_, 4))).await;
        assert_eq!(settled(&watcher), (false, 4), "others may be there");
        let remedy = "may the agent's account get /apis";
        watcher.until("the problem", |watcher| says(watcher, " Policy: ", remedy)).await;
        assert!(!watcher.model.containers_known());
        (0..KINDS.len()).for_each(|kind| api.install(kind, true));
        watcher.until("policies", |watcher| watcher.model.containers_known()).await;
        watcher.until_as(&api).await;
    });
}

/// A server that starts forbids for a moment what it allows.
#[test]
fn policies_are_not_settled_by_a_refusal_that_goes_away() {
    block_on(async {
        let (api, admin) = (with_admin(), kind("AdminNetworkPolicy"));
        for kind in [admin, kind("Pod")] {
            api.allow(kind, false);
        }
        let mut watcher = Watcher::start(&api).await;
        let refused = |watcher: &Watcher| says(watcher, "AdminNetworkPolicy: ", "must not be read");
        watcher.until("the refusal", refused).await;
        // Pods are known long before the server answers for the other again.
        api.plan(admin, [Fault::Late(10_000)]);
        for kind in [admin, kind("Pod")] {
            api.allow(kind, true);
        }
        watcher.until("policies", |watcher| watcher.model.containers_known()).await;
        assert_eq!((api.planned(), watcher.model.policy_count()), (0, 4));
        watcher.until_as(&api).await;
    });
}
