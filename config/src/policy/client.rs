//! What policies say of clients: who they are, what they may send, how long they are waited for, and how they are spoken
//! to in TLS. Envoy Gateway's ClientTrafficPolicy and NGINX Gateway Fabric's ClientSettingsPolicy and ProxySettingsPolicy
//! become these values. What nobody asks for costs one look at an `Option`.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use super::CertificateField;

/// How long bytes are waited for. `None` leaves it to who comes next: a rule's listener, then edge.toml. Zero is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Waits {
    /// From one piece of a request's body to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Duration>,
    /// A request or its answer without a byte in either direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<Duration>,
    /// From one piece of an endpoint's answer to the next, and to its first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<Duration>,
    /// From one piece of a request on its way to an endpoint to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<Duration>,
    /// Until a connection to an endpoint is made; an upstream's own policy goes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Duration>,
    pub keep: ClientKeep,
}

/// How long a client's connection is kept. After a request it is as the rule or listener of that request has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ClientKeep {
    /// Without a request; zero keeps none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
    /// So many, and it is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// So old, and it is closed after the next request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<Duration>,
}

impl Waits {
    /// This, with another for what it leaves open.
    pub fn over(&self, below: &Self) -> Self {
        Self {
            body: self.body.or(below.body),
            stream: self.stream.or(below.stream),
            read: self.read.or(below.read),
            send: self.send.or(below.send),
            connect: self.connect.or(below.connect),
            keep: ClientKeep {
                idle: self.keep.idle.or(below.keep.idle),
                requests: self.keep.requests.or(below.keep.requests),
                age: self.keep.age.or(below.keep.age),
            },
        }
    }

    /// `None` where nothing is said, so that it costs nothing.
    pub fn or_none(self) -> Option<Arc<Self>> {
        (self != Self::default()).then(|| Arc::new(self))
    }
}

/// What few listeners ask of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ClientRules {
    /// `None`: by so many trusted hops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detection: Option<Detection>,
    /// X-Forwarded-For says what trusted proxies said, without the end of this connection.
    pub keeps_forwarded: bool,
    pub underscores: Underscores,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// `None`: X-Forwarded-Client-Cert is removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateField>,
    /// Requests for this path are answered here, on any host of the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_path: Option<Box<str>>,
}

impl ClientRules {
    pub fn or_none(self) -> Option<Arc<Self>> {
        (self != Self::default()).then(|| Arc::new(self))
    }
}

/// Who a request is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Detection {
    /// The last entry of X-Forwarded-For that is in none of these networks, where the connection comes from one of them.
    Networks(Vec<IpNet>),
    /// The address in this field (lower case), whoever sends it. `is_required`: 403 without one.
    Field { name: Box<str>, is_required: bool },
}

/// Header fields with `_` in their names, which many an endpoint takes for `-`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Underscores {
    /// They pass, but for those that would be taken for fields that say who the client is.
    #[default]
    Pass,
    /// 400.
    Reject,
    Drop,
}

/// The field X-Request-ID of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum RequestId {
    /// One of ours, whatever the client sends.
    Generate,
    /// The client's, or one of ours.
    PreserveOrGenerate,
    /// None.
    Remove,
}

/// What a listener, or an upstream's client, offers in TLS, where it is less than everything.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TlsParameters {
    pub tls12: bool,
    pub tls13: bool,
    /// Of TLS 1.2, by their IANA names; empty is all. TLS 1.3 has its own, of which none can be left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ciphers: Vec<&'static str>,
    /// Groups of key exchange, by their IANA names; empty is all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<&'static str>,
    /// Of HTTPS. `None`: `h2` and `http/1.1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<Vec<&'static str>>,
}

impl Default for TlsParameters {
    fn default() -> Self {
        Self { tls12: true, tls13: true, ciphers: Vec::new(), groups: Vec::new(), alpn: None }
    }
}

/// Probes on connections of clients on which nothing moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ClientKeepalive {
    pub probes: u32,
    pub idle: Duration,
    pub interval: Duration,
}

/// The bounds of HTTP/2 connections of clients. `None` is our own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Http2Bounds {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_window: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_window: Option<u32>,
}
