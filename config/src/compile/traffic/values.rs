//! What a BackendTrafficPolicy's fields come to, in ranges and defaults of Envoy Gateway v1.9. The error says which field
//! cannot be honoured; then nothing of the policy is.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::filters::is_token;
use super::Traffic;
use super::responses::responses;
use crate::envoy::{
    ActiveCheckType, ActiveHealthCheck, BackendProxyVersion, BackendRetry, BackendTrafficPolicySpec, CheckPayload,
    CircuitBreaker, ConsistentHash, ConsistentHashType, HashName, LoadBalancer, LoadBalancerType, PassiveHealthCheck,
    PayloadType, RetryTrigger,
};
use crate::policy::{
    Balance, Check, CheckKind, HashBalance, HashCookie, HashKey, HttpCheck, KeepAlive, Limits, Outliers, RetryBudget,
    UpstreamPolicy,
};
use crate::snapshot::{ProxyVersion, Retry};
use crate::wire::GepDuration;

pub(super) type Judged<T> = Result<T, String>;

const MOST_TABLE: u64 = 5_000_011;
const MOST_THRESHOLD: u32 = 1_000;
/// Checks more often than this are load, not care.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
const MOST_PAYLOAD: usize = 4 << 10;
/// What Envoy Gateway has where `maxPendingRequests` is absent.
const PENDING: u32 = 1024;
const BASE_BACKOFF: Duration = Duration::from_millis(25);

pub(super) fn traffic(spec: &BackendTrafficPolicySpec) -> Judged<Traffic> {
    if let Some(merge) = spec.merge_type.as_ref().filter(|merge| !merge.is_known()) {
        return Err(format!("mergeType {merge} is not known, expected StrategicMerge or JSONMerge"));
    }
    let http = spec.timeout.as_ref().and_then(|timeout| timeout.http);
    let proxy_protocol = match spec.proxy_protocol.as_ref().map(|proxy| &proxy.version) {
        None => None,
        Some(BackendProxyVersion::V1) => Some(ProxyVersion::V1),
        Some(BackendProxyVersion::V2) => Some(ProxyVersion::V2),
        Some(other) => return Err(format!("proxyProtocol.version {other} is not known, expected V1 or V2")),
    };
    let per_retry = spec.retry.as_ref().and_then(|retry| retry.per_retry);
    let upstream = upstream(spec)?;
    Ok(Traffic {
        balance: spec.load_balancer.as_ref().map(balance).transpose()?,
        request_timeout: http.and_then(|http| http.request_timeout).map(|timeout| timeout.0),
        stream_idle: http.and_then(|http| http.stream_idle_timeout).map(|timeout| timeout.0),
        proxy_protocol,
        upstream: (!upstream.is_default()).then(|| Arc::new(upstream)),
        retry: spec.retry.as_ref().map(retry).transpose()?,
        try_timeout: per_retry.and_then(|per_retry| length(per_retry.timeout)),
        responses: responses(spec)?,
        ..Traffic::default()
    })
}

/// Zero counts as absent.
fn length(duration: Option<GepDuration>) -> Option<Duration> {
    duration.map(|duration| duration.0).filter(|duration| !duration.is_zero())
}

fn balance(spec: &LoadBalancer) -> Judged<Balance> {
    if spec.slow_start.is_some() && matches!(spec.kind, LoadBalancerType::Random | LoadBalancerType::ConsistentHash) {
        return Err(format!("loadBalancer.slowStart is for RoundRobin and LeastRequest, not for {}", spec.kind));
    }
    match (&spec.kind, &spec.consistent_hash) {
        (LoadBalancerType::ConsistentHash, Some(hash)) => Ok(Balance::Hash(Arc::new(hash_balance(hash)?))),
        (LoadBalancerType::ConsistentHash, None) => {
            Err("loadBalancer.consistentHash is missing, expected it for type ConsistentHash".to_owned())
        }
        (kind, Some(_)) => Err(format!("loadBalancer.consistentHash does not belong to type {kind}")),
        (LoadBalancerType::RoundRobin, None) => Ok(Balance::RoundRobin),
        (LoadBalancerType::LeastRequest, None) => Ok(Balance::LeastRequest),
        (LoadBalancerType::Random, None) => Ok(Balance::Random),
        (other, None) => Err(format!("loadBalancer.type {other} is not acted on by this version")),
    }
}

fn hash_balance(spec: &ConsistentHash) -> Judged<HashBalance> {
    let place = "loadBalancer.consistentHash";
    let header = |name: &HashName| match is_token(&name.name) {
        true => Ok(name.name.to_ascii_lowercase().into()),
        false => Err(format!("{place}: {:?} is no header name", name.name)),
    };
    let some = |is_empty: bool, field: &str| match is_empty {
        true => Err(format!("{place}.{field} is missing, expected it for type {}", spec.kind)),
        false => Ok(()),
    };
    let key = match &spec.kind {
        ConsistentHashType::SourceIp => HashKey::SourceIp,
        ConsistentHashType::Header => {
            some(spec.header.is_none(), "header")?;
            HashKey::Headers(spec.header.iter().map(header).collect::<Judged<_>>()?)
        }
        ConsistentHashType::Headers => {
            some(spec.headers.is_empty(), "headers")?;
            HashKey::Headers(spec.headers.iter().map(header).collect::<Judged<_>>()?)
        }
        ConsistentHashType::Cookie => {
            let Some(cookie) = &spec.cookie else { return Err(some(true, "cookie").err().unwrap_or_default()) };
            if !is_token(&cookie.name) {
                return Err(format!("{place}.cookie: {:?} is no cookie name", cookie.name));
            }
            // They are written into a response header.
            let clean = |text: &str| text.bytes().all(|byte| (b' '..0x7f).contains(&byte) && byte != b';');
            if let Some((name, _)) = cookie.attributes.iter().find(|(name, value)| !is_token(name) || !clean(value)) {
                return Err(format!("{place}.cookie.attributes: {name:?} is no attribute of a cookie"));
            }
            let attributes = cookie.attributes.iter();
            HashKey::Cookie(Box::new(HashCookie {
                name: cookie.name.as_str().into(),
                ttl: cookie.ttl.map(|ttl| ttl.0),
                attributes: attributes.map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect(),
            }))
        }
        ConsistentHashType::QueryParams => {
            some(spec.query_params.is_empty(), "queryParams")?;
            HashKey::Query(spec.query_params.iter().map(|name| name.name.as_str().into()).collect())
        }
        ConsistentHashType::Other(other) => return Err(format!("{place}.type {other:?} is not known")),
    };
    let table = match spec.table_size {
        None => None,
        Some(size) if (2..=MOST_TABLE).contains(&size) && is_prime(size) => u32::try_from(size).ok(),
        Some(size) => return Err(format!("{place}.tableSize {size}, expected a prime from 2 to {MOST_TABLE}")),
    };
    Ok(HashBalance { key, table })
}

pub(in crate::compile) fn is_prime(number: u64) -> bool {
    number > 1 && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| !number.is_multiple_of(divisor))
}

fn upstream(spec: &BackendTrafficPolicySpec) -> Judged<UpstreamPolicy> {
    let health = spec.health_check.as_ref();
    let panic_below = match health.and_then(|health| health.panic_threshold) {
        Some(percent) => per_cent("healthCheck.panicThreshold", percent)?,
        None if health.is_some_and(|health| health.active.is_some() || health.passive.is_some()) => 50,
        None => 0,
    };
    let breaker = spec.circuit_breaker.unwrap_or_default();
    let timeout = spec.timeout.as_ref();
    let http = timeout.and_then(|timeout| timeout.http).unwrap_or_default();
    let tcp = timeout.and_then(|timeout| timeout.tcp).unwrap_or_default();
    let slow_start = spec.load_balancer.as_ref().and_then(|balancer| balancer.slow_start);
    Ok(UpstreamPolicy {
        check: health.and_then(|health| health.active.as_ref()).map(check).transpose()?,
        outliers: health.and_then(|health| health.passive).map(|passive| outliers(&passive)).transpose()?,
        panic_below,
        slow_start: length(slow_start.map(|slow_start| slow_start.window)),
        limits: limits(&breaker)?,
        keep_alive: KeepAlive {
            idle_connections: None,
            idle_timeout: length(http.connection_idle_timeout),
            // Envoy: 0 is no bound.
            requests: breaker.max_requests_per_connection.filter(|requests| *requests > 0),
            age: length(http.max_connection_duration),
        },
        connect_timeout: length(tcp.connect_timeout),
    })
}

fn per_cent(field: &str, percent: u32) -> Judged<u8> {
    u8::try_from(percent)
        .ok()
        .filter(|percent| *percent <= 100)
        .ok_or_else(|| format!("{field} {percent}, expected 0 to 100"))
}

fn limits(breaker: &CircuitBreaker) -> Judged<Limits> {
    let endpoint_connections = breaker.per_endpoint.and_then(|per_endpoint| per_endpoint.max_connections);
    let waits = breaker.max_connections.is_some() || endpoint_connections.is_some();
    let retry_budget = match breaker.retry_budget {
        None => None,
        Some(budget) => {
            let (numerator, denominator) =
                budget.percent.map_or((20, 100), |fraction| (fraction.numerator, fraction.denominator.unwrap_or(100)));
            if denominator == 0 || numerator > denominator {
                return Err(format!(
                    "circuitBreaker.retryBudget.percent {numerator}/{denominator}, expected a part of a whole"
                ));
            }
            let share = u64::from(numerator) * 10_000 / u64::from(denominator);
            Some(RetryBudget {
                share: u32::try_from(share).unwrap_or(10_000),
                at_least: budget.min_retry_concurrency.unwrap_or(3),
            })
        }
    };
    Ok(Limits {
        connections: breaker.max_connections,
        endpoint_connections,
        pending: breaker.max_pending_requests.or(waits.then_some(PENDING)),
        requests: breaker.max_parallel_requests,
        retries: breaker.max_parallel_retries,
        retry_budget,
    })
}

fn within<T: PartialOrd + Display>(field: &str, value: T, least: T, most: T) -> Judged<T> {
    match value >= least && value <= most {
        true => Ok(value),
        false => Err(format!("{field} {value}, expected {least} to {most}")),
    }
}

fn check(spec: &ActiveHealthCheck) -> Judged<Check> {
    let place = "healthCheck.active";
    let interval = spec.interval.map_or(Duration::from_secs(3), |interval| interval.0);
    let timeout = spec.timeout.map_or(Duration::from_secs(1), |timeout| timeout.0);
    for (field, value, least) in [("interval", interval, SHORTEST_INTERVAL), ("timeout", timeout, SHORTEST_TIMEOUT)] {
        if value < least {
            return Err(format!("{place}.{field} {}, expected at least {}", GepDuration(value), GepDuration(least)));
        }
    }
    let threshold = |field: &str, value: Option<u32>, default| {
        within(&format!("{place}.{field}"), value.unwrap_or(default), 1, MOST_THRESHOLD)
    };
    let kind = match (&spec.kind, &spec.http, &spec.tcp, &spec.grpc) {
        (ActiveCheckType::Http, Some(http), None, None) => CheckKind::Http(Box::new(http_check(http)?)),
        (ActiveCheckType::Tcp, None, Some(tcp), None) => CheckKind::Tcp {
            send: payload(&format!("{place}.tcp.send"), tcp.send.as_ref())?,
            expect: payload(&format!("{place}.tcp.receive"), tcp.receive.as_ref())?,
        },
        (ActiveCheckType::Grpc, None, None, grpc) => {
            let service = grpc.as_ref().and_then(|grpc| grpc.service.as_deref()).unwrap_or_default();
            if service.len() > 255 {
                return Err(format!("{place}.grpc.service has {} characters, expected at most 255", service.len()));
            }
            CheckKind::Grpc { service: service.into() }
        }
        (ActiveCheckType::Other(other), ..) => return Err(format!("{place}.type {other:?} is not known")),
        (kind, ..) => return Err(format!("{place}: expected the member of type {kind}, and no other")),
    };
    let port = spec.overrides.as_ref().and_then(|overrides| overrides.port);
    if port == Some(0) {
        return Err(format!("{place}.overrides.port: 0 is no port, expected 1 to 65535"));
    }
    Ok(Check {
        kind,
        interval,
        timeout,
        rise: threshold("healthyThreshold", spec.healthy_threshold, 1)?,
        fall: threshold("unhealthyThreshold", spec.unhealthy_threshold, 3)?,
        port,
    })
}

fn http_check(spec: &crate::envoy::HttpCheck) -> Judged<HttpCheck> {
    let place = "healthCheck.active.http";
    let is_plain = |text: &str| text.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'#');
    if !spec.path.starts_with('/') || spec.path.len() > 1024 || !is_plain(&spec.path) {
        return Err(format!("{place}.path {:?} is no path", spec.path.chars().take(64).collect::<String>()));
    }
    let method = spec.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
    if !is_token(&method) || method == "CONNECT" {
        return Err(format!("{place}.method {method:?} cannot be checked with"));
    }
    if let Some(host) = spec.hostname.as_deref().filter(|host| !is_plain(host) || host.is_empty() || host.len() > 253) {
        return Err(format!("{place}.hostname {host:?} is no host"));
    }
    let mut codes = if spec.expected_statuses.is_empty() { vec![200] } else { spec.expected_statuses.clone() };
    codes.sort_unstable();
    let mut statuses: Vec<(u16, u16)> = Vec::new();
    for code in codes {
        within(&format!("{place}.expectedStatuses"), code, 100, 599)?;
        match statuses.last_mut() {
            Some((_, last)) if code <= *last + 1 => *last = code,
            _ => statuses.push((code, code)),
        }
    }
    Ok(HttpCheck {
        host: spec.hostname.as_deref().map(Into::into),
        path: spec.path.as_str().into(),
        method: method.into(),
        statuses,
        expect: payload(&format!("{place}.expectedResponse"), spec.expected_response.as_ref())?,
    })
}

fn payload(place: &str, spec: Option<&CheckPayload>) -> Judged<Box<[u8]>> {
    let Some(spec) = spec else { return Ok(Box::default()) };
    let bytes = match (&spec.kind, &spec.text, &spec.binary) {
        (PayloadType::Text, Some(text), None) => text.as_bytes().to_vec(),
        (PayloadType::Binary, None, Some(text)) => {
            STANDARD.decode(text.trim()).map_err(|_| format!("{place}.binary is no base64"))?
        }
        (kind, ..) => return Err(format!("{place}: expected the member of type {kind}, and no other")),
    };
    match bytes.len() <= MOST_PAYLOAD {
        true => Ok(bytes.into()),
        false => Err(format!("{place} has {} bytes, expected at most {MOST_PAYLOAD}", bytes.len())),
    }
}

fn outliers(spec: &PassiveHealthCheck) -> Judged<Outliers> {
    let is_split = spec.split_external_local_origin_errors.unwrap_or(false);
    let local_failures = spec.consecutive_local_origin_failures.unwrap_or(5);
    Ok(Outliers {
        server_errors: spec.consecutive_5xx_errors.unwrap_or(5),
        gateway_errors: spec.consecutive_gateway_errors.unwrap_or(0),
        local_failures: is_split.then_some(local_failures),
        base_ejection: spec.base_ejection_time.map_or(Duration::from_secs(30), |time| time.0),
        most_ejected: per_cent("healthCheck.passive.maxEjectionPercent", spec.max_ejection_percent.unwrap_or(10))?,
        at_least_one: spec.always_eject_one_endpoint.unwrap_or(false),
    })
}

fn retry(spec: &BackendRetry) -> Judged<Retry> {
    let attempts = spec.num_retries.unwrap_or(2);
    let mut retry = Retry {
        codes: Vec::new(),
        grpc_codes: Vec::new(),
        resets: false,
        attempts: within("retry.numRetries", attempts, 0, 100)?,
        backoff: BASE_BACKOFF,
        longest_backoff: None,
    };
    let on = spec.retry_on.as_ref();
    let chosen = on.map(|on| on.triggers.as_slice()).filter(|triggers| !triggers.is_empty());
    let default = [RetryTrigger::Unavailable, RetryTrigger::Cancelled, RetryTrigger::StatusCodes];
    let codes = on.map(|on| on.http_status_codes.as_slice()).filter(|codes| !codes.is_empty());
    let codes = codes.unwrap_or(if on.is_none() { &[503] } else { &[] });
    for trigger in chosen.unwrap_or(&default) {
        match trigger {
            RetryTrigger::ServerError => {
                retry.codes.extend(500..=599);
                retry.resets = true;
            }
            RetryTrigger::GatewayError => {
                retry.codes.extend([502, 503, 504]);
                retry.resets = true;
            }
            RetryTrigger::Reset => retry.resets = true,
            // In any case: nothing of the request was acted on.
            RetryTrigger::ConnectFailure | RetryTrigger::RefusedStream | RetryTrigger::ResetBeforeRequest => {}
            RetryTrigger::Retriable4xx => retry.codes.push(409),
            RetryTrigger::StatusCodes => {
                for code in codes {
                    retry.codes.push(within("retry.retryOn.httpStatusCodes", *code, 100, 599)?);
                }
            }
            RetryTrigger::Cancelled => retry.grpc_codes.push(1),
            RetryTrigger::DeadlineExceeded => retry.grpc_codes.push(4),
            RetryTrigger::ResourceExhausted => retry.grpc_codes.push(8),
            RetryTrigger::Internal => retry.grpc_codes.push(13),
            RetryTrigger::Unavailable => retry.grpc_codes.push(14),
            RetryTrigger::Other(other) => return Err(format!("retry.retryOn.triggers: {other:?} is not known")),
        }
    }
    retry.codes.sort_unstable();
    retry.codes.dedup();
    retry.grpc_codes.sort_unstable();
    retry.grpc_codes.dedup();
    let back_off = spec.per_retry.and_then(|per_retry| per_retry.back_off);
    if let Some(base) = length(back_off.and_then(|back_off| back_off.base_interval)) {
        retry.backoff = base;
    }
    let longest = length(back_off.and_then(|back_off| back_off.max_interval));
    if longest.is_some_and(|longest| longest < retry.backoff) {
        return Err("retry.perRetry.backOff.maxInterval is less than baseInterval".to_owned());
    }
    retry.longest_backoff = Some(longest.unwrap_or_else(|| retry.backoff.saturating_mul(10)));
    Ok(retry)
}
