//! Does anything run out, or grow, when very many pods come and go?

use super::*;

const PODS: u32 = 200_000;
const POLICIES: usize = 100;

fn pod(number: u32, version: u32) -> (Name, Pod) {
    let namespace = format!("n{}", number % 100);
    let labels_ = format!("app=a{},id={number}-{version},rank=r{}", number % 50, (number / 7 + version) % 13);
    let address = std::net::Ipv4Addr::from(0x0a00_0000 + number);
    let pod = Pod { labels: labels(&labels_), addresses: vec![address.into()], ports: [].into() };
    ((namespace.into(), format!("p{number}").into()), pod)
}

/// An endpoint and a policy in each of a hundred namespaces.
fn told() -> Compiler {
    let mut compiler = Compiler::default();
    for number in 0..POLICIES {
        let namespace = format!("n{number}");
        let near = Peer::Pods(of(&namespace, &format!("app=a{}", number % 50)));
        let far = Peer::Pods(among("", &format!("rank=r{},app=a{}", number % 13, number % 50)));
        let one = Peer::Pods(among("", &format!("id={number}-0")));
        let rules =
            vec![from(Action::Allow, [near, block("192.0.2.0/24", &[])]), from(Action::Allow, [far, one])];
        let object = PolicyObject { ingress: Some(rules), ..policy(Tier::Namespaced, of(&namespace, "")) };
        compiler.set_policy(id(&format!("{namespace}/p"), &object), Some(Arc::new(object)));
        let subject = Subject { namespace: namespace.into(), labels: labels(""), ports: [].into() };
        compiler.set_endpoint(format!("e{number}").into(), Some(subject));
    }
    for number in 0..PODS {
        let (name, pod) = pod(number, 0);
        compiler.set_pod(name, Some(pod));
    }
    compiler.commit();
    compiler
}

#[test]
fn two_hundred_thousand_pods_come_and_go_and_nothing_grows() {
    let mut compiler = told();
    let sizes = |compiler: &Compiler| {
        let image = compiler.image();
        (compiler.sizes(), image.classes.rows().len(), image.sets.rows().len(), image.rules.rows().len())
    };
    let before = sizes(&compiler);
    let highest = |compiler: &Compiler| compiler.image().classes.rows().values().copied().max();
    let numbers = highest(&compiler).unwrap();
    // A minute of a hundred changes a second, released a second later.
    for second in 1..=60 {
        let changed = |index: u32| (second * 7919 + index * 104_729) % PODS;
        for index in 0..100 {
            let (name, pod) = pod(changed(index), second);
            compiler.set_pod(name, Some(pod));
            let delta = compiler.commit();
            assert!(delta.classes.put.len() + delta.classes.gone.len() <= 1);
            compiler.release(delta.revision.saturating_sub(100));
        }
        for index in 0..100 {
            let (name, pod) = pod(changed(index), 0);
            compiler.set_pod(name, Some(pod));
        }
        compiler.commit();
    }
    settle(&mut compiler);
    assert_eq!(sizes(&compiler), before);
    assert!(highest(&compiler).unwrap() < numbers + 500);
}
