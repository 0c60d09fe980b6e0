//! Random sources against a model: what is still named never goes, little is never
//! delayed, and nothing is held for ever.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Act {
    /// So many seconds pass.
    Pass(u64),
    /// Names of a range go, or come.
    Lose(u32, u32),
    Gain(u32, u32),
    /// The source answers what it was asked, or does not.
    Answer(bool),
    Release,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let range = || (0u32..60, 0u32..60);
    let act = prop_oneof![
        (0u64..40).prop_map(Act::Pass),
        range().prop_map(|(from, to)| Act::Lose(from, to)),
        range().prop_map(|(from, to)| Act::Gain(from, to)),
        Just(Act::Lose(0, 60)),
        Just(Act::Gain(0, 60)),
        any::<bool>().prop_map(Act::Answer),
        Just(Act::Release),
    ];
    prop::collection::vec(act, 1..40)
}

proptest! {
    #[test]
    fn a_source_of_whatever_moods_is_believed_in_the_end(acts in acts(), remembered in 0usize..80) {
        let mut bed = Bed::new(remembered);
        // How many were named, and when: the guard may look back so far.
        let mut past: Vec<(Instant, usize)> = Vec::new();
        let mut asked = BTreeMap::new();
        for act in acts {
            let (before, held_before) = (bed.served(), bed.held());
            let was_named = bed.named.clone();
            match act {
                Act::Pass(seconds) => bed.pass(seconds),
                Act::Lose(from, to) => {
                    let left: Vec<u32> = bed.named.iter().copied().filter(|name| !(from..to).contains(name)).collect();
                    bed.say(left);
                }
                Act::Gain(from, to) => {
                    let all: Vec<u32> = bed.named.iter().copied().chain(from..to).collect();
                    bed.say(all);
                }
                Act::Answer(true) => {
                    let named: Vec<u32> = bed.named.iter().copied().collect();
                    bed.listed(named, std::mem::take(&mut asked));
                }
                Act::Answer(false) => {}
                Act::Release => drop(bed.release()),
            }
            past.push((bed.now, was_named.len()));
            let served = bed.served();
            prop_assert!(bed.named.is_subset(&served), "what is named is served");
            // A small loss, by what was there within the window, is never held.
            let since = bed.now - ward::WINDOW;
            let most = past.iter().filter(|(at, _)| *at > since).map(|(_, named)| *named).max().unwrap_or(0);
            if held_before == 0 && !LIMITS.is_shrink(most, bed.named.len()) {
                prop_assert!(served == bed.named, "{before:?} {served:?} {:?}", bed.named);
            }
            if bed.model.synced() && !bed.guard.held(SOURCE).any(|(_, held)| held.earlier) {
                prop_assert_eq!(bed.held(), served.difference(&bed.named).count());
                let counts = bed.guard.counts();
                prop_assert_eq!(counts[SOURCE].get(&Kind::Node).copied().unwrap_or(0), served.len());
            }
            asked.extend(bed.asked());
        }
        // Alive, and saying the same: two looks suffice for whatever is held.
        for _ in 0..3 {
            let named: Vec<u32> = bed.named.iter().copied().collect();
            bed.listed(named, std::mem::take(&mut asked));
            bed.pass(35);
            asked = bed.asked();
        }
        prop_assert_eq!(bed.guard.due(), None);
        prop_assert_eq!((bed.held(), bed.served()), (0, bed.named.clone()));
        prop_assert!(bed.model.synced());
    }
}
