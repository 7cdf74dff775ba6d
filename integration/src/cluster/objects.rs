//! Looking at objects of the cluster, as the administrator sees them.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::Cluster;
use super::process::await_within;

/// For objects to come to rest.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(2);

/// `KIND/NAME`, of the namespace `default` or of none.
pub fn object(cluster: &Cluster, name: &str) -> Value {
    serde_json::from_str(&cluster.kubectl(&["get", name, "--output=json"]).stdout).unwrap()
}

/// A Secret of the namespace `default`, or `NAMESPACE/NAME`.
pub fn secret(cluster: &Cluster, name: &str) -> Option<Value> {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let arguments = ["get", "secret", name, "--namespace", namespace, "--ignore-not-found", "--output=json"];
    serde_json::from_str(&cluster.control.kubectl(&arguments).stdout).ok()
}

/// A condition of a status, or of a listener in one; null where there is none.
pub fn condition(of: &Value, kind: &str) -> Value {
    let all = of["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}

/// Waits until objects stay as they are.
pub fn settle(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut last = versions(cluster);
    await_within(LIMIT, "objects stay as they are", || {
        std::thread::sleep(LOOK);
        let now = versions(cluster);
        let is_same = now == last;
        last = now;
        is_same.then_some(())
    });
    last
}

/// The version of everything that Edge may write about certificates, Leases and Events excepted.
pub fn versions(cluster: &Cluster) -> BTreeMap<String, String> {
    let kinds = "secret,certificate,issuer,clusterissuer,gateway";
    let said = cluster.kubectl(&["get", kinds, "--all-namespaces", "--output=json"]);
    let list: Value = serde_json::from_str(&said.stdout).unwrap();
    let version = |object: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        let name = format!("{}/{}/{}", text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]));
        (name, text(&metadata["resourceVersion"]))
    };
    list["items"].as_array().unwrap().iter().map(version).collect()
}
