//! ProxySettingsPolicy: how answers of endpoints are buffered, and how long an endpoint may take. One of a route goes
//! field by field over the one of its Gateway.

use serde::{Deserialize, Serialize};

use super::{NginxDuration, NginxSize};
use crate::gateway::PolicyTargetRef;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxySettingsPolicySpec {
    /// Gateways, or HTTPRoutes and GRPCRoutes; never both.
    pub target_refs: Vec<PolicyTargetRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffering: Option<ProxyBuffering>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<ProxyTimeout>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyBuffering {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable: Option<bool>,
    /// For the head of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffer_size: Option<NginxSize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffers: Option<ProxyBuffers>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_buffers_size: Option<NginxSize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyBuffers {
    pub size: NginxSize,
    /// 2 to 256.
    pub number: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyTimeout {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<NginxDuration>,
    /// From one piece of an answer to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<NginxDuration>,
    /// From one piece of a request to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<NginxDuration>,
}
