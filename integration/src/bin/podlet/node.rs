//! The Node object and its Lease.
//!
//! Flows in: options and the port of the log server. Flows out: one Ready Node, renewed, and marked as not ready at the
//! end. The name, addresses and networks are pure functions of the options.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::fetch::{Fault, call};
use crate::options::Options;
use crate::say;

/// As a kubelet: a lease of 40 s, renewed every 10 s, and the whole status every minute.
const RENEWAL: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
const STATUS_EVERY: u32 = 6;
const LEASES: &str = "kube-node-lease";
const FAREWELL: Duration = Duration::from_secs(3);
/// For the API server to come up.
const PATIENCE: Duration = Duration::from_secs(120);
const RETRY: Duration = Duration::from_millis(500);

/// The node's labels: the usual ones and what the command line adds.
pub fn labels(name: &str, more: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let usual =
        [("kubernetes.io/hostname", name), ("kubernetes.io/os", "linux"), ("kubernetes.io/arch", architecture())];
    let usual = usual.map(|(key, value)| (key.to_owned(), value.to_owned()));
    usual.into_iter().chain(more.clone()).collect()
}

/// Kubernetes uses Go's names.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn spec(options: &Options) -> Value {
    let cidrs: Vec<String> = options.pod_cidrs.iter().map(IpNet::to_string).collect();
    json!({"podCIDR": cidrs.first(), "podCIDRs": cidrs})
}

fn status(options: &Options, port: u16, ready: bool, now: Timestamp, since: Timestamp) -> Value {
    let (now, since) = (whole(now), whole(since));
    let condition = |type_: &str, holds: bool, reason: &str| {
        json!({
            "type": type_, "status": if holds { "True" } else { "False" }, "reason": reason,
            "message": "", "lastHeartbeatTime": now, "lastTransitionTime": since,
        })
    };
    let quantity = json!({"cpu": "16", "memory": "64Gi", "pods": "1000", "ephemeral-storage": "64Gi"});
    json!({
        "capacity": quantity,
        "allocatable": quantity,
        "conditions": [
            condition("Ready", ready, if ready { "PodletReady" } else { "PodletStopped" }),
            condition("MemoryPressure", false, "NotWatched"),
            condition("DiskPressure", false, "NotWatched"),
            condition("PIDPressure", false, "NotWatched"),
        ],
        // No Hostname: the API server would prefer it for logs, and nobody resolves it.
        "addresses": [{"type": "InternalIP", "address": options.node_ip.to_string()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": {
            "architecture": architecture(), "operatingSystem": "linux", "osImage": "podlet", "kernelVersion": "",
            "containerRuntimeVersion": "podlet://0", "kubeletVersion": "v1.36.0-podlet", "kubeProxyVersion": "",
            "machineID": options.node, "systemUUID": options.node, "bootID": std::process::id().to_string(),
        },
    })
}

fn whole(at: Timestamp) -> String {
    format!("{:.0}", Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// The node in the API.
pub struct Registration {
    nodes: Api<Node>,
    leases: Api<Lease>,
    options: Options,
    port: u16,
    since: Timestamp,
}

impl Registration {
    pub fn new(client: &Client, options: &Options, port: u16) -> Self {
        Self {
            nodes: Api::all(client.clone()),
            leases: Api::namespaced(client.clone(), LEASES),
            options: options.clone(),
            port,
            since: Timestamp::now(),
        }
    }

    /// Registers the node, waiting for an API server that is just starting.
    pub async fn register(&self) -> Result<(), String> {
        let mut last = String::new();
        let attempts = async {
            loop {
                match self.attempt().await {
                    Ok(()) => return,
                    Err(fault) if fault.to_string() != last => {
                        last = fault.to_string();
                        say!("{last}");
                    }
                    Err(_) => {}
                }
                sleep(RETRY).await;
            }
        };
        let outcome = timeout(PATIENCE, attempts).await;
        outcome.map_err(|_| format!("not registered after {} s: {last}", PATIENCE.as_secs()))
    }

    async fn attempt(&self) -> Result<(), Fault> {
        let name = &self.options.node;
        let wanted: Vec<String> = self.options.pod_cidrs.iter().map(IpNet::to_string).collect();
        let found = call("Node", self.nodes.get_opt(name)).await?;
        let cidrs = |node: &Node| node.spec.as_ref().and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
        if let Some(node) = &found
            && cidrs(node) != wanted
        {
            // podCIDRs cannot be changed: a run with other networks needs another object.
            call("delete Node", self.nodes.delete(name, &DeleteParams::default())).await?;
        }
        if found.is_none_or(|node| cidrs(&node) != wanted) {
            let node = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "labels": labels(name, &self.options.labels)},
                "spec": spec(&self.options),
            });
            let node: Node = serde_json::from_value(node).expect("a Node written above");
            call("create Node", self.nodes.create(&PostParams::default(), &node)).await?;
        } else {
            let labels = json!({"metadata": {"labels": labels(name, &self.options.labels)}});
            call("label Node", self.nodes.patch(name, &PatchParams::default(), &Patch::Merge(&labels))).await?;
        }
        self.write(true).await?;
        self.renew().await
    }

    /// Renews lease and status. Never returns.
    pub async fn keep(&self) {
        let mut beat: u32 = 0;
        let mut failing = false;
        loop {
            sleep(RENEWAL).await;
            beat = beat.wrapping_add(1);
            let outcome = match self.renew().await {
                Ok(()) if beat.is_multiple_of(STATUS_EVERY) => self.write(true).await,
                outcome => outcome,
            };
            match outcome {
                Err(fault) if !failing => {
                    say!("{fault}");
                    failing = true;
                }
                Err(_) => {}
                Ok(()) => failing = false,
            }
        }
    }

    /// The node is not ready from now on; without an API server its lease says so later.
    pub async fn retire(&self) {
        let _ = timeout(FAREWELL, self.write(false)).await;
    }

    async fn write(&self, ready: bool) -> Result<(), Fault> {
        let name = &self.options.node;
        let now = Timestamp::now();
        let since = if ready { self.since } else { now };
        let status = status(&self.options, self.port, ready, now, since);
        let patch = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status});
        let params = PatchParams::apply("podlet").force();
        call("Node status", self.nodes.patch_status(name, &params, &Patch::Apply(&patch))).await.map(drop)
    }

    async fn renew(&self) -> Result<(), Fault> {
        let name = &self.options.node;
        let patch = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": LEASES},
            "spec": {
                "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": format!("{:.6}", Timestamp::now()),
            },
        });
        let params = PatchParams::apply("podlet").force();
        call("Lease", self.leases.patch(name, &params, &Patch::Apply(&patch))).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        let line = "--kubeconfig k --node n1 --node-ip 10.90.0.2 --pod-cidr 10.244.1.0/24,fd00:1::/112 --bridge br0 \
                    --prefix edge-rig- --image a=/b --state /tmp/s --node-label topology.kubernetes.io/zone=z1";
        Options::parse(line.split_whitespace().map(str::to_owned)).unwrap()
    }

    #[test]
    fn what_the_cluster_sees() {
        let at = Timestamp::new(1_800_000_000, 5).unwrap();
        let node = json!({"spec": spec(&options()), "metadata": {}, "status": status(&options(), 10250, true, at, at)});
        let node: Node = serde_json::from_value(node).unwrap();
        assert_eq!(node.spec.as_ref().unwrap().pod_cidr.as_deref(), Some("10.244.1.0/24"));
        assert_eq!(node.spec.unwrap().pod_cidrs.unwrap(), ["10.244.1.0/24", "fd00:1::/112"]);
        let status = node.status.unwrap();
        assert_eq!(status.daemon_endpoints.unwrap().kubelet_endpoint.unwrap().port, 10250);
        let addresses: Vec<String> =
            status.addresses.unwrap().iter().map(|one| format!("{}={}", one.type_, one.address)).collect();
        assert_eq!(addresses, ["InternalIP=10.90.0.2"]);
        let ready = &status.conditions.unwrap()[0];
        assert_eq!((ready.type_.as_str(), ready.status.as_str()), ("Ready", "True"));
    }

    #[test]
    fn labels_of_the_command_line_are_added() {
        let labels = labels("n1", &options().labels);
        assert_eq!(labels["kubernetes.io/hostname"], "n1");
        assert_eq!(labels["topology.kubernetes.io/zone"], "z1");
    }
}
