//! From a request to the rule that takes it: port → listener → rule. Reads the snapshot, decides nothing of its own.

use edge_config::matching::Matched;
use edge_config::snapshot::{Listener, ListenerId, ListenerServe, PortServe, Rule, Snapshot};

use super::answer::Answer;
use crate::proxy::message::RequestHead;
use crate::proxy::reason::Reason;
use crate::proxy::tls::shown;
use crate::proxy::worker::{Arrival, Current};

/// Who serves a request.
#[derive(Clone, Copy)]
pub struct Place<'g> {
    pub id: ListenerId,
    pub listener: &'g Listener,
}

/// The listener for a request's host. Gateway API listener isolation: "a request is matched to at most one listener", the
/// most specific one. Inside TLS it must be the one that the handshake reached; otherwise 421 (RFC 9110 §15.5.20).
pub fn listener<'g>(current: &'g Current, arrival: &Arrival, request: &RequestHead) -> Result<Place<'g>, Answer> {
    let nobody = Answer::new(404, Reason::NoListener);
    let snapshot = current.snapshot();
    let port = current.port_at(arrival.local).ok_or(nobody)?;
    let id = match &port.serve {
        PortServe::Http { hosts } if !arrival.secure => *hosts.best(request.host()).ok_or(nobody)?,
        PortServe::Tls { names } if arrival.secure => {
            let by_host = names.best(request.host());
            let by_name = names.best(arrival.server_name.as_deref().unwrap_or_default()).ok_or(nobody)?;
            if by_host != Some(by_name) {
                return Err(Answer::new(421, Reason::Misdirected));
            }
            *by_name
        }
        _ => return Err(nobody),
    };
    let listener = snapshot.listeners.get(id.index()).ok_or(nobody)?;
    if !shown::meets(arrival.shown.as_deref(), listener) {
        return Err(Answer::new(421, Reason::Misdirected));
    }
    Ok(Place { id, listener })
}

/// The rule of a listener for a request.
pub fn rule<'g>(
    snapshot: &'g Snapshot,
    place: Place<'g>,
    request: &RequestHead,
) -> Result<(&'g Rule, Matched), Answer> {
    let nothing = Answer::new(404, Reason::NoRoute);
    let (ListenerServe::Http { routes } | ListenerServe::Https { routes, .. }) = &place.listener.serve else {
        return Err(nothing);
    };
    let matched = routes.find(&request.view()).ok_or(nothing)?;
    // It shows what Edge and others on the way have added to a request, so a route must ask for it by name.
    if request.fields.text(request.method) == b"TRACE" && !matched.by_method {
        return Err(Answer::new(501, Reason::Unsupported));
    }
    let rule = snapshot.rules.get(matched.rule.index()).ok_or(nothing)?;
    Ok((rule, matched))
}
