//! Answers that are written in the configuration: error pages of a BackendTrafficPolicy, direct responses of an
//! HTTPRouteFilter. A body may be in a ConfigMap of the object's own namespace.
//!
//! In: the fields as they are written. Out: a [`FixedAnswer`], or which field cannot be honoured.

use super::context::Context;
use super::filters::{field_name, field_value};
use crate::core::RESPONSE_BODY;
use crate::envoy::{CustomBody, CustomBodyType};
use crate::gateway::HeaderModifier;
use crate::names::{Kind, ObjectKey};
use crate::policy::{Body, FixedAnswer, LARGEST_BODY};

type Judged<T> = Result<T, String>;

/// The text of a body.
pub(super) fn text(context: &Context<'_>, namespace: &str, body: &CustomBody) -> Judged<String> {
    match (body.kind.as_ref().unwrap_or(&CustomBodyType::Inline), &body.inline, &body.value_ref) {
        (CustomBodyType::Inline, Some(text), _) => Ok(text.clone()),
        (CustomBodyType::Inline, None, _) => Err("body.inline is missing, expected it for type Inline".to_owned()),
        (CustomBodyType::ValueRef, _, None) => {
            Err("body.valueRef is missing, expected it for type ValueRef".to_owned())
        }
        (CustomBodyType::ValueRef, _, Some(reference)) => {
            if !reference.group.is_empty() || reference.kind != "ConfigMap" {
                let (kind, group) = (&reference.kind, &reference.group);
                return Err(format!("body.valueRef: {kind} of group {group:?} holds no body, expected a ConfigMap"));
            }
            let key = ObjectKey::new(namespace, reference.name.as_str());
            let Some(map) = context.inputs.config_maps.get(&key) else {
                return Err(format!("body.valueRef: {}", context.missing(Kind::ConfigMap, &key)));
            };
            match &map.spec.body {
                Some(Ok(text)) => Ok(text.to_string()),
                Some(Err(why)) => {
                    let name = map.spec.body_key().unwrap_or(RESPONSE_BODY);
                    Err(format!("body.valueRef: key {name} of ConfigMap {key} {why}"))
                }
                None => Err(format!("body.valueRef: ConfigMap {key} has no key {RESPONSE_BODY}")),
            }
        }
        (CustomBodyType::Other(other), ..) => {
            Err(format!("body.type {other:?} is not known, expected Inline or ValueRef"))
        }
    }
}

/// A body with its blanks.
pub(super) fn body(text: &str) -> Judged<Body> {
    if text.len() > LARGEST_BODY {
        return Err(format!("body has {} bytes, expected {LARGEST_BODY} at most", text.len()));
    }
    Body::parse(text).map_err(|error| format!("body: {error}"))
}

/// The parts that overrides and direct responses have in common.
pub(super) struct Parts<'s> {
    pub status: Option<u16>,
    pub content_type: Option<&'s str>,
    pub body: Option<Body>,
    pub header: Option<&'s HeaderModifier>,
}

pub(super) fn answer(parts: Parts<'_>) -> Judged<FixedAnswer> {
    let Parts { status, content_type, body, header } = parts;
    if let Some(status) = status.filter(|status| !(200..=599).contains(status)) {
        return Err(format!("statusCode {status} is out of range, expected 200 to 599"));
    }
    if let (Some(status @ (204 | 205 | 304)), true) = (status, body.as_ref().is_some_and(|body| body.size() > 0)) {
        return Err(format!("statusCode {status} has no body, but there is one"));
    }
    let content_type = match content_type {
        Some(text) if !text.contains('/') => return Err(format!("contentType {text:?} is no media type")),
        Some(text) => Some(field_value(text).map_err(|fault| format!("contentType: {}", fault.message))?),
        None => None,
    };
    let mut answer = FixedAnswer { status, content_type, body, ..FixedAnswer::default() };
    if let Some(header) = header {
        if !header.remove.is_empty() {
            return Err("header.remove has no meaning here: nothing of the other answer is left".to_owned());
        }
        let pairs = |list: &[crate::gateway::HeaderValue]| {
            let pair = |entry: &crate::gateway::HeaderValue| Ok((field_name(&entry.name)?, field_value(&entry.value)?));
            let pairs: Result<Vec<_>, super::context::Fault> = list.iter().map(pair).collect();
            pairs.map_err(|fault| format!("header: {}", fault.message))
        };
        answer.set = pairs(&header.set)?;
        answer.add = pairs(&header.add)?;
    }
    Ok(answer)
}
