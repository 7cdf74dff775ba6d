//! ClientSettingsPolicy: what clients may send, and how long their connections are kept. One of a route goes field by
//! field over the one of its Gateway.

use serde::{Deserialize, Serialize};

use super::{NginxDuration, NginxSize};
use crate::gateway::PolicyTargetRef;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientSettingsPolicySpec {
    /// A Gateway, HTTPRoute or GRPCRoute.
    pub target_ref: PolicyTargetRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<ClientBody>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<ClientKeepAlive>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientBody {
    /// A larger one is answered 413; 0 is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<NginxSize>,
    /// How much of it NGINX has in memory before it writes a file. Edge hands bodies on as they come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffer_size: Option<NginxSize>,
    /// From one piece of it to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<NginxDuration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientKeepAlive {
    /// So many, and the connection is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// So old, and the connection is closed after the next request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<NginxDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<ClientKeepAliveTimeout>,
    /// An idle connection is not closed sooner, unless its client is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_timeout: Option<NginxDuration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientKeepAliveTimeout {
    /// Of a connection without a request; 0 keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<NginxDuration>,
    /// What the field `Keep-Alive` of answers says of it; with `server` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<NginxDuration>,
}
