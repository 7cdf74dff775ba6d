//! RateLimitPolicy: how many requests in a time, by NGINX's `limit_req`.

use serde::{Deserialize, Serialize};

use super::{NginxRate, NginxSize};
use crate::gateway::PolicyTargetRef;
use crate::wire::open_enum;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitPolicySpec {
    /// Gateways, or HTTPRoutes and GRPCRoutes; never both.
    pub target_refs: Vec<PolicyTargetRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<NginxRateLimit>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NginxRateLimit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<NginxLocalRateLimit>,
    /// Requests are counted, and none is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<RateLimitLogLevel>,
    /// 400 to 599; absent is 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reject_code: Option<u16>,
}

open_enum! {
    pub enum RateLimitLogLevel { Info = "info", Notice = "notice", Warn = "warn", Error = "error" }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NginxLocalRateLimit {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<NginxRateLimitRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NginxRateLimitRule {
    /// Of shared memory, which Edge does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone_size: Option<NginxSize>,
    /// So many above the rate are not delayed; absent is 0. Not together with `noDelay: true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<u32>,
    /// None is delayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_delay: Option<bool>,
    /// So many above the rate are not refused; absent is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    pub rate: NginxRate,
    /// Text and NGINX variables.
    pub key: String,
}
