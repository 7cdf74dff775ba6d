//! What a BackendTrafficPolicy says of answers: `responseOverride`, `compressor` and `compression`, `faultInjection`.

use std::borrow::Cow;
use std::sync::Arc;

use super::super::answers::{self, Parts, answer};
use super::super::context::Context;
use super::super::filters::{field_name, hostname};
use super::values::Judged;
use crate::envoy::{
    BackendTrafficPolicySpec, Compression, CompressorType, CustomBodyType, CustomRedirect, FaultInjection,
    ResponseOverride, ResponseSource, StatusCodeKind, StringMatch, StringMatchType,
};
use crate::gateway::PathModifierType;
use crate::policy::{
    Abort, AbortStatus, Coding, Compressor, Delay, Fault, FieldIs, Instead, Override, Responses, Share, Source,
    TextMatch,
};
use crate::snapshot::{PathEdit, Redirect, Scheme};

/// Envoy Gateway's bounds.
const MOST_STATUSES: usize = 50;
const MOST_FIELDS: usize = 16;
/// Envoy's least and its default.
const LEAST_COMPRESSED: u64 = 30;

/// The policy with the bodies that it refers to written out, so that it may be merged with one of another namespace.
pub(super) fn resolved<'s>(
    context: &Context<'_>,
    namespace: &str,
    spec: &'s BackendTrafficPolicySpec,
) -> Judged<Cow<'s, BackendTrafficPolicySpec>> {
    let mut found = Cow::Borrowed(spec);
    for (index, one) in spec.response_override.iter().enumerate() {
        let Some(body) = one.response.as_ref().and_then(|response| response.body.as_ref()) else { continue };
        if body.kind != Some(CustomBodyType::ValueRef) {
            continue;
        }
        let text = answers::text(context, namespace, body);
        let text = text.map_err(|error| format!("responseOverride[{index}].response.{error}"))?;
        let response = found.to_mut().response_override[index].response.as_mut();
        if let Some(body) = response.and_then(|response| response.body.as_mut()) {
            (body.kind, body.inline, body.value_ref) = (None, Some(text), None);
        }
    }
    Ok(found)
}

/// `None` where nothing is said.
pub(super) fn responses(spec: &BackendTrafficPolicySpec) -> Judged<Option<Arc<Responses>>> {
    let overrides = (0..)
        .zip(&spec.response_override)
        .map(|(index, one): (usize, _)| override_of(one).map_err(|error| format!("responseOverride[{index}].{error}")));
    let responses = Responses {
        overrides: overrides.collect::<Judged<_>>()?,
        compressors: compressors(spec)?,
        fault: spec.fault_injection.as_ref().map(fault).transpose()?,
    };
    Ok((!responses.is_empty()).then(|| Arc::new(responses)))
}

fn override_of(spec: &ResponseOverride) -> Judged<Override> {
    let matches = &spec.matches;
    if matches.status_codes.is_empty() && matches.response_headers.is_empty() {
        return Err("match has neither statusCodes nor responseHeaders, expected one of them".to_owned());
    }
    for (field, count, most) in [
        ("statusCodes", matches.status_codes.len(), MOST_STATUSES),
        ("responseHeaders", matches.response_headers.len(), MOST_FIELDS),
    ] {
        if count > most {
            return Err(format!("match.{field} has {count} items, expected {most} at most"));
        }
    }
    let mut statuses = Vec::with_capacity(matches.status_codes.len());
    for code in &matches.status_codes {
        let (first, last) = match (code.kind.as_ref().unwrap_or(&StatusCodeKind::Value), code.value, code.range) {
            (StatusCodeKind::Value, Some(value), _) => (value, value),
            (StatusCodeKind::Value, None, _) => {
                return Err("match.statusCodes: value is missing, expected it for type Value".to_owned());
            }
            (StatusCodeKind::Range, _, Some(range)) if range.end <= range.start => {
                let (start, end) = (range.start, range.end);
                return Err(format!("match.statusCodes: range {start} to {end} is empty, expected end above start"));
            }
            (StatusCodeKind::Range, _, Some(range)) => (range.start, range.end),
            (StatusCodeKind::Range, _, None) => {
                return Err("match.statusCodes: range is missing, expected it for type Range".to_owned());
            }
            (StatusCodeKind::Other(other), ..) => {
                return Err(format!("match.statusCodes: type {other:?} is not known, expected Value or Range"));
            }
        };
        if first < 200 || last > 599 {
            return Err(format!("match.statusCodes: {first} to {last} is out of range, expected 200 to 599"));
        }
        statuses.push((first, last));
    }
    let field = |header: &crate::envoy::ResponseHeaderMatch| {
        let name = field_name(&header.name).map_err(|fault| format!("match.responseHeaders: {}", fault.message))?;
        let text = text_match(&header.value).map_err(|error| format!("match.responseHeaders: {error}"))?;
        Ok(FieldIs { name, text })
    };
    let source = match spec.source.as_ref().unwrap_or(&ResponseSource::All) {
        ResponseSource::All => Source::All,
        ResponseSource::Local => Source::Local,
        ResponseSource::Backend => Source::Backend,
        ResponseSource::Other(other) => {
            return Err(format!("source {other:?} is not known, expected All, Local or Backend"));
        }
    };
    let instead = match (&spec.response, &spec.redirect) {
        (Some(response), None) => {
            let text =
                response.body.as_ref().map(|body| body.inline.as_deref().ok_or("response.body.inline is missing"));
            let body = text.transpose()?.map(answers::body).transpose();
            let parts = Parts {
                status: response.status_code,
                content_type: response.content_type.as_deref(),
                body: body.map_err(|error| format!("response.{error}"))?,
                header: response.header.as_ref(),
            };
            Instead::Answer(Arc::new(answer(parts).map_err(|error| format!("response.{error}"))?))
        }
        (None, Some(spec)) => Instead::Redirect(redirect(spec).map_err(|error| format!("redirect.{error}"))?),
        (Some(_), Some(_)) => return Err("response and redirect exclude each other".to_owned()),
        (None, None) => return Err("response and redirect are both missing, expected one of them".to_owned()),
    };
    let fields = matches.response_headers.iter().map(field).collect::<Judged<_>>()?;
    Ok(Override { statuses, fields, source, instead })
}

pub(in super::super) fn text_match(spec: &StringMatch) -> Judged<TextMatch> {
    let text = spec.value.as_str();
    match spec.kind.as_ref().unwrap_or(&StringMatchType::Exact) {
        StringMatchType::Exact => Ok(TextMatch::Exact(text.into())),
        StringMatchType::Prefix => Ok(TextMatch::Prefix(text.into())),
        StringMatchType::Suffix => Ok(TextMatch::Suffix(text.into())),
        StringMatchType::RegularExpression => TextMatch::regex(text).map_err(|error| format!("{text:?} {error}")),
        StringMatchType::Other(other) => {
            Err(format!("type {other:?} is not known, expected one of {}", StringMatchType::KNOWN.join(", ")))
        }
    }
}

fn redirect(spec: &CustomRedirect) -> Judged<Redirect> {
    let scheme = match spec.scheme.as_deref() {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(other) => return Err(format!("scheme {other:?} is not known, expected http or https")),
    };
    let path = match &spec.path {
        None => None,
        Some(path) => match (&path.kind, path.replace_full_path.as_deref()) {
            (PathModifierType::ReplaceFullPath, Some(text)) if text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Some(PathEdit::Full(text.into()))
            }
            (PathModifierType::ReplaceFullPath, Some(text)) => {
                return Err(format!("path {text:?} has a character that must be escaped"));
            }
            (PathModifierType::ReplaceFullPath, None) => return Err("path.replaceFullPath is missing".to_owned()),
            (other, _) => return Err(format!("path.type {other} is not supported here, expected ReplaceFullPath")),
        },
    };
    let status = spec.status_code.unwrap_or(302);
    if ![301, 302].contains(&status) {
        return Err(format!("statusCode {status} is not supported, expected 301 or 302"));
    }
    let named = spec.hostname.as_deref().map(hostname).transpose();
    Ok(Redirect {
        scheme,
        hostname: named.map_err(|fault| fault.message)?,
        path,
        port: spec.port.filter(|port| *port != 0),
        status,
    })
}

/// `compressor` goes before `compression`; an entry of it without its settings says nothing, as with Envoy Gateway.
fn compressors(spec: &BackendTrafficPolicySpec) -> Judged<Vec<Compressor>> {
    let (field, list): (_, Vec<&Compression>) = match spec.compressor.is_empty() {
        true => ("compression", spec.compression.iter().collect()),
        false => ("compressor", spec.compressor.iter().filter(|entry| entry.has_settings()).collect()),
    };
    let mut found: Vec<Compressor> = Vec::with_capacity(list.len());
    for entry in list {
        let coding = match &entry.kind {
            CompressorType::Gzip => Coding::Gzip,
            CompressorType::Brotli => Coding::Brotli,
            CompressorType::Zstd => Coding::Zstd,
            CompressorType::Other(other) => {
                return Err(format!("{field}: type {other:?} is not known, expected Gzip, Brotli or Zstd"));
            }
        };
        let at_least = entry.min_content_length.map_or(LEAST_COMPRESSED, |length| length.0);
        if at_least < LEAST_COMPRESSED {
            return Err(format!(
                "{field}: minContentLength {at_least} is out of range, expected {LEAST_COMPRESSED} or more"
            ));
        }
        if found.iter().any(|known| known.coding == coding) {
            return Err(format!("{field}: {} is there twice", entry.kind));
        }
        found.push(Compressor { coding, at_least });
    }
    Ok(found)
}

fn fault(spec: &FaultInjection) -> Judged<Fault> {
    let abort = match &spec.abort {
        None => None,
        Some(abort) => {
            let status = match (abort.http_status, abort.grpc_status) {
                (Some(status @ 200..=599), None) => AbortStatus::Http(status),
                (Some(status), None) => {
                    return Err(format!(
                        "faultInjection.abort.httpStatus {status} is out of range, expected 200 to 599"
                    ));
                }
                (None, Some(status @ 0..=16)) => AbortStatus::Grpc(status),
                (None, Some(status)) => {
                    return Err(format!("faultInjection.abort.grpcStatus {status} is out of range, expected 0 to 16"));
                }
                _ => return Err("faultInjection.abort: expected exactly one of httpStatus and grpcStatus".to_owned()),
            };
            Some(Abort { status, share: share("abort", abort.percentage.as_ref())? })
        }
    };
    let delay = match &spec.delay {
        None => None,
        Some(delay) => Some(Delay { length: delay.fixed_delay.0, share: share("delay", delay.percentage.as_ref())? }),
    };
    if abort.is_none() && delay.is_none() {
        return Err("faultInjection: expected at least one of delay and abort".to_owned());
    }
    Ok(Fault { delay, abort })
}

/// Per cent, in steps of a ten-thousandth.
fn share(of: &str, percentage: Option<&serde_json::Number>) -> Judged<Share> {
    let Some(number) = percentage else { return Ok(Share::ALL) };
    match number.as_f64().filter(|percent| (0.0..=100.0).contains(percent)) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
        Some(percent) => Ok(Share((percent * 10_000.0).round() as u32)),
        None => Err(format!("faultInjection.{of}.percentage {number} is out of range, expected 0 to 100")),
    }
}
