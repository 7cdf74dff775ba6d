//! HTTPRoute's filter ExternalAuth (GEP-1494, experimental channel): an authorizer is asked about each request of a rule. It
//! becomes the same thing as Envoy Gateway's `extAuth`, with the filter's own words; "If there is any problem communicating
//! with the external service, this filter MUST fail closed."

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backends::{Backends, Referrer, Upstreams, Use};
use super::context::Fault;
use super::filters::{Built, UNSUPPORTED, field_name};
use super::security::{AUTHORIZER_STATUS, AUTHORIZER_TIMEOUT, named_service};
use super::traffic::Traffic;
use crate::gateway::{ExternalAuth, ExternalAuthProtocol, HttpAuth};
use crate::names::ObjectRef;
use crate::policy::{ExtAuth, ExtAuthPath, ExtAuthProtocol, Security};
use crate::snapshot::{Backend, Target};

/// Adds the filter to what a rule asks. An error makes the rule invalid; an authorizer that cannot be found refuses its
/// requests.
pub(super) fn apply<'a>(
    built: &mut Built,
    backends: &Backends<'_, 'a>,
    referrer: Referrer<'_>,
    (route, index): (&ObjectRef, usize),
    filter: &ExternalAuth,
    upstreams: &mut Upstreams,
) -> Result<(), Fault> {
    let named = |names: &[String]| names.iter().map(|name| field_name(name)).collect::<Result<Vec<_>, _>>();
    let (protocol, request_fields, purpose) = match (&filter.protocol, &filter.grpc, &filter.http) {
        (ExternalAuthProtocol::Grpc, Some(grpc), None) => {
            (ExtAuthProtocol::Grpc, named(&grpc.allowed_headers)?, Use::Grpc)
        }
        (ExternalAuthProtocol::Http, None, Some(http)) => {
            let answer_fields = named(&http.allowed_response_headers)?;
            // "If this list is empty, then all headers from the authorization server except Authority or Host must be
            // copied."
            let answer_fields = Some(answer_fields).filter(|fields| !fields.is_empty());
            let protocol = ExtAuthProtocol::Http { path: ExtAuthPath::Before(path(http)?), answer_fields };
            (protocol, named(&http.allowed_headers)?, Use::Http)
        }
        (ExternalAuthProtocol::Other(other), ..) => {
            return Err(unsupported(format!("protocol {other:?} is not supported")));
        }
        (protocol, ..) => {
            return Err(unsupported(format!("protocol {protocol} goes with its own member and no other")));
        }
    };
    // It is nobody's traffic: what policies say of the route's own backends does not hold for it.
    let traffic = Traffic::default();
    let referrer = Referrer { traffic: &traffic, sections: &[], ..referrer };
    let resolved = backends.resolve(referrer, (&filter.backend_ref).into(), purpose, upstreams);
    // What is asked of is told beside the upstreams, and not taken again from an earlier compile.
    upstreams.trail.is_branched = true;
    let from: Arc<str> = route.to_string().into();
    if let Target::Invalid { reason, .. } = &resolved.target {
        let message = format!("filter ExternalAuth: {reason}");
        match resolved.fault {
            Some(fault) => drop(built.unresolved.get_or_insert(Fault::new(fault.reason, message))),
            None => built.ask(Security::closed(from, message.into())),
        }
        return Ok(());
    }
    let backend = Backend {
        weight: 1,
        reference: resolved.reference,
        target: resolved.target,
        filters: Arc::clone(&backends.context.no_filters),
        balance: resolved.balance,
        fallback: resolved.fallback,
    };
    let name = format!("{route} rule {index} externalAuth");
    let ext_auth = ExtAuth {
        owner: route.clone(),
        service: named_service(&mut upstreams.services, name, vec![backend]),
        protocol,
        request_fields: Some(request_fields).filter(|fields| !fields.is_empty()),
        // "If unset, or `forwardBody.maxSize` is set to `0`, then the body will not be forwarded."
        body: filter.forward_body.as_ref().and_then(|body| body.max_size).filter(|most| *most > 0),
        timeout: AUTHORIZER_TIMEOUT,
        fail_open: false,
        status_on_error: AUTHORIZER_STATUS,
        extensions: BTreeMap::new(),
    };
    built.ask(Security { from, ext_auth: vec![Arc::new(ext_auth)], ..Security::default() });
    Ok(())
}

fn unsupported(message: String) -> Fault {
    Fault::new(UNSUPPORTED, format!("filter ExternalAuth: {message}"))
}

/// "implementations MUST sanitize this input before using it directly": a prefix that begins with a slash, and that leads
/// nowhere but below itself.
fn path(http: &HttpAuth) -> Result<Box<str>, Fault> {
    let path = http.path.as_deref().unwrap_or_default();
    let is_sound = path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'\\'));
    let leads_away = path.split('/').any(|segment| {
        let dots = segment.to_ascii_lowercase().replace("%2e", ".");
        matches!(dots.as_str(), "." | "..")
    });
    if !is_sound || leads_away {
        return Err(unsupported(format!("http.path {path:?} is no prefix of paths")));
    }
    Ok(match path.starts_with('/') || path.is_empty() {
        true => path.into(),
        false => format!("/{path}").into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        for (written, expected) in [
            (None, Some("")),
            (Some(""), Some("")),
            (Some("/"), Some("/")),
            (Some("/auth/v1"), Some("/auth/v1")),
            (Some("auth"), Some("/auth")),
            (Some("/a%20b;c=d"), Some("/a%20b;c=d")),
            (Some("/auth?x=y"), None),
            (Some("/auth#x"), None),
            (Some("/a b"), None),
            (Some("/auth/../admin"), None),
            (Some("/auth/%2E./admin"), None),
            (Some("/auth\r\nx: y"), None),
        ] {
            let found = path(&HttpAuth { path: written.map(str::to_owned), ..HttpAuth::default() });
            assert_eq!(found.ok().as_deref(), expected, "{written:?}");
        }
    }
}
