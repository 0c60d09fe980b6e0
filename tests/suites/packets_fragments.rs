//! SVC-14: what becomes of fragments that come before their datagram's first one,
//! one packet after the other? Those of answers are in `svc_fragments`.

use std::{thread, time::Duration};

use causeway_schema::{V4, Verdict, nat::Ports, protocol};
use causeway_testkit::{
    bed::{self, Bed, OWN, UPLINK_MAC},
    frame::{Datagram, Frame},
    oracle::Side,
    prog::{Outcome, Programs},
    world::World,
};

const SERVICE: &str = "10.96.0.1:53";
/// Of somebody on the uplink, and of a container on another node.
const OUTSIDE: &str = "203.0.113.1:4000";
/// As long as a frame may be that waits, and a first fragment's data.
const LONGEST: usize = 1592;
const FIRST: usize = 512;

struct Rig<'a> {
    bed: &'a Bed,
    programs: Programs,
}

impl Rig<'_> {
    fn run(script: impl FnOnce(&mut Rig) + Send) {
        let bed = Bed::new();
        let mut world = World::default();
        for number in 1..=3 {
            world.attach(bed::address(number), number.into(), bed.link(number), bed::mac(number));
        }
        world.service(1, SERVICE, protocol::UDP, &["10.244.0.2:53"]);
        bed.netns.run(|| {
            let mut rig = Rig { bed: &bed, programs: Programs::load().unwrap() };
            rig.programs.fill(&world.image::<V4>());
            rig.programs.node(OWN, Ports::ALL);
            script(&mut rig);
        });
    }

    fn sends(&mut self, side: Side, packet: &Datagram) -> Outcome {
        let frame = Frame::new(packet.clone());
        let frame = if matches!(side, Side::Uplink { .. }) { frame.macs([2; 6], UPLINK_MAC) } else { frame };
        self.programs.run(side, &frame.bytes()).unwrap()
    }

    /// Through the uplink, and whatever becomes of it is counted once. `None`: it is
    /// sent in anew.
    fn comes(&mut self, packet: &Datagram) -> Option<Verdict> {
        self.sends(self.bed.from_uplink(), packet).verdict()
    }
}

fn first(to: &str, id: u16) -> Datagram {
    Datagram::udp(OUTSIDE, to, &[7; FIRST - 8]).with_v4(|header| {
        (header.more_fragments, header.id) = (true, id);
    })
}

/// With so many bytes in its frame.
fn later(to: &str, id: u16, frame: usize) -> Datagram {
    let headers = 14 + 20 + 8;
    Datagram::udp(OUTSIDE, to, &vec![7; frame - headers]).with_v4(|header| {
        (header.offset, header.id) = (FIRST, id);
    })
}

/// To a service it would reach nobody as it is; to a container it may be none of ours.
#[test]
fn who_is_too_long_to_wait_is_dropped_or_passes_as_it_is() {
    Rig::run(|rig| {
        for (to, verdict) in [(SERVICE, Verdict::DropFragment), ("10.244.0.3:53", Verdict::Delivered)] {
            assert_eq!(rig.comes(&later(to, 1, LONGEST)), Some(Verdict::HeldFragment), "{to}");
            assert_eq!(rig.comes(&later(to, 2, LONGEST + 1)), Some(verdict), "{to}");
        }
    });
}

/// Or they would go into a later datagram of the same number.
#[test]
fn nobody_waits_for_longer_than_two_seconds() {
    Rig::run(|rig| {
        for to in [SERVICE, "10.244.0.3:53"] {
            let waits = rig.comes(&later(to, 1, 100));
            let forgotten = rig.comes(&later(to, 2, 100));
            assert_eq!([waits, forgotten], [Some(Verdict::HeldFragment); 2], "{to}");
            // The first one goes in anew, before those that have waited.
            assert_eq!(rig.comes(&first(to, 1)), None, "{to}");
            thread::sleep(Duration::from_millis(2100));
            assert_eq!(rig.comes(&first(to, 2)), Some(Verdict::Delivered), "{to}");
            assert_eq!(rig.comes(&later(to, 2, 100)), Some(Verdict::Delivered), "{to}: of the new one");
        }
    });
}

/// Who knows the number of another's datagram speaks for it no more than before.
#[test]
fn who_follows_anothers_first_one_is_no_less_spoofed() {
    Rig::run(|rig| {
        let [first, later] = [first("10.244.0.3:53", 1), later("10.244.0.3:53", 1, 100)]
            .map(|packet| Datagram { src: bed::address(1).into(), ..packet });
        let [own, other] = [1, 2].map(|number| rig.bed.from_container(number));
        assert_eq!(rig.sends(own, &first).verdict(), Some(Verdict::Delivered));
        assert_eq!(rig.sends(other, &later).verdict(), Some(Verdict::DropSpoofed));
        assert_eq!(rig.sends(own, &later).verdict(), Some(Verdict::Delivered));
    });
}
