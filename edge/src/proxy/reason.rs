//! Why Edge itself answered, or ended a connection: one stable code per reason, the same in the access log, in metrics and
//! in `edgectl`. Scripts rely on the codes; they are never renamed.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $code:literal),+ $(,)?) => {
        /// A reason, and for a malformed message what is malformed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            /// The request breaks the protocol (400, 431, 505 …); the text says how, in `snake_case`.
            BadRequest(&'static str),
            $($(#[$doc])* $name,)+
        }

        impl Reason {
            /// All codes, by [`index`](Self::index).
            pub const CODES: &'static [&'static str] = &["bad_request", $($code),+];

            /// Place in [`CODES`](Self::CODES): counters are kept in an array.
            pub fn index(self) -> usize {
                #[derive(Clone, Copy)]
                enum Place { BadRequest, $($name),+ }
                (match self {
                    Self::BadRequest(_) => Place::BadRequest,
                    $(Self::$name => Place::$name),+
                }) as usize
            }
        }
    };
}

reasons! {
    /// No listener of the port takes this host or server name (404, or the connection is closed).
    NoListener => "no_listener",
    /// The listener has no route for this request (404).
    NoRoute => "no_route",
    /// The Host belongs to another listener than the server name (421).
    Misdirected => "misdirected",
    /// A redirect filter answered.
    Redirect => "redirect",
    /// A CORS filter answered a preflight.
    CorsPreflight => "cors_preflight",
    /// No backend of the rule is valid, or the share of an invalid one was drawn (500).
    InvalidBackend => "invalid_backend",
    /// A filter cannot be honoured (500).
    RefusedFilter => "refused_filter",
    /// The backend is valid and has no endpoint that takes requests (503).
    NoReadyEndpoint => "no_ready_endpoint",
    /// No endpoint accepted a connection (503).
    ConnectFailed => "connect_failed",
    /// The backend's certificate or handshake was refused (502).
    BackendTls => "backend_tls",
    /// `backendRequest` ran out on the last try (504).
    BackendTimeout => "backend_timeout",
    /// `request` ran out (504).
    RequestTimeout => "request_timeout",
    /// The backend closed before its response was complete (502, or a truncated response).
    BackendClosed => "backend_closed",
    /// The backend's response breaks the protocol (502).
    BackendMalformed => "backend_malformed",
    /// No complete request head in time (408).
    HeadTimeout => "head_timeout",
    /// A body, in either direction, stopped moving.
    StreamStalled => "stream_stalled",
    /// A client sent a body, or read a response, below the least rate (408, or the connection is reset).
    TooSlow => "too_slow",
    /// A tunnel stopped moving.
    TunnelIdle => "tunnel_idle",
    /// A head or another bounded thing is larger than its limit (413, 414, 431).
    TooLarge => "too_large",
    /// A method, version, transfer coding or Expect that is not offered (417, 501, 505).
    Unsupported => "unsupported",
    /// A limit of connections, streams or sessions is reached.
    Overloaded => "overloaded",
    /// Edge is stopping.
    Draining => "draining",
    /// The client went away first.
    ClientClosed => "client_closed",
    /// The TLS handshake with the client failed.
    HandshakeFailed => "handshake_failed",
    /// An HTTP/2 peer broke the protocol; the connection is closed.
    ProtocolError => "protocol_error",
    /// A client opened HTTP/2 streams that came to nothing, too many of them (rapid reset, made-you-reset).
    StreamFlood => "stream_flood",
    /// A client sent HTTP/2 frames that carry nothing, too many of them (SETTINGS, PING, empty DATA, tiny windows).
    FrameFlood => "frame_flood",
    /// A client sent an HTTP/2 header block without end (CONTINUATION).
    HeaderFlood => "header_flood",
    /// A PROXY protocol header that is missing, broken, or of a source that is not trusted.
    ProxyProtocol => "proxy_protocol",
    /// The client is not in the Service's `loadBalancerSourceRanges`.
    SourceForbidden => "source_forbidden",
    /// A fault of Edge itself (500).
    Internal => "internal",
}

impl Reason {
    pub const COUNT: usize = Self::CODES.len();

    /// Without detail.
    pub fn code(self) -> &'static str {
        Self::CODES.get(self.index()).copied().unwrap_or_default()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRequest(what) => write!(f, "bad_request:{what}"),
            other => f.write_str(other.code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_snake_case_and_stable() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Reason::CODES {
            assert!(code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code}");
            assert!(seen.insert(code), "{code} twice");
        }
        for (reason, text) in [
            (Reason::NoListener, "no_listener"),
            (Reason::Internal, "internal"),
            (Reason::BadRequest("two_hosts"), "bad_request:two_hosts"),
        ] {
            assert_eq!(reason.to_string(), text);
            assert_eq!(reason.code(), text.split(':').next().unwrap());
        }
        assert_eq!(Reason::Internal.index() + 1, Reason::COUNT);
    }
}
