//! The one gate for references between namespaces: ReferenceGrant.
//!
//! A reference within a namespace needs no grant; one to another namespace needs a ReferenceGrant there, whose `from`
//! names the real kind of the referrer (a ListenerSet does not inherit what its Gateway was granted, nor the reverse).

use foldhash::{HashMap, HashMapExt};

use crate::gateway::ReferenceGrantSpec;
use crate::inputs::Inputs;
use crate::names::Kind;

pub(super) struct Grants<'a> {
    by_namespace: HashMap<&'a str, Vec<&'a ReferenceGrantSpec>>,
}

impl<'a> Grants<'a> {
    pub fn new(inputs: &'a Inputs) -> Self {
        let mut by_namespace: HashMap<&str, Vec<_>> = HashMap::new();
        for (key, grant) in &inputs.reference_grants {
            by_namespace.entry(&key.namespace).or_default().push(&grant.spec);
        }
        Self { by_namespace }
    }

    /// Whether an object of `from` in namespace `home` may refer to `to` named `name` in `namespace`.
    pub fn permit(&self, from: Kind, home: &str, to: Kind, namespace: &str, name: &str) -> bool {
        if home == namespace {
            return true;
        }
        self.by_namespace.get(namespace).is_some_and(|grants| {
            grants.iter().any(|grant| {
                grant.from.iter().any(|f| f.group == from.group() && f.kind == from.as_str() && f.namespace == home)
                    && grant.to.iter().any(|t| {
                        t.group == to.group()
                            && t.kind == to.as_str()
                            && t.name.as_deref().is_none_or(|granted| granted.is_empty() || granted == name)
                    })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::{ReferenceGrantFrom, ReferenceGrantTo};

    fn grant(from: &[(&str, &str)], to: &[(&str, &str, Option<&str>)]) -> ReferenceGrantSpec {
        ReferenceGrantSpec {
            from: from
                .iter()
                .map(|(kind, namespace)| ReferenceGrantFrom {
                    group: "gateway.networking.k8s.io".into(),
                    kind: (*kind).into(),
                    namespace: (*namespace).into(),
                })
                .collect(),
            to: to
                .iter()
                .map(|(group, kind, name)| ReferenceGrantTo {
                    group: (*group).into(),
                    kind: (*kind).into(),
                    name: name.map(str::to_owned),
                })
                .collect(),
        }
    }

    #[test]
    fn from_and_to_are_both_lists_of_which_one_must_hold() {
        let spec =
            grant(&[("HTTPRoute", "shop"), ("Gateway", "edge")], &[("", "Service", Some("api")), ("", "Secret", None)]);
        let grants = Grants { by_namespace: [("backend", vec![&spec])].into_iter().collect() };
        for (from, home, to, namespace, name, expected) in [
            (Kind::HTTPRoute, "shop", Kind::Service, "backend", "api", true),
            (Kind::HTTPRoute, "shop", Kind::Service, "backend", "other", false),
            (Kind::HTTPRoute, "other", Kind::Service, "backend", "api", false),
            (Kind::GRPCRoute, "shop", Kind::Service, "backend", "api", false),
            (Kind::Gateway, "edge", Kind::Secret, "backend", "any", true),
            (Kind::ListenerSet, "edge", Kind::Secret, "backend", "any", false),
            (Kind::Gateway, "edge", Kind::ConfigMap, "backend", "any", false),
            (Kind::HTTPRoute, "shop", Kind::Service, "shop", "api", true),
            (Kind::HTTPRoute, "shop", Kind::Service, "elsewhere", "api", false),
        ] {
            assert_eq!(
                grants.permit(from, home, to, namespace, name),
                expected,
                "{from} {home} -> {to} {namespace}/{name}"
            );
        }
    }
}
