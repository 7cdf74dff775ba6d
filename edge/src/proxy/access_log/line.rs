//! What a line says, and in which order. Absent things are left out, so a line is short and a query asks for presence.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use edge_config::names::ObjectRef;

use super::json::{push_display, push_milliseconds, push_number, push_str, push_time};
use crate::proxy::reason::Reason;

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
    /// From the first try to the response head of the last.
    pub upstream: Option<Duration>,
    pub tries: u32,
    pub tls: Option<TlsOf<'a>>,
    pub user_agent: Option<&'a [u8]>,
    pub request_id: Option<&'a [u8]>,
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
            reason: None,
        }
    }

    /// Appends the line with its end.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"ts\":\"");
        push_time(out, self.at);
        out.push(b'"');
        let mut line = Line(out);
        if self.client.port() == 0 {
            line.display("client", &self.client.ip());
        } else {
            line.display("client", &self.client);
        }
        line.display("vip", &self.vip);
        if let Some(by) = self.proxied_by {
            line.display("proxied_by", &by);
        }
        if let Some((parent, name)) = self.listener {
            line.display("listener", &format_args!("{parent}/{name}"));
        }
        if let Some(rule) = self.rule {
            line.display("route", rule.route);
            if let Some(index) = rule.index {
                line.number("rule", u64::from(index));
            }
            line.text("rule_name", rule.name.unwrap_or_default().as_bytes());
        }
        line.text("backend", self.backend.unwrap_or_default().as_bytes());
        if let Some(endpoint) = &self.endpoint {
            line.display("endpoint", endpoint);
        }
        line.text("method", self.method);
        line.text("host", self.host);
        line.text("path", self.path);
        line.text("protocol", self.protocol.as_bytes());
        if self.status != 0 {
            line.number("status", u64::from(self.status));
        }
        line.number("bytes_in", self.bytes_in);
        line.number("bytes_out", self.bytes_out);
        line.milliseconds("duration_ms", self.duration);
        if let Some(upstream) = self.upstream {
            line.milliseconds("upstream_ms", upstream);
        }
        if self.tries > 0 {
            line.number("tries", u64::from(self.tries));
        }
        if let Some(tls) = self.tls {
            line.text("tls_version", tls.version.as_bytes());
            line.text("tls_cipher", tls.cipher.as_bytes());
            line.text("sni", tls.server_name.unwrap_or_default().as_bytes());
        }
        line.text("user_agent", self.user_agent.unwrap_or_default());
        line.text("request_id", self.request_id.unwrap_or_default());
        if let Some(reason) = &self.reason {
            line.display("reason", reason);
        }
        out.extend_from_slice(b"}\n");
    }
}

struct Line<'o>(&'o mut Vec<u8>);

impl Line<'_> {
    fn key(&mut self, key: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// Empty texts are left out.
    fn text(&mut self, key: &str, text: &[u8]) {
        if !text.is_empty() {
            self.key(key);
            push_str(self.0, text);
        }
    }

    fn display(&mut self, key: &str, value: &dyn std::fmt::Display) {
        self.key(key);
        push_display(self.0, value);
    }

    fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        push_number(self.0, number);
    }

    fn milliseconds(&mut self, key: &str, duration: Duration) {
        self.key(key);
        push_milliseconds(self.0, duration);
    }
}
