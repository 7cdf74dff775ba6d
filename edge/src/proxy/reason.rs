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
    /// A filter answers in place of a backend.
    DirectResponse => "direct_response",
    /// A policy puts another answer in the place of the endpoint's.
    ResponseOverride => "response_override",
    /// A policy lets requests fail, on purpose.
    FaultInjected => "fault_injected",
    /// An operator has put the host into maintenance (503).
    Maintenance => "maintenance",
    /// A challenge of an ACME CA was answered.
    AcmeChallenge => "acme_challenge",
    /// A request for the health path of its listener (200, or 503 while Edge is stopping).
    HealthCheck => "health_check",
    /// The listener's clients are known by a field that is not there, or holds no address (403).
    ClientUnnamed => "client_unnamed",
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
    /// A listener that validates clients was shown no certificate, or none that is good; the handshake failed.
    ClientCertificate => "client_certificate",
    /// A peer of HTTP/2 or HTTP/3 broke the protocol; the connection is closed.
    ProtocolError => "protocol_error",
    /// A client opened streams that came to nothing, too many of them (rapid reset, made-you-reset).
    StreamFlood => "stream_flood",
    /// A client sent frames that carry nothing, too many of them (SETTINGS, PING, empty DATA, tiny windows).
    FrameFlood => "frame_flood",
    /// A client sent an HTTP/2 header block without end (CONTINUATION).
    HeaderFlood => "header_flood",
    /// A PROXY protocol header that is missing, broken, or of a source that is not trusted.
    ProxyProtocol => "proxy_protocol",
    /// The client is not in the Service's `loadBalancerSourceRanges`.
    SourceForbidden => "source_forbidden",
    /// A browser was sent to its OpenID provider, or back from it.
    OidcLogin => "oidc_login",
    /// A session was ended by its owner.
    OidcLogout => "oidc_logout",
    /// A login is needed, and this client cannot be sent there (401).
    LoginRequired => "login_required",
    /// The provider said no, or what came back from it is not good (401).
    LoginFailed => "login_failed",
    /// The OpenID provider cannot be asked (503).
    ProviderAway => "provider_away",
    /// The policy's authorizer said no; the answer is its own.
    ExtAuthDenied => "ext_auth_denied",
    /// The policy's authorizer said nothing.
    ExtAuthFailed => "ext_auth_failed",
    /// A rate is used up (429, or what the policy says).
    RateLimited => "rate_limited",
    /// A rule has as many requests under way as it may (503).
    ConcurrencyLimited => "concurrency_limited",
    /// Too many of the requests before this one failed (503).
    AdmissionRefused => "admission_refused",
    /// Edge has nearly as much to do as it can, and the rule's priority is low (503).
    PriorityShed => "priority_shed",
    /// A listener has as many connections as a policy allows; the connection is closed.
    ConnectionLimited => "connection_limited",
    /// A policy of security cannot be carried out, so nobody passes (500).
    SecurityPolicy => "security_policy",
    /// A Secret that a policy names is not there, or is garbage (500).
    SecretMissing => "secret_missing",
    /// A request that changes something comes from another site (403).
    Csrf => "csrf",
    /// No API key, or none of a client (401).
    ApiKey => "api_key",
    /// No user, or a wrong password (401).
    BasicAuth => "basic_auth",
    /// No token (401).
    JwtMissing => "jwt_missing",
    /// A token that is not good (401).
    Jwt => "jwt",
    /// The keys of no provider are at hand (503).
    JwtKeys => "jwt_keys",
    /// Authorization says no (403, or the connection is closed).
    Forbidden => "forbidden",
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
