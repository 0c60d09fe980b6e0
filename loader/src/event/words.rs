//! How is a policy said in words? Lists and `causeway plan` show these, and
//! whoever explains a verdict.

use std::{fmt, sync::Arc};

use super::policy::{
    Action, Namespaces, Operator, Peer, PodSelector, PortMatch, Ports, Requirement, Rule, Selector, Tier,
};

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Network => "network",
            Tier::Admin { .. } => "admin",
            Tier::Namespaced => "namespaced",
            Tier::Baseline { .. } => "baseline",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Allow => "allow",
            Action::Deny => "deny",
            Action::Reject => "reject",
            Action::Pass => "pass",
        })
    }
}

/// As `kubectl --selector` has it.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        joined(f, &self.0, ",")
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, several) = (&self.key, |values: &[Arc<str>]| values.join(","));
        match &self.operator {
            Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0]),
            Operator::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0]),
            Operator::In(values) => write!(f, "{key} in ({})", several(values)),
            Operator::NotIn(values) => write!(f, "{key} notin ({})", several(values)),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

/// `pods app=web of namespace shop`
impl fmt::Display for PodSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pods.0.is_empty() {
            true => f.write_str("all pods")?,
            false => write!(f, "pods {}", self.pods)?,
        }
        match &self.namespaces {
            Namespaces::Named(name) => write!(f, " of namespace {name}"),
            Namespaces::Matching(selector) if selector.0.is_empty() => f.write_str(" of all namespaces"),
            Namespaces::Matching(selector) => write!(f, " of namespaces {selector}"),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Pods(selector) => write!(f, "{selector}"),
            Peer::Block { network, except } => {
                write!(f, "{network}")?;
                if !except.is_empty() {
                    f.write_str(" except ")?;
                    joined(f, except, " and ")?;
                }
                Ok(())
            }
            Peer::Service { namespace, name } => write!(f, "service {namespace}/{name}"),
        }
    }
}

/// `80/TCP`, `8000-8099/UDP`, `http/TCP`, or `TCP`.
impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ports {
            Ports::All => {}
            Ports::Range(first, last) if first == last => write!(f, "{first}/")?,
            Ports::Range(first, last) => write!(f, "{first}-{last}/")?,
            Ports::Named(name) => write!(f, "{name}/")?,
        }
        write!(f, "{}", self.protocol)
    }
}

impl Rule {
    /// `allow from pods app=web of namespace shop at 80/TCP`
    pub fn words(&self, ingress: bool) -> String {
        let name = if self.name.is_empty() { String::new() } else { format!("{}: ", self.name) };
        let side = if ingress { "from" } else { "to" };
        let peers = match &self.peers {
            None => "anybody".into(),
            Some(peers) if peers.is_empty() => "nobody".into(),
            Some(peers) => peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
        };
        let ports = match &self.ports {
            None => String::new(),
            Some(ports) if ports.is_empty() => " at no port".into(),
            Some(ports) => {
                let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
                format!(" at {}", ports.join(", "))
            }
        };
        format!("{name}{} {side} {peers}{ports}", self.action)
    }
}

fn joined(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display], by: &str) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        write!(f, "{}{item}", if index == 0 { "" } else { by })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::policy::Transport;

    #[test]
    fn a_rule_is_a_clause() {
        let requirement = |key: &str, operator| Requirement { key: key.into(), operator };
        let values = |values: &[&str]| values.iter().map(|&value| value.into()).collect::<Vec<_>>();
        let pods = Selector(vec![
            requirement("app", Operator::In(values(&["web"]))),
            requirement("env", Operator::NotIn(values(&["dev", "test"]))),
            requirement("old", Operator::DoesNotExist),
        ]);
        let mut rule = Rule {
            name: "".into(),
            action: Action::Allow,
            peers: Some(vec![
                Peer::Pods(PodSelector { namespaces: Namespaces::Named("shop".into()), pods }),
                Peer::Block {
                    network: "10.0.0.0/8".parse().unwrap(),
                    except: vec!["10.1.0.0/16".parse().unwrap()],
                },
            ]),
            ports: Some(vec![
                PortMatch { protocol: Transport::Tcp, ports: Ports::Range(80, 80) },
                PortMatch { protocol: Transport::Udp, ports: Ports::Range(1, 9) },
                PortMatch { protocol: Transport::Icmp, ports: Ports::All },
            ]),
        };
        let peers =
            "pods app=web,env notin (dev,test),!old of namespace shop or 10.0.0.0/8 except 10.1.0.0/16";
        assert_eq!(rule.words(true), format!("allow from {peers} at 80/TCP, 1-9/UDP, ICMP"));
        rule = Rule { name: "x".into(), action: Action::Deny, peers: None, ports: None };
        assert_eq!(rule.words(false), "x: deny to anybody");
        rule.peers = Some(Vec::new());
        assert_eq!(rule.words(false), "x: deny to nobody");
    }
}
