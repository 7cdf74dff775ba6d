//! What a BackendTrafficPolicy says of how much may pass, in ranges and defaults of Envoy Gateway v1.9. The error says which
//! field cannot be honoured; then nothing of the policy is.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use super::super::context::fingerprint;
use super::super::filters::is_token;
use crate::envoy::{
    AdmissionControlSpec, BackendTrafficPolicySpec, BandwidthDirection, BandwidthLimitSpec, BandwidthUnit, GrpcCode,
    PathSelector, PathSelectorType, RateLimitCostFrom, RateLimitCostSpecifier, RateLimitHeaders, RateLimitRule,
    RateLimitRules, RateLimitSelector, RateLimitSpec, RateLimitType, RateLimitUnit, SourceSelectorType, ValueSelector,
    ValueSelectorType,
};
use crate::matching::{Pattern, QueryMatch, ValueMatch};
use crate::names::ObjectRef;
use crate::policy::protection::{
    Admission, Bandwidth, Counts, HeaderTest, KeyPart, PathTest, Protection, Rate, RateList, RateName, Rates, Reach,
    Selector, TOO_MANY_REQUESTS, Unless,
};
use crate::settings::AddressRange;
use crate::wire::GepDuration;

type Judged<T> = Result<T, String>;

const MOST_LOCAL: usize = 16;
const MOST_GLOBAL: usize = 256;
const MOST_SELECTORS: usize = 8;
const MOST_HEADERS: usize = 128;
const MOST_PARAMETERS: usize = 16;
const LONGEST_NAME: usize = 256;
const LONGEST_VALUE: usize = 1024;
const MOST_BUFFER: u64 = u32::MAX as u64;
/// Bytes per second.
const LEAST_BANDWIDTH: u64 = 1024;
/// gRPC codes that count as successes where nothing is said: what the caller is to blame for.
const GRPC_SUCCESSES: [u8; 10] = [0, 1, 3, 5, 6, 7, 9, 11, 12, 16];

/// `policy`: whose limits they are; but rates that only the policy has that it was `merged` over stay that one's, and are
/// counted where it counts them.
pub(super) fn protection(
    spec: &BackendTrafficPolicySpec,
    policy: &ObjectRef,
    merged: Option<(&BackendTrafficPolicySpec, &ObjectRef)>,
) -> Judged<Option<Arc<Protection>>> {
    let buffer = match spec.request_buffer.as_ref().map(|buffer| buffer.limit.0) {
        Some(bytes) if bytes == 0 || bytes > MOST_BUFFER => {
            return Err(format!("requestBuffer.limit {bytes}, expected 1 to {MOST_BUFFER} bytes"));
        }
        buffer => buffer,
    };
    if buffer.is_some() && spec.http_upgrade.as_ref().and_then(|value| value.as_array()).is_some_and(|v| !v.is_empty())
    {
        return Err("requestBuffer and httpUpgrade exclude each other".to_owned());
    }
    let owner = |of: RateList| match merged {
        Some((own, wider)) => {
            let own = own.rate_limit.as_ref();
            let has = own.is_some_and(|own| match of {
                RateList::Local => own.local.is_some(),
                RateList::Global => own.global.is_some(),
            });
            if has { policy } else { wider }
        }
        None => policy,
    };
    let protection = Protection {
        rates: spec.rate_limit.as_ref().map(|limit| rates(limit, owner)).transpose()?.flatten(),
        admission: spec.admission_control.as_ref().map(|control| admission(control, policy)).transpose()?,
        buffer,
        bandwidth: spec.bandwidth_limit.as_ref().map(|limit| bandwidth(limit, policy)).transpose()?,
        ..Protection::default()
    };
    Ok(protection.or_none())
}

fn rates<'o>(spec: &RateLimitSpec, owner: impl Fn(RateList) -> &'o ObjectRef) -> Judged<Option<Arc<Rates>>> {
    let (local, global) = match &spec.kind {
        None => (spec.local.as_ref(), spec.global.as_ref()),
        Some(RateLimitType::Local) if spec.local.is_none() => {
            return Err("rateLimit.local is missing, expected it for type Local".to_owned());
        }
        Some(RateLimitType::Global) if spec.global.is_none() => {
            return Err("rateLimit.global is missing, expected it for type Global".to_owned());
        }
        Some(RateLimitType::Local) => (spec.local.as_ref(), None),
        Some(RateLimitType::Global) => (None, spec.global.as_ref()),
        Some(other) => return Err(format!("rateLimit.type {other} is not known, expected Global or Local")),
    };
    let mut list = Vec::new();
    for (rules, of, most) in [(local, RateList::Local, MOST_LOCAL), (global, RateList::Global, MOST_GLOBAL)] {
        let Some(RateLimitRules { rules }) = rules else { continue };
        if rules.len() > most {
            return Err(format!(
                "rateLimit.{}.rules has {} entries, expected at most {most}",
                of.as_str(),
                rules.len()
            ));
        }
        let everybody = rules.iter().filter(|rule| rule.client_selectors.is_empty()).count();
        if of == RateList::Local && everybody > 1 {
            return Err("rateLimit.local.rules: more than one has no clientSelectors, expected one default".to_owned());
        }
        for (index, rule) in rules.iter().enumerate() {
            let place = format!("rateLimit.{}.rules[{index}]", of.as_str());
            let name =
                RateName { policy: owner(of).clone(), list: of, index: u32::try_from(index).unwrap_or(u32::MAX) };
            list.push(rate(rule, name).map_err(|error| format!("{place}.{error}"))?);
        }
    }
    let rates = Rates { list, dry_run: None, status: Some(TOO_MANY_REQUESTS), log: None };
    Ok((!rates.list.is_empty()).then(|| Arc::new(rates)))
}

/// Of a name, the same on every edge.
pub(in crate::compile) fn digest(name: &dyn Display) -> u64 {
    fingerprint([name.to_string().as_bytes()])
}

fn rate(rule: &RateLimitRule, name: RateName) -> Judged<Rate> {
    let per = match &rule.limit.unit {
        RateLimitUnit::Second => 1,
        RateLimitUnit::Minute => 60,
        RateLimitUnit::Hour => 3_600,
        RateLimitUnit::Day => 86_400,
        RateLimitUnit::Week => 7 * 86_400,
        RateLimitUnit::Month => 30 * 86_400,
        RateLimitUnit::Year => 365 * 86_400,
        RateLimitUnit::Other(other) => return Err(format!("limit.unit {other:?} is not known")),
    };
    let is_local = name.list == RateList::Local;
    let response = rule.cost.as_ref().and_then(|cost| cost.response.as_ref());
    if is_local && response.is_some() {
        return Err("cost.response is for global rules only".to_owned());
    }
    if is_local && rule.limit.from_metadata.is_some() {
        return Err("limit.fromMetadata is for global rules only".to_owned());
    }
    let request = rule.cost.as_ref().and_then(|cost| cost.request.as_ref());
    let (when, by) = selector(&rule.client_selectors)?;
    let is_shared = rule.shared.unwrap_or(false);
    Ok(Rate {
        digest: digest(&name),
        requests: rule.limit.requests,
        per: Duration::from_secs(per),
        burst: rule.limit.requests.saturating_sub(1),
        delay_after: None,
        otherwise: is_local && rule.client_selectors.is_empty(),
        when: (when != Selector::default()).then(|| Box::new(when)),
        by,
        by_any: false,
        counts: if is_shared && !is_local { Counts::Policy } else { Counts::Route },
        reach: if is_local { Reach::Edge } else { Reach::Fleet },
        dry_run: rule.shadow_mode.unwrap_or(false),
        cost: request.map(|cost| number("request", cost)).transpose()?.unwrap_or(1),
        response_cost: response.map(|cost| number("response", cost)).transpose()?.unwrap_or(0),
        headers: match &rule.x_rate_limit_headers {
            None => None,
            Some(RateLimitHeaders::Off) => Some(false),
            Some(RateLimitHeaders::DraftVersion03) => Some(true),
            Some(other) => return Err(format!("xRateLimitHeaders {other:?} is not known")),
        },
        name,
    })
}

fn number(of: &str, cost: &RateLimitCostSpecifier) -> Judged<u64> {
    match (&cost.from, cost.number, &cost.metadata) {
        (RateLimitCostFrom::Number, Some(number), None) => Ok(number),
        // Without it the limit would never be reached.
        (RateLimitCostFrom::Metadata, ..) => {
            Err(format!("cost.{of}: from Metadata is not acted on by this version, nothing of Edge writes metadata"))
        }
        (RateLimitCostFrom::Other(other), ..) => Err(format!("cost.{of}.from {other:?} is not known")),
        (RateLimitCostFrom::Number, ..) => Err(format!("cost.{of}: expected number, and no metadata")),
    }
}

/// All selectors of a rule as one, and what requests are counted apart by.
fn selector(specs: &[RateLimitSelector]) -> Judged<(Selector, Vec<KeyPart>)> {
    let mut all = Selector::default();
    let mut by = Vec::new();
    if specs.len() > MOST_SELECTORS {
        return Err(format!("clientSelectors has {} entries, expected at most {MOST_SELECTORS}", specs.len()));
    }
    for (index, spec) in specs.iter().enumerate() {
        let at = |error: String| format!("clientSelectors[{index}].{error}");
        let bound = |field: &str, count: usize, most: usize| match count <= most {
            true => Ok(()),
            false => Err(at(format!("{field} has {count} entries, expected at most {most}"))),
        };
        bound("headers", spec.headers.len(), MOST_HEADERS)?;
        bound("queryParams", spec.query_params.len(), MOST_PARAMETERS)?;
        if *spec == RateLimitSelector::default() {
            return Err(format!(
                "clientSelectors[{index}]: expected one of headers, methods, path, sourceCIDR and queryParams"
            ));
        }
        for header in &spec.headers {
            if !is_token(&header.name) {
                return Err(at(format!("headers: {:?} is no header name", header.name)));
            }
            let name: Box<str> = header.name.to_ascii_lowercase().into();
            match value(header).map_err(|error| at(format!("headers {:?}: {error}", header.name)))? {
                None => by.push(KeyPart::Header(name)),
                Some(value) => {
                    let inverted = header.invert.unwrap_or(false);
                    all.headers.push(Unless { is: HeaderTest { name, value }, inverted });
                }
            }
        }
        for parameter in &spec.query_params {
            if parameter.name.is_empty() || parameter.name.len() > LONGEST_NAME {
                return Err(at("queryParams: a name is empty or too long".to_owned()));
            }
            let name: Box<str> = parameter.name.as_str().into();
            match value(parameter).map_err(|error| at(format!("queryParams {:?}: {error}", parameter.name)))? {
                None => by.push(KeyPart::Query(name)),
                Some(value) => {
                    let inverted = parameter.invert.unwrap_or(false);
                    all.query.push(Unless { is: QueryMatch { name, value }, inverted });
                }
            }
        }
        for method in &spec.methods {
            if !is_token(&method.value) {
                return Err(at(format!("methods: {:?} is no method", method.value)));
            }
            let inverted = method.invert.unwrap_or(false);
            all.methods.push(Unless { is: method.value.as_str().into(), inverted });
        }
        if let Some(path) = &spec.path {
            let is = path_test(path).map_err(|error| at(format!("path: {error}")))?;
            if all.path.replace(Unless { is, inverted: path.invert.unwrap_or(false) }).is_some() {
                return Err(at("path: another selector of the rule has one".to_owned()));
            }
        }
        if let Some(source) = &spec.source_cidr {
            // A CIDR must be one: a bare address is none for Envoy Gateway either.
            let range = AddressRange::parse(&source.value).ok().filter(|_| source.value.contains('/'));
            let is = range.ok_or_else(|| at(format!("sourceCIDR {:?} is no CIDR", source.value)))?;
            let inverted = source.invert.unwrap_or(false);
            match &source.kind {
                None | Some(SourceSelectorType::Exact) => {}
                Some(SourceSelectorType::Distinct) => by.push(KeyPart::Client),
                Some(other) => return Err(at(format!("sourceCIDR.type {other:?} is not known"))),
            }
            if all.source.replace(Unless { is, inverted }).is_some() {
                return Err(at("sourceCIDR: another selector of the rule has one".to_owned()));
            }
        }
    }
    Ok((all, by))
}

/// `None`: each value is counted apart.
fn value(spec: &ValueSelector) -> Judged<Option<ValueMatch>> {
    let text = spec.value.as_deref();
    if text.is_some_and(|text| text.len() > LONGEST_VALUE) || spec.name.len() > LONGEST_NAME {
        return Err(format!("longer than {LONGEST_VALUE} characters"));
    }
    match (&spec.kind, text) {
        (None | Some(ValueSelectorType::Exact), Some(text)) => Ok(Some(ValueMatch::Exact(text.into()))),
        (Some(ValueSelectorType::RegularExpression), Some(text)) => {
            let pattern = Pattern::parse(text).map_err(|error| format!("value {text:?} {error}"))?;
            Ok(Some(ValueMatch::Regex(pattern)))
        }
        (Some(ValueSelectorType::Distinct), Some(_)) => Err("type Distinct has no value".to_owned()),
        (Some(ValueSelectorType::Distinct), None) if spec.invert == Some(true) => {
            Err("type Distinct cannot be inverted".to_owned())
        }
        (Some(ValueSelectorType::Distinct), None) => Ok(None),
        (Some(ValueSelectorType::Other(other)), _) => Err(format!("type {other:?} is not known")),
        (_, None) => Err("value is missing".to_owned()),
    }
}

fn path_test(spec: &PathSelector) -> Judged<PathTest> {
    let text = spec.value.as_deref().unwrap_or("/");
    if text.len() > LONGEST_VALUE {
        return Err(format!("longer than {LONGEST_VALUE} characters"));
    }
    match &spec.kind {
        Some(PathSelectorType::RegularExpression) => {
            Ok(PathTest::Regex(Pattern::parse(text).map_err(|error| format!("value {text:?} {error}"))?))
        }
        _ if !text.starts_with('/') => Err(format!("value {text:?}, expected it to begin with /")),
        Some(PathSelectorType::Exact) => Ok(PathTest::Exact(text.into())),
        None | Some(PathSelectorType::PathPrefix) => Ok(PathTest::Prefix(text.trim_end_matches('/').into())),
        Some(PathSelectorType::Other(other)) => Err(format!("type {other:?} is not known")),
    }
}

fn within<T: PartialOrd + Display>(field: &str, value: T, least: T, most: T) -> Judged<T> {
    match value >= least && value <= most {
        true => Ok(value),
        false => Err(format!("admissionControl.{field} {value}, expected {least} to {most}")),
    }
}

fn admission(spec: &AdmissionControlSpec, policy: &ObjectRef) -> Judged<Arc<Admission>> {
    let window = spec.sampling_window.map_or(Duration::from_secs(30), |window| window.0);
    if window < Duration::from_secs(1) || window > Duration::from_secs(3600) {
        return Err(format!("admissionControl.samplingWindow {}, expected 1s to 1h", GepDuration(window)));
    }
    let per_cent = |field, value: Option<u32>, absent, least| {
        within(field, value.unwrap_or(absent), least, 100).map(|value| u8::try_from(value).unwrap_or(100))
    };
    let criteria = spec.success_criteria.clone().unwrap_or_default();
    let statuses = criteria.http.unwrap_or_default().status_codes;
    for status in &statuses {
        within("successCriteria.http.statusCodes", *status, 100, 599)?;
    }
    let mut codes = Vec::new();
    for code in criteria.grpc.unwrap_or_default().status_codes {
        let number = GrpcCode::number(&code);
        let number = number.ok_or_else(|| {
            format!("admissionControl.successCriteria.grpc.statusCodes {:?} is no code of gRPC", code.as_str())
        })?;
        codes.push(number);
    }
    Ok(Arc::new(Admission {
        name: policy.clone(),
        digest: digest(policy),
        window: Duration::from_secs(window.as_secs()),
        min_success: per_cent("minSuccessRate", spec.min_success_rate, 95, 1)?,
        aggression: within("rejectionAggression", spec.rejection_aggression.unwrap_or(1), 1, 1000)?,
        min_rate: spec.min_request_rate.unwrap_or(0),
        most_refused: per_cent("maxRejectionPercent", spec.max_rejection_percent, 80, 0)?,
        statuses,
        grpc_codes: if codes.is_empty() { GRPC_SUCCESSES.to_vec() } else { codes },
    }))
}

fn bandwidth(spec: &BandwidthLimitSpec, policy: &ObjectRef) -> Judged<Arc<Bandwidth>> {
    if spec.request.is_none() && spec.response.is_none() {
        return Err("bandwidthLimit: expected request or response".to_owned());
    }
    let one = |direction: &str, limit: Option<&BandwidthDirection>| {
        let Some(BandwidthDirection { limit, .. }) = limit else { return Ok(None) };
        let seconds = match &limit.unit {
            BandwidthUnit::Second => 1,
            BandwidthUnit::Minute => 60,
            BandwidthUnit::Hour => 3600,
            BandwidthUnit::Other(other) => {
                return Err(format!("bandwidthLimit.{direction}.limit.unit {other:?} is not known"));
            }
        };
        match limit.value.0 / seconds {
            0..LEAST_BANDWIDTH => Err(format!(
                "bandwidthLimit.{direction}.limit: {} bytes per {} are less than 1 KiB/s",
                limit.value.0, limit.unit
            )),
            rate => Ok(Some(rate)),
        }
    };
    if spec.request.as_ref().is_some_and(|request| request.response_trailers.is_some()) {
        return Err("bandwidthLimit.request.responseTrailers belongs to response".to_owned());
    }
    let trailers = spec.response.as_ref().and_then(|response| response.response_trailers.as_ref());
    let prefix = trailers.map(|trailers| trailers.prefix.as_deref().unwrap_or_default());
    let prefix = match prefix {
        None => None,
        Some("") => Some("".into()),
        Some(text) if is_token(text) && text.len() <= 64 => Some(format!("{}-", text.to_ascii_lowercase()).into()),
        Some(text) => {
            return Err(format!("bandwidthLimit.response.responseTrailers.prefix {text:?} begins no header name"));
        }
    };
    Ok(Arc::new(Bandwidth {
        name: policy.clone(),
        digest: digest(policy),
        request: one("request", spec.request.as_ref())?,
        response: one("response", spec.response.as_ref())?,
        trailers: prefix,
    }))
}
