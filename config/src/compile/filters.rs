//! Filters of HTTPRoute and GRPCRoute, in the form in which the data plane applies them.

use std::sync::Arc;

use foldhash::{HashSet, HashSetExt};

use super::authentication;
use super::backends::{Backends, Referrer, Upstreams, Use};
use super::context::Fault;
use super::external_auth;
use super::route_filter;
use crate::gateway::{
    self, GrpcFilter, GrpcFilterType, HeaderModifier, HttpFilter, HttpFilterType, LocalObjectRef, PathModifier,
    PathModifierType, RedirectScheme, RequestMirror, RequestRedirect, UrlRewrite,
};
use crate::names::{Hostname, Kind, ObjectRef};
use crate::policy::{FixedAnswer, Security};
use crate::snapshot::{Cors, Filters, HeaderEdits, Mirror, Origin, PathEdit, Redirect, Rewrite, Scheme};
pub(super) use crate::wire::is_token;

/// Filters of one rule or backend.
#[derive(Default)]
pub(super) struct Built {
    pub filters: Filters,
    pub redirect: Option<Redirect>,
    /// The rule is answered by what is written here.
    pub direct: Option<Arc<FixedAnswer>>,
    /// A filter that names something we do not know: what it was to do must not be skipped, so requests are refused.
    pub unresolved: Option<Fault>,
    /// ResolvedRefs of mirrors.
    pub refs_fault: Option<Fault>,
    /// Who may pass.
    pub security: Option<Arc<Security>>,
    /// An AuthenticationFilter is among them.
    is_authenticated: bool,
}

impl Built {
    /// Who may pass, beside what other filters of the rule ask.
    pub fn ask(&mut self, security: Security) {
        self.security = Some(Arc::new(match self.security.take() {
            Some(others) => security.over(&others),
            None => security,
        }));
    }
}

pub(super) const UNSUPPORTED: &str = "UnsupportedValue";

fn unsupported(message: impl Into<String>) -> Fault {
    Fault::new(UNSUPPORTED, message)
}

/// The filters of an HTTPRoute's rule, or of a backend, which is no `rule`. An error makes the rule invalid.
pub(super) fn http<'a>(
    backends: &Backends<'_, 'a>,
    referrer: Referrer<'_>,
    filters: &[HttpFilter],
    (rule, only_prefixes): (Option<(&ObjectRef, usize)>, bool),
    upstreams: &mut Upstreams,
) -> Result<Built, Fault> {
    let mut built = Built::default();
    let mut has_authorizer = false;
    for filter in filters {
        let empty = || unsupported(format!("filter {} without its settings", filter.kind));
        let twice = || unsupported(format!("filter {} occurs twice", filter.kind));
        match &filter.kind {
            HttpFilterType::RequestHeaderModifier => {
                let modifier = filter.request_header_modifier.as_ref().ok_or_else(empty)?;
                edit(&mut built.filters.request_headers, modifier)?;
            }
            HttpFilterType::ResponseHeaderModifier => {
                let modifier = filter.response_header_modifier.as_ref().ok_or_else(empty)?;
                edit(&mut built.filters.response_headers, modifier)?;
            }
            HttpFilterType::RequestMirror => {
                let mirror = filter.request_mirror.as_ref().ok_or_else(empty)?;
                add_mirror(&mut built, backends, referrer, mirror, Use::Http, upstreams)?;
            }
            HttpFilterType::RequestRedirect => {
                let redirect = redirect(filter.request_redirect.as_ref().ok_or_else(empty)?, only_prefixes)?;
                if built.redirect.replace(redirect).is_some() {
                    return Err(twice());
                }
            }
            HttpFilterType::UrlRewrite => {
                let rewrite = rewrite(filter.url_rewrite.as_ref().ok_or_else(empty)?, only_prefixes)?;
                if built.filters.rewrite.replace(rewrite).is_some() {
                    return Err(twice());
                }
            }
            HttpFilterType::Cors => {
                if built.filters.cors.replace(cors(filter.cors.as_ref().ok_or_else(empty)?)?).is_some() {
                    return Err(twice());
                }
            }
            HttpFilterType::ExtensionRef => {
                let reference = filter.extension_ref.as_ref();
                if !route_filter::apply(backends.context, referrer.namespace, reference, false, &mut built)? {
                    extension(&mut built, backends, referrer, reference);
                }
            }
            HttpFilterType::ExternalAuth => {
                let auth = filter.external_auth.as_ref().ok_or_else(empty)?;
                // "Support in HTTPRouteRule: Extended", and in no other place.
                let rule =
                    rule.ok_or_else(|| unsupported("filter ExternalAuth belongs to a rule, not to a backendRef"))?;
                if std::mem::replace(&mut has_authorizer, true) {
                    return Err(twice());
                }
                external_auth::apply(&mut built, backends, referrer, rule, auth, upstreams)?;
            }
            HttpFilterType::Other(other) => return Err(unsupported(format!("filter type {other:?} is not supported"))),
        }
    }
    if let (Some(own), Some(extension)) = (&built.filters.rewrite, &built.filters.extension)
        && (own.hostname.is_some() && extension.host.is_some() || own.path.is_some() && extension.path.is_some())
    {
        return Err(unsupported("filters URLRewrite and HTTPRouteFilter rewrite the same part of a request"));
    }
    if built.redirect.is_some() && built.direct.is_some() {
        let message = "filters RequestRedirect and HTTPRouteFilter (directResponse) exclude each other";
        return Err(Fault::new("IncompatibleFilters", message));
    }
    // HTTPRouteRule.Filters: "URLRewrite and RequestRedirect … may not be combined".
    if built.redirect.is_some() && built.filters.rewrite.is_some() {
        return Err(Fault::new("IncompatibleFilters", "filters RequestRedirect and URLRewrite exclude each other"));
    }
    Ok(built)
}

/// The filters of a GRPCRoute's rule or backend.
pub(super) fn grpc<'a>(
    backends: &Backends<'_, 'a>,
    referrer: Referrer<'_>,
    filters: &[GrpcFilter],
    upstreams: &mut Upstreams,
) -> Result<Built, Fault> {
    let mut built = Built::default();
    for filter in filters {
        let empty = || unsupported(format!("filter {} without its settings", filter.kind));
        match &filter.kind {
            GrpcFilterType::RequestHeaderModifier => {
                edit(&mut built.filters.request_headers, filter.request_header_modifier.as_ref().ok_or_else(empty)?)?;
            }
            GrpcFilterType::ResponseHeaderModifier => {
                edit(&mut built.filters.response_headers, filter.response_header_modifier.as_ref().ok_or_else(empty)?)?;
            }
            GrpcFilterType::RequestMirror => {
                let mirror = filter.request_mirror.as_ref().ok_or_else(empty)?;
                add_mirror(&mut built, backends, referrer, mirror, Use::Grpc, upstreams)?;
            }
            GrpcFilterType::ExtensionRef => {
                let reference = filter.extension_ref.as_ref();
                if !route_filter::apply(backends.context, referrer.namespace, reference, true, &mut built)? {
                    extension(&mut built, backends, referrer, reference);
                }
            }
            GrpcFilterType::Other(other) => return Err(unsupported(format!("filter type {other:?} is not supported"))),
        }
    }
    Ok(built)
}

/// A filter of another kind of object.
fn extension(
    built: &mut Built,
    backends: &Backends<'_, '_>,
    referrer: Referrer<'_>,
    reference: Option<&LocalObjectRef>,
) {
    let kind = reference.and_then(|reference| Kind::of(&reference.group, &reference.kind));
    match (kind, reference) {
        (Some(Kind::AuthenticationFilter), Some(reference)) => {
            match authentication::filter(backends, referrer.namespace, &reference.name) {
                Ok(_) if built.is_authenticated => {
                    let fault = Fault::new("InvalidFilter", "filter ExtensionRef: a rule has one AuthenticationFilter");
                    built.unresolved.get_or_insert(fault);
                }
                Ok(security) => {
                    built.is_authenticated = true;
                    built.ask(security);
                }
                Err(fault) => drop(built.unresolved.get_or_insert(fault)),
            }
        }
        _ => unresolved(built, reference),
    }
}

/// "If a reference to a custom filter type cannot be resolved, the filter MUST NOT be skipped. Instead, requests that
/// would have been processed by that filter MUST receive a HTTP error response."
fn unresolved(built: &mut Built, reference: Option<&LocalObjectRef>) {
    let what = reference.map_or_else(String::new, |r| format!(" {} {} of group {:?}", r.kind, r.name, r.group));
    let fault = Fault::new("InvalidKind", format!("filter ExtensionRef{what} is not supported"));
    built.unresolved.get_or_insert(fault);
}

/// Values have no control characters (RFC 9110 §5.5), as names are tokens (§5.1): anything else could be read as another
/// field or request further on.
pub(super) fn is_field_value(value: &str) -> bool {
    value.bytes().all(|b| b == b'\t' || (b >= 0x20 && b != 0x7f))
}

pub(super) fn field_name(name: &str) -> Result<Box<str>, Fault> {
    if !is_token(name) {
        return Err(unsupported(format!("{name:?} is no header name")));
    }
    Ok(name.to_ascii_lowercase().into())
}

pub(super) fn field_value(value: &str) -> Result<Box<str>, Fault> {
    if !is_field_value(value) {
        return Err(unsupported(format!("{value:?} is no header value")));
    }
    Ok(value.trim_matches([' ', '\t']).into())
}

fn edit(edits: &mut HeaderEdits, modifier: &HeaderModifier) -> Result<(), Fault> {
    if !edits.is_empty() {
        return Err(unsupported("a header modifier filter occurs twice"));
    }
    let mut seen = HashSet::new();
    let mut pairs = |list: &[gateway::HeaderValue]| -> Result<Vec<_>, Fault> {
        let mut pairs = Vec::with_capacity(list.len());
        for entry in list {
            let name = field_name(&entry.name)?;
            let value = field_value(&entry.value)?;
            // "only the first entry with an equivalent name MUST be considered".
            if seen.insert(name.clone()) {
                pairs.push((name, value));
            }
        }
        seen.clear();
        Ok(pairs)
    };
    edits.set = pairs(&modifier.set)?;
    edits.add = pairs(&modifier.add)?;
    for name in &modifier.remove {
        edits.remove.push(field_name(name)?);
    }
    Ok(())
}

fn add_mirror<'a>(
    built: &mut Built,
    backends: &Backends<'_, 'a>,
    referrer: Referrer<'_>,
    mirror: &RequestMirror,
    purpose: Use,
    upstreams: &mut Upstreams,
) -> Result<(), Fault> {
    let (numerator, denominator) = match (mirror.percent, mirror.fraction) {
        (Some(_), Some(_)) => return Err(unsupported("a mirror has both percent and fraction")),
        (Some(percent), None) => (u32::from(percent), 100),
        (None, Some(fraction)) => (fraction.numerator, fraction.denominator),
        (None, None) => (1, 1),
    };
    if denominator == 0 || numerator > denominator {
        return Err(unsupported(format!("a mirror of {numerator}/{denominator} of requests is impossible")));
    }
    let resolved = backends.resolve(referrer, (&mirror.backend_ref).into(), purpose, upstreams);
    if let Some(fault) = resolved.fault {
        built.refs_fault.get_or_insert(fault);
    }
    let mirror = Mirror { reference: resolved.reference, target: resolved.target, numerator, denominator };
    built.filters.mirrors.push(mirror);
    Ok(())
}

fn redirect(filter: &RequestRedirect, only_prefixes: bool) -> Result<Redirect, Fault> {
    if ![301, 302, 303, 307, 308].contains(&filter.status_code) {
        return Err(unsupported(format!("redirect statusCode {} is not supported", filter.status_code)));
    }
    let scheme = match &filter.scheme {
        None => None,
        Some(RedirectScheme::Http) => Some(Scheme::Http),
        Some(RedirectScheme::Https) => Some(Scheme::Https),
        Some(RedirectScheme::Other(other)) => {
            return Err(unsupported(format!("redirect scheme {other:?} is not supported")));
        }
    };
    Ok(Redirect {
        scheme,
        hostname: filter.hostname.as_deref().map(hostname).transpose()?,
        path: filter.path.as_ref().map(|path| path_edit(path, only_prefixes)).transpose()?,
        port: filter.port.filter(|port| *port != 0),
        status: filter.status_code,
    })
}

fn rewrite(filter: &UrlRewrite, only_prefixes: bool) -> Result<Rewrite, Fault> {
    Ok(Rewrite {
        hostname: filter.hostname.as_deref().map(hostname).transpose()?,
        path: filter.path.as_ref().map(|path| path_edit(path, only_prefixes)).transpose()?,
    })
}

pub(super) fn hostname(text: &str) -> Result<Box<str>, Fault> {
    match Hostname::parse(text) {
        Ok(name) => Ok(name.as_str().into()),
        Err(error) => Err(unsupported(format!("hostname {text:?} {error}"))),
    }
}

fn path_edit(path: &PathModifier, only_prefixes: bool) -> Result<PathEdit, Fault> {
    let (edit, text): (fn(Box<str>) -> PathEdit, _) = match &path.kind {
        PathModifierType::ReplaceFullPath => (PathEdit::Full, &path.replace_full_path),
        PathModifierType::ReplacePrefixMatch if only_prefixes => (PathEdit::Prefix, &path.replace_prefix_match),
        // "ReplacePrefixMatch is only compatible with a PathPrefix HTTPRouteMatch … Accepted Condition … False".
        PathModifierType::ReplacePrefixMatch => {
            return Err(unsupported("ReplacePrefixMatch needs a PathPrefix in every match of the rule"));
        }
        PathModifierType::Other(other) => {
            return Err(unsupported(format!("path modifier type {other:?} is not supported")));
        }
    };
    let text = text.as_deref().ok_or_else(|| unsupported(format!("path modifier {} without its value", path.kind)))?;
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(unsupported(format!("path {text:?} has a character that must be escaped")));
    }
    Ok(edit(text.into()))
}

fn cors(filter: &gateway::Cors) -> Result<Cors, Fault> {
    let tokens = |list: &[String], what: &str| -> Result<Vec<Box<str>>, Fault> {
        list.iter()
            .map(|text| match text.as_str() {
                "*" => Ok("*".into()),
                text if is_token(text) => Ok(text.into()),
                text => Err(unsupported(format!("CORS {what} {text:?} is no name"))),
            })
            .collect()
    };
    Ok(Cors {
        allow_origins: filter.allow_origins.iter().map(|text| origin(text)).collect::<Result<_, _>>()?,
        allow_credentials: filter.allow_credentials,
        allow_methods: tokens(&filter.allow_methods, "method")?,
        allow_headers: tokens(&filter.allow_headers, "header")?,
        expose_headers: tokens(&filter.expose_headers, "header")?,
        max_age: filter.max_age,
    })
}

/// `*`, `scheme://host[:port]`, or with `*.` before the host, which stands for one label or more.
pub(super) fn origin(text: &str) -> Result<Origin, Fault> {
    if text == "*" {
        return Ok(Origin::Any);
    }
    let wrong = || unsupported(format!("CORS origin {text:?} is no origin, expected scheme://host[:port]"));
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
        return Err(wrong());
    }
    let lower = text.to_ascii_lowercase();
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() || port == "*" => (host, Some(port)),
        _ => (rest, None),
    };
    if port == Some("*") {
        return Err(wrong());
    }
    if host == "*" || host.starts_with("*.") {
        let (before, after) = lower.split_once('*').ok_or_else(wrong)?;
        return Ok(Origin::Wildcard { before: before.into(), after: after.into() });
    }
    let lower_host = host.to_ascii_lowercase();
    let is_name = Hostname::parse(&lower_host).is_ok();
    let bare = lower_host.trim_start_matches('[').trim_end_matches(']');
    if !is_name && bare.parse::<std::net::IpAddr>().is_err() {
        return Err(wrong());
    }
    Ok(Origin::Exact(lower.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::HeaderValue;

    #[test]
    fn origins() {
        for (text, expected) in [
            ("*", Ok(Origin::Any)),
            ("https://a.example", Ok(Origin::Exact("https://a.example".into()))),
            ("https://A.example:8443", Ok(Origin::Exact("https://a.example:8443".into()))),
            ("http://*.example:80", Ok(Origin::Wildcard { before: "http://".into(), after: ".example:80".into() })),
            ("https://*", Ok(Origin::Wildcard { before: "https://".into(), after: "".into() })),
            ("http://192.0.2.1", Ok(Origin::Exact("http://192.0.2.1".into()))),
            ("http://[2001:db8::1]:80", Ok(Origin::Exact("http://[2001:db8::1]:80".into()))),
            ("a.example", Err(())),
            ("https://", Err(())),
            ("https://a.example/path", Err(())),
            ("https://a b", Err(())),
        ] {
            assert_eq!(origin(text).map_err(|_| ()), expected, "{text}");
        }
    }

    #[test]
    fn header_edits_are_canonical_and_strict() {
        let pair = |name: &str, value: &str| HeaderValue { name: name.into(), value: value.into() };
        let modifier = HeaderModifier {
            set: vec![pair("X-A", " 1 "), pair("x-a", "2")],
            add: vec![pair("X-B", "3")],
            remove: vec!["X-C".into()],
        };
        let mut edits = HeaderEdits::default();
        edit(&mut edits, &modifier).unwrap();
        assert_eq!(edits.set, [("x-a".into(), "1".into())]);
        assert_eq!(edits.add, [("x-b".into(), "3".into())]);
        assert_eq!(edits.remove, ["x-c".into()]);
        for (name, value) in [("x a", "1"), ("", "1"), ("x:", "1"), ("x", "1\r\ny: 2"), ("x", "\u{0}")] {
            let modifier = HeaderModifier { set: vec![pair(name, value)], ..HeaderModifier::default() };
            assert!(edit(&mut HeaderEdits::default(), &modifier).is_err(), "{name:?}: {value:?}");
        }
    }
}
