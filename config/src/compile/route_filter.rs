//! Envoy Gateway's HTTPRouteFilter, which a rule names by `extensionRef`: direct response, rewrites, credentials, and
//! matches of cookies. What cannot be honoured is refused with the rule (500), never skipped.

use std::sync::Arc;

use super::answers::{Parts, answer, body, text};
use super::context::{Context, Fault};
use super::filters::{Built, UNSUPPORTED, field_name};
use crate::envoy::{
    CookieMatchType, CredentialInjection, DirectResponse, ExtendedRewrite, HostnameRewriteType, HttpRouteFilterSpec,
    RegexSubstitution,
};
use crate::gateway::LocalObjectRef;
use crate::issuer::SecretRef;
use crate::matching::{CookieMatch, Pattern, RouteMatch, ValueMatch};
use crate::names::{Kind, ObjectKey};
use crate::policy::FixedAnswer;
use crate::snapshot::{Credential, HostEdit, Substitution};

/// The key of a Secret with a credential.
const CREDENTIAL: &str = "credential";

fn unsupported(message: impl Into<String>) -> Fault {
    Fault::new(UNSUPPORTED, message)
}

/// The filter that a reference names, where it is of this kind; the error is what is wrong with the reference.
fn find<'i>(
    context: &Context<'i>,
    namespace: &str,
    reference: Option<&LocalObjectRef>,
) -> Option<Result<(ObjectKey, &'i HttpRouteFilterSpec), Fault>> {
    let reference = reference?;
    if Kind::of(&reference.group, &reference.kind) != Some(Kind::HTTPRouteFilter) {
        return None;
    }
    let key = ObjectKey::new(namespace, reference.name.as_str());
    let found = context.inputs.http_route_filters.get(&key);
    let missing = || Fault::new("BackendNotFound", format!("filter: {}", context.missing(Kind::HTTPRouteFilter, &key)));
    Some(found.map(|filter| (key.clone(), &filter.spec)).ok_or_else(missing))
}

/// Adds what a filter says. `false`: the reference is to another kind.
pub(super) fn apply(
    context: &Context<'_>,
    namespace: &str,
    reference: Option<&LocalObjectRef>,
    grpc: bool,
    built: &mut Built,
) -> Result<bool, Fault> {
    let (key, spec) = match find(context, namespace, reference) {
        None => return Ok(false),
        Some(Err(fault)) => {
            built.unresolved.get_or_insert(fault);
            return Ok(true);
        }
        Some(Ok(found)) => found,
    };
    let named = |message: String| unsupported(format!("HTTPRouteFilter {key}: {message}"));
    if let Some(rewrite) = &spec.url_rewrite {
        self::rewrite(rewrite, built).map_err(&named)?;
    }
    if let Some(direct) = &spec.direct_response {
        let answer = self::direct(context, namespace, direct, grpc);
        let answer = answer.map_err(|error| named(format!("directResponse.{error}")))?;
        if built.direct.replace(Arc::new(answer)).is_some() {
            return Err(named("directResponse is there twice".to_owned()));
        }
    }
    if let Some(injection) = &spec.credential_injection {
        let credential = self::credential(context, namespace, injection);
        let credential = credential.map_err(|error| named(format!("credentialInjection.{error}")))?;
        let extension = built.filters.extension.get_or_insert_default();
        if extension.credential.replace(credential).is_some() {
            return Err(named("credentialInjection is there twice".to_owned()));
        }
    }
    Ok(true)
}

fn rewrite(spec: &ExtendedRewrite, built: &mut Built) -> Result<(), String> {
    let own = built.filters.rewrite.as_ref();
    let own = (own.is_some_and(|own| own.hostname.is_some()), own.is_some_and(|own| own.path.is_some()));
    let twice = |part: &str| Err(format!("urlRewrite.{part} and another rewrite of the rule exclude each other"));
    let substitution = |place: &str, regex: Option<&RegexSubstitution>| {
        let regex = regex.ok_or_else(|| format!("urlRewrite.{place} is missing"))?;
        Substitution::parse(&regex.pattern, &regex.substitution).map_err(|error| format!("urlRewrite.{place}: {error}"))
    };
    let extension = built.filters.extension.get_or_insert_default();
    if let Some(host) = &spec.hostname {
        if own.0 || extension.host.is_some() {
            return twice("hostname");
        }
        extension.host = Some(match &host.kind {
            HostnameRewriteType::Header => {
                let name = host.header.as_deref().ok_or("urlRewrite.hostname.header is missing")?;
                HostEdit::Field(field_name(name).map_err(|fault| format!("urlRewrite.hostname: {}", fault.message))?)
            }
            HostnameRewriteType::Backend => HostEdit::Backend,
            HostnameRewriteType::PathRegex => {
                HostEdit::Path(substitution("hostname.pathRegex", host.path_regex.as_ref())?)
            }
            HostnameRewriteType::Other(other) => {
                return Err(format!("urlRewrite.hostname.type {other:?} is not supported"));
            }
        });
        extension.hides_host = spec.append_x_forwarded_host == Some(false);
    }
    if let Some(path) = &spec.path {
        if own.1 || extension.path.is_some() {
            return twice("path");
        }
        extension.path = Some(substitution("path.replaceRegexMatch", path.replace_regex_match.as_ref())?);
    }
    Ok(())
}

fn direct(context: &Context<'_>, namespace: &str, spec: &DirectResponse, grpc: bool) -> Result<FixedAnswer, String> {
    let status = spec.status_code.unwrap_or(200);
    if grpc && (200..300).contains(&status) {
        return Err(format!("statusCode {status} stands for success, which takes a message of gRPC; expected another"));
    }
    let body = spec.body.as_ref().map(|spec| body(&text(context, namespace, spec)?)).transpose()?;
    let content_type = spec.content_type.as_deref();
    answer(Parts { status: Some(status), content_type, body, header: spec.header.as_ref() })
}

fn credential(context: &Context<'_>, home: &str, spec: &CredentialInjection) -> Result<Credential, String> {
    let field = field_name(spec.header.as_deref().unwrap_or("authorization")).map_err(|fault| fault.message)?;
    let reference = &spec.credential.value_ref;
    let place = "credential.valueRef";
    if !reference.group.is_empty() || reference.kind != "Secret" {
        let (kind, group) = (&reference.kind, &reference.group);
        return Err(format!("{place}: {kind} of group {group:?} holds no credential, expected a Secret"));
    }
    let namespace = reference.namespace.as_deref().unwrap_or(home);
    let key = ObjectKey::new(namespace, reference.name.as_str());
    if !context.grants.permit(Kind::HTTPRouteFilter, home, Kind::Secret, namespace, &reference.name) {
        return Err(format!("{place}: Secret {key} is not permitted (no ReferenceGrant in {namespace})"));
    }
    let Some(secret) = context.inputs.secrets.get(&key) else {
        return Err(format!("{place}: {}", context.missing(Kind::Secret, &key)));
    };
    if !secret.spec.keys.iter().any(|name| name == CREDENTIAL) {
        return Err(format!("{place}: Secret {key} has no key {CREDENTIAL}"));
    }
    let secret = SecretRef { secret: key, key: CREDENTIAL.into() };
    Ok(Credential { field, replaces: spec.overwrite.unwrap_or(false), secret })
}

/// Matches of a rule under those of its filter: one of each must hold. With a fault those of the rule stand, to be refused.
pub(super) fn matches<'r>(
    context: &Context<'_>,
    namespace: &str,
    references: impl Iterator<Item = Option<&'r LocalObjectRef>>,
    own: Vec<RouteMatch>,
) -> (Vec<RouteMatch>, Option<Fault>) {
    match alternatives(context, namespace, references) {
        Err(fault) => (own, Some(fault)),
        Ok(None) => (own, None),
        Ok(Some(alternatives)) => {
            let mut all = Vec::with_capacity(own.len() * alternatives.len());
            for entry in own {
                for cookies in &alternatives {
                    let index = u32::try_from(all.len()).unwrap_or(u32::MAX);
                    all.push(RouteMatch { cookies: cookies.clone().into(), index, ..entry.clone() });
                }
            }
            (all, None)
        }
    }
}

/// What the filters of a rule ask of cookies: all of one of these.
fn alternatives<'r>(
    context: &Context<'_>,
    namespace: &str,
    references: impl Iterator<Item = Option<&'r LocalObjectRef>>,
) -> Result<Option<Vec<Vec<CookieMatch>>>, Fault> {
    let mut found: Option<&HttpRouteFilterSpec> = None;
    for reference in references {
        // A reference that leads nowhere is told of where filters are judged.
        let Some(Ok((key, spec))) = find(context, namespace, reference) else { continue };
        if !spec.matches.is_empty() && found.replace(spec).is_some() {
            let message = format!("HTTPRouteFilter {key}: another filter of the rule has matches already");
            return Err(unsupported(message));
        }
    }
    let Some(spec) = found else { return Ok(None) };
    spec.matches.iter().map(|entry| entry.cookies.iter().map(cookie).collect()).collect::<Result<_, _>>().map(Some)
}

fn cookie(spec: &crate::envoy::CookieMatch) -> Result<CookieMatch, Fault> {
    let value = match spec.kind.as_ref().unwrap_or(&CookieMatchType::Exact) {
        CookieMatchType::Exact => ValueMatch::Exact(spec.value.as_str().into()),
        CookieMatchType::RegularExpression => {
            let pattern = Pattern::parse(&spec.value);
            ValueMatch::Regex(pattern.map_err(|error| unsupported(format!("cookie {:?} {error}", spec.value)))?)
        }
        CookieMatchType::Other(other) => {
            return Err(unsupported(format!("cookie match type {other:?} is not supported")));
        }
    };
    Ok(CookieMatch { name: spec.name.as_str().into(), value })
}
