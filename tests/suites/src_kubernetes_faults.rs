//! SRC-01: whatever a server does to those who watch it, does the model end
//! where the server's objects are, and was nothing taken away in between that
//! never went? Random changes under random faults, without a kernel;
//! `CAUSEWAY_RUNS` of them.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use causeway_testkit::{
    apiserver::{
        ApiServer, DISCOVERY, Fault, KINDS, Kind, documents, kind,
        stock::{object, stocked},
    },
    random::Random,
    watcher::{TIMING, Watcher, block_on},
};

/// Objects of a number that is even stay for good, but for the only one of its
/// kind.
const NUMBERS: usize = 10;

async fn run(random: &mut Random) {
    let mut api = ApiServer::local();
    let kinds: Vec<Kind> = (0..KINDS.len()).filter(|kind| KINDS[*kind].4 || !random.one_in(4)).collect();
    kinds.iter().for_each(|&kind| api.install(kind, true));
    let any = |random: &mut Random| {
        let (kind, number) = (*random.pick(&kinds), random.below(NUMBERS));
        (kind, number, object(random, kind, number))
    };
    for _ in 0..random.below(20) {
        let (.., (_, yaml)) = any(random);
        api.apply(&yaml);
    }
    api.misbehave(Some((random.word(), 3 + random.below(10))));
    let mut watcher = Watcher::start(&api).await;
    let mut deleted = BTreeSet::new();
    for _ in 0..20 + random.below(40) {
        let (kind, number, (name, yaml)) = any(random);
        if number % 2 == 1 && random.one_in(3) {
            let (_, of, _, namespaced, _) = KINDS[kind];
            let (namespace, dot) = if namespaced { ("default", "default/") } else { ("", "") };
            api.delete(kind, namespace, &name);
            deleted.insert(format!("{of} {dot}{name}"));
        } else {
            api.apply(&yaml);
        }
        if random.one_in(15) {
            api.compact();
        }
        if random.one_in(25) {
            api.down();
            watcher.hear(Duration::from_millis(random.below(10) as u64)).await;
            api.up();
        }
        watcher.hear(Duration::from_millis(random.below(6) as u64)).await;
    }
    api.misbehave(None);
    watcher.until_as(&api).await;
    let spurious: Vec<_> = watcher.deleted.difference(&deleted).collect();
    assert!(spurious.is_empty(), "taken away, but never gone: {spurious:?}");
}

#[test]
fn random_faults_end_where_the_server_is() {
    let runs =
        std::env::var("CAUSEWAY_RUNS").map_or(200, |runs| runs.parse().expect("CAUSEWAY_RUNS is a number"));
    let begun = Instant::now();
    let mut done = 0;
    Random::rounds_while(|random| {
        block_on(run(random));
        done += 1;
        done < runs
    });
    println!("{done} runs in {:?}", begun.elapsed());
}

#[test]
fn a_kind_that_must_not_be_read_is_named_and_the_rest_is_served() {
    block_on(async {
        let api = stocked();
        api.allow(kind("NetworkPolicy"), false);
        let mut watcher = Watcher::start(&api).await;
        watcher.until("services", |watcher| watcher.model.services() == 3).await;
        let named = |watcher: &Watcher| {
            let problem = watcher.problems.iter().find(|problem| problem.contains("NetworkPolicy"));
            problem.is_some_and(|problem| {
                problem.contains("list and watch networkpolicies of networking.k8s.io")
                    && problem.contains("the server says: forbidden: User \"kit\" cannot List this")
            })
        };
        watcher.until("the problem", named).await;
        watcher.until("pods", |watcher| watcher.model.pods().count() == 3).await;
        assert!(!watcher.model.synced(), "what policies there are is not known");
        api.allow(kind("NetworkPolicy"), true);
        watcher.until_as(&api).await;
    });
}

const POLICY: &str = "apiVersion: causeway.io/v1alpha1\nkind: Policy\nmetadata: {name: p}\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}}}\n";

#[test]
fn a_kind_that_is_not_installed_is_no_trouble_and_comes_when_it_is() {
    block_on(async {
        let api = stocked();
        let mut watcher = Watcher::start(&api).await;
        watcher.until_as(&api).await;
        api.install(kind("Policy"), true);
        api.apply(POLICY);
        watcher.until_as(&api).await;
        assert_eq!(watcher.model.policy_count(), 4);
        api.install(kind("Policy"), false);
        watcher.until("the policy gone", |watcher| watcher.model.policy_count() == 3).await;
        watcher.until_as(&api).await;
    });
}

#[test]
fn a_server_that_does_not_answer_is_named_and_takes_nothing_away() {
    block_on(async {
        let mut api = stocked();
        let mut watcher = Watcher::start(&api).await;
        watcher.until_as(&api).await;
        api.down();
        let silent = |watcher: &Watcher| {
            watcher.problems.iter().any(|problem| problem.contains("does not answer since 2"))
        };
        watcher.until("the problem", silent).await;
        watcher.hear(Duration::from_millis(300)).await;
        assert_eq!((watcher.model.services(), watcher.problems.len()), (3, 1), "{:?}", watcher.problems);
        assert!(watcher.deleted.is_empty());
        api.delete(kind("Service"), "default", "o1");
        api.up();
        watcher.until_as(&api).await;
        assert_eq!(watcher.deleted, BTreeSet::from(["Service default/o1".to_owned()]));
    });
}

#[test]
fn an_answer_of_somebody_else_is_named() {
    block_on(async {
        let api = stocked();
        api.plan(kind("Service"), vec![Fault::Foreign; 3]);
        let mut watcher = Watcher::start(&api).await;
        let named = |watcher: &Watcher| {
            watcher.problems.iter().any(|problem| problem.contains("none of an API server's"))
        };
        watcher.until("the problem", named).await;
        watcher.until_as(&api).await;
    });
}

/// Until what was planned has gone wrong, and is well again.
async fn until_over(watcher: &mut Watcher, api: &ApiServer) {
    watcher.until("the faults", |_| api.planned() == 0).await;
    watcher.hear(TIMING.longest).await;
    watcher.until_as(api).await;
}

/// A watch is answered by somebody else, or as an API server does not. Nothing
/// changes afterwards: what is quiet must be known to be well again.
#[test]
fn a_quiet_kind_is_known_to_be_well_again() {
    let ends: [&[Fault]; 9] = [
        &[Fault::Foreign],
        &[Fault::Stranger(404)],
        &[Fault::Stranger(429)],
        &[Fault::Stranger(502)],
        &[Fault::Stranger(302)],
        &[Fault::Broken],
        // As often as a request is sent again, and once more.
        &[Fault::Busy(0); 4],
        &[Fault::Gone],
        &[Fault::GoneStatus],
    ];
    block_on(async {
        let api = stocked();
        let mut watcher = Watcher::start(&api).await;
        watcher.until_as(&api).await;
        for faults in ends {
            println!("{faults:?}");
            api.plan(kind("Service"), [Fault::End].iter().chain(faults).copied());
            until_over(&mut watcher, &api).await;
        }
        assert!(watcher.deleted.is_empty(), "{:?}", watcher.deleted);
    });
}

#[test]
fn a_list_that_is_refused_too_often_is_asked_for_anew() {
    block_on(async {
        let api = stocked();
        api.plan(kind("Service"), [Fault::Busy(0); 9]);
        let mut watcher = Watcher::start(&api).await;
        watcher.until_as(&api).await;
        assert_eq!(api.planned(), 0);
    });
}

#[test]
fn an_error_in_a_watch_is_named_and_the_kind_listed_again() {
    block_on(async {
        let api = stocked();
        let mut watcher = Watcher::start(&api).await;
        watcher.until_as(&api).await;
        let (lists, _) = api.requests(kind("Service"));
        api.plan(kind("Service"), [Fault::Failed; 8]);
        let named = |watcher: &Watcher| {
            let problem = watcher.problems.iter().find(|problem| problem.contains("answers 500"));
            problem.is_some_and(|problem| problem.ends_with("; the server says: etcd is gone"))
        };
        watcher.until("the problem", named).await;
        until_over(&mut watcher, &api).await;
        assert_eq!(api.requests(kind("Service")).0, lists + 8);
    });
}

#[test]
fn a_server_that_has_always_forgotten_is_asked_ever_less() {
    block_on(async {
        let api = stocked();
        let mut watcher = Watcher::start(&api).await;
        watcher.until_as(&api).await;
        let (lists, _) = api.requests(kind("Service"));
        api.plan(kind("Service"), vec![Fault::Gone; 10_000]);
        api.plan(kind("Service"), [Fault::End]);
        watcher.hear(TIMING.longest * 20).await;
        let more = api.requests(kind("Service")).0 - lists;
        assert!((5..=50).contains(&more), "{more} lists in {:?}", TIMING.longest * 20);
    });
}

#[test]
fn an_answer_that_stops_half_way_is_given_up() {
    block_on(async {
        let api = stocked();
        api.install(kind("Policy"), true);
        for kind in [kind("Service"), kind("Pod"), DISCOVERY] {
            api.plan(kind, [Fault::Stall; 2]);
        }
        let mut watcher = Watcher::start(&api).await;
        let named = |watcher: &Watcher| {
            watcher
                .problems
                .iter()
                .any(|problem| problem.contains("Service") && problem.contains("stopped half way"))
        };
        watcher.until("the problem", named).await;
        watcher.until_as(&api).await;
        assert_eq!(api.planned(), 0);
    });
}

#[test]
fn an_answer_that_does_not_begin_is_given_up() {
    block_on(async {
        let api = stocked();
        api.plan(kind("Service"), [Fault::Late(400); 3]);
        let mut watcher = Watcher::start(&api).await;
        let named = |watcher: &Watcher| {
            let said = "Service: cannot be read since 2";
            watcher
                .problems
                .iter()
                .any(|problem| problem.contains(said) && problem.contains("(no answer for 0.15 s)"))
        };
        watcher.until("the problem", named).await;
        until_over(&mut watcher, &api).await;
        // And of a watch.
        api.plan(kind("Service"), [Fault::End].into_iter().chain([Fault::Late(400); 3]));
        watcher.until("the problem", named).await;
        until_over(&mut watcher, &api).await;
    });
}

#[test]
fn a_server_that_wants_to_be_left_alone_for_ever_is_not() {
    block_on(async {
        let api = stocked();
        api.plan(kind("Service"), [Fault::Busy(u64::MAX)]);
        let mut watcher = Watcher::start(&api).await;
        watcher.until_as(&api).await;
    });
}

/// Only the server itself can say that it has a kind no more.
#[test]
fn what_a_stranger_says_of_the_kinds_takes_nothing_away() {
    block_on(async {
        let api = stocked();
        api.install(kind("Policy"), true);
        api.apply(POLICY);
        let mut watcher = Watcher::start(&api).await;
        watcher.until_as(&api).await;
        for fault in [Fault::Stranger(404), Fault::Foreign, Fault::Broken] {
            println!("{fault:?}");
            // Kinds that are not there ask, too.
            api.plan(DISCOVERY, [fault; 30]);
            api.plan(kind("Policy"), [Fault::End, Fault::GoneStatus]);
            until_over(&mut watcher, &api).await;
        }
        assert!(watcher.deleted.is_empty(), "{:?}", watcher.deleted);
    });
}

#[test]
fn lists_come_in_pages_and_watches_do_not_spin() {
    block_on(async {
        let api = stocked();
        for number in 3..10 {
            api.apply(&object(&mut Random::new(1), kind("Pod"), number).1);
        }
        let mut watcher = Watcher::start(&api).await;
        watcher.until_as(&api).await;
        let (lists, watches) = api.requests(kind("Pod"));
        assert!(lists >= 4, "{lists} pages of {TIMING:?}");
        watcher.hear(Duration::from_millis(500)).await;
        assert_eq!(api.requests(kind("Pod")), (lists, watches), "a quiet watch asks again and again");
        // A server that ends every watch at once is asked no faster than that.
        api.plan(kind("Pod"), vec![Fault::End; 1000]);
        let begun = Instant::now();
        watcher.hear(Duration::from_millis(200)).await;
        let (_, more) = api.requests(kind("Pod"));
        let most = begun.elapsed().as_millis() as u64;
        assert!((2..=most + 2).contains(&(more - watches)), "{} watches in {most} ms", more - watches);
    });
}

#[test]
fn documents_of_lists_and_files_are_read_alike() {
    let list = "kind: List\napiVersion: v1\nitems:\n- {kind: Node, apiVersion: v1, metadata: {name: a}}\n---\nkind: Node\n";
    assert_eq!(documents(list).len(), 2);
}
