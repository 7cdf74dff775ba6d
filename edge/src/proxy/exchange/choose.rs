//! Which backend takes a request, and what the last filters make of the request for it.

use edge_config::snapshot::{Backend, EndpointSet, Extension, Target, UpstreamId};

use super::answer::Answer;
use super::{Found, Made, record};
use crate::proxy::filters;
use crate::proxy::filters::extension::Refused;
use crate::proxy::message::{RequestHead, Span};
use crate::proxy::reason::Reason;
use crate::proxy::upstream::priority;
use crate::proxy::worker::{Current, Worker};

/// The backend that takes a request, and the session that chose it or is to be told of it.
pub struct Chosen<'g> {
    pub backend: &'g Backend,
    pub upstream: UpstreamId,
    /// As the client wrote it, for a session's cookie.
    pub path: Span,
    pub pin: Option<filters::session::Pin>,
}

/// Chooses the backend and applies what remains of the request's filters.
pub fn backend<'g>(
    worker: &Worker,
    current: &Current,
    found: &Found<'g>,
    backends: &'g [Backend],
    request: &mut RequestHead,
) -> Result<Chosen<'g>, Made<'g>> {
    let rule = found.rule;
    let refuse = |status, reason| Made::Answer(Answer::new(status, reason));
    let pin = rule
        .session
        .as_ref()
        .and_then(|session| worker.tokens.read(rule, session, &request.fields, record::unix_seconds()));
    let pinned = pin.and_then(|pin| {
        let of_pin = |backend: &&Backend| filters::session::backend_tag(&backend.reference) == pin.backend;
        // GEP-1619: "the persistence to a single backend MUST be maintained across services, even if the weight is set
        // to 0". A backend that is invalid by now has no session to keep.
        backends.iter().filter(|backend| matches!(backend.target, Target::Upstream(_))).find(of_pin)
    });
    let backend = match pinned {
        Some(backend) => backend,
        None => {
            let census = |id| current.upstream(id).map(|upstream| upstream.census()).unwrap_or_default();
            let draw = if backends.len() > 1 { worker.random.next_u32() } else { 0 };
            priority::choose(backends, draw, census).ok_or_else(|| refuse(500, Reason::InvalidBackend))?
        }
    };
    let upstream = match &backend.target {
        Target::Upstream(upstream) => *upstream,
        Target::Invalid { status, .. } => return Err(refuse(*status, Reason::InvalidBackend)),
    };
    filters::headers::apply_to_request(&backend.filters.request_headers, request);
    let path = request.path;
    for rewrite in [&rule.filters.rewrite, &backend.filters.rewrite].into_iter().flatten() {
        filters::rewrite::apply(rewrite, request, found.matched.prefix)
            .map_err(|_| refuse(500, Reason::RefusedFilter))?;
    }
    for extension in [&rule.filters.extension, &backend.filters.extension].into_iter().flatten() {
        extend(extension, current, upstream, request).map_err(Made::Answer)?;
    }
    Ok(Chosen { backend, upstream, path, pin: pin.filter(|_| pinned.is_some()) })
}

/// What an HTTPRouteFilter says of the request.
#[cold]
fn extend(
    extension: &Extension,
    current: &Current,
    upstream: UpstreamId,
    request: &mut RequestHead,
) -> Result<(), Answer> {
    let name = match current.generation.endpoints.get(upstream.index()).map(|set| &**set) {
        Some(EndpointSet::Dns { host, .. }) => Some(&**host),
        _ => None,
    };
    filters::extension::rewrite(extension, name, request).map_err(|refused| match refused {
        Refused::HostOfClient => Answer::new(400, Reason::BadRequest("host_header")),
        Refused::Host | Refused::Path => Answer::new(500, Reason::RefusedFilter),
    })?;
    if let Some(credential) = &extension.credential {
        // Without it the backend would refuse the client for what is our fault.
        let text = current.generation.secrets.text(&credential.secret).ok();
        let value = text.and_then(|text| filters::extension::field_value(text.bytes()));
        let value = value.ok_or(Answer::new(500, Reason::SecretMissing))?;
        filters::extension::inject(credential, value, request);
    }
    Ok(())
}
