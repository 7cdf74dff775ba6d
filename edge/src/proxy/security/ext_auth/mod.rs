//! External authorization: an authorizer of the user's is asked about a request before anything else of it happens, over HTTP
//! ([`http`]) or in Envoy's gRPC protocol ([`grpc`]).
//!
//! In: the request and, where the policy asks for it, its body. Out: the request with what the authorizer says those behind
//! Edge are to know, or the authorizer's own answer. Without a decision the request is stopped, unless the policy says in
//! so many words that it passes; a field that only the authorizer may set is never a client's, whatever happens.

mod grpc;
mod http;
mod message;

use edge_config::policy::{ExtAuth, ExtAuthProtocol};
use edge_config::snapshot::Target;

use crate::proxy::exchange::answer::Answer as Made;
use crate::proxy::exchange::gate::{Gate, Passed, Stopped};
use crate::proxy::message::{Fields, Length, RequestHead, ResponseHead};
use crate::proxy::proxy_protocol::Origin;
use crate::proxy::reason::Reason;
use crate::proxy::upstream::ask::{Question, ask};
use crate::proxy::upstream::priority;

/// The most that is read of an authorizer's answer.
const MOST: usize = 64 << 10;

/// What an authorizer says.
enum Decision {
    Allowed(Edits),
    Denied { status: u16, fields: Fields, body: Vec<u8> },
}

/// What becomes of a request that may pass.
#[derive(Default)]
struct Edits {
    request: Vec<Edit>,
    /// Names, lower case.
    remove: Vec<String>,
    /// Fields that the response gets.
    response: Vec<(String, Vec<u8>)>,
    set_query: Vec<(String, String)>,
    remove_query: Vec<String>,
}

struct Edit {
    /// Lower case.
    name: String,
    value: Vec<u8>,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Append,
    AddIfAbsent,
    Set,
    SetIfPresent,
}

/// Lets a request pass if its authorizer says so.
pub async fn pass(
    ext_auth: &ExtAuth,
    gate: &Gate<'_, '_>,
    request: &mut RequestHead,
    response: &mut ResponseHead,
    passed: &mut Passed,
) -> Result<(), Stopped> {
    let timer = gate.worker.clock.timer();
    let asked = decide(ext_auth, gate, request);
    let decision = match timer.within(ext_auth.timeout, asked).await {
        Ok(decision) => decision,
        Err(_) => Err(format!("no answer within {:?}", ext_auth.timeout)),
    };
    forget_claims(ext_auth, &mut request.fields);
    match decision {
        Ok(Decision::Allowed(edits)) => {
            edits.apply(request, passed);
            Ok(())
        }
        Ok(Decision::Denied { status, fields, body }) => Err(denied(status, fields, body, request, response)),
        Err(why) if ext_auth.fail_open => {
            tracing::debug!(policy = %ext_auth.owner, "the authorizer is passed over: {why}");
            Ok(())
        }
        Err(why) => {
            tracing::debug!(policy = %ext_auth.owner, "no decision: {why}");
            let made = Made::new(ext_auth.status_on_error, Reason::ExtAuthFailed);
            let body = made.fill(request.is_grpc(), response);
            Err(Stopped { reason: made.reason, body })
        }
    }
}

/// Asks; the error is why there is no decision.
async fn decide(ext_auth: &ExtAuth, gate: &Gate<'_, '_>, request: &RequestHead) -> Result<Decision, String> {
    let (head, body) = match &ext_auth.protocol {
        ExtAuthProtocol::Grpc => grpc::question(ext_auth, gate, request)?,
        ExtAuthProtocol::Http { path, .. } => http::question(ext_auth, path, gate, request),
    };
    let backends = gate.current.snapshot().service(&ext_auth.service).map(|service| &*service.backends);
    let census = |id| gate.current.upstream(id).map(|upstream| upstream.census()).unwrap_or_default();
    let chosen = priority::choose(backends.unwrap_or_default(), gate.worker.random.next_u32(), census);
    let (id, balance) = match chosen.map(|backend| (&backend.target, &backend.balance)) {
        Some((Target::Upstream(id), balance)) => (*id, balance.clone().unwrap_or_default()),
        Some((Target::Invalid { reason, .. }, _)) => return Err(reason.to_string()),
        None => return Err(format!("{} has no backend", ext_auth.service)),
    };
    let upstream = gate.current.upstream(id).ok_or("there is no such upstream")?;
    let origin = Origin { source: gate.arrival.peer, destination: gate.arrival.destination() };
    let dialer = gate.worker.dialer(gate.current, Some(origin));
    let question = Question { head: &head, body, most: MOST, balance: &balance };
    let answer = ask(upstream, &gate.worker.random, dialer, &question).await;
    let answer = answer.map_err(|error| format!("{}: {error}", upstream.key))?;
    if !answer.is_whole {
        return Err(format!("answer of {} is longer than {MOST} bytes", upstream.key));
    }
    match &ext_auth.protocol {
        ExtAuthProtocol::Grpc => grpc::decision(&answer),
        ExtAuthProtocol::Http { answer_fields, .. } => http::decision(&answer, answer_fields.as_deref()),
    }
}

/// Takes fields out of a request that only the authorizer may set. One that the authorizer is shown is judged by it.
fn forget_claims(ext_auth: &ExtAuth, request: &mut Fields) {
    let ExtAuthProtocol::Http { answer_fields, .. } = &ext_auth.protocol else { return };
    let is_shown =
        |name: &str| name == "authorization" || ext_auth.request_fields.iter().flatten().any(|shown| **shown == *name);
    for name in answer_fields.iter().flatten().filter(|name| !is_shown(name)) {
        request.remove(name.as_bytes());
    }
}

fn denied(status: u16, fields: Fields, body: Vec<u8>, request: &RequestHead, response: &mut ResponseHead) -> Stopped {
    let made = Made::new(status, Reason::ExtAuthDenied);
    if request.is_grpc() {
        let body = made.fill(true, response);
        return Stopped { reason: made.reason, body };
    }
    response.clear();
    response.status = status;
    crate::proxy::exchange::answer::date(response);
    for (name, value) in fields.iter().filter(|(name, _)| *name != b"date") {
        response.fields.add(name, value);
    }
    if response.is_bodiless(request.is_head()) {
        response.length = if request.is_head() { Length::Known(body.len() as u64) } else { Length::None };
        return Stopped { reason: made.reason, body: None };
    }
    response.length = Length::Known(body.len() as u64);
    Stopped { reason: made.reason, body: (!body.is_empty()).then(|| body.into()) }
}

impl Edits {
    fn apply(self, request: &mut RequestHead, passed: &mut Passed) {
        for name in self.remove.iter().filter(|name| may_be_edited(name)) {
            request.fields.remove(name.as_bytes());
        }
        for Edit { name, value, how } in self.request.into_iter().filter(|edit| may_be_edited(&edit.name)) {
            let name = name.as_bytes();
            let is_there = request.fields.first(name).is_some();
            match how {
                How::Append => request.fields.add(name, &value),
                How::Set => request.fields.set(name, &value),
                How::AddIfAbsent if !is_there => request.fields.add(name, &value),
                How::SetIfPresent if is_there => request.fields.set(name, &value),
                How::AddIfAbsent | How::SetIfPresent => {}
            }
        }
        for (name, value) in self.response.iter().filter(|(name, _)| may_be_edited(name)) {
            passed.fields.add(name.as_bytes(), value);
        }
        if !self.set_query.is_empty() || !self.remove_query.is_empty() {
            let query = edited_query(request.query().unwrap_or_default(), &self.set_query, &self.remove_query);
            request.query = (!query.is_empty()).then(|| request.fields.store(query.as_bytes()));
        }
    }
}

/// What is a field of the message and no part of how it travels.
fn may_be_edited(name: &str) -> bool {
    !matches!(
        name,
        "host"
            | "connection"
            | "content-length"
            | "transfer-encoding"
            | "te"
            | "upgrade"
            | "keep-alive"
            | "trailer"
            | "proxy-connection"
            | "http2-settings"
            | ""
    ) && !name.starts_with(':')
}

fn edited_query(query: &str, set: &[(String, String)], remove: &[String]) -> String {
    let name_of = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let is_edited = |pair: &&str| {
        let name = name_of(pair);
        !pair.is_empty() && !remove.contains(&name) && !set.iter().any(|(other, _)| *other == name)
    };
    let mut edited: Vec<String> = query.split('&').filter(is_edited).map(str::to_owned).collect();
    for (name, value) in set {
        let mut pair = String::new();
        crate::proxy::authorities::escape(name.as_bytes(), &mut pair);
        pair.push('=');
        crate::proxy::authorities::escape(value.as_bytes(), &mut pair);
        edited.push(pair);
    }
    edited.join("&")
}

/// Whether bytes may stand in a field (RFC 9110 §5.5).
fn is_value(value: &[u8]) -> bool {
    value.iter().all(|byte| !matches!(byte, 0 | b'\r' | b'\n')) && value.trim_ascii().len() == value.len()
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A status that an authorizer may deny with.
fn denial(status: i64, otherwise: u16) -> u16 {
    u16::try_from(status).ok().filter(|status| (200..=599).contains(status)).unwrap_or(otherwise)
}

#[cfg(test)]
mod tests;
