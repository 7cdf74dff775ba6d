//! The parts of a BackendTrafficPolicy that say how much may pass. What each field means here is said in docs/limits.md.

use serde::{Deserialize, Serialize};

use crate::wire::{ByteQuantity, GepDuration, open_enum};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitSpec {
    /// The older form: only the member that it names counts.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<RateLimitType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global: Option<RateLimitRules>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<RateLimitRules>,
}

open_enum! {
    pub enum RateLimitType { Global = "Global", Local = "Local" }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitRules {
    /// At most 16 local ones and 256 global ones.
    #[serde(default)]
    pub rules: Vec<RateLimitRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitRule {
    /// All must hold; at most 8. None: every request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub client_selectors: Vec<RateLimitSelector>,
    pub limit: RateLimitValue,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<RateLimitCost>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow_mode: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x_rate_limit_headers: Option<RateLimitHeaders>,
}

open_enum! {
    pub enum RateLimitHeaders { Off = "Off", DraftVersion03 = "DraftVersion03" }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitValue {
    /// 0 to 4294967295.
    pub requests: u32,
    pub unit: RateLimitUnit,
    /// Nothing of Edge writes metadata, so the static limit holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_metadata: Option<serde_json::Value>,
}

open_enum! {
    pub enum RateLimitUnit {
        Second = "Second",
        Minute = "Minute",
        Hour = "Hour",
        Day = "Day",
        Week = "Week",
        /// 30 days.
        Month = "Month",
        /// 365 days.
        Year = "Year",
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitCost {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RateLimitCostSpecifier>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<RateLimitCostSpecifier>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitCostSpecifier {
    pub from: RateLimitCostFrom,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
}

open_enum! {
    pub enum RateLimitCostFrom { Number = "Number", Metadata = "Metadata" }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitSelector {
    /// All must hold; at most 128.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueSelector>,
    /// One must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<MethodSelector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathSelector>,
    #[serde(default, rename = "sourceCIDR", skip_serializing_if = "Option::is_none")]
    pub source_cidr: Option<SourceSelector>,
    /// All must hold; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<ValueSelector>,
}

/// Of a header or a query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ValueSelector {
    /// Absent: Exact.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ValueSelectorType>,
    pub name: String,
    /// Not with Distinct.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invert: Option<bool>,
}

open_enum! {
    pub enum ValueSelectorType { Exact = "Exact", RegularExpression = "RegularExpression", Distinct = "Distinct" }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MethodSelector {
    pub value: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invert: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathSelector {
    /// Absent: PathPrefix.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<PathSelectorType>,
    /// Absent: `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invert: Option<bool>,
}

open_enum! {
    pub enum PathSelectorType { Exact = "Exact", PathPrefix = "PathPrefix", RegularExpression = "RegularExpression" }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceSelector {
    /// Absent: Exact, which counts the whole range together.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<SourceSelectorType>,
    pub value: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invert: Option<bool>,
}

open_enum! {
    pub enum SourceSelectorType { Exact = "Exact", Distinct = "Distinct" }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestBufferSpec {
    /// At least 1 byte, at most 4 GiB.
    pub limit: ByteQuantity,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BandwidthLimitSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<BandwidthDirection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<BandwidthDirection>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BandwidthDirection {
    pub limit: BandwidthValue,
    /// Of responses only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_trailers: Option<BandwidthTrailers>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BandwidthValue {
    /// Bytes, at least 1 KiB in a second.
    pub value: ByteQuantity,
    pub unit: BandwidthUnit,
}

open_enum! {
    pub enum BandwidthUnit { Second = "Second", Minute = "Minute", Hour = "Hour" }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BandwidthTrailers {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionControlSpec {
    /// Absent: 30s; at least 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling_window: Option<GepDuration>,
    /// Per cent, 1 to 100; absent: 95.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_success_rate: Option<u32>,
    /// At least 1; absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejection_aggression: Option<u32>,
    /// Per second; absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_request_rate: Option<u32>,
    /// Per cent; absent: 80.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rejection_percent: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_criteria: Option<SuccessCriteria>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SuccessCriteria {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSuccess>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcSuccess>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpSuccess {
    #[serde(default)]
    pub status_codes: Vec<u16>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrpcSuccess {
    #[serde(default)]
    pub status_codes: Vec<GrpcCode>,
}

open_enum! {
    /// In the order of their numbers.
    pub enum GrpcCode {
        Ok = "Ok",
        Cancelled = "Cancelled",
        Unknown = "Unknown",
        InvalidArgument = "InvalidArgument",
        DeadlineExceeded = "DeadlineExceeded",
        NotFound = "NotFound",
        AlreadyExists = "AlreadyExists",
        PermissionDenied = "PermissionDenied",
        ResourceExhausted = "ResourceExhausted",
        FailedPrecondition = "FailedPrecondition",
        Aborted = "Aborted",
        OutOfRange = "OutOfRange",
        Unimplemented = "Unimplemented",
        Internal = "Internal",
        Unavailable = "Unavailable",
        DataLoss = "DataLoss",
        Unauthenticated = "Unauthenticated",
    }
}

impl GrpcCode {
    pub fn number(&self) -> Option<u8> {
        let place = Self::KNOWN.iter().position(|name| *name == self.as_str())?;
        u8::try_from(place).ok()
    }
}
