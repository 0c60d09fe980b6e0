use super::*;

const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn address(last: u8) -> IpAddr {
    [192, 168, 77, last].into()
}

/// Answers at once, and something was just sent there.
fn neighbour(last: u8) -> Neighbour {
    Neighbour {
        address: address(last),
        mac: ROUTER,
        stale: false,
        used: Duration::ZERO,
        confirmed: Duration::ZERO,
        flags: Default::default(),
    }
}

/// Rounds, one after the other at their distance.
struct Rounds {
    watch: Watch,
    now: Instant,
}

impl Rounds {
    fn new(unseen: bool) -> Self {
        Self { watch: Watch::new(unseen), now: Instant::now() }
    }

    fn next(&mut self, table: &[Neighbour]) -> Round {
        self.now += ROUND;
        self.watch.round(self.now, table)
    }

    /// Whom everybody is asked of.
    fn sought(&mut self, table: &[Neighbour]) -> bool {
        let round = self.next(table);
        round.ask.iter().any(|(_, known)| known.is_none())
    }
}

/// The last `questions` went without an answer.
fn silent(last: u8, questions: u32) -> Neighbour {
    Neighbour { confirmed: ROUND * (questions + 1), ..neighbour(last) }
}

#[test]
fn who_answers_is_asked_at_its_address() {
    for unseen in [false, true] {
        let mut rounds = Rounds::new(unseen);
        for _ in 0..10 {
            let expected = Round { ask: vec![(address(1), Some(ROUTER))], ..Round::default() };
            assert_eq!(rounds.next(&[neighbour(1)]), expected);
        }
    }
}

#[test]
fn who_is_idle_is_asked_only_where_uses_go_unseen() {
    let idle = Neighbour { stale: true, used: REST * 9, confirmed: REST * 9, ..neighbour(1) };
    assert_eq!(Rounds::new(false).next(std::slice::from_ref(&idle)), Round::default());
    assert_eq!(Rounds::new(true).next(&[idle]).ask, [(address(1), Some(ROUTER))]);
}

#[test]
fn a_neighbour_shows_its_use_after_a_while() {
    let mut rounds = Rounds::new(false);
    let long_ago = Neighbour { used: REST + ROUND, ..neighbour(1) };
    let round = rounds.next(&[long_ago.clone(), neighbour(2)]);
    assert_eq!((round.rest, round.ask), (vec![long_ago.clone()], vec![(address(2), Some(ROUTER))]));
    assert_eq!(Rounds::new(true).next(&[long_ago]).rest, []);
}

#[test]
fn everybody_is_asked_of_one_that_is_silent_but_not_for_ever() {
    let mut rounds = Rounds::new(false);
    assert!(!rounds.sought(&[neighbour(1)]));
    let sought: Vec<u32> = (1..=20).filter(|&missed| rounds.sought(&[silent(1, missed)])).collect();
    assert_eq!(sought, [1, 2, 3, 4, 5, 10, 15, 20]);
    assert!(!rounds.sought(&[neighbour(1)]), "it answers again");
}

#[test]
fn an_answer_counts_for_the_question_before_it() {
    let mut rounds = Rounds::new(false);
    rounds.next(&[neighbour(1)]);
    let answered = |age| Neighbour { confirmed: age, ..neighbour(1) };
    assert!(!rounds.sought(&[answered(ROUND)]), "at once");
    assert!(!rounds.sought(&[answered(ROUND + COARSE)]), "by a coarse clock");
    assert!(rounds.sought(&[answered(ROUND + COARSE + Duration::from_millis(1))]), "before the question");
}

#[test]
fn a_move_is_told_once_and_begins_anew() {
    let mut rounds = Rounds::new(false);
    rounds.next(&[neighbour(1)]);
    assert!(rounds.sought(&[silent(1, 1)]));
    // Somebody else has answered; the kernel need not have noted when.
    let moved = Neighbour { mac: OTHER, ..silent(1, 2) };
    let round = rounds.next(std::slice::from_ref(&moved));
    assert_eq!(round.moved, [(address(1), ROUTER, OTHER)]);
    assert_eq!(round.ask, [(address(1), Some(OTHER))]);
    let round = rounds.next(&[Neighbour { confirmed: ROUND, ..moved }]);
    assert_eq!((round.moved, round.ask), (vec![], vec![(address(1), Some(OTHER))]));
}

#[test]
fn another_is_believed_only_while_the_known_one_is_silent() {
    let mut rounds = Rounds::new(false);
    rounds.next(&[neighbour(1)]);
    assert!(!rounds.watch.believes(address(1), OTHER));
    rounds.next(&[silent(1, 1)]);
    assert!(rounds.watch.believes(address(1), OTHER));
    assert!(!rounds.watch.believes(address(1), ROUTER), "nothing new");
    assert!(!rounds.watch.believes(address(2), OTHER), "a stranger");
    rounds.next(&[neighbour(1)]);
    assert!(!rounds.watch.believes(address(1), OTHER));
}

#[test]
fn many_take_turns() {
    let table: Vec<Neighbour> = (0..200).map(neighbour).collect();
    let mut rounds = Rounds::new(false);
    let mut asked = BTreeMap::<IpAddr, u32>::new();
    for _ in 0..200 {
        let round = rounds.next(&table);
        assert_eq!(round.ask.len(), AT_ONCE);
        for (address, _) in round.ask {
            *asked.entry(address).or_default() += 1;
        }
    }
    assert_eq!(asked.len(), table.len());
    assert!(asked.values().all(|&times| times == AT_ONCE as u32), "{asked:?}");
}

#[test]
fn who_has_gone_is_forgotten() {
    let mut rounds = Rounds::new(false);
    rounds.next(&[neighbour(1)]);
    assert_eq!(rounds.next(&[]), Round::default());
    let moved = Neighbour { mac: OTHER, ..neighbour(1) };
    assert_eq!(rounds.next(&[moved]).moved, [], "a newcomer has not moved");
}
