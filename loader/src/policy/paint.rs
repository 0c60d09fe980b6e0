//! What do clauses decide about each protocol and port? Each in turn paints what
//! those before it have left open.

use std::collections::BTreeMap;

use causeway_schema::policy::{NO_RULE, Outcome, PolicyStep};

use super::{
    clauses::{Clause, Effect},
    places::EVERYWHERE,
};

/// From each key on, up to the next.
pub struct Canvas {
    stretches: BTreeMap<u32, State>,
    /// How many are open.
    open: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// With the first rule that would deny it, but only looks.
    Open(Option<u32>),
    /// Nothing of this list decides any more, the next may.
    Passed(Option<u32>),
    Decided(Outcome, u32),
}

impl Canvas {
    pub fn new() -> Self {
        Self { stretches: BTreeMap::from([(0, State::Open(None))]), open: 1 }
    }

    /// One list of clauses, in order.
    pub fn paint<'a>(&mut self, clauses: impl IntoIterator<Item = &'a Clause>) {
        for clause in clauses {
            if self.open == 0 {
                break;
            }
            for places in &clause.places {
                self.split(places.first);
                if places.last < EVERYWHERE.last {
                    self.split(places.last + 1);
                }
                for state in self.stretches.range_mut(places.first..=places.last).map(|(_, state)| state) {
                    let State::Open(watched) = *state else { continue };
                    *state = clause.effect.on(watched, clause.rule);
                    self.open -= usize::from(!matches!(state, State::Open(_)));
                }
            }
        }
        for state in self.stretches.values_mut() {
            if let State::Passed(watched) = *state {
                *state = State::Open(watched);
                self.open += 1;
            }
        }
    }

    /// Only where something is open: the rest stays as it is.
    fn split(&mut self, at: u32) {
        if let Some((&from, &state)) = self.stretches.range(..=at).next_back()
            && from != at
            && matches!(state, State::Open(_))
        {
            self.stretches.insert(at, state);
            self.open += 1;
        }
    }

    /// The shortest list of steps.
    pub fn steps(self) -> Vec<PolicyStep> {
        let mut steps: Vec<PolicyStep> = Vec::new();
        for (from, state) in self.stretches {
            let (outcome, rule) = match state {
                State::Decided(outcome, rule) => (outcome, rule),
                State::Open(None) | State::Passed(None) => (Outcome::Allow, NO_RULE),
                State::Open(Some(rule)) | State::Passed(Some(rule)) => (Outcome::Audit, rule),
            };
            let step = PolicyStep::new(from, outcome, rule);
            if steps.last().is_none_or(|last| last.outcome != step.outcome) {
                steps.push(step);
            }
        }
        steps
    }
}

impl Effect {
    fn on(self, watched: Option<u32>, rule: u32) -> State {
        match (self, watched) {
            (Effect::Allow, None) => State::Decided(Outcome::Allow, rule),
            (Effect::Allow, Some(watched)) => State::Decided(Outcome::Audit, watched),
            (Effect::Deny, _) => State::Decided(Outcome::Deny, rule),
            (Effect::Reject, _) => State::Decided(Outcome::Reject, rule),
            (Effect::Pass, _) => State::Passed(watched),
            (Effect::Watch, _) => State::Open(watched.or(Some(rule))),
        }
    }
}
