//! ClientTrafficPolicy: what listeners expect of clients. What each field means here is said in docs/policies.md.

use serde::{Deserialize, Serialize};

use super::{
    AlpnProtocol, HeaderEdits, Http2Settings, StringMatch, TargetSelector, TcpKeepalive, TlsFingerprint, TlsVersion,
};
use crate::gateway::{PolicyTargetRef, SecretRef};
use crate::snapshot::ProxyPresence;
use crate::wire::{ByteQuantity, GepDuration, open_enum};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTrafficPolicySpec {
    /// The older single form; [`Self::targets`] has both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<PolicyTargetRef>,
    /// Gateways and ListenerSets, or one listener of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<PolicyTargetRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_selectors: Vec<TargetSelector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// The older form; `proxyProtocol` goes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_proxy_protocol: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ClientProxyProtocol>,
    #[serde(default, rename = "clientIPDetection", skip_serializing_if = "Option::is_none")]
    pub client_ip_detection: Option<ClientIpDetection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Box<ClientTls>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Box<ClientHeaders>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<ClientTimeout>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<ClientConnection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http1: Option<Http1Settings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http2: Option<Http2Settings>,
    /// HTTP/3 of HTTPS listeners, beside what they speak over TCP. Absent is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http3: Option<Http3Settings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<ListenerHealthCheck>,
    /// Absent is Preserve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<SchemeTransform>,
    /// Why the policy cannot be read: it stands for that one, which validates clients, and nobody is let in. In no
    /// manifest; it is written where the last good state is kept, so that a restart does not open anything.
    #[serde(default, rename = "edge.internal/unreadable", skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

impl ClientTrafficPolicySpec {
    /// What it says of PROXY protocol headers. `None`: nothing; `Some(None)`: that there are none.
    pub fn proxy_presence(&self) -> Option<Option<ProxyPresence>> {
        let presence = match (self.proxy_protocol, self.enable_proxy_protocol) {
            (Some(ClientProxyProtocol { optional: Some(true) }), _) => Some(ProxyPresence::Optional),
            (Some(_), _) | (None, Some(true)) => Some(ProxyPresence::Required),
            (None, Some(false)) => None,
            (None, None) => return None,
        };
        Some(presence)
    }
}

/// An absent member leaves what edge.toml says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathSettings {
    /// `%2F` and `%5C`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escaped_slashes_action: Option<EscapedSlashesAction>,
    /// `false` merges them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_merge_slashes: Option<bool>,
}

open_enum! {
    pub enum EscapedSlashesAction {
        KeepUnchanged = "KeepUnchanged",
        RejectRequest = "RejectRequest",
        UnescapeAndForward = "UnescapeAndForward",
        UnescapeAndRedirect = "UnescapeAndRedirect",
    }
}

/// PROXY protocol headers from load balancers in front.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientProxyProtocol {
    /// Whether connections without a header are served as well. Absent is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// One of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientIpDetection {
    #[serde(default, rename = "xForwardedFor", skip_serializing_if = "Option::is_none")]
    pub x_forwarded_for: Option<XForwardedFor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_header: Option<ClientIpHeader>,
    /// The address that the connection comes from.
    #[serde(default, rename = "directSourceIP", skip_serializing_if = "Option::is_none")]
    pub direct_source_ip: Option<DirectSourceIp>,
}

/// The first two exclude each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct XForwardedFor {
    /// How many entries of `X-Forwarded-For`, counted from the right, were written by proxies of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_trusted_hops: Option<u32>,
    /// The networks of proxies: the client is the first entry from the right that is in none of them.
    #[serde(default, rename = "trustedCIDRs", skip_serializing_if = "Vec::is_empty")]
    pub trusted_cidrs: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_x_forwarded_for_append: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientIpHeader {
    pub name: String,
    /// Whether a request without an address in it is answered 403. Absent is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_closed: Option<bool>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectSourceIp {}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientConnection {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_limit: Option<ConnectionLimit>,
    /// The most that is buffered of one connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffer_limit: Option<ByteQuantity>,
    /// Of the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_buffer_limit: Option<ByteQuantity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_accept_per_socket_event: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionLimit {
    /// Connections at once, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<u64>,
    /// How long a connection above it is kept before it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close_delay: Option<GepDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connection_duration: Option<GepDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests_per_connection: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_stream_duration: Option<GepDuration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTimeout {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<ClientTcpTimeout>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<ClientHttpTimeout>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTcpTimeout {
    /// A connection of a TCPRoute or TLSRoute without a byte in either direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<GepDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_handshake_timeout: Option<GepDuration>,
    /// Until it is known what a connection speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_inspection_timeout: Option<GepDuration>,
}

/// Zero disables a timeout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientHttpTimeout {
    /// From the start of a request to its last byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_received_timeout: Option<GepDuration>,
    /// From the first to the last byte of its head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_headers_received_timeout: Option<GepDuration>,
    /// A connection without a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<GepDuration>,
    /// A request or its answer without a byte in either direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_idle_timeout: Option<GepDuration>,
}

/// Of what clients send and get; see the rooms of docs for each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientHeaders {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_envoy_headers: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_rate_limit_headers: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x_forwarded_client_cert: Option<XForwardedClientCert>,
    /// Absent is RejectRequest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_underscores_action: Option<UnderscoresAction>,
    /// The older form of `requestID: PreserveOrGenerate`; not together with it.
    #[serde(default, rename = "preserveXRequestID", skip_serializing_if = "Option::is_none")]
    pub preserve_x_request_id: Option<bool>,
    /// Absent is Generate.
    #[serde(default, rename = "requestID", skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestIdAction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_request_headers: Option<HeaderEdits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_response_headers: Option<HeaderEdits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostSettings>,
    /// 1Ki to 8192Ki; absent is 60Ki.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_request_header_limit: Option<ByteQuantity>,
}

open_enum! {
    pub enum UnderscoresAction { Allow = "Allow", RejectRequest = "RejectRequest", DropHeader = "DropHeader" }
}

open_enum! {
    pub enum RequestIdAction {
        PreserveOrGenerate = "PreserveOrGenerate",
        Preserve = "Preserve",
        Generate = "Generate",
        Disable = "Disable",
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strip_trailing_host_dot: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct XForwardedClientCert {
    /// Absent is Sanitize.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ClientCertForwarding>,
    /// With AppendForward and SanitizeSet; at most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cert_details_to_add: Vec<ClientCertDetail>,
}

open_enum! {
    pub enum ClientCertForwarding {
        Sanitize = "Sanitize",
        ForwardOnly = "ForwardOnly",
        AppendForward = "AppendForward",
        SanitizeSet = "SanitizeSet",
        AlwaysForwardOnly = "AlwaysForwardOnly",
    }
}

open_enum! {
    pub enum ClientCertDetail { Subject = "Subject", Cert = "Cert", Chain = "Chain", Dns = "DNS", Uri = "URI" }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Http1Settings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_trailers: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preserve_header_case: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http10: Option<Http10Settings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_safe_max_connection_duration: Option<bool>,
    /// Values of `Upgrade` that are taken away instead of being refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_upgrade_types: Vec<StringMatch>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Http10Settings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_default_host: Option<bool>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http3Settings {}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrpcSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_web: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerHealthCheck {
    /// Requests for it are answered 200, on any host.
    pub path: String,
}

open_enum! {
    pub enum SchemeTransform { Preserve = "Preserve", MatchBackend = "MatchBackend" }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTls {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_validation: Option<ClientCertValidation>,
    /// Absent is 1.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version: Option<TlsVersion>,
    /// Absent is 1.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_version: Option<TlsVersion>,
    /// Of TLS 1.2, by OpenSSL's or IANA's names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ciphers: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ecdh_curves: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signature_algorithms: Vec<String>,
    /// Absent: `h2` and `http/1.1`; empty: ALPN is not spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpn_protocols: Option<Vec<AlpnProtocol>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fingerprints: Vec<TlsFingerprint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<TlsSession>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsSession {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumption: Option<TlsResumption>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsResumption {
    /// By tickets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stateless: Option<StatelessResumption>,
    /// By session ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stateful: Option<StatefulResumption>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatelessResumption {}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatefulResumption {}

/// Which certificates clients have to show.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertValidation {
    /// The older form of mode VerifyIfGiven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// Absent is RequireAndVerify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ClientValidationType>,
    /// ConfigMaps and Secrets with the key `ca.crt`; at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ca_certificate_refs: Vec<SecretRef>,
    /// SHA-256 of the public key, in base64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spki_hashes: Vec<String>,
    /// SHA-256 of the certificate, in hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificate_hashes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_alt_names: Option<SubjectAltNameMatches>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl: Option<RevocationList>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_expired_certificate: Option<bool>,
}

open_enum! {
    pub enum ClientValidationType {
        Request = "Request",
        RequireAny = "RequireAny",
        VerifyIfGiven = "VerifyIfGiven",
        RequireAndVerify = "RequireAndVerify",
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevocationList {
    /// ConfigMaps and Secrets with the key `ca.crl`; 1 to 8.
    pub refs: Vec<SecretRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_verify_leaf_certificate: Option<bool>,
}

/// One of all matches is enough.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubjectAltNameMatches {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<StringMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub email_addresses: Vec<StringMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_addresses: Vec<StringMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uris: Vec<StringMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_names: Vec<OtherNameMatch>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OtherNameMatch {
    pub oid: String,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<super::StringMatchType>,
    pub value: String,
}
