//! Which fields of a BackendTrafficPolicy have no effect on a kind of routes, though they have on others.

use crate::envoy::{BackendTrafficPolicySpec, ConsistentHashType};
use crate::names::Kind;

const STREAMS: &[Kind] = &[Kind::TLSRoute, Kind::TCPRoute, Kind::UDPRoute];
const DATAGRAMS: &[Kind] = &[Kind::UDPRoute];
/// Those whose endpoints are spoken to in HTTP/2, where many requests share a connection.
const CALLS: &[Kind] = &[Kind::GRPCRoute];

/// Their names, in the order of the list below.
pub(super) fn idle(spec: &BackendTrafficPolicySpec, kind: Kind) -> Vec<&'static str> {
    let hash = spec.load_balancer.as_ref().and_then(|balancer| balancer.consistent_hash.as_ref());
    let breaker = spec.circuit_breaker.unwrap_or_default();
    let timeout = spec.timeout.as_ref();
    let per_endpoint = breaker.per_endpoint.is_some_and(|per_endpoint| per_endpoint.max_connections.is_some());
    let fields: &[(&str, bool, &[Kind])] = &[
        ("loadBalancer.consistentHash", hash.is_some_and(|hash| hash.kind != ConsistentHashType::SourceIp), STREAMS),
        ("timeout.http", timeout.is_some_and(|timeout| timeout.http.is_some()), STREAMS),
        ("timeout.tcp", timeout.is_some_and(|timeout| timeout.tcp.is_some()), DATAGRAMS),
        ("retry", spec.retry.is_some(), STREAMS),
        ("proxyProtocol", spec.proxy_protocol.is_some(), DATAGRAMS),
        ("circuitBreaker.maxConnections", breaker.max_connections.is_some(), CALLS),
        ("circuitBreaker.perEndpoint", per_endpoint, CALLS),
        ("circuitBreaker.maxPendingRequests", breaker.max_pending_requests.is_some(), CALLS),
        ("circuitBreaker.maxPendingRequests", breaker.max_pending_requests.is_some(), STREAMS),
        ("circuitBreaker.maxParallelRequests", breaker.max_parallel_requests.is_some(), STREAMS),
        ("circuitBreaker.maxParallelRetries", breaker.max_parallel_retries.is_some(), STREAMS),
        ("circuitBreaker.maxRequestsPerConnection", breaker.max_requests_per_connection.is_some(), STREAMS),
        ("circuitBreaker.retryBudget", breaker.retry_budget.is_some(), STREAMS),
        ("responseOverride", !spec.response_override.is_empty(), STREAMS),
        ("compression", !spec.compression.is_empty(), STREAMS),
        ("compressor", !spec.compressor.is_empty(), STREAMS),
        ("faultInjection", spec.fault_injection.is_some(), STREAMS),
        ("rateLimit", spec.rate_limit.is_some(), STREAMS),
        ("requestBuffer", spec.request_buffer.is_some(), STREAMS),
        ("bandwidthLimit", spec.bandwidth_limit.is_some(), STREAMS),
        ("admissionControl", spec.admission_control.is_some(), STREAMS),
    ];
    let without_effect = fields.iter().filter(|(_, is_set, kinds)| *is_set && kinds.contains(&kind));
    without_effect.map(|(name, ..)| *name).collect()
}
