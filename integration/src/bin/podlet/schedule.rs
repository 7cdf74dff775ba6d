//! Who binds an unscheduled Pod: nobody else schedules in the rig, so every podlet takes its share.
//!
//! Flows in: Pods without a node. Flows out: Binding objects. A Pod that another podlet bound first is left to it.

use std::collections::BTreeMap;
use std::str::FromStr;

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use kube::api::ObjectMeta;

/// Which unscheduled Pods are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Whoever is first.
    All,
    None,
    /// Those whose hash leaves `index` when divided by `of`.
    Part {
        index: u32,
        of: u32,
    },
}

impl FromStr for Share {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            _ => {
                let (index, of) = text.split_once('/').ok_or(())?;
                let (index, of) = (index.parse().map_err(|_| ())?, of.parse().map_err(|_| ())?);
                if index < of { Ok(Self::Part { index, of }) } else { Err(()) }
            }
        }
    }
}

/// Whether to bind this Pod to the node that has these labels. A node selector decides before the share does: a Pod
/// that asks for a node by label must not wait for the podlet its hash belongs to.
pub fn wanted(pod: &Pod, share: Share, labels: &BTreeMap<String, String>) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ours = spec.scheduler_name.as_deref().is_none_or(|name| name == "default-scheduler");
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    if !ours || gated || spec.node_name.is_some() || pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let selector = spec.node_selector.as_ref().filter(|selector| !selector.is_empty());
    if let Some(selector) = selector {
        return share != Share::None && selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    }
    match share {
        Share::All => true,
        Share::None => false,
        Share::Part { index, of } => {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            fnv(uid.as_bytes()) % u64::from(of) == u64::from(index)
        }
    }
}

/// FNV-1a: every podlet must find the same number, whatever its build.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

pub fn binding(pod: &Pod, node: &str) -> Binding {
    Binding {
        // With the uid, a Pod that was deleted and made again under its name is not bound by mistake.
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value, uid: &str) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "b", "uid": uid}, "spec": spec})).unwrap()
    }

    #[test]
    fn shares_read_from_text() {
        let cases = [
            ("all", Ok(Share::All)),
            ("none", Ok(Share::None)),
            ("0/1", Ok(Share::Part { index: 0, of: 1 })),
            ("1/1", Err(())),
            ("0/0", Err(())),
            ("-1/2", Err(())),
            ("some", Err(())),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn every_pod_falls_to_exactly_one_part() {
        let mut counts = [0; 3];
        for number in 0..300 {
            let pod = pod(json!({}), &format!("uid-{number}"));
            let takers: Vec<usize> = (0..3)
                .filter(|index| wanted(&pod, Share::Part { index: *index, of: 3 }, &BTreeMap::new()))
                .map(|index| index as usize)
                .collect();
            assert_eq!(takers.len(), 1);
            counts[takers[0]] += 1;
        }
        assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
    }

    #[test]
    fn who_is_left_alone() {
        let labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), "n1".to_owned())]);
        let cases = [
            (json!({}), true),
            (json!({"schedulerName": "default-scheduler"}), true),
            (json!({"schedulerName": "other"}), false),
            (json!({"nodeName": "n2"}), false),
            (json!({"schedulingGates": [{"name": "wait"}]}), false),
            (json!({"nodeSelector": {"kubernetes.io/hostname": "n1"}}), true),
            (json!({"nodeSelector": {"kubernetes.io/hostname": "n2"}}), false),
        ];
        for (spec, expected) in cases {
            assert_eq!(wanted(&pod(spec.clone(), "u"), Share::All, &labels), expected, "{spec}");
        }
        let mut leaving = pod(json!({}), "u");
        leaving.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        assert!(!wanted(&leaving, Share::All, &labels));
    }
}
