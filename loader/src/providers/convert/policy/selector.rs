//! LabelSelector -> requirements. They are sorted, so that selectors that say
//! the same are equal.

use super::{
    Reader, Refusal, quoted,
    wire::{LabelSelector, LabelSelectorRequirement, NamespacedPod},
};
use crate::event::{
    label,
    policy::{Namespaces, Operator, PodSelector, Requirement, Selector},
};

impl Reader<'_> {
    /// An empty selector selects all.
    pub(super) fn selector(&mut self, wire: LabelSelector, path: &str) -> Result<Selector, Refusal> {
        let mut requirements = Vec::new();
        for (key, value) in wire.match_labels.iter().flatten() {
            let end = key.char_indices().nth(80).map_or(key.len(), |(end, _)| end);
            let field = || format!("{path}.matchLabels[{}]", &key[..end]);
            label::key(key)
                .and_then(|()| label::value(value))
                .map_err(|message| Refusal::new(field(), message))?;
            let operator = Operator::In(vec![self.names.get(value)]);
            requirements.push(Requirement { key: self.names.get(key), operator });
        }
        for (index, wire) in wire.match_expressions.iter().flatten().enumerate() {
            requirements.push(self.requirement(wire, &format!("{path}.matchExpressions[{index}]"))?);
        }
        requirements.sort_unstable();
        requirements.dedup();
        requirements.shrink_to_fit();
        Ok(Selector(requirements))
    }

    fn requirement(&mut self, wire: &LabelSelectorRequirement, path: &str) -> Result<Requirement, Refusal> {
        let refused = |field: &str, message: String| Refusal::new(format!("{path}.{field}"), message);
        label::key(&wire.key).map_err(|message| refused("key", message))?;
        let key = self.names.get(&wire.key);
        let mut values = Vec::new();
        for (index, value) in wire.values.iter().flatten().enumerate() {
            label::value(value).map_err(|message| refused(&format!("values[{index}]"), message))?;
            values.push(self.names.get(value));
        }
        values.sort_unstable();
        values.dedup();
        let operator = match (wire.operator.as_str(), values.is_empty()) {
            ("In", false) => Operator::In(values),
            ("NotIn", false) => Operator::NotIn(values),
            ("Exists", true) => Operator::Exists,
            ("DoesNotExist", true) => Operator::DoesNotExist,
            ("In" | "NotIn", true) => {
                return Err(refused("values", format!("missing: {} needs at least one", wire.operator)));
            }
            ("Exists" | "DoesNotExist", false) => {
                return Err(refused("values", format!("{} takes none: remove them", wire.operator)));
            }
            (other, _) => {
                let message =
                    format!("{} is no operator: use In, NotIn, Exists or DoesNotExist", quoted(other));
                return Err(refused("operator", message));
            }
        };
        Ok(Requirement { key, operator })
    }

    /// All pods of some namespaces.
    pub(super) fn namespaces(&mut self, wire: LabelSelector, path: &str) -> Result<PodSelector, Refusal> {
        let namespaces = Namespaces::Matching(self.selector(wire, path)?);
        Ok(PodSelector { namespaces, pods: Selector::default() })
    }

    /// `anywhere`: without a namespaceSelector all namespaces are meant.
    pub(super) fn namespaced_pod(
        &mut self,
        wire: NamespacedPod,
        anywhere: bool,
        path: &str,
    ) -> Result<PodSelector, Refusal> {
        let missing = |name| Refusal::new(format!("{path}.{name}"), "missing: write {} for all of them");
        let namespaces = match wire.namespace_selector {
            None if anywhere => Selector::default(),
            None => return Err(missing("namespaceSelector")),
            Some(wire) => self.selector(wire, &format!("{path}.namespaceSelector"))?,
        };
        let pods = wire.pod_selector.ok_or_else(|| missing("podSelector"))?;
        let pods = self.selector(pods, &format!("{path}.podSelector"))?;
        Ok(PodSelector { namespaces: Namespaces::Matching(namespaces), pods })
    }
}
