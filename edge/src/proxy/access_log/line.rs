//! What a line says, and in which order. Absent things are left out, so a line is short and a query asks for presence.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use edge_config::names::ObjectRef;

use super::json::{
    Second, push_address, push_display, push_ip, push_milliseconds, push_number, push_object, push_str, push_time,
};
use crate::proxy::reason::Reason;
use crate::proxy::trace::context::put_hex;

/// One request, connection or session; borrowed from wherever its parts are.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// When it began.
    pub at: SystemTime,
    /// The client, behind trusted proxies the one that they name (then with port 0).
    pub client: SocketAddr,
    /// The address at which it arrived; behind a load balancer with PROXY protocol, the one at which it arrived there.
    pub vip: SocketAddr,
    /// That load balancer.
    pub proxied_by: Option<SocketAddr>,
    /// Gateway or ListenerSet, and the listener's name.
    pub listener: Option<(&'a ObjectRef, &'a str)>,
    pub rule: Option<RuleOf<'a>>,
    /// `Service ns/name:port`.
    pub backend: Option<&'a str>,
    pub endpoint: Option<SocketAddr>,
    /// Empty below HTTP.
    pub method: &'a [u8],
    pub host: &'a [u8],
    /// Without the query.
    pub path: &'a [u8],
    /// `HTTP/1.1`, `HTTP/2`, `TCP`, `TLS`, `UDP`.
    pub protocol: &'a str,
    /// 0 below HTTP and where no response was begun.
    pub status: u16,
    /// Body bytes, or payload below HTTP: from the client, to the client.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    /// From the last try, with a connection at hand, to the response head.
    pub upstream: Option<Duration>,
    pub tries: u32,
    pub tls: Option<TlsOf<'a>>,
    pub user_agent: Option<&'a [u8]>,
    pub request_id: Option<&'a [u8]>,
    /// Where requests are traced, also of one that is not sampled.
    pub trace_id: Option<&'a [u8; 16]>,
    /// Why Edge itself answered or ended it.
    pub reason: Option<Reason>,
}

/// The rule that took a request; a stream route has neither index nor name.
#[derive(Debug, Clone, Copy)]
pub struct RuleOf<'a> {
    pub route: &'a ObjectRef,
    pub index: Option<u32>,
    pub name: Option<&'a str>,
}

#[derive(Debug, Clone, Copy)]
pub struct TlsOf<'a> {
    /// `TLSv1.3`; empty where Edge does not terminate.
    pub version: &'a str,
    pub cipher: &'a str,
    pub server_name: Option<&'a str>,
}

impl<'a> Entry<'a> {
    /// An entry of which nothing else is known yet.
    pub fn new(at: SystemTime, client: SocketAddr, vip: SocketAddr, protocol: &'a str) -> Self {
        Self {
            at,
            client,
            vip,
            proxied_by: None,
            listener: None,
            rule: None,
            backend: None,
            endpoint: None,
            method: b"",
            host: b"",
            path: b"",
            protocol,
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            upstream: None,
            tries: 0,
            tls: None,
            user_agent: None,
            request_id: None,
            trace_id: None,
            reason: None,
        }
    }

    /// Appends the line with its end. `second` is memory from one line to the next.
    pub(in crate::proxy) fn write(&self, out: &mut Vec<u8>, second: &mut Second) {
        out.extend_from_slice(b"{\"ts\":\"");
        push_time(out, self.at, second);
        out.extend_from_slice(b"\",\"client\":");
        if self.client.port() == 0 {
            push_ip(out, &self.client.ip());
        } else {
            push_address(out, &self.client);
        }
        address(out, ",\"vip\":", Some(&self.vip));
        address(out, ",\"proxied_by\":", self.proxied_by.as_ref());
        if let Some((parent, name)) = self.listener {
            out.extend_from_slice(b",\"listener\":");
            push_object(out, parent, &["/", name]);
        }
        if let Some(rule) = self.rule {
            out.extend_from_slice(b",\"route\":");
            push_object(out, rule.route, &[]);
            if let Some(index) = rule.index {
                number(out, ",\"rule\":", u64::from(index));
            }
            text(out, ",\"rule_name\":", rule.name.unwrap_or_default().as_bytes());
        }
        text(out, ",\"backend\":", self.backend.unwrap_or_default().as_bytes());
        address(out, ",\"endpoint\":", self.endpoint.as_ref());
        text(out, ",\"method\":", self.method);
        text(out, ",\"host\":", self.host);
        text(out, ",\"path\":", self.path);
        text(out, ",\"protocol\":", self.protocol.as_bytes());
        if self.status != 0 {
            number(out, ",\"status\":", u64::from(self.status));
        }
        number(out, ",\"bytes_in\":", self.bytes_in);
        number(out, ",\"bytes_out\":", self.bytes_out);
        out.extend_from_slice(b",\"duration_ms\":");
        push_milliseconds(out, self.duration);
        if let Some(upstream) = self.upstream {
            out.extend_from_slice(b",\"upstream_ms\":");
            push_milliseconds(out, upstream);
        }
        if self.tries > 0 {
            number(out, ",\"tries\":", u64::from(self.tries));
        }
        if let Some(tls) = self.tls {
            text(out, ",\"tls_version\":", tls.version.as_bytes());
            text(out, ",\"tls_cipher\":", tls.cipher.as_bytes());
            text(out, ",\"sni\":", tls.server_name.unwrap_or_default().as_bytes());
        }
        text(out, ",\"user_agent\":", self.user_agent.unwrap_or_default());
        text(out, ",\"request_id\":", self.request_id.unwrap_or_default());
        if let Some(id) = self.trace_id {
            let mut digits = [0; 32];
            put_hex(&mut digits, id);
            text(out, ",\"trace_id\":", &digits);
        }
        if let Some(reason) = &self.reason {
            out.extend_from_slice(b",\"reason\":");
            push_display(out, reason);
        }
        out.extend_from_slice(b"}\n");
    }
}

// Each is given the key as it stands in the line, with the comma before it.

/// Empty texts are left out.
fn text(out: &mut Vec<u8>, key: &str, text: &[u8]) {
    if !text.is_empty() {
        out.extend_from_slice(key.as_bytes());
        push_str(out, text);
    }
}

fn number(out: &mut Vec<u8>, key: &str, number: u64) {
    out.extend_from_slice(key.as_bytes());
    push_number(out, number);
}

fn address(out: &mut Vec<u8>, key: &str, address: Option<&SocketAddr>) {
    if let Some(address) = address {
        out.extend_from_slice(key.as_bytes());
        push_address(out, address);
    }
}
