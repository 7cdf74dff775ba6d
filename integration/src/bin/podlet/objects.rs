//! What a Pod refers to: which Secrets, ConfigMaps and tokens it needs, and their contents once fetched.
//!
//! Flows in: a Pod. Flows out: [`Reference`]s to fetch, then [`Objects`] to look things up in. Fetches nothing itself.
//! An object that does not exist yet is a [`Fault`] that passes: Deployments are often created before their Secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Volume};

/// One thing to fetch before a container can start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    Secret(String),
    ConfigMap(String),
    /// A token of the Pod's ServiceAccount.
    Token {
        audience: Option<String>,
        seconds: i64,
    },
}

/// What was found. What is absent here does not exist in the cluster.
#[derive(Default)]
pub struct Objects {
    pub secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    pub config_maps: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    pub tokens: BTreeMap<Option<String>, String>,
}

/// Where the Pod runs, for what it asks of itself.
#[derive(Debug, Clone)]
pub struct Place {
    pub node_ip: IpAddr,
    pub pod_ips: Vec<IpAddr>,
}

/// Why a container cannot start now.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{kind} {name}: not found")]
    Absent { kind: &'static str, name: String },
    #[error("{kind} {name}: has no key {key}")]
    NoKey { kind: &'static str, name: String, key: String },
    #[error("{kind} {name}: {key} is not UTF-8 text")]
    NotText { kind: &'static str, name: String, key: String },
    #[error("env {name}: field {path} is not known here")]
    Field { name: String, path: String },
    #[error("env {name}: resourceFieldRef is not supported by podlet")]
    ResourceField { name: String },
    #[error("volume {volume}: {what} is not supported by podlet")]
    Unsupported { volume: String, what: &'static str },
    #[error("volume {volume}: path {path} leaves the volume")]
    Path { volume: String, path: String },
    #[error("volumeMount {name}: no such volume")]
    NoVolume { name: String },
}

impl Objects {
    pub fn add_secret(&mut self, name: &str, secret: Secret) {
        let entries = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
        self.secrets.insert(name.to_owned(), entries);
    }

    pub fn add_config_map(&mut self, name: &str, map: ConfigMap) {
        let text = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
        let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        self.config_maps.insert(name.to_owned(), text.chain(binary).collect());
    }

    /// The entries of an object; `None` where it is absent and may be.
    pub fn entries(
        &self,
        kind: &'static str,
        name: &str,
        optional: Option<bool>,
    ) -> Result<Option<&BTreeMap<String, Vec<u8>>>, Fault> {
        let found = match kind {
            "Secret" => self.secrets.get(name),
            _ => self.config_maps.get(name),
        };
        match found {
            None if optional != Some(true) => Err(Fault::Absent { kind, name: name.to_owned() }),
            found => Ok(found),
        }
    }
}

/// Everything a Pod's environment and volumes refer to.
pub fn references(pod: &Pod) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    let Some(spec) = &pod.spec else { return found };
    for container in &spec.containers {
        for source in container.env_from.iter().flatten() {
            found.extend(source.secret_ref.as_ref().map(|secret| Reference::Secret(secret.name.clone())));
            found.extend(source.config_map_ref.as_ref().map(|map| Reference::ConfigMap(map.name.clone())));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            found.extend(source.secret_key_ref.as_ref().map(|key| Reference::Secret(key.name.clone())));
            found.extend(source.config_map_key_ref.as_ref().map(|key| Reference::ConfigMap(key.name.clone())));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        volume_references(volume, &mut found);
    }
    found
}

fn volume_references(volume: &Volume, found: &mut BTreeSet<Reference>) {
    if let Some(name) = volume.secret.as_ref().and_then(|secret| secret.secret_name.clone()) {
        found.insert(Reference::Secret(name));
    }
    if let Some(map) = &volume.config_map {
        found.insert(Reference::ConfigMap(map.name.clone()));
    }
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        found.extend(source.secret.as_ref().map(|secret| Reference::Secret(secret.name.clone())));
        found.extend(source.config_map.as_ref().map(|map| Reference::ConfigMap(map.name.clone())));
        found.extend(source.service_account_token.as_ref().map(|token| Reference::Token {
            audience: token.audience.clone(),
            seconds: token.expiration_seconds.unwrap_or(3600),
        }));
    }
}

/// A field of the Pod by its path, as `fieldRef` of environment and downward API names them.
pub fn field(pod: &Pod, place: &Place, path: &str) -> Option<String> {
    let keyed = |map: &Option<BTreeMap<String, String>>, rest: &str| {
        let key = rest.strip_prefix("['")?.strip_suffix("']")?;
        // A label that is not there is the empty text, as in a kubelet.
        Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default())
    };
    let joined = || place.pod_ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let spec = pod.spec.as_ref();
    if let Some(rest) = path.strip_prefix("metadata.labels[") {
        return keyed(&pod.metadata.labels, &format!("[{rest}"));
    }
    if let Some(rest) = path.strip_prefix("metadata.annotations[") {
        return keyed(&pod.metadata.annotations, &format!("[{rest}"));
    }
    match path {
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.namespace" => pod.metadata.namespace.clone(),
        "metadata.uid" => pod.metadata.uid.clone(),
        "metadata.labels" => Some(lines(pod.metadata.labels.as_ref())),
        "metadata.annotations" => Some(lines(pod.metadata.annotations.as_ref())),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => {
            Some(spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".to_owned()))
        }
        "status.hostIP" | "status.hostIPs" => Some(place.node_ip.to_string()),
        "status.podIP" => place.pod_ips.first().map(ToString::to_string),
        "status.podIPs" => Some(joined()),
        _ => None,
    }
}

/// `key="value"` per line, as the downward API writes whole maps.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;

    pub fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "web-6f-x2", "namespace": "shop", "uid": "u-1", "labels": {"app": "web"},
                "annotations": {"a": "1\n2"}
            },
            "spec": spec,
        }))
        .unwrap()
    }

    pub fn place() -> Place {
        Place {
            node_ip: "10.90.0.2".parse().unwrap(),
            pod_ips: vec!["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        }
    }

    pub fn objects() -> Objects {
        let mut objects = Objects::default();
        let secret = json!({"data": {"tls.crt": "Q0VSVA==", "tls.key": "S0VZ", "raw": "/w=="}});
        objects.add_secret("certificate", serde_json::from_value(secret).unwrap());
        let map = json!({"data": {"Corefile": ". { whoami }", "LEVEL": "debug"}, "binaryData": {"bits": "AAE="}});
        objects.add_config_map("settings", serde_json::from_value(map).unwrap());
        objects.tokens.insert(None, "token".to_owned());
        objects
    }

    #[test]
    fn everything_referred_to_is_found() {
        let pod = pod(json!({
            "containers": [{"name": "a",
                "env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}},
                    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k"}}},
                    {"name": "C", "value": "plain"}],
                "envFrom": [{"secretRef": {"name": "s2"}}, {"configMapRef": {"name": "c2"}}]}],
            "volumes": [
                {"name": "v1", "secret": {"secretName": "s3"}},
                {"name": "v2", "configMap": {"name": "c3"}},
                {"name": "v3", "projected": {"sources": [
                    {"secret": {"name": "s1"}}, {"configMap": {"name": "kube-root-ca.crt"}},
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}},
                {"name": "v4", "emptyDir": {}}]
        }));
        let secret = |name: &str| Reference::Secret(name.to_owned());
        let map = |name: &str| Reference::ConfigMap(name.to_owned());
        let expected = BTreeSet::from([
            secret("s1"),
            secret("s2"),
            secret("s3"),
            map("c1"),
            map("c2"),
            map("c3"),
            map("kube-root-ca.crt"),
            Reference::Token { audience: None, seconds: 3607 },
        ]);
        assert_eq!(references(&pod), expected);
    }

    #[test]
    fn fields() {
        let pod = pod(json!({"containers": [], "nodeName": "n1"}));
        let cases = [
            ("metadata.name", Some("web-6f-x2")),
            ("metadata.namespace", Some("shop")),
            ("metadata.uid", Some("u-1")),
            ("metadata.labels['app']", Some("web")),
            ("metadata.labels['none']", Some("")),
            ("metadata.labels", Some("app=\"web\"")),
            ("metadata.annotations", Some("a=\"1\\n2\"")),
            ("metadata.labels[app]", None),
            ("spec.nodeName", Some("n1")),
            ("spec.serviceAccountName", Some("default")),
            ("status.hostIP", Some("10.90.0.2")),
            ("status.podIP", Some("10.244.1.5")),
            ("status.podIPs", Some("10.244.1.5,fd00::5")),
            ("status.phase", None),
        ];
        for (path, expected) in cases {
            assert_eq!(field(&pod, &place(), path).as_deref(), expected, "{path}");
        }
    }
}
