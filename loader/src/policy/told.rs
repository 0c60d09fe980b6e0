//! What is a compiler told? All of it at one moment.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{Compiler, Name, Namespace, Pod, PolicyId, Subject, admitted};
use crate::event::{
    Kind, ObjectKey,
    policy::{Labels, PolicyObject},
};

#[derive(Clone, Debug, Default)]
pub struct Told {
    pub namespaces: BTreeMap<Arc<str>, Labels>,
    pub pods: BTreeMap<Name, Pod>,
    /// Who serves each.
    pub services: BTreeMap<Name, Vec<IpAddr>>,
    pub policies: BTreeMap<PolicyId, Arc<PolicyObject>>,
    pub endpoints: BTreeMap<Arc<str>, Subject>,
}

impl Told {
    /// A compiler that was told all this, and has committed it.
    pub fn compile(&self) -> Compiler {
        let mut compiler = Compiler::default();
        self.tell(&mut compiler);
        compiler.commit();
        compiler
    }

    pub fn tell(&self, compiler: &mut Compiler) {
        for (name, subject) in &self.endpoints {
            compiler.set_endpoint(name.clone(), Some(subject.clone()));
        }
        for (id, policy) in &self.policies {
            compiler.set_policy(id.clone(), Some(policy.clone()));
        }
        for (name, pod) in &self.pods {
            compiler.set_pod(name.clone(), Some(pod.clone()));
        }
        for (name, labels) in &self.namespaces {
            compiler.set_namespace(name.clone(), Some(labels.clone()));
        }
        for (name, addresses) in &self.services {
            compiler.set_service(name.clone(), addresses.clone());
        }
    }

    /// See [`admitted`].
    pub fn admitted(&self, namespace: &str, labels: Labels) -> Labels {
        admitted(labels, |network, labels| {
            let name = network.clone();
            let key = ObjectKey { kind: Kind::VirtualNetwork, namespace: Arc::default(), name };
            let known = Namespace { name: namespace, labels: self.namespaces.get(namespace) };
            let policy = self.policies.get(&PolicyId::from(&key));
            policy.is_some_and(|policy| policy.subject.matches(known, labels))
        })
    }
}
