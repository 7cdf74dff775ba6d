//! BackendTrafficPolicy: what answers look like, and faults on purpose. What each field means here is said in
//! docs/responses.md.

use serde::{Deserialize, Serialize};

use super::{CustomBody, StringMatch};
use crate::gateway::{HeaderModifier, PathModifier};
use crate::wire::{ByteQuantity, GepDuration, open_enum};

/// Of several that match a response the first is carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResponseOverride {
    #[serde(rename = "match")]
    pub matches: ResponseMatch,
    /// Either this or `redirect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<CustomResponse>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<CustomRedirect>,
    /// Absent: All.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<ResponseSource>,
}

open_enum! {
    /// Whose responses: those that Edge makes itself (Envoy Gateway: Envoy), those of backends, or both.
    pub enum ResponseSource { All = "All", Local = "Local", Backend = "Backend" }
}

/// At least one of both; both must match where both are given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResponseMatch {
    /// Any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status_codes: Vec<StatusCodeMatch>,
    /// All of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<ResponseHeaderMatch>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusCodeMatch {
    /// Absent: Value.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<StatusCodeKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<StatusCodeRange>,
}

open_enum! {
    pub enum StatusCodeKind { Value = "Value", Range = "Range" }
}

/// Both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusCodeRange {
    pub start: u16,
    pub end: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResponseHeaderMatch {
    pub name: String,
    pub value: StringMatch,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomResponse {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Absent: the body stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<CustomBody>,
    /// Absent: the status stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// Without `remove`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderModifier>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomRedirect {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// ReplaceFullPath only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// 301 or 302; absent: 302.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
}

/// `compressor` and the older `compression`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compression {
    #[serde(rename = "type")]
    pub kind: CompressorType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gzip: Option<NoSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brotli: Option<NoSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zstd: Option<NoSettings>,
    /// At least 30; absent: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_content_length: Option<ByteQuantity>,
}

open_enum! {
    pub enum CompressorType { Gzip = "Gzip", Brotli = "Brotli", Zstd = "Zstd" }
}

/// An object in which nothing can be said yet: that it is there says that the compressor is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoSettings {}

impl Compression {
    /// Whether the settings of its own type are there.
    pub fn has_settings(&self) -> bool {
        match self.kind {
            CompressorType::Gzip => self.gzip.is_some(),
            CompressorType::Brotli => self.brotli.is_some(),
            CompressorType::Zstd => self.zstd.is_some(),
            CompressorType::Other(_) => false,
        }
    }
}

/// At least one of both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultInjection {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultDelay {
    pub fixed_delay: GepDuration,
    /// 0 to 100 with four decimals; absent: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage: Option<serde_json::Number>,
}

/// Exactly one of both statuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultAbort {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// As for a delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage: Option<serde_json::Number>,
}
