//! Everything that [`compile`](crate::compile) may look at. Sources fill it; nothing in it is a clock, a socket or a
//! private key, so two equal `Inputs` mean the same configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::issuer::CertManager;
use crate::manifest::AnyObject;
use crate::names::{Kind, ObjectKey, ObjectRef};
pub use crate::objects::Objects;
use crate::problem::Origin;
use crate::settings::Settings;
use crate::{certmanager, core, envoy, gateway, metallb, nginx};

/// What every object carries beside its spec.
#[derive(Debug, Clone, PartialEq)]
pub struct Meta {
    pub key: ObjectKey,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// 1 for files, which have no API server to count.
    pub generation: i64,
    /// Absent in files, where precedence falls to the name.
    pub created: Option<Created>,
    pub origin: Origin,
}

impl Meta {
    /// Whether an API server is the source, so that there is something to write to. Files have lines.
    pub fn is_served(&self) -> bool {
        self.origin.line == 0
    }
}

/// When an object was created: `metav1.Time`, which is RFC 3339 in UTC with whole seconds. Its digits are held as one number,
/// so that the order of numbers is that of times, and the many objects of an API server take little room.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Created(NonZeroU64);

impl Created {
    /// `None`: not a time as the API server writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let form = b"0000-00-00T00:00:00Z";
        let mut digits = 0_u64;
        for (byte, form) in text.bytes().zip(form) {
            match (form, byte) {
                (b'0', b'0'..=b'9') => digits = digits * 10 + u64::from(byte - b'0'),
                _ if byte == *form => {}
                _ => return None,
            }
        }
        let is_whole = text.len() == form.len();
        NonZeroU64::new(digits).filter(|_| is_whole).map(Self)
    }
}

impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.get();
        let mut next = |by: u64| {
            let digits = rest / by;
            rest %= by;
            digits
        };
        write!(f, "{:04}-{:02}-{:02}", next(10_000_000_000), next(100_000_000), next(1_000_000))?;
        write!(f, "T{:02}:{:02}:{:02}Z", next(10_000), next(100), next(1))
    }
}

impl fmt::Debug for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One object as a source delivered it: decoded, defaulted, valid by its schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Object<T> {
    pub meta: Meta,
    pub spec: T,
}

#[derive(Debug, Clone, Default)]
pub struct Inputs {
    pub settings: Arc<Settings>,
    pub gateway_classes: Objects<gateway::GatewayClassSpec>,
    pub gateways: Objects<gateway::GatewaySpec>,
    pub listener_sets: Objects<gateway::ListenerSetSpec>,
    pub http_routes: Objects<gateway::HttpRouteSpec>,
    pub grpc_routes: Objects<gateway::GrpcRouteSpec>,
    pub tls_routes: Objects<gateway::TlsRouteSpec>,
    pub tcp_routes: Objects<gateway::L4RouteSpec>,
    pub udp_routes: Objects<gateway::L4RouteSpec>,
    pub reference_grants: Objects<gateway::ReferenceGrantSpec>,
    pub backend_tls_policies: Objects<gateway::BackendTlsPolicySpec>,
    pub namespaces: Objects<core::NamespaceSpec>,
    pub services: Objects<core::ServiceSpec>,
    pub endpoint_slices: Objects<core::EndpointSlice>,
    pub secrets: Objects<core::Secret>,
    pub config_maps: Objects<core::ConfigMap>,
    pub nodes: Objects<core::Node>,
    pub issuers: Objects<certmanager::IssuerSpec>,
    pub cluster_issuers: Objects<certmanager::IssuerSpec>,
    pub certificates: Objects<certmanager::CertificateSpec>,
    pub address_pools: Objects<metallb::IpAddressPoolSpec>,
    pub l2_advertisements: Objects<metallb::L2AdvertisementSpec>,
    pub bgp_peers: Objects<metallb::BgpPeerSpec>,
    pub bgp_advertisements: Objects<metallb::BgpAdvertisementSpec>,
    pub communities: Objects<metallb::CommunitySpec>,
    pub bfd_profiles: Objects<metallb::BfdProfileSpec>,
    pub client_traffic_policies: Objects<envoy::ClientTrafficPolicySpec>,
    pub backend_traffic_policies: Objects<envoy::BackendTrafficPolicySpec>,
    pub security_policies: Objects<envoy::SecurityPolicySpec>,
    pub envoy_proxies: Objects<envoy::EnvoyProxySpec>,
    pub backends: Objects<envoy::BackendSpec>,
    pub upstream_settings_policies: Objects<nginx::UpstreamSettingsPolicySpec>,
    pub http_route_filters: Objects<envoy::HttpRouteFilterSpec>,
    pub client_settings_policies: Objects<nginx::ClientSettingsPolicySpec>,
    pub proxy_settings_policies: Objects<nginx::ProxySettingsPolicySpec>,
    pub rate_limit_policies: Objects<nginx::RateLimitPolicySpec>,
    pub authentication_filters: Objects<nginx::AuthenticationFilterSpec>,
    pub snippets_filters: Objects<nginx::SnippetsFilterSpec>,
    pub snippets_policies: Objects<nginx::SnippetsPolicySpec>,
    /// Addresses given out before, from the store: a VIP never moves by itself. Keyed by Gateway and Service.
    pub assigned: BTreeMap<ObjectRef, Vec<IpAddr>>,
    /// Addresses that the status of a Gateway or Service shows at the API server: given out by another edge, or by who
    /// had the object before. They count before `assigned`, so that all edges agree, and are taken as long as the
    /// object may have them. Always empty for files.
    pub published: BTreeMap<ObjectRef, Vec<IpAddr>>,
    /// Objects that a source saw but could not use, with the reason: a reference to one of them is refused for that
    /// reason instead of "not found".
    pub unusable: BTreeMap<ObjectRef, String>,
    /// Objects whose newest version is of no use, so that the one before it serves and is the one that is here.
    pub outdated: BTreeMap<ObjectRef, Outdated>,
    /// cert-manager, while it is alive (its Lease is renewed): then it issues what is its own. `None`: it is not there,
    /// not alive, or no cluster is read.
    pub cert_manager: Option<CertManager>,
}

/// Why an object serves in its last good version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outdated {
    /// What is wrong with the newest version.
    pub reason: String,
    /// When the first of its useless versions was seen: RFC 3339 in UTC, whole seconds.
    pub since: String,
}

impl fmt::Display for Outdated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; its last good version is served since {}", self.reason, self.since)
    }
}

/// A map of fewer objects is not worth putting together anew.
const MANY: usize = 500;

/// Calls a macro with every kind and its place.
macro_rules! places {
    ($each:ident) => {
        $each! {
            GatewayClass => gateway_classes, Gateway => gateways, ListenerSet => listener_sets,
            HTTPRoute => http_routes, GRPCRoute => grpc_routes, TLSRoute => tls_routes,
            TCPRoute => tcp_routes, UDPRoute => udp_routes, ReferenceGrant => reference_grants,
            BackendTLSPolicy => backend_tls_policies, Namespace => namespaces, Service => services,
            EndpointSlice => endpoint_slices, Secret => secrets, ConfigMap => config_maps, Node => nodes,
            Issuer => issuers, ClusterIssuer => cluster_issuers, Certificate => certificates,
            IPAddressPool => address_pools, L2Advertisement => l2_advertisements, BGPPeer => bgp_peers,
            BGPAdvertisement => bgp_advertisements, Community => communities, BFDProfile => bfd_profiles,
            ClientTrafficPolicy => client_traffic_policies, BackendTrafficPolicy => backend_traffic_policies,
            SecurityPolicy => security_policies, EnvoyProxy => envoy_proxies, Backend => backends,
            UpstreamSettingsPolicy => upstream_settings_policies,
            HTTPRouteFilter => http_route_filters,
            ClientSettingsPolicy => client_settings_policies,
            ProxySettingsPolicy => proxy_settings_policies,
            RateLimitPolicy => rate_limit_policies,
            AuthenticationFilter => authentication_filters,
            SnippetsFilter => snippets_filters,
            SnippetsPolicy => snippets_policies,
        }
    };
}

impl Inputs {
    /// Whether both hold the very same objects: what a source did not decode again is the same `Arc`. `false` says
    /// nothing.
    pub fn is_identical(&self, other: &Self) -> bool {
        // Without `..`, so that a new kind of object is thought of here.
        let Self {
            settings,
            gateway_classes,
            gateways,
            listener_sets,
            http_routes,
            grpc_routes,
            tls_routes,
            tcp_routes,
            udp_routes,
            reference_grants,
            backend_tls_policies,
            namespaces,
            services,
            endpoint_slices,
            secrets,
            config_maps,
            nodes,
            issuers,
            cluster_issuers,
            certificates,
            address_pools,
            l2_advertisements,
            bgp_peers,
            bgp_advertisements,
            communities,
            bfd_profiles,
            client_traffic_policies,
            backend_traffic_policies,
            security_policies,
            envoy_proxies,
            backends,
            upstream_settings_policies,
            http_route_filters,
            client_settings_policies,
            proxy_settings_policies,
            rate_limit_policies,
            authentication_filters,
            snippets_filters,
            snippets_policies,
            assigned,
            published,
            unusable,
            outdated,
            cert_manager,
        } = self;
        Arc::ptr_eq(settings, &other.settings)
            && gateway_classes.is_identical(&other.gateway_classes)
            && gateways.is_identical(&other.gateways)
            && listener_sets.is_identical(&other.listener_sets)
            && http_routes.is_identical(&other.http_routes)
            && grpc_routes.is_identical(&other.grpc_routes)
            && tls_routes.is_identical(&other.tls_routes)
            && tcp_routes.is_identical(&other.tcp_routes)
            && udp_routes.is_identical(&other.udp_routes)
            && reference_grants.is_identical(&other.reference_grants)
            && backend_tls_policies.is_identical(&other.backend_tls_policies)
            && namespaces.is_identical(&other.namespaces)
            && services.is_identical(&other.services)
            && endpoint_slices.is_identical(&other.endpoint_slices)
            && secrets.is_identical(&other.secrets)
            && config_maps.is_identical(&other.config_maps)
            && nodes.is_identical(&other.nodes)
            && issuers.is_identical(&other.issuers)
            && cluster_issuers.is_identical(&other.cluster_issuers)
            && certificates.is_identical(&other.certificates)
            && address_pools.is_identical(&other.address_pools)
            && l2_advertisements.is_identical(&other.l2_advertisements)
            && bgp_peers.is_identical(&other.bgp_peers)
            && bgp_advertisements.is_identical(&other.bgp_advertisements)
            && communities.is_identical(&other.communities)
            && bfd_profiles.is_identical(&other.bfd_profiles)
            && client_traffic_policies.is_identical(&other.client_traffic_policies)
            && backend_traffic_policies.is_identical(&other.backend_traffic_policies)
            && security_policies.is_identical(&other.security_policies)
            && envoy_proxies.is_identical(&other.envoy_proxies)
            && backends.is_identical(&other.backends)
            && upstream_settings_policies.is_identical(&other.upstream_settings_policies)
            && http_route_filters.is_identical(&other.http_route_filters)
            && client_settings_policies.is_identical(&other.client_settings_policies)
            && proxy_settings_policies.is_identical(&other.proxy_settings_policies)
            && rate_limit_policies.is_identical(&other.rate_limit_policies)
            && authentication_filters.is_identical(&other.authentication_filters)
            && snippets_filters.is_identical(&other.snippets_filters)
            && snippets_policies.is_identical(&other.snippets_policies)
            && *assigned == other.assigned
            && *published == other.published
            && *unusable == other.unusable
            && *outdated == other.outdated
            && *cert_manager == other.cert_manager
    }

    /// The metadata of an object of any kind.
    pub fn meta(&self, object: &ObjectRef) -> Option<&Meta> {
        macro_rules! look {
            ($($kind:ident => $field:ident),* $(,)?) => {
                match object.kind {
                    $(Kind::$kind => self.$field.get(&object.key).map(|found| &found.meta),)*
                }
            };
        }
        places!(look)
    }

    /// Takes an object of any kind away.
    pub fn remove(&mut self, object: &ObjectRef) {
        macro_rules! take {
            ($($kind:ident => $field:ident),* $(,)?) => {
                match object.kind {
                    $(Kind::$kind => drop(self.$field.remove(&object.key)),)*
                }
            };
        }
        places!(take);
    }

    /// Puts the maps of objects together anew, where many objects came at once.
    pub fn pack(&mut self) {
        macro_rules! pack {
            ($($kind:ident => $field:ident),* $(,)?) => {$(
                if self.$field.len() > MANY {
                    self.$field.pack();
                }
            )*};
        }
        places!(pack);
    }

    /// All objects of a kind, in their order.
    pub fn of_kind(&self, kind: Kind) -> Vec<AnyObject> {
        macro_rules! list {
            ($($kind:ident => $field:ident),* $(,)?) => {
                match kind {
                    $(Kind::$kind => self.$field.values().cloned().map(AnyObject::$kind).collect(),)*
                }
            };
        }
        places!(list)
    }

    /// Whether both hold the very same objects of a kind: shared, not only equal.
    pub fn shares_kind(&self, other: &Self, kind: Kind) -> bool {
        macro_rules! compare {
            ($($kind:ident => $field:ident),* $(,)?) => {
                match kind {
                    $(Kind::$kind => self.$field.is_identical(&other.$field),)*
                }
            };
        }
        places!(compare)
    }

    /// Takes all objects of a kind as another has them.
    pub fn share_kind(&mut self, other: &Self, kind: Kind) {
        macro_rules! share {
            ($($kind:ident => $field:ident),* $(,)?) => {
                match kind {
                    $(Kind::$kind => self.$field = other.$field.clone(),)*
                }
            };
        }
        places!(share)
    }

    /// Puts the objects of another source over these; returns those that were here, too. Settings, assignments and
    /// unusable objects stay as they are.
    pub fn overlay(&mut self, over: &Self) -> Vec<ObjectRef> {
        let mut twice = Vec::new();
        macro_rules! put {
            ($($kind:ident => $field:ident),* $(,)?) => {$(
                for (key, object) in &over.$field {
                    if self.$field.insert(key.clone(), Arc::clone(object)).is_some() {
                        twice.push(ObjectRef::new(Kind::$kind, key.clone()));
                    }
                }
            )*};
        }
        places!(put);
        twice
    }
}

#[cfg(test)]
mod tests {
    use super::Created;

    #[test]
    fn times_of_creation() {
        for text in ["2026-01-02T03:04:05Z", "0000-00-00T00:00:01Z", "9999-12-31T23:59:59Z"] {
            assert_eq!(Created::parse(text).unwrap().to_string(), text);
        }
        for text in
            ["", "2026-01-02T03:04:05", "2026-01-02T03:04:05.5Z", "2026-01-02 03:04:05Z", "0000-00-00T00:00:00Z"]
        {
            assert_eq!(Created::parse(text), None, "{text}");
        }
        let times = ["2025-12-31T23:59:59Z", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", "2026-10-01T00:00:00Z"];
        assert!(times.map(Created::parse).is_sorted());
    }
}
