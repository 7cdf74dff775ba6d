//! BackendTrafficPolicy: how requests get to endpoints. What each field means here is said in docs/policies.md.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    AdmissionControlSpec, BandwidthLimitSpec, Compression, FaultInjection, RateLimitSpec, RequestBufferSpec,
    ResponseOverride, TargetSelector,
};
use crate::gateway::PolicyTargetRef;
use crate::wire::{GepDuration, open_enum};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTrafficPolicySpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<PolicyTargetRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<PolicyTargetRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_selectors: Vec<TargetSelector>,
    /// Absent: a policy of a route replaces the wider ones. Only for policies of routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge_type: Option<MergeType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<BackendRetry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<BackendTimeout>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<BackendProxyProtocol>,
    /// The older form of `compressor`, which goes before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compression: Vec<Compression>,
    /// In the order of preference where a client has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compressor: Vec<Compression>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response_override: Vec<ResponseOverride>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault_injection: Option<FaultInjection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_buffer: Option<RequestBufferSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_limit: Option<BandwidthLimitSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission_control: Option<AdmissionControlSpec>,
    /// Known, and not acted on by this version: what they hold is kept to be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http2: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_upgrade: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing_type: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_client_protocol: Option<Value>,
}

open_enum! {
    /// How a policy of a route combines with the next wider one.
    pub enum MergeType { StrategicMerge = "StrategicMerge", JsonMerge = "JSONMerge" }
}

/// PROXY protocol headers to endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendProxyProtocol {
    pub version: BackendProxyVersion,
}

open_enum! {
    pub enum BackendProxyVersion { V1 = "V1", V2 = "V2" }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    #[serde(rename = "type")]
    pub kind: LoadBalancerType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// Not acted on by this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_override: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone_aware: Option<Value>,
}

open_enum! {
    pub enum LoadBalancerType {
        ConsistentHash = "ConsistentHash",
        LeastRequest = "LeastRequest",
        Random = "Random",
        RoundRobin = "RoundRobin",
        BackendUtilization = "BackendUtilization",
        DynamicModule = "DynamicModule",
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlowStart {
    pub window: GepDuration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsistentHash {
    #[serde(rename = "type")]
    pub kind: ConsistentHashType,
    /// The older form of `headers` with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HashName>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HashName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<HashCookie>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<HashName>,
    /// A prime from 2 to 5000011.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_size: Option<u64>,
}

open_enum! {
    pub enum ConsistentHashType {
        SourceIp = "SourceIP",
        Header = "Header",
        Headers = "Headers",
        Cookie = "Cookie",
        QueryParams = "QueryParams",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HashName {
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HashCookie {
    pub name: String,
    /// Of the cookie that a client without it is given. Absent: it is given none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<GepDuration>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveHealthCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveHealthCheck>,
    /// Per cent, 0 to 100; absent is 50. 0 never panics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panic_threshold: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActiveHealthCheck {
    #[serde(rename = "type")]
    pub kind: ActiveCheckType,
    /// Absent: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GepDuration>,
    /// Absent: 3s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<GepDuration>,
    /// Not acted on: first checks are always spread over the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_jitter: Option<GepDuration>,
    /// Absent: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy_threshold: Option<u32>,
    /// Absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_threshold: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<CheckOverrides>,
}

open_enum! {
    pub enum ActiveCheckType { Http = "HTTP", Tcp = "TCP", Grpc = "GRPC" }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpCheck {
    pub path: String,
    /// Absent: GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Absent: the endpoint's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Absent: 200.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected_statuses: Vec<u16>,
    /// Not acted on: every other status is a failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retriable_statuses: Vec<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_response: Option<CheckPayload>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpCheck {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<CheckPayload>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive: Option<CheckPayload>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrpcCheck {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckOverrides {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckPayload {
    #[serde(rename = "type")]
    pub kind: PayloadType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
}

open_enum! {
    pub enum PayloadType { Text = "Text", Binary = "Binary" }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PassiveHealthCheck {
    /// Absent: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_external_local_origin_errors: Option<bool>,
    /// How often endpoints are judged. Edge judges with each answer, and asks nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<GepDuration>,
    /// Absent: 5; only with the split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_local_origin_failures: Option<u32>,
    /// Absent: 0, which is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_gateway_errors: Option<u32>,
    /// Absent: 5.
    #[serde(default, rename = "consecutive5XxErrors", skip_serializing_if = "Option::is_none")]
    pub consecutive_5xx_errors: Option<u32>,
    /// Absent: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_ejection_time: Option<GepDuration>,
    /// Per cent; absent: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ejection_percent: Option<u32>,
    /// Absent: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub always_eject_one_endpoint: Option<bool>,
    /// Not acted on by this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_percentage_threshold: Option<u32>,
}

/// Envoy Gateway has 1024 for what is absent; Edge has no bound there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pending_requests: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel_requests: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel_retries: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests_per_connection: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_endpoint: Option<PerEndpoint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PerEndpoint {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Absent: 20 of 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Fraction>,
    /// Absent: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_retry_concurrency: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fraction {
    pub numerator: u32,
    /// Absent: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denominator: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRetry {
    /// Absent: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_retries: Option<u32>,
    /// Not acted on: a retry draws among the groups of Backends like a first try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_attempts_per_priority: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<RetryOn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_retry: Option<PerRetry>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryOn {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<RetryTrigger>,
    /// With the trigger `retriable-status-codes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http_status_codes: Vec<u16>,
}

open_enum! {
    pub enum RetryTrigger {
        ServerError = "5xx",
        GatewayError = "gateway-error",
        Reset = "reset",
        ResetBeforeRequest = "reset-before-request",
        ConnectFailure = "connect-failure",
        Retriable4xx = "retriable-4xx",
        RefusedStream = "refused-stream",
        StatusCodes = "retriable-status-codes",
        Cancelled = "cancelled",
        DeadlineExceeded = "deadline-exceeded",
        Internal = "internal",
        ResourceExhausted = "resource-exhausted",
        Unavailable = "unavailable",
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PerRetry {
    /// Of each try, the first one too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GepDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_off: Option<BackOff>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackOff {
    /// Absent: 25ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_interval: Option<GepDuration>,
    /// Absent: ten times the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_interval: Option<GepDuration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTimeout {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<BackendTcpTimeout>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<BackendHttpTimeout>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTcpTimeout {
    /// TCP and TLS handshake together. Zero leaves what edge.toml says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<GepDuration>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendHttpTimeout {
    /// Zero: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<GepDuration>,
    /// Of a connection to an endpoint without a request. Zero leaves what edge.toml says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_idle_timeout: Option<GepDuration>,
    /// Zero: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connection_duration: Option<GepDuration>,
    /// Not acted on by this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_stream_duration: Option<GepDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_idle_timeout: Option<GepDuration>,
}

impl BackendTrafficPolicySpec {
    /// The fields that are set and not acted on, beside those that the load balancer refuses.
    pub fn unacted(&self) -> Vec<&'static str> {
        let balancer = self.load_balancer.as_ref();
        let health = self.health_check.as_ref();
        let active = health.and_then(|health| health.active.as_ref());
        let http = self.timeout.as_ref().and_then(|timeout| timeout.http.as_ref());
        let fields = [
            (
                "compressor[] without its settings, such as gzip: {}",
                self.compressor.iter().any(|compressor| !compressor.has_settings()),
            ),
            ("connection", self.connection.is_some()),
            ("dns", self.dns.is_some()),
            ("healthCheck.active.initialJitter", active.is_some_and(|active| active.initial_jitter.is_some())),
            (
                "healthCheck.active.http.retriableStatuses",
                active.and_then(|active| active.http.as_ref()).is_some_and(|http| !http.retriable_statuses.is_empty()),
            ),
            (
                "healthCheck.passive.failurePercentageThreshold",
                health
                    .and_then(|health| health.passive)
                    .is_some_and(|passive| passive.failure_percentage_threshold.is_some()),
            ),
            ("http2", self.http2.is_some()),
            ("httpUpgrade", self.http_upgrade.is_some()),
            ("loadBalancer.endpointOverride", balancer.is_some_and(|balancer| balancer.endpoint_override.is_some())),
            ("loadBalancer.zoneAware", balancer.is_some_and(|balancer| balancer.zone_aware.is_some())),
            (
                "rateLimit.global.rules.limit.fromMetadata",
                self.rate_limit
                    .as_ref()
                    .and_then(|limit| limit.global.as_ref())
                    .is_some_and(|global| global.rules.iter().any(|rule| rule.limit.from_metadata.is_some())),
            ),
            (
                "retry.numAttemptsPerPriority",
                self.retry.as_ref().is_some_and(|retry| retry.num_attempts_per_priority.is_some()),
            ),
            ("routingType", self.routing_type.is_some()),
            ("tcpKeepalive", self.tcp_keepalive.is_some()),
            ("telemetry", self.telemetry.is_some()),
            ("timeout.http.maxStreamDuration", http.is_some_and(|http| http.max_stream_duration.is_some())),
            ("useClientProtocol", self.use_client_protocol.is_some()),
        ];
        fields.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect()
    }

    /// The fields that are set and have another name by now, with that name.
    pub fn deprecated(&self) -> Vec<(&'static str, &'static str)> {
        let fields = [
            ("spec.targetRef", "spec.targetRefs", self.target_ref.is_some()),
            ("spec.compression", "spec.compressor", !self.compression.is_empty()),
        ];
        fields.into_iter().filter(|(.., is_set)| *is_set).map(|(old, new, _)| (old, new)).collect()
    }

    /// This policy over a wider one: what it says holds, and the wider one's for the rest. Lists are replaced, but those of
    /// compressors by `StrategicMerge`, which has one for each type.
    pub fn over(&self, wider: &Self) -> Result<Self, String> {
        let value = |spec: &Self| serde_json::to_value(spec).map_err(|error| error.to_string());
        let (mut below, mut above) = (value(wider)?, value(self)?);
        if self.merge_type == Some(MergeType::StrategicMerge) {
            for field in ["compression", "compressor"] {
                if let (Some(Value::Array(wider)), Some(Value::Array(own))) = (below.get(field), above.get(field)) {
                    let all = merge_by_type(wider, own);
                    above[field] = Value::Array(all);
                }
            }
        }
        merge(&mut below, above);
        serde_json::from_value(below).map_err(|error| error.to_string())
    }
}

/// Kubernetes' strategic merge of lists by the key `type`: what both have is merged in its place among the patch's own; what
/// only the wider one has comes before the first of these that it stood before, else at the end.
fn merge_by_type(wider: &[Value], own: &[Value]) -> Vec<Value> {
    let place = |one: &Value| wider.iter().position(|other| other["type"] == one["type"]);
    let one = |own: &Value| {
        let mut merged = place(own).map_or(Value::Null, |place| wider[place].clone());
        merge(&mut merged, own.clone());
        merged
    };
    let mut all: Vec<Value> = own.iter().map(one).collect();
    let mut from = 0;
    for (at, left) in wider.iter().enumerate().filter(|(_, left)| !own.iter().any(|one| one["type"] == left["type"])) {
        let before = all[from..].iter().position(|one| place(one).is_some_and(|place| place > at));
        from += before.unwrap_or(all.len() - from);
        all.insert(from, left.clone());
        from += 1;
    }
    all
}

/// RFC 7396, for a patch without nulls.
pub(super) fn merge(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (name, value) in above {
                merge(below.entry(name).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_compressors_are_merged_by_their_type() {
        let list = |types: &str| -> Vec<Value> {
            types.split_whitespace().map(|kind| serde_json::json!({ "type": kind })).collect()
        };
        for (wider, own, expected) in [
            ("Gzip Brotli", "Zstd", "Zstd Gzip Brotli"),
            ("Gzip Brotli", "Brotli", "Gzip Brotli"),
            ("Gzip Brotli", "Brotli Gzip", "Brotli Gzip"),
            ("Gzip Zstd Brotli", "Brotli Gzip", "Zstd Brotli Gzip"),
            ("", "Gzip", "Gzip"),
            ("Gzip", "", "Gzip"),
        ] {
            assert_eq!(merge_by_type(&list(wider), &list(own)), list(expected), "{wider} under {own}");
        }
        let (wider, own) = (
            serde_json::json!({"type": "Gzip", "minLevel": 1, "level": 2}),
            serde_json::json!({"type": "Gzip", "level": 3}),
        );
        assert_eq!(merge_by_type(&[wider], &[own]), [serde_json::json!({"type": "Gzip", "minLevel": 1, "level": 3})]);
    }

    #[test]
    fn each_way_of_merging() {
        let spec = |yaml: Value| serde_json::from_value::<BackendTrafficPolicySpec>(yaml).unwrap();
        let wider = spec(serde_json::json!({"compressor": [{"type": "Gzip", "gzip": {}}], "retry": {"numRetries": 5}}));
        for (kind, expected) in [("StrategicMerge", 2), ("JSONMerge", 1)] {
            let own = serde_json::json!({"mergeType": kind, "compressor": [{"type": "Brotli", "brotli": {}}]});
            let merged = spec(own).over(&wider).unwrap();
            assert_eq!(merged.compressor.len(), expected, "{kind}");
            assert_eq!(merged.retry.unwrap().num_retries, Some(5), "{kind}");
        }
    }
}
