//! May these two talk? What is asked when a flow begins.
//!
//! ```text
//! POLICY                 ──► bank and generation that count now
//! POLICIES[policy, bank] ──► set for what comes, set for what goes     (0: no policy)
//! CLASSES[generation, peer] ──► class: who is alike to every rule of this node
//! SETS[set, class] or SETS[set, OTHERS] ──► where the STEPS by protocol and port begin
//! ```
//!
//! A set is a list of rules, a class the set of peer selectors that hold for an
//! address; both numbers stand for their contents, so a row of `SETS` never
//! changes while it is there. Numbers are of this node and of one agent's life:
//! the next one writes all of it anew beside what is there, as another
//! generation, and changes over at once.

use bytemuck::{Pod, Zeroable};

use crate::{Addr, Port, V4, V6};

/// The rule sets of an endpoint: 0 for a direction without a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct EndpointPolicy {
    /// What may come to it.
    pub ingress: u32,
    /// Where it may go.
    pub egress: u32,
}

/// Key of the trie of peers, IPv4 and IPv6 apart: the class of an address is
/// that of its longest prefix, [`OTHERS`] without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PeerKey<A> {
    /// In bits, of the generation and the address.
    pub prefix: u32,
    pub generation: u32,
    pub addr: A,
}

impl<A: Addr> PeerKey<A> {
    /// `prefix`: bits of the address.
    #[inline(always)]
    pub fn new(generation: u32, addr: A, prefix: u32) -> Self {
        Self { prefix: u32::BITS + prefix, generation, addr }
    }

    #[inline(always)]
    pub fn exactly(generation: u32, addr: A) -> Self {
        Self::new(generation, addr, 8 * A::BYTES as u32)
    }
}

// SAFETY: `repr(C)`, every field is Pod, and the sizes asserted below leave no
// room for padding.
unsafe impl<A: Addr> Zeroable for PeerKey<A> {}
unsafe impl<A: Addr> Pod for PeerKey<A> {}

/// What counts now: the bank in the lowest bit, above it the generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Standing(pub u32);

impl Standing {
    pub fn new(generation: u32, bank: u32) -> Self {
        Self(generation << 1 | bank & 1)
    }

    #[inline(always)]
    pub fn generation(self) -> u32 {
        self.0 >> 1
    }

    #[inline(always)]
    pub fn bank(self) -> u32 {
        self.0 & 1
    }

    /// Index of the row of [`Endpoint::policy`](crate::Endpoint::policy).
    #[inline(always)]
    pub fn row(self, policy: u16) -> u32 {
        u32::from(policy) * 2 + self.bank()
    }
}

/// The class of whom no rule selects; in a key of the table of sets, everybody
/// for whom the set has no row of its own.
pub const OTHERS: u32 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct SetKey {
    pub set: u32,
    pub class: u32,
}

/// Where the steps for a set and a class stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Steps {
    /// Index of the first.
    pub base: u32,
    /// How many; at least one, at most [`MAX_STEPS`].
    pub len: u32,
}

/// In one list.
pub const MAX_STEPS: u32 = 1 << 12;

/// From this protocol and port on, up to the next step: what to do, and which
/// rule says so. The first of a list begins at 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct PolicyStep {
    /// See [`place`].
    pub from: u32,
    /// An [`Outcome`] in the lowest four bits, above them the rule's number.
    pub outcome: u32,
}

/// Where a protocol and port stand in the order of steps. Protocols without
/// ports have port 0.
#[inline(always)]
pub fn place(protocol: u8, port: Port) -> u32 {
    u32::from(protocol) << 16 | u32::from(port.get())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Outcome {
    Allow = 0,
    /// Dropped without a word.
    Deny = 1,
    /// Dropped, and told to the sender.
    Reject = 2,
    /// Would be denied, but the policy only looks.
    Audit = 3,
}

/// The number of no rule: nobody has anything against it.
pub const NO_RULE: u32 = 0;
/// Numbers that a rule may have are below this: each has a counter.
pub const MAX_RULES: u32 = 1 << 16;

impl PolicyStep {
    pub fn new(from: u32, outcome: Outcome, rule: u32) -> Self {
        Self { from, outcome: outcome as u32 | rule << 4 }
    }

    #[inline(always)]
    pub fn outcome(&self) -> Outcome {
        match self.outcome & 0xf {
            0 => Outcome::Allow,
            2 => Outcome::Reject,
            3 => Outcome::Audit,
            _ => Outcome::Deny,
        }
    }

    #[inline(always)]
    pub fn rule(&self) -> u32 {
        self.outcome >> 4
    }
}

/// The step that holds for a place: the last that begins at or before it.
/// `at` gives the step at an index, `None` where there is none: then there is
/// no answer.
#[inline(always)]
pub fn find(steps: Steps, place: u32, at: impl Fn(u32) -> Option<PolicyStep>) -> Option<PolicyStep> {
    // Counted from the base, which the verifier does not know: it would walk
    // every way through the list that it could tell apart.
    let end = steps.base.wrapping_add(steps.len);
    let mut low = steps.base;
    let mut found = at(low)?;
    // The largest power of two that a list can be long, then its halves. The end is
    // asked for last: verifiers before 6.2 take no loop whose head is fallen into.
    let mut width = MAX_STEPS;
    loop {
        let next = low.wrapping_add(width);
        if next < end {
            let step = at(next)?;
            if step.from <= place {
                low = next;
                found = step;
            }
        }
        width /= 2;
        if width == 0 {
            return Some(found);
        }
    }
}

const _: () = {
    assert!(size_of::<EndpointPolicy>() == 8);
    assert!(size_of::<SetKey>() == 8 && size_of::<Steps>() == 8);
    assert!(size_of::<PolicyStep>() == 8);
    assert!(size_of::<PeerKey<V4>>() == 12 && size_of::<PeerKey<V6>>() == 24);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{TCP, UDP};

    #[test]
    fn the_last_step_before_a_place_holds() {
        for (base, len) in
            [(0, 1_u32), (5, 2), (0, 3), (100, 7), (0, 64), (64, 65), (1, 1000), (9, MAX_STEPS)]
        {
            let steps = Steps { base, len };
            let from = |index: u32| index * 10;
            let at = |index: u32| {
                let index = index.checked_sub(base).filter(|index| *index < len)?;
                Some(PolicyStep::new(from(index), Outcome::Allow, index))
            };
            for place in (0..from(len) + 5).step_by(3) {
                let wanted = (place / 10).min(len - 1);
                assert_eq!(find(steps, place, at).unwrap().rule(), wanted, "{len} steps, {place}");
            }
            assert_eq!(find(steps, u32::MAX, at).unwrap().rule(), len - 1);
        }
        assert_eq!(find(Steps { base: 0, len: 1 }, 0, |_| None), None);
    }

    #[test]
    fn outcomes_and_rules_share_a_word() {
        for outcome in [Outcome::Allow, Outcome::Deny, Outcome::Reject, Outcome::Audit] {
            let step = PolicyStep::new(place(UDP, Port::new(53)), outcome, MAX_RULES - 1);
            assert_eq!((step.outcome(), step.rule()), (outcome, MAX_RULES - 1));
        }
        assert!(place(TCP, Port::new(u16::MAX)) < place(UDP, Port::NONE));
    }
}
