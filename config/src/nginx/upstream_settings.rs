//! UpstreamSettingsPolicy: how connections are made to a Service, and how its endpoints share what comes.

use serde::{Deserialize, Serialize};

use super::NginxDuration;
use crate::gateway::PolicyTargetRef;
use crate::wire::open_enum;

/// About Services, directly: every route to one of them, whoever wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamSettingsPolicySpec {
    pub target_refs: Vec<PolicyTargetRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing_method: Option<LoadBalancingMethod>,
    /// An NGINX variable, with `hash` and `hash consistent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_method_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<UpstreamKeepAlive>,
    /// Of shared memory, which Edge does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone_size: Option<String>,
    /// Not acted on by this version: endpoints are what health is about.
    #[serde(default, rename = "useClusterIP", skip_serializing_if = "Option::is_none")]
    pub use_cluster_ip: Option<bool>,
}

open_enum! {
    pub enum LoadBalancingMethod {
        RoundRobin = "round_robin",
        LeastConn = "least_conn",
        IpHash = "ip_hash",
        Hash = "hash",
        HashConsistent = "hash consistent",
        Random = "random",
        RandomTwo = "random two",
        RandomTwoLeastConn = "random two least_conn",
        RandomTwoLeastTimeHeader = "random two least_time=header",
        RandomTwoLeastTimeLastByte = "random two least_time=last_byte",
        LeastTimeHeader = "least_time header",
        LeastTimeLastByte = "least_time last_byte",
        LeastTimeHeaderInflight = "least_time header inflight",
        LeastTimeLastByteInflight = "least_time last_byte inflight",
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamKeepAlive {
    /// Idle ones, per worker; 0 keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Of one connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<NginxDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<NginxDuration>,
}
