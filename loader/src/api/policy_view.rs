//! What the API says of policies, in words. Field names are part of the
//! interface: docs/json.md lists them.

use serde::{Deserialize, Serialize};

use crate::{
    event::policy::{PolicyObject, Rule, Tier},
    model::desired::{DesiredState, Policy, PolicyId},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyView {
    /// `NetworkPolicy`, `AdminNetworkPolicy` and so on.
    pub kind: String,
    /// Empty for kinds without one.
    pub namespace: String,
    pub name: String,
    /// `admin`, `namespaced` or `baseline`, in which order they are asked.
    pub tier: String,
    /// Within the tier, the lowest first; `None` for namespaced policies.
    pub priority: Option<u16>,
    /// Whom it is about, in words.
    pub subject: String,
    /// Its rules in words and in order; `None`: it says nothing about ingress;
    /// of a namespaced one, empty denies all.
    pub ingress: Option<Vec<String>>,
    pub egress: Option<Vec<String>>,
    /// Denials are counted, and nothing is denied.
    pub audit: bool,
    /// What a namespaced policy denies is told to the sender.
    pub reject: bool,
    /// Parts of it were refused: `status` says which.
    pub faulty: bool,
    pub origin: String,
}

/// In the order of kind, namespace and name.
pub fn policies(desired: &DesiredState) -> Vec<PolicyView> {
    desired.policies.iter().map(|(id, policy)| view(id, policy)).collect()
}

fn view(id: &PolicyId, Policy { object, origin }: &Policy) -> PolicyView {
    let PolicyObject { tier, subject, audit, reject, faulty, .. } = &**object;
    let words = |rules: &Option<Vec<Rule>>, ingress| {
        rules.as_ref().map(|rules| rules.iter().map(|rule| rule.words(ingress)).collect())
    };
    let priority = match *tier {
        Tier::Admin { priority } | Tier::Baseline { priority } => Some(priority),
        Tier::Network | Tier::Namespaced => None,
    };
    PolicyView {
        kind: id.kind.to_string(),
        namespace: id.namespace.to_string(),
        name: id.name.to_string(),
        tier: tier.to_string(),
        priority,
        subject: subject.to_string(),
        ingress: words(&object.ingress, true),
        egress: words(&object.egress, false),
        audit: *audit,
        reject: *reject,
        faulty: *faulty,
        origin: origin.to_string(),
    }
}
