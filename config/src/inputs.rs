//! Everything that [`compile`](crate::compile) may look at. Sources fill it; nothing in it is a clock, a socket or a
//! private key, so two equal `Inputs` mean the same configuration.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::manifest::AnyObject;
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::problem::Origin;
use crate::settings::Settings;
use crate::{certmanager, core, envoy, gateway, metallb};

/// What every object carries beside its spec.
#[derive(Debug, Clone, PartialEq)]
pub struct Meta {
    pub key: ObjectKey,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// 1 for files, which have no API server to count.
    pub generation: i64,
    /// RFC 3339 in UTC, so that text order is time order; absent in files, where precedence falls to the name.
    pub created: Option<String>,
    pub origin: Origin,
}

/// One object as a source delivered it: decoded, defaulted, valid by its schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Object<T> {
    pub meta: Meta,
    pub spec: T,
}

/// All objects of one kind, in the order of namespace and name.
pub type Objects<T> = BTreeMap<ObjectKey, Arc<Object<T>>>;

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
    /// Addresses given out before, from the store: a VIP never moves by itself. Keyed by Gateway and Service.
    pub assigned: BTreeMap<ObjectRef, Vec<IpAddr>>,
    /// Addresses that the status of a Gateway or Service shows at the API server: given out by another edge, or by who
    /// had the object before. They count before `assigned`, so that all edges agree, and are taken as long as the
    /// object may have them. Always empty for files.
    pub published: BTreeMap<ObjectRef, Vec<IpAddr>>,
    /// Objects that a source saw but could not use, with the reason: a reference to one of them is refused for that
    /// reason instead of "not found".
    pub unusable: BTreeMap<ObjectRef, String>,
}

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
            assigned,
            published,
            unusable,
        } = self;
        Arc::ptr_eq(settings, &other.settings)
            && are_identical(gateway_classes, &other.gateway_classes)
            && are_identical(gateways, &other.gateways)
            && are_identical(listener_sets, &other.listener_sets)
            && are_identical(http_routes, &other.http_routes)
            && are_identical(grpc_routes, &other.grpc_routes)
            && are_identical(tls_routes, &other.tls_routes)
            && are_identical(tcp_routes, &other.tcp_routes)
            && are_identical(udp_routes, &other.udp_routes)
            && are_identical(reference_grants, &other.reference_grants)
            && are_identical(backend_tls_policies, &other.backend_tls_policies)
            && are_identical(namespaces, &other.namespaces)
            && are_identical(services, &other.services)
            && are_identical(endpoint_slices, &other.endpoint_slices)
            && are_identical(secrets, &other.secrets)
            && are_identical(config_maps, &other.config_maps)
            && are_identical(nodes, &other.nodes)
            && are_identical(issuers, &other.issuers)
            && are_identical(cluster_issuers, &other.cluster_issuers)
            && are_identical(certificates, &other.certificates)
            && are_identical(address_pools, &other.address_pools)
            && are_identical(l2_advertisements, &other.l2_advertisements)
            && are_identical(bgp_peers, &other.bgp_peers)
            && are_identical(bgp_advertisements, &other.bgp_advertisements)
            && are_identical(communities, &other.communities)
            && are_identical(bfd_profiles, &other.bfd_profiles)
            && are_identical(client_traffic_policies, &other.client_traffic_policies)
            && are_identical(backend_traffic_policies, &other.backend_traffic_policies)
            && are_identical(security_policies, &other.security_policies)
            && are_identical(envoy_proxies, &other.envoy_proxies)
            && are_identical(backends, &other.backends)
            && *assigned == other.assigned
            && *published == other.published
            && *unusable == other.unusable
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
                    $(Kind::$kind => {
                        self.$field.len() == other.$field.len()
                            && self.$field.values().zip(other.$field.values()).all(|(a, b)| Arc::ptr_eq(a, b))
                    })*
                }
            };
        }
        places!(compare)
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

fn are_identical<T>(a: &Objects<T>, b: &Objects<T>) -> bool {
    a.len() == b.len() && a.values().zip(b.values()).all(|(a, b)| Arc::ptr_eq(a, b))
}
