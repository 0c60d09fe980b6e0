//! Do the programs stay where they were put?

use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    thread::sleep,
    time::Duration,
};

use causeway_schema::Verdict;

use super::{
    super::sys::{self, Direction},
    *,
};
use crate::kernel::bpf::{Hook, Owner, hooks};

/// Programs at an interface's tcx ingress, with their links.
fn tcx(attachment: &Attachment) -> Vec<(u32, u32)> {
    sys::tcx_query(attachment.ifindex, Direction::Ingress).unwrap()
}

fn tc(arguments: &str) -> String {
    run("tc", arguments)
}

fn packets(dataplane: &Dataplane) -> u64 {
    dataplane.tracer.counters().unwrap()[..Verdict::ALL.len()].iter().sum()
}

/// Frames that nobody answers, out of an interface until told to stop; how many.
fn send_frames(ifindex: u32, stop: &AtomicBool, sent: &AtomicU64) {
    let mut frame = [0_u8; 60];
    frame[..6].copy_from_slice(&[2; 6]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = ifindex as i32;
    let socket = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)) };
    while !stop.load(Ordering::Relaxed) {
        let length = size_of::<libc::sockaddr_ll>() as u32;
        let done = unsafe {
            libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), 60, 0, (&raw const to).cast(), length)
        };
        if done == 60 {
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn every_packet_is_judged_while_agents_come_and_go() {
    in_netns(|| {
        for v in ["all", "default", "v0", "v1"] {
            run("sysctl", &format!("-qw net.ipv6.conf.{v}.disable_ipv6=1"));
        }
        sleep(Duration::from_millis(100));
        let place = Place::new();
        let mut dataplane = place.open();
        dataplane.attach(at("v0")).unwrap();
        let link = tcx(&at("v0"))[0];
        let before = packets(&dataplane);
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let sender = std::thread::spawn({
            let (stop, sent, from) = (stop.clone(), sent.clone(), at("v1").ifindex);
            move || send_frames(from, &stop, &sent)
        });
        for _ in 0..5 {
            drop(dataplane);
            sleep(Duration::from_millis(20));
            place.upgrade();
            dataplane = place.open();
            dataplane.attach(at("v0")).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap();
        sleep(Duration::from_millis(50));
        let sent = sent.load(Ordering::Relaxed);
        assert!(sent > 1000, "{sent}");
        assert_eq!(packets(&dataplane) - before, sent);
        let now = tcx(&at("v0"));
        assert_eq!(now.len(), 1);
        assert_eq!(now[0].1, link.1, "the link is the same");
        assert_ne!(now[0].0, link.0, "the program is the new agent's");
    });
}

#[test]
fn a_link_is_first_and_others_stay() {
    in_netns(|| {
        let place = Place::new();
        let dataplane = place.open();
        let foreign = sys::open(&place.program("sweep_v4")).unwrap();
        let other = sys::tcx_create(&foreign, at("v0").ifindex, Direction::Ingress).unwrap();
        let mut dataplane = dataplane;
        dataplane.attach(at("v0")).unwrap();
        let there = tcx(&at("v0"));
        assert_eq!(there.len(), 2);
        assert_eq!(there[1].1, sys::info::<sys::LinkInfo>(&other).unwrap().id);
        dataplane.uninstall().unwrap();
        assert_eq!(tcx(&at("v0")).len(), 1);
    });
}

#[test]
fn a_link_that_was_taken_away_is_put_back() {
    in_netns(|| {
        let place = Place::new();
        let mut dataplane = place.open();
        assert_eq!(dataplane.hook(), Hook::Tcx);
        dataplane.attach(at("v0")).unwrap();
        assert_eq!(dataplane.audit_links().0, [""; 0]);
        let pin = place.link(&at("v0"));

        // Detached.
        sys::link_detach(&sys::open(&pin).unwrap()).unwrap();
        assert!(tcx(&at("v0")).is_empty());
        let (repaired, errors) = dataplane.audit_links();
        assert!(errors.is_empty() && repaired[0].contains("detached"), "{repaired:?} {errors:?}");
        assert_eq!(tcx(&at("v0")).len(), 1);

        // Its pin removed: the same link goes on.
        let link = tcx(&at("v0"))[0].1;
        fs::remove_file(&pin).unwrap();
        let (repaired, errors) = dataplane.audit_links();
        assert!(errors.is_empty() && repaired[0].contains("pin missing"), "{repaired:?} {errors:?}");
        assert_eq!(sys::info::<sys::LinkInfo>(&sys::open(&pin).unwrap()).unwrap().id, link);
        assert_eq!(tcx(&at("v0"))[0].1, link);

        // Another program in it.
        let foreign = sys::open(&place.program("sweep_v4")).unwrap();
        sys::link_update(&sys::open(&pin).unwrap(), &foreign).unwrap();
        let (repaired, errors) = dataplane.audit_links();
        assert!(errors.is_empty() && repaired[0].contains("program replaced"), "{repaired:?} {errors:?}");
        assert_eq!(dataplane.audit_links().0, [""; 0]);
    });
}

#[test]
fn a_pin_of_an_interface_that_has_gone_is_replaced_or_pruned() {
    in_netns(|| {
        let place = Place::new();
        let mut dataplane = place.open();
        let old = at("v0");
        dataplane.attach(old.clone()).unwrap();
        ip("link del v0");
        let (repaired, errors) = dataplane.audit_links();
        assert_eq!((repaired.len(), errors.len()), (0, 1), "{repaired:?} {errors:?}");
        assert!(errors[0].to_string().contains("interface is gone"), "{}", errors[0]);
        drop(dataplane);

        ip(&format!("link add v0 index {} type veth peer name v1", old.ifindex));
        let mut dataplane = place.open();
        dataplane.attach(at("v0")).unwrap();
        assert_eq!(tcx(&at("v0")).len(), 1);
        drop(dataplane);

        let mut dataplane = place.open();
        dataplane.attach(at("v1")).unwrap();
        dataplane.prune_links().unwrap();
        assert!(tcx(&at("v0")).is_empty() && !place.link(&at("v0")).exists());
        assert_eq!(tcx(&at("v1")).len(), 1);
        dataplane.detach(at("v1").ifindex).unwrap();
        dataplane.detach(at("v1").ifindex).unwrap();
        assert!(tcx(&at("v1")).is_empty() && !place.link(&at("v1")).exists());
    });
}

#[test]
fn an_earlier_agents_link_is_detached_unseen() {
    in_netns(|| {
        let place = Place::new();
        let mut dataplane = place.open();
        dataplane.attach(at("v0")).unwrap();
        dataplane.attach(at("v1")).unwrap();
        drop(dataplane);
        let mut dataplane = place.open();
        dataplane.detach(at("v1").ifindex).unwrap();
        assert!(tcx(&at("v1")).is_empty());
        dataplane.uninstall().unwrap();
        assert!(tcx(&at("v0")).is_empty() && !place.0.exists());
    });
}

#[test]
fn without_tcx_a_filter_does_it() {
    in_netns(|| {
        let place = Place::new();
        let mut dataplane = place.open_clsact();
        assert_eq!(dataplane.hook(), Hook::Clsact);
        dataplane.attach(at("v0")).unwrap();
        let shown = tc("filter show dev v0 ingress");
        assert!(shown.contains("pref 1 ") && shown.contains("from_uplink"), "{shown}");
        assert_eq!(dataplane.audit_links().0, [""; 0]);

        // A new agent exchanges the program in place, if it has another.
        drop(dataplane);
        let mut dataplane = place.open_clsact();
        dataplane.attach(at("v0")).unwrap();
        assert_eq!(tc("filter show dev v0 ingress"), shown);
        drop(dataplane);
        place.upgrade();
        let mut dataplane = place.open_clsact();
        dataplane.attach(at("v0")).unwrap();
        let again = tc("filter show dev v0 ingress");
        assert_eq!(again.matches("name from_uplink").count(), 1, "{again}");
        assert_ne!(again, shown);

        tc("filter del dev v0 ingress pref 1");
        let (repaired, errors) = dataplane.audit_links();
        assert!(errors.is_empty() && repaired[0].contains("detached"), "{repaired:?} {errors:?}");
        tc("qdisc del dev v0 clsact");
        let (repaired, errors) = dataplane.audit_links();
        assert!(errors.is_empty() && repaired[0].contains("detached"), "{repaired:?} {errors:?}");
        assert!(tc("filter show dev v0 ingress").contains("from_uplink"));

        dataplane.uninstall().unwrap();
        assert!(!tc("qdisc show dev v0").contains("clsact"));
        assert!(!place.0.exists());
    });
}

#[test]
fn a_foreign_qdisc_and_foreign_filters_stay() {
    in_netns(|| {
        let place = Place::new();
        tc("qdisc add dev v0 clsact");
        let mut dataplane = place.open_clsact();
        dataplane.attach(at("v0")).unwrap();
        dataplane.attach(at("v1")).unwrap();
        let pinned = place.program("sweep_v4");
        for hook in ["egress", "ingress"] {
            let program = pinned.display();
            tc(&format!("filter add dev v1 {hook} pref 9 bpf object-pinned {program} direct-action"));
        }
        let owners: Vec<Owner> = hooks(&place.0, at("v1").ifindex, None)
            .unwrap()
            .programs
            .iter()
            .map(|found| found.owner)
            .collect();
        assert_eq!(owners, [Owner::Ours, Owner::Stranger]);
        dataplane.uninstall().unwrap();
        assert!(tc("qdisc show dev v0").contains("clsact"));
        assert!(!tc("filter show dev v0 ingress").contains("from_uplink"));
        assert!(tc("filter show dev v1 egress").contains("pref 9 bpf"));
        assert!(!tc("filter show dev v1 ingress").contains("from_uplink"));
    });
}

#[test]
fn the_hook_can_change_between_agents() {
    in_netns(|| {
        let place = Place::new();
        place.open().attach(at("v0")).unwrap();
        place.open_clsact().attach(at("v0")).unwrap();
        assert!(tcx(&at("v0")).is_empty());
        assert!(tc("filter show dev v0 ingress").contains("from_uplink"));
        let mut dataplane = place.open();
        dataplane.attach(at("v0")).unwrap();
        assert_eq!(tcx(&at("v0")).len(), 1);
        assert!(!tc("qdisc show dev v0").contains("clsact"));
        assert!(place.link(&at("v0")).is_file());
        dataplane.uninstall().unwrap();
    });
}

/// What comes in, and what the host sends.
#[test]
fn a_container_has_a_program_for_each_direction() {
    in_netns(|| {
        let ifindex = at("v0").ifindex;
        let seen =
            || [Direction::Ingress, Direction::Egress].map(|at| sys::tcx_query(ifindex, at).unwrap().len());
        let place = Place::new();
        let attach = |mut dataplane: Dataplane| {
            Attachment::of_container(ifindex, "v0")
                .into_iter()
                .try_for_each(|at| dataplane.attach(at))
                .unwrap();
            assert_eq!(dataplane.audit_links().0, [""; 0]);
            dataplane
        };
        drop(attach(place.open()));
        assert_eq!(seen(), [1, 1]);
        let mut dataplane = attach(place.open_clsact());
        assert_eq!(seen(), [0, 0]);
        assert!(tc("filter show dev v0 ingress").contains("from_container"));
        assert!(tc("filter show dev v0 egress").contains("from_host"));
        tc("filter del dev v0 egress pref 1");
        let (repaired, errors) = dataplane.audit_links();
        assert!(errors.is_empty() && repaired.len() == 1, "{repaired:?} {errors:?}");
        assert!(repaired[0].contains("link from_host at v0: detached"), "{repaired:?}");
        drop(dataplane);
        // The qdisc goes with the last of them.
        let mut dataplane = attach(place.open_clsact());
        dataplane.detach(ifindex).unwrap();
        assert!(!tc("qdisc show dev v0").contains("clsact"));
        drop(attach(place.open_clsact()));
        let dataplane = attach(place.open());
        assert_eq!(seen(), [1, 1]);
        assert!(!tc("qdisc show dev v0").contains("clsact"));
        dataplane.uninstall().unwrap();
        assert_eq!(seen(), [0, 0]);
    });
}
