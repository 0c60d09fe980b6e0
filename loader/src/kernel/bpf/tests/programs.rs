//! Are the programs that an agent takes over those of one load?

use std::collections::BTreeMap;

use super::{
    super::{bpffs, sys},
    *,
};

/// What is pinned, with its id.
fn pinned(place: &Place) -> BTreeMap<String, (u32, std::os::fd::OwnedFd)> {
    let names = fs::read_dir(place.program("x").parent().unwrap()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let open = |name: String| {
        let program = sys::open(&place.program(&name)).unwrap();
        (name, (sys::info::<sys::ProgramInfo>(&program).unwrap().id, program))
    };
    names.map(open).collect()
}

fn ids(place: &Place) -> Vec<u32> {
    pinned(place).into_values().map(|(id, _)| id).collect()
}

#[test]
fn a_mix_of_two_loads_is_not_taken_over() {
    in_netns(|| {
        let place = Place::new();
        drop(place.open());
        let earlier = pinned(&place);
        assert_eq!((drop(place.open()), ids(&place).len()).1, earlier.len());
        assert!(ids(&place).iter().eq(earlier.values().map(|(id, _)| id)), "of one load they are");
        fs::remove_file(place.program("from_uplink")).unwrap();
        drop(place.open());
        // As if the second agent had been killed when half of its own were in place.
        for (name, (_, program)) in earlier.iter().take(earlier.len() / 2) {
            bpffs::publish(program, &place.program(name)).unwrap();
        }
        let mixed = ids(&place);
        drop(place.open());
        let after = ids(&place);
        assert_eq!(after.len(), mixed.len());
        assert!(after.iter().all(|id| !mixed.contains(id)), "{mixed:?} {after:?}");
    });
}

#[test]
fn nothing_of_an_earlier_load_stays() {
    in_netns(|| {
        let place = Place::new();
        let options = Options { xdp: true, ..Options::default() };
        drop(Dataplane::open(&place.0, capacity(), options).unwrap());
        let earlier = ids(&place);
        assert!(place.program("uplink_xdp").exists());
        fs::remove_file(place.program("from_uplink")).unwrap();
        drop(place.open());
        let now = ids(&place);
        assert!(now.iter().all(|id| !earlier.contains(id)), "{earlier:?} {now:?}");
        assert!(!place.program("uplink_xdp").exists());
    });
}
