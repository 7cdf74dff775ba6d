//! SnippetsFilter and SnippetsPolicy: text for NGINX's configuration. There is no NGINX here, so nothing in them can be
//! carried out: they are known in order to be refused, and are never skipped.

use serde::{Deserialize, Serialize};

use crate::gateway::PolicyTargetRef;
use crate::wire::open_enum;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnippetsFilterSpec {
    pub snippets: Vec<Snippet>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnippetsPolicySpec {
    /// Gateways.
    pub target_refs: Vec<PolicyTargetRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snippets: Vec<Snippet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snippet {
    pub context: NginxContext,
    pub value: String,
}

open_enum! {
    pub enum NginxContext {
        Main = "main",
        Http = "http",
        HttpServer = "http.server",
        HttpServerLocation = "http.server.location",
    }
}
