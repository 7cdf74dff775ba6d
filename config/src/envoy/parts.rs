//! Parts that several of Envoy Gateway's kinds have: matches of text, edits of fields, bodies, and settings of connections.

use serde::{Deserialize, Serialize};

use crate::gateway::{HeaderValue, LocalObjectRef};
use crate::wire::{ByteQuantity, GepDuration, open_enum};

/// A text to be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StringMatch {
    /// Absent is Exact.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<StringMatchType>,
    pub value: String,
}

open_enum! {
    pub enum StringMatchType {
        Exact = "Exact",
        Prefix = "Prefix",
        Suffix = "Suffix",
        RegularExpression = "RegularExpression",
    }
}

/// Edits of fields, beyond those of an HTTPRoute filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderEdits {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<HeaderValue>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<HeaderValue>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_if_absent: Vec<HeaderValue>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// By name, whatever its case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_on_match: Vec<StringMatch>,
}

/// The body of an answer that the proxy itself gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomBody {
    /// Absent is Inline.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<CustomBodyType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<String>,
    /// A ConfigMap: its key `response.body`, else its first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_ref: Option<LocalObjectRef>,
}

open_enum! {
    pub enum CustomBodyType { Inline = "Inline", ValueRef = "ValueRef" }
}

/// An absent member leaves what the kernel has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpKeepalive {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_time: Option<GepDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<GepDuration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Http2Settings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_stream_window_size: Option<ByteQuantity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_connection_window_size: Option<ByteQuantity>,
    /// 1 to 2147483647.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent_streams: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_invalid_message: Option<InvalidMessageAction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_keepalive: Option<Http2Keepalive>,
}

open_enum! {
    pub enum InvalidMessageAction {
        TerminateConnection = "TerminateConnection",
        TerminateStream = "TerminateStream",
    }
}

/// PING frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Http2Keepalive {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<GepDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GepDuration>,
    /// Per cent; absent is 15.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_jitter: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_interval: Option<GepDuration>,
}

open_enum! {
    pub enum TlsVersion { Auto = "Auto", V10 = "1.0", V11 = "1.1", V12 = "1.2", V13 = "1.3" }
}

open_enum! {
    pub enum AlpnProtocol { Http10 = "http/1.0", Http11 = "http/1.1", H2 = "h2" }
}

open_enum! {
    pub enum TlsFingerprint { Ja3 = "JA3", Ja4 = "JA4" }
}
