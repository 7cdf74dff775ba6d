//! A finished exchange as spans: one of Edge as a server, and one of Edge as a client for each endpoint that was asked.
//!
//! Standards: OpenTelemetry semantic conventions 1.37 for HTTP. A query is never told, since clients put secrets there;
//! what is Edge's own begins with `edge.`.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use edge_config::names::ObjectRef;
use edge_config::snapshot::UpstreamProtocol;

use super::context::state;
use super::{Attempt, Recording, Sink, Trace, wire};
use crate::proxy::access_log::Entry;
use crate::proxy::digits;
use crate::proxy::message::{RequestHead, Scheme, Version};
use crate::proxy::reason::Reason;

/// The version of the conventions that names and values follow.
pub const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

// Fields of `Span`.
const TRACE_ID: wire::Field = 1;
const SPAN_ID: wire::Field = 2;
const TRACE_STATE: wire::Field = 3;
const PARENT_SPAN_ID: wire::Field = 4;
const NAME: wire::Field = 5;
const KIND: wire::Field = 6;
const START: wire::Field = 7;
const END: wire::Field = 8;
const ATTRIBUTES: wire::Field = 9;
const STATUS: wire::Field = 15;
const FLAGS: wire::Field = 16;

const SERVER: usize = 2;
const CLIENT: usize = 3;
/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`, `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`
const KNOWN_WHERE: u32 = 0x100;
const REMOTE: u32 = 0x200;
/// `Status.code = STATUS_CODE_ERROR`
const ERROR: [u8; 2] = [3 << 3, 2];

/// Methods that may be told as they are; whatever else a client invents is one and the same.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// What is known of an exchange beside its entry in the log.
pub struct Told<'a> {
    pub entry: &'a Entry<'a>,
    pub request: &'a RequestHead,
    pub begun: Instant,
    pub duration: Duration,
    pub grpc_status: Option<u8>,
    /// The response was cut off, or there is none.
    pub is_broken: bool,
}

impl Trace {
    /// Writes the spans, where the trace is sampled.
    pub fn write(&self, sink: &mut Sink, told: &Told<'_>) {
        let Some(recording) = &self.recording else { return };
        let end = told.begun + told.duration;
        for (place, attempt) in recording.tries.iter().enumerate() {
            sink.span(|sink, out| self.client(recording, (place, attempt), told, end, sink, out));
        }
        sink.span(|sink, out| self.server(recording, told, end, sink, out));
    }

    fn server(&self, recording: &Recording, told: &Told<'_>, end: Instant, sink: &Sink, out: &mut Vec<u8>) {
        let Told { entry, request, .. } = told;
        let text = |piece| request.fields.text(piece);
        let origin = if self.parent.is_some() { KNOWN_WHERE | REMOTE } else { 0 };
        self.head(out, &self.context.span_id, self.parent.as_ref(), origin, request);
        let method = method_of(request, recording);
        let route = recording.route.map(|piece| match text(piece) {
            b"" => b"/",
            route => route,
        });
        name(out, method, route);
        wire::number(out, KIND, SERVER);
        wire::fixed64(out, START, sink.wall(told.begun));
        wire::fixed64(out, END, sink.wall(end));

        method_pair(out, method, text(recording.method));
        if let Some(route) = route {
            wire::text(out, ATTRIBUTES, "http.route", route);
        }
        let is_https = request.scheme == Scheme::Https;
        wire::text(out, ATTRIBUTES, "url.scheme", if is_https { b"https" } else { b"http" });
        wire::text(out, ATTRIBUTES, "url.path", text(recording.path));
        let authority = text(recording.authority);
        if !authority.is_empty() {
            let (host, port) = split(authority);
            wire::text(out, ATTRIBUTES, "server.address", host);
            wire::integer(out, ATTRIBUTES, "server.port", port.unwrap_or(if is_https { 443 } else { 80 }).into());
        }
        address(out, "client.address", entry.client.ip());
        if entry.client.port() != 0 {
            wire::integer(out, ATTRIBUTES, "client.port", entry.client.port().into());
        }
        let peer = entry.proxied_by.unwrap_or(told.entry.client);
        if peer.port() != 0 {
            address(out, "network.peer.address", peer.ip());
            wire::integer(out, ATTRIBUTES, "network.peer.port", peer.port().into());
        }
        address(out, "network.local.address", entry.vip.ip());
        wire::integer(out, ATTRIBUTES, "network.local.port", entry.vip.port().into());
        let version: &[u8] = match request.version {
            Version::Http10 => b"1.0",
            Version::Http11 => b"1.1",
            Version::Http2 => b"2",
            Version::Http3 => b"3",
        };
        wire::text(out, ATTRIBUTES, "network.protocol.version", version);
        if let Some(agent) = recording.user_agent {
            wire::text(out, ATTRIBUTES, "user_agent.original", text(agent));
        }
        if entry.status != 0 {
            wire::integer(out, ATTRIBUTES, "http.response.status_code", entry.status.into());
        }
        if let Some(code) = told.grpc_status {
            wire::integer(out, ATTRIBUTES, "rpc.grpc.status_code", code.into());
        }
        edge(out, entry);
        // A client that goes away is no fault of who serves it.
        let is_error =
            entry.status >= 500 || (told.is_broken && !matches!(entry.reason, None | Some(Reason::ClientClosed)));
        if is_error || told.is_broken {
            error_type(out, entry.reason, entry.status);
        }
        if is_error {
            wire::bytes(out, STATUS, &ERROR);
        }
    }

    fn client(
        &self,
        recording: &Recording,
        (place, attempt): (usize, &Attempt),
        told: &Told<'_>,
        end: Instant,
        sink: &Sink,
        out: &mut Vec<u8>,
    ) {
        let Told { entry, request, .. } = told;
        self.head(out, &attempt.span_id, Some(&self.context.span_id), KNOWN_WHERE, request);
        let method = method_of(request, recording);
        name(out, method, None);
        wire::number(out, KIND, CLIENT);
        wire::fixed64(out, START, sink.wall(attempt.begun));
        wire::fixed64(out, END, sink.wall(attempt.ended.unwrap_or(end)));

        method_pair(out, method, request.fields.text(recording.method));
        let endpoint = attempt.endpoint;
        let mut ip = Ip::default();
        let host = ip.write(endpoint.ip());
        let scheme: &[u8] = if attempt.is_tls { b"https://" } else { b"http://" };
        let mut port = [0; 20];
        let port = digits::decimal(endpoint.port().into(), &mut port);
        let (open, close): (&[u8], &[u8]) = if endpoint.is_ipv6() { (b"[", b"]:") } else { (b"", b":") };
        let path = request.fields.text(attempt.path);
        wire::texts(out, ATTRIBUTES, "url.full", &[scheme, open, host, close, port, path]);
        for (address, port) in [("server.address", "server.port"), ("network.peer.address", "network.peer.port")] {
            wire::text(out, ATTRIBUTES, address, host);
            wire::integer(out, ATTRIBUTES, port, endpoint.port().into());
        }
        let version: &[u8] = if attempt.protocol == UpstreamProtocol::Http2 { b"2" } else { b"1.1" };
        wire::text(out, ATTRIBUTES, "network.protocol.version", version);
        if let Some(status) = attempt.status {
            wire::integer(out, ATTRIBUTES, "http.response.status_code", status.into());
        }
        if place > 0 {
            wire::integer(out, ATTRIBUTES, "http.request.resend_count", place as u64);
        }
        if let Some(backend) = entry.backend {
            wire::text(out, ATTRIBUTES, "edge.backend", backend.as_bytes());
        }
        // One that nobody ended was cut off with the exchange.
        let reason = attempt.reason.or(entry.reason.filter(|_| attempt.ended.is_none()));
        let status = attempt.status.unwrap_or_default();
        // Of a client, unlike of a server, 4xx are errors too.
        if reason.is_some() || status >= 400 {
            error_type(out, reason, status);
            if reason != Some(Reason::ClientClosed) {
                wire::bytes(out, STATUS, &ERROR);
            }
        }
    }

    /// What every span begins with.
    fn head(&self, out: &mut Vec<u8>, span_id: &[u8; 8], parent: Option<&[u8; 8]>, origin: u32, request: &RequestHead) {
        wire::bytes(out, TRACE_ID, &self.context.trace_id);
        wire::bytes(out, SPAN_ID, span_id);
        let state = state(&request.fields);
        if !state.is_empty() {
            wire::bytes(out, TRACE_STATE, state.as_bytes());
        }
        if let Some(parent) = parent {
            wire::bytes(out, PARENT_SPAN_ID, parent);
        }
        wire::fixed32(out, FLAGS, u32::from(self.context.flags.bits()) | origin);
    }
}

/// What is Edge's own to say.
fn edge(out: &mut Vec<u8>, entry: &Entry<'_>) {
    if let Some((parent, name)) = entry.listener {
        object(out, "edge.gateway", parent);
        wire::text(out, ATTRIBUTES, "edge.listener", name.as_bytes());
    }
    if let Some(rule) = entry.rule {
        object(out, "edge.route", rule.route);
        if let Some(index) = rule.index {
            wire::integer(out, ATTRIBUTES, "edge.rule", index.into());
        }
        if let Some(name) = rule.name {
            wire::text(out, ATTRIBUTES, "edge.rule_name", name.as_bytes());
        }
    }
    if let Some(backend) = entry.backend {
        wire::text(out, ATTRIBUTES, "edge.backend", backend.as_bytes());
    }
    if entry.tries > 0 {
        wire::integer(out, ATTRIBUTES, "edge.tries", entry.tries.into());
    }
    if let Some(reason) = entry.reason {
        wire::text(out, ATTRIBUTES, "edge.reason", reason.code().as_bytes());
    }
}

/// `Kind namespace/name`
fn object(out: &mut Vec<u8>, name: &str, object: &ObjectRef) {
    let key = &object.key;
    let pieces: [&[u8]; 5] =
        [object.kind.as_str().as_bytes(), b" ", key.namespace.as_bytes(), b"/", key.name.as_bytes()];
    wire::texts(out, ATTRIBUTES, name, &pieces);
}

/// `None`: one that nobody knows.
fn method_of<'r>(request: &'r RequestHead, recording: &Recording) -> Option<&'r str> {
    Some(request.fields.str(recording.method)).filter(|method| METHODS.contains(method))
}

fn method_pair(out: &mut Vec<u8>, method: Option<&str>, original: &[u8]) {
    match method {
        Some(method) => wire::text(out, ATTRIBUTES, "http.request.method", method.as_bytes()),
        None => {
            wire::text(out, ATTRIBUTES, "http.request.method", b"_OTHER");
            wire::text(out, ATTRIBUTES, "http.request.method_original", original);
        }
    }
}

/// `{method} {http.route}`, where the route is known.
fn name(out: &mut Vec<u8>, method: Option<&str>, route: Option<&[u8]>) {
    let method = method.unwrap_or("HTTP");
    let mut name = [0; 128];
    let mut length = 0;
    let pieces = [Some(method.as_bytes()), route.map(|_| &b" "[..]), route];
    for piece in pieces.into_iter().flatten() {
        let room = name.len() - length;
        let piece = piece.get(..room).unwrap_or(piece);
        name[length..length + piece.len()].copy_from_slice(piece);
        length += piece.len();
    }
    // A route is ASCII: the manifest said so, or the client, whose path is.
    wire::bytes(out, NAME, &name[..length]);
}

/// Edge's word for it, where there is one, or the status.
fn error_type(out: &mut Vec<u8>, reason: Option<Reason>, status: u16) {
    let mut place = [0; 20];
    let text = match reason {
        Some(reason) => reason.code().as_bytes(),
        None => digits::decimal(status.into(), &mut place),
    };
    wire::text(out, ATTRIBUTES, "error.type", text);
}

fn address(out: &mut Vec<u8>, key: &str, ip: IpAddr) {
    wire::text(out, ATTRIBUTES, key, Ip::default().write(ip));
}

/// Host and port of an authority; brackets are not part of an address.
fn split(authority: &[u8]) -> (&[u8], Option<u16>) {
    let (host, port) = match authority.iter().rposition(|byte| *byte == b':') {
        Some(at) if !authority[at..].contains(&b']') => (&authority[..at], &authority[at + 1..]),
        _ => (authority, &b""[..]),
    };
    let host = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host);
    (host, std::str::from_utf8(port).ok().and_then(|port| port.parse().ok()))
}

/// Room for an address as text.
struct Ip([u8; 64]);

impl Default for Ip {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl Ip {
    fn write(&mut self, ip: IpAddr) -> &[u8] {
        use std::io::Write as _;
        let room = self.0.len();
        let mut rest = &mut self.0[..];
        // 64 bytes hold every address.
        let length = write!(rest, "{}", ip.to_canonical()).map_or(0, |()| room - rest.len());
        &self.0[..length]
    }
}

#[cfg(test)]
mod tests;
