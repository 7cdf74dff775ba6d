//! The names of things: hosts, objects, certificates. Parsed once, valid for ever after.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A DNS host name: lower case, 1 to 253 characters, labels of 1 to 63 letters, digits and inner hyphens
/// (RFC 1123 §2.1). Never a wildcard and never an IP address. A clone shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Hostname(Arc<str>);

/// Why a text is no host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    #[error("is empty")]
    Empty,
    #[error("is longer than 253 characters")]
    TooLong,
    #[error("has an empty label or one longer than 63 characters")]
    Label,
    #[error("has a character other than lower-case letters, digits, '-' and '.'")]
    Character,
    #[error("has a label that starts or ends with '-'")]
    Hyphen,
    #[error("is an IP address, expected a DNS name")]
    Address,
    #[error("has '*' in a place other than the whole first label")]
    Wildcard,
}

impl Hostname {
    pub fn parse(text: &str) -> Result<Self, HostnameError> {
        if text.is_empty() {
            return Err(HostnameError::Empty);
        }
        if text.len() > 253 {
            return Err(HostnameError::TooLong);
        }
        if text.parse::<std::net::IpAddr>().is_ok() {
            return Err(HostnameError::Address);
        }
        for label in text.split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err(HostnameError::Label);
            }
            if label.contains('*') {
                return Err(HostnameError::Wildcard);
            }
            if !label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
                return Err(HostnameError::Character);
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(HostnameError::Hyphen);
            }
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text itself, for a key that shares it.
    pub(crate) fn into_text(self) -> Arc<str> {
        self.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What a listener or a route says about hosts: nothing, one name, or every name below a suffix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    Any,
    /// `*.example.com` holds `example.com`: it matches every name with at least one more label.
    Wildcard(Hostname),
    Exact(Hostname),
}

impl HostPattern {
    /// Parses a Gateway API `Hostname`; absent or empty is [`HostPattern::Any`].
    pub fn parse(text: Option<&str>) -> Result<Self, HostnameError> {
        match text {
            None | Some("") => Ok(Self::Any),
            Some(text) => match text.strip_prefix("*.") {
                Some(suffix) => Ok(Self::Wildcard(Hostname::parse(suffix)?)),
                None => Ok(Self::Exact(Hostname::parse(text)?)),
            },
        }
    }

    /// Whether a concrete lower-case host, without a port, falls under this pattern.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => name.as_str() == host,
            Self::Wildcard(suffix) => is_below(host, suffix.as_str()),
        }
    }

    /// The pattern that matches exactly what both match, or `None` when that is nothing. Gateway API: a route host
    /// outside its listener's host "is not considered for a match"; the narrower of two overlapping patterns serves.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, narrow) | (narrow, Self::Any) => Some(narrow.clone()),
            (Self::Exact(a), Self::Exact(b)) => (a == b).then(|| self.clone()),
            (Self::Exact(name), wide @ Self::Wildcard(_)) | (wide @ Self::Wildcard(_), Self::Exact(name)) => {
                wide.matches(name.as_str()).then(|| Self::Exact(name.clone()))
            }
            (Self::Wildcard(a), Self::Wildcard(b)) => {
                if a == b || is_below(a.as_str(), b.as_str()) {
                    Some(self.clone())
                } else if is_below(b.as_str(), a.as_str()) {
                    Some(other.clone())
                } else {
                    None
                }
            }
        }
    }
}

fn is_below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix).and_then(|head| head.strip_suffix('.')).is_some_and(|head| !head.is_empty())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => name.fmt(f),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Every kind of object that Edge reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    GatewayClass,
    Gateway,
    ListenerSet,
    HTTPRoute,
    GRPCRoute,
    TLSRoute,
    TCPRoute,
    UDPRoute,
    ReferenceGrant,
    BackendTLSPolicy,
    Namespace,
    Service,
    EndpointSlice,
    Secret,
    ConfigMap,
    Node,
    Issuer,
    ClusterIssuer,
    Certificate,
    IPAddressPool,
    L2Advertisement,
    BGPPeer,
    BGPAdvertisement,
    Community,
    BFDProfile,
    ClientTrafficPolicy,
    BackendTrafficPolicy,
    SecurityPolicy,
    EnvoyProxy,
    Backend,
    UpstreamSettingsPolicy,
    HTTPRouteFilter,
    ClientSettingsPolicy,
    ProxySettingsPolicy,
    RateLimitPolicy,
    AuthenticationFilter,
    SnippetsFilter,
    SnippetsPolicy,
}

impl Kind {
    pub const ALL: [Self; 38] = [
        Self::GatewayClass,
        Self::Gateway,
        Self::ListenerSet,
        Self::HTTPRoute,
        Self::GRPCRoute,
        Self::TLSRoute,
        Self::TCPRoute,
        Self::UDPRoute,
        Self::ReferenceGrant,
        Self::BackendTLSPolicy,
        Self::Namespace,
        Self::Service,
        Self::EndpointSlice,
        Self::Secret,
        Self::ConfigMap,
        Self::Node,
        Self::Issuer,
        Self::ClusterIssuer,
        Self::Certificate,
        Self::IPAddressPool,
        Self::L2Advertisement,
        Self::BGPPeer,
        Self::BGPAdvertisement,
        Self::Community,
        Self::BFDProfile,
        Self::ClientTrafficPolicy,
        Self::BackendTrafficPolicy,
        Self::SecurityPolicy,
        Self::EnvoyProxy,
        Self::Backend,
        Self::UpstreamSettingsPolicy,
        Self::HTTPRouteFilter,
        Self::ClientSettingsPolicy,
        Self::ProxySettingsPolicy,
        Self::RateLimitPolicy,
        Self::AuthenticationFilter,
        Self::SnippetsFilter,
        Self::SnippetsPolicy,
    ];

    /// The API group; the core group is the empty string.
    pub fn group(self) -> &'static str {
        use Kind::*;
        match self {
            GatewayClass | Gateway | ListenerSet | HTTPRoute | GRPCRoute | TLSRoute | TCPRoute | UDPRoute
            | ReferenceGrant | BackendTLSPolicy => "gateway.networking.k8s.io",
            Namespace | Service | Secret | ConfigMap | Node => "",
            EndpointSlice => "discovery.k8s.io",
            Issuer | ClusterIssuer | Certificate => "cert-manager.io",
            IPAddressPool | L2Advertisement | BGPPeer | BGPAdvertisement | Community | BFDProfile => "metallb.io",
            ClientTrafficPolicy | BackendTrafficPolicy | SecurityPolicy | EnvoyProxy | Backend | HTTPRouteFilter => {
                "gateway.envoyproxy.io"
            }
            UpstreamSettingsPolicy
            | ClientSettingsPolicy
            | ProxySettingsPolicy
            | RateLimitPolicy
            | AuthenticationFilter
            | SnippetsFilter
            | SnippetsPolicy => "gateway.nginx.org",
        }
    }

    /// Cluster-scoped kinds have no namespace; one that a manifest writes all the same is ignored, as the API server does.
    pub fn is_cluster_scoped(self) -> bool {
        matches!(self, Self::GatewayClass | Self::Namespace | Self::Node | Self::ClusterIssuer)
    }

    pub fn as_str(self) -> &'static str {
        use Kind::*;
        match self {
            GatewayClass => "GatewayClass",
            Gateway => "Gateway",
            ListenerSet => "ListenerSet",
            HTTPRoute => "HTTPRoute",
            GRPCRoute => "GRPCRoute",
            TLSRoute => "TLSRoute",
            TCPRoute => "TCPRoute",
            UDPRoute => "UDPRoute",
            ReferenceGrant => "ReferenceGrant",
            BackendTLSPolicy => "BackendTLSPolicy",
            Namespace => "Namespace",
            Service => "Service",
            EndpointSlice => "EndpointSlice",
            Secret => "Secret",
            ConfigMap => "ConfigMap",
            Node => "Node",
            Issuer => "Issuer",
            ClusterIssuer => "ClusterIssuer",
            Certificate => "Certificate",
            IPAddressPool => "IPAddressPool",
            L2Advertisement => "L2Advertisement",
            BGPPeer => "BGPPeer",
            BGPAdvertisement => "BGPAdvertisement",
            Community => "Community",
            BFDProfile => "BFDProfile",
            ClientTrafficPolicy => "ClientTrafficPolicy",
            BackendTrafficPolicy => "BackendTrafficPolicy",
            SecurityPolicy => "SecurityPolicy",
            EnvoyProxy => "EnvoyProxy",
            Backend => "Backend",
            UpstreamSettingsPolicy => "UpstreamSettingsPolicy",
            HTTPRouteFilter => "HTTPRouteFilter",
            ClientSettingsPolicy => "ClientSettingsPolicy",
            ProxySettingsPolicy => "ProxySettingsPolicy",
            RateLimitPolicy => "RateLimitPolicy",
            AuthenticationFilter => "AuthenticationFilter",
            SnippetsFilter => "SnippetsFilter",
            SnippetsPolicy => "SnippetsPolicy",
        }
    }

    /// The kind with this exact name, whatever its group.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The kind with this API group and name.
    pub fn of(group: &str, name: &str) -> Option<Self> {
        Self::named(name).filter(|kind| kind.group() == group)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Namespace and name; the namespace of a cluster-scoped object is empty. One name stands in many places (inputs, rules,
/// reports, series), so a clone shares the text.
#[derive(Debug, Clone, Eq)]
pub struct ObjectKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Whether one is a clone of the other. `false` says nothing; no text is looked at.
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.name, &other.name) && Arc::ptr_eq(&self.namespace, &other.namespace)
    }

    /// `namespace/name`, or `name` for a cluster-scoped object.
    pub fn parse(text: &str) -> Self {
        match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Self::new("", text),
        }
    }
}

/// One version of the configuration is compared with the next, and what did not change shares its text with itself:
/// then the text need not be looked at, which is somewhere else in memory for each name.
impl PartialEq for ObjectKey {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Arc<str>, b: &Arc<str>| Arc::ptr_eq(a, b) || a == b;
        same(&self.name, &other.name) && same(&self.namespace, &other.namespace)
    }
}

impl Hash for ObjectKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.namespace.hash(state);
        self.name.hash(state);
    }
}

/// By namespace, then by name.
impl Ord for ObjectKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let compare = |a: &Arc<str>, b: &Arc<str>| if Arc::ptr_eq(a, b) { Ordering::Equal } else { a.cmp(b) };
        compare(&self.namespace, &other.namespace).then_with(|| compare(&self.name, &other.name))
    }
}

impl PartialOrd for ObjectKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// One object among all kinds; prints as `HTTPRoute shop/cart`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    pub kind: Kind,
    pub key: ObjectKey,
}

impl ObjectRef {
    pub fn new(kind: Kind, key: ObjectKey) -> Self {
        Self { kind, key }
    }

    /// What it prints as, read back.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, key) = text.split_once(' ')?;
        Some(Self::new(Kind::named(kind)?, ObjectKey::parse(key)))
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}
as_text!(ObjectKey);
as_text!(ObjectRef);
as_text!(CertId);

impl<'de> Deserialize<'de> for ObjectKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::parse(&String::deserialize(deserializer)?))
    }
}

/// A certificate is known by the Secret that holds, or will hold, it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertId(pub ObjectKey);

impl fmt::Display for CertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for CertId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ObjectKey::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        HostPattern::parse(Some(text).filter(|text| *text != "*")).unwrap()
    }

    #[test]
    fn hostnames_that_are_none() {
        for (text, error) in [
            ("", HostnameError::Empty),
            ("a..b", HostnameError::Label),
            ("A.example", HostnameError::Character),
            ("a_b.example", HostnameError::Character),
            ("-a.example", HostnameError::Hyphen),
            ("192.0.2.1", HostnameError::Address),
            ("a.*.example", HostnameError::Wildcard),
        ] {
            assert_eq!(Hostname::parse(text), Err(error), "{text}");
        }
        assert_eq!(Hostname::parse(&"a".repeat(64)), Err(HostnameError::Label));
        assert_eq!(Hostname::parse(&"a.".repeat(150)), Err(HostnameError::TooLong));
    }

    #[test]
    fn intersections() {
        for (a, b, both) in [
            ("*", "a.example", Some("a.example")),
            ("*.example", "a.example", Some("a.example")),
            ("*.example", "b.a.example", Some("b.a.example")),
            ("*.example", "example", None),
            ("*.example", "*.a.example", Some("*.a.example")),
            ("*.example", "*.example", Some("*.example")),
            ("*.xample", "*.example", None),
            ("a.example", "b.example", None),
        ] {
            assert_eq!(pattern(a).intersection(&pattern(b)), both.map(pattern), "{a} and {b}");
            assert_eq!(pattern(b).intersection(&pattern(a)), both.map(pattern), "{b} and {a}");
        }
    }

    #[test]
    fn every_kind_is_found_by_group_and_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.group(), kind.as_str()), Some(kind));
            let object = ObjectRef::new(kind, ObjectKey::new("a", "b"));
            assert_eq!(ObjectRef::parse(&object.to_string()), Some(object));
        }
        assert_eq!(Kind::of("example.com", "Gateway"), None);
    }
}
