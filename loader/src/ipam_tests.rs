//! Who gets which address, and who gets none.

use proptest::prelude::*;

use super::*;

fn pool(name: &str, networks: &[&str], exclude: &[&str]) -> Pool {
    let parse = |networks: &[&str]| networks.iter().map(|network| network.parse().unwrap()).collect();
    Pool { name: name.into(), networks: parse(networks), exclude: parse(exclude) }
}

fn ipam(pools: &[Pool]) -> Ipam {
    let mut ipam = Ipam::new(0);
    ipam.set_pools(pools);
    ipam
}

fn at(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn all(ipam: &mut Ipam, pool: Option<&str>) -> Vec<IpAddr> {
    let mut had = Vec::new();
    loop {
        let holders: Holders = had.iter().map(|address| (*address, "x")).collect();
        match ipam.choose(pool, &[], &holders) {
            Ok(addresses) => had.extend(addresses),
            Err(Refusal::Exhausted { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    had.sort();
    had
}

#[test]
fn every_address_but_the_first_and_last_is_given_once() {
    for seed in [0, 1, 77, u64::MAX] {
        let mut ipam = Ipam::new(seed);
        ipam.set_pools(&[pool("a", &["10.0.0.0/24"], &[])]);
        let expected: Vec<IpAddr> = (1..255).map(|host| [10, 0, 0, host].into()).collect();
        assert_eq!(all(&mut ipam, None), expected);
    }
}

#[test]
fn networks_join_and_what_is_excluded_is_not_given() {
    let pools = [pool("a", &["10.0.0.4/30", "10.0.0.0/30", "10.9.0.0/32"], &["10.0.0.3/32", "10.0.0.5/32"])];
    let given = all(&mut ipam(&pools), None);
    let expected = ["10.0.0.1", "10.0.0.2", "10.0.0.4", "10.0.0.6", "10.9.0.0"].map(at);
    assert_eq!(given, expected);
    let nothing = ipam(&[pool("a", &["10.0.0.0/30"], &["10.0.0.0/24"])]).choose(None, &[], &Holders::new());
    assert_eq!(nothing, Err(Refusal::Empty("a".into())));
}

#[test]
fn each_family_of_a_pool_gives_one() {
    let mut ipam = ipam(&[pool("a", &["fd00::/64", "10.0.0.0/24"], &[])]);
    let chosen = ipam.choose(None, &[], &Holders::new()).unwrap();
    assert!(chosen.len() == 2 && chosen[0].is_ipv4() && chosen[1].is_ipv6(), "{chosen:?}");
    let asked = at("fd00::9");
    let chosen = ipam.choose(None, &[asked], &Holders::new()).unwrap();
    assert!(chosen[0].is_ipv4() && chosen[1] == asked, "{chosen:?}");
}

#[test]
fn what_is_asked_for_is_given_or_refused_by_name() {
    let pools = [pool("a", &["10.0.0.0/24"], &["10.0.0.16/28"]), pool("b", &["10.1.0.0/24"], &[])];
    let mut ipam = ipam(&pools);
    let holders = Holders::from([(at("10.0.0.9"), "default/web")]);
    let mut ask = |pool: Option<&str>, address: &str| ipam.choose(pool, &[at(address)], &holders);
    assert_eq!(ask(None, "10.1.0.7"), Ok(vec![at("10.1.0.7")]));
    assert_eq!(ask(Some("b"), "10.1.0.7"), Ok(vec![at("10.1.0.7")]));
    assert_eq!(ask(Some("a"), "10.1.0.7"), Err(Refusal::Outside(at("10.1.0.7"))));
    assert_eq!(ask(None, "10.0.0.17"), Err(Refusal::Outside(at("10.0.0.17"))));
    assert_eq!(ask(None, "10.0.0.0"), Err(Refusal::Outside(at("10.0.0.0"))));
    assert_eq!(ask(None, "::a00:5"), Err(Refusal::Outside(at("::a00:5"))), "a number, not an address");
    assert_eq!(ask(None, "10.0.0.9"), Err(Refusal::Taken(at("10.0.0.9"), "default/web".into())));
    assert_eq!(ask(Some("c"), "10.0.0.8"), Err(Refusal::UnknownPool("c".into(), "a, b".into())));
    let two = ipam.choose(None, &[at("10.0.0.3"), at("10.0.0.4")], &holders);
    assert_eq!(two, Err(Refusal::Twice(at("10.0.0.4"))));
    assert_eq!(Ipam::new(0).choose(None, &[], &holders), Err(Refusal::NoPool));
}

#[test]
fn an_address_rests_from_the_read_back_on() {
    let mut ipam = ipam(&[pool("a", &["10.0.0.1/32"], &[])]);
    let nobody = Holders::new();
    let chosen = ipam.choose(None, &[], &nobody).unwrap();
    ipam.free(&chosen);
    let (start, second) = (Duration::from_secs(100), Duration::from_secs(1));
    let exhausted = Err(Refusal::Exhausted { pool: "a".into(), family: "IPv4", taken: 0, resting: 1 });
    assert_eq!(ipam.choose(None, &[], &nobody), exhausted);
    assert_eq!(ipam.choose(None, &chosen, &nobody), Err(Refusal::Resting(chosen[0])), "not read back");
    ipam.read_back(start);
    assert_eq!(ipam.choose(None, &[], &nobody), exhausted);
    ipam.read_back(start + REST - second);
    assert_eq!(ipam.choose(None, &[], &nobody), exhausted);
    ipam.read_back(start + REST);
    assert_eq!(ipam.choose(None, &[], &nobody), Ok(chosen.clone()));
    // Who asks for it by its number has it once nobody else can.
    ipam.free(&chosen);
    ipam.read_back(start);
    assert_eq!(ipam.choose(None, &chosen, &nobody), Ok(chosen));
}

#[test]
fn what_was_freed_is_the_last_to_be_given_again() {
    let mut ipam = ipam(&[pool("a", &["10.0.0.0/29"], &[])]);
    let mut order = Vec::new();
    for round in 0..12 {
        let chosen = ipam.choose(None, &[], &Holders::new()).unwrap();
        ipam.free(&chosen);
        (0..2).for_each(|step| ipam.read_back(Duration::from_secs(100 * round + 10 * step)));
        order.extend(chosen);
    }
    assert_eq!(order[..6], order[6..]);
    assert_eq!(order[..6].iter().collect::<std::collections::BTreeSet<_>>().len(), 6);
}

#[test]
fn pools_are_apart() {
    let error = |pools: &[Pool]| check(pools).unwrap_err().to_string();
    let wide = pool("wide", &["10.0.0.0/8"], &[]);
    check(&[wide.clone(), pool("other", &["11.0.0.0/8", "fd00::/64"], &[])]).unwrap();
    let overlap = "narrow: networks: 10.1.0.0/16 overlaps 10.0.0.0/8 of wide";
    assert_eq!(error(&[wide.clone(), pool("narrow", &["10.1.0.0/16"], &[])]), overlap);
    assert_eq!(error(&[wide.clone(), pool("wide", &["11.0.0.0/8"], &[])]), "wide is there twice");
    assert_eq!(error(&[pool("", &["11.0.0.0/8"], &[])]), "one has no name");
    assert_eq!(error(&[pool("a", &[], &[])]), "a: networks: it has none");
}

proptest! {
    /// Whatever comes and goes: nobody has what another has, or what rests.
    #[test]
    fn nobody_has_anothers(steps in prop::collection::vec((0_u8..3, any::<prop::sample::Index>()), 1..200), seed: u64) {
        let mut ipam = Ipam::new(seed);
        ipam.set_pools(&[pool("a", &["10.0.0.0/28", "fd00::/125"], &["10.0.0.4/30"])]);
        let mut had: Vec<Vec<IpAddr>> = Vec::new();
        let mut unread: Vec<IpAddr> = Vec::new();
        let mut now = Duration::ZERO;
        for (step, index) in steps {
            match step {
                0 => {
                    let holders: Holders = had.iter().flatten().map(|address| (*address, "x")).collect();
                    match ipam.choose(None, &[], &holders) {
                        Ok(chosen) => {
                            prop_assert!(chosen.iter().all(|address| !holders.contains_key(address)));
                            prop_assert!(chosen.iter().all(|address| !unread.contains(address)));
                            had.push(chosen);
                        }
                        Err(refusal) => prop_assert!(refusal.passes()),
                    }
                }
                1 if !had.is_empty() => {
                    let gone = had.swap_remove(index.index(had.len()));
                    ipam.free(&gone);
                    unread.extend(gone);
                }
                _ => {
                    now += Duration::from_secs(3);
                    ipam.read_back(now);
                    unread.clear();
                }
            }
        }
    }
}
