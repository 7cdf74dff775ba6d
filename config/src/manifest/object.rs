//! One object of any kind, and the table of kinds: where each goes in `Inputs` and how its files are checked.

use std::sync::Arc;

use crate::inputs::{Inputs, Meta, Object};
use crate::names::{Kind, ObjectRef};
use crate::problem::Origin;
use crate::validate::{self, Faults};
use crate::yaml::{DecodeError, Node, Unknown, decode};
use crate::{certmanager, core, envoy, gateway, metallb, nginx};

macro_rules! kinds {
    ($($kind:ident => $field:ident, $spec:ty, $place:ident, $check:path;)*) => {
        /// An object of any kind, ready for [`Inputs`].
        #[derive(Debug, Clone, PartialEq)]
        pub enum AnyObject {
            $($kind(Arc<Object<$spec>>),)*
            Secret(Arc<Object<core::Secret>>),
            ConfigMap(Arc<Object<core::ConfigMap>>),
        }

        impl AnyObject {
            pub fn meta(&self) -> &Meta {
                match self {
                    $(Self::$kind(object) => &object.meta,)*
                    Self::Secret(object) => &object.meta,
                    Self::ConfigMap(object) => &object.meta,
                }
            }

            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)*
                    Self::Secret(_) => Kind::Secret,
                    Self::ConfigMap(_) => Kind::ConfigMap,
                }
            }

            /// Puts the object in its place, where nothing of that name may be yet: the earlier one stays.
            pub fn insert(self, inputs: &mut Inputs) {
                match self {
                    $(Self::$kind(object) => {
                        inputs.$field.entry(object.meta.key.clone()).or_insert(object);
                    })*
                    Self::Secret(object) => {
                        inputs.secrets.entry(object.meta.key.clone()).or_insert(object);
                    }
                    Self::ConfigMap(object) => {
                        inputs.config_maps.entry(object.meta.key.clone()).or_insert(object);
                    }
                }
            }

            /// Puts the object in its place, whatever was there.
            pub fn put(self, inputs: &mut Inputs) {
                match self {
                    $(Self::$kind(object) => drop(inputs.$field.insert(object.meta.key.clone(), object)),)*
                    Self::Secret(object) => drop(inputs.secrets.insert(object.meta.key.clone(), object)),
                    Self::ConfigMap(object) => drop(inputs.config_maps.insert(object.meta.key.clone(), object)),
                }
            }

            /// Whether both are the very same object: shared, not only equal.
            pub fn is_identical(&self, other: &Self) -> bool {
                match (self, other) {
                    $((Self::$kind(one), Self::$kind(other)) => Arc::ptr_eq(one, other),)*
                    (Self::Secret(one), Self::Secret(other)) => Arc::ptr_eq(one, other),
                    (Self::ConfigMap(one), Self::ConfigMap(other)) => Arc::ptr_eq(one, other),
                    _ => false,
                }
            }

            /// What a manifest says beside kind and metadata. Of Secrets and ConfigMaps that is not known here: empty.
            pub fn body(&self) -> serde_json::Result<serde_json::Value> {
                match self {
                    $(Self::$kind(object) => kinds!(@write $place &object.spec),)*
                    Self::Secret(_) | Self::ConfigMap(_) => Ok(serde_json::Value::Object(serde_json::Map::new())),
                }
            }

            /// The same object found at another place.
            pub fn moved_to(&mut self, origin: Origin) {
                match self {
                    $(Self::$kind(object) => Arc::make_mut(object).meta.origin = origin,)*
                    Self::Secret(object) => Arc::make_mut(object).meta.origin = origin,
                    Self::ConfigMap(object) => Arc::make_mut(object).meta.origin = origin,
                }
            }
        }

        /// Decodes what follows the metadata. `None` for the two kinds that need a source's help.
        pub(super) fn decode_spec(kind: Kind, root: &Node<'_>, meta: Meta) -> Option<Decoded> {
            match kind {
                $(Kind::$kind => {
                    let (result, unknown) = kinds!(@$place root, $spec);
                    let mut faults = Faults::default();
                    let result = result.map(|spec| {
                        $check(&spec, &mut faults);
                        AnyObject::$kind(Arc::new(Object { meta, spec }))
                    });
                    Some(Decoded { result, unknown, faults })
                })*
                Kind::Secret | Kind::ConfigMap => None,
            }
        }
    };
    (@write body $spec:expr) => {
        serde_json::to_value($spec)
    };
    (@write $place:ident $spec:expr) => {
        serde_json::to_value($spec).map(|spec| serde_json::json!({ "spec": spec }))
    };
    (@spec $root:ident, $spec:ty) => {
        match $root.member("spec") {
            Some(node) => decode::<$spec>(node, "spec", &[]),
            None => (Err(serde::de::Error::missing_field("spec")), Vec::new()),
        }
    };
    (@optional $root:ident, $spec:ty) => {
        match $root.member("spec") {
            Some(node) if node.value != crate::yaml::Value::Null => decode::<$spec>(node, "spec", &[]),
            _ => (Ok(<$spec>::default()), Vec::new()),
        }
    };
    (@body $root:ident, $spec:ty) => {
        decode::<$spec>($root, "", &["apiVersion", "kind", "metadata"])
    };
}

/// The outcome of decoding one object's own part.
pub(super) struct Decoded {
    pub(super) result: Result<AnyObject, DecodeError>,
    pub(super) unknown: Vec<Unknown>,
    pub(super) faults: Faults,
}

kinds! {
    GatewayClass => gateway_classes, gateway::GatewayClassSpec, spec, validate::gateway_class;
    Gateway => gateways, gateway::GatewaySpec, spec, validate::gateway;
    ListenerSet => listener_sets, gateway::ListenerSetSpec, spec, validate::listener_set;
    HTTPRoute => http_routes, gateway::HttpRouteSpec, spec, validate::http_route;
    GRPCRoute => grpc_routes, gateway::GrpcRouteSpec, spec, validate::grpc_route;
    TLSRoute => tls_routes, gateway::TlsRouteSpec, spec, validate::tls_route;
    TCPRoute => tcp_routes, gateway::L4RouteSpec, spec, validate::l4_route;
    UDPRoute => udp_routes, gateway::L4RouteSpec, spec, validate::l4_route;
    ReferenceGrant => reference_grants, gateway::ReferenceGrantSpec, spec, validate::reference_grant;
    BackendTLSPolicy => backend_tls_policies, gateway::BackendTlsPolicySpec, spec, validate::backend_tls_policy;
    Namespace => namespaces, core::NamespaceSpec, optional, validate::nothing;
    Service => services, core::ServiceSpec, spec, validate::service;
    EndpointSlice => endpoint_slices, core::EndpointSlice, body, validate::endpoint_slice;
    Node => nodes, core::Node, body, validate::nothing;
    Issuer => issuers, certmanager::IssuerSpec, spec, validate::issuer;
    ClusterIssuer => cluster_issuers, certmanager::IssuerSpec, spec, validate::issuer;
    Certificate => certificates, certmanager::CertificateSpec, spec, validate::certificate;
    IPAddressPool => address_pools, metallb::IpAddressPoolSpec, spec, validate::address_pool;
    L2Advertisement => l2_advertisements, metallb::L2AdvertisementSpec, optional, validate::l2_advertisement;
    BGPPeer => bgp_peers, metallb::BgpPeerSpec, spec, validate::bgp_peer;
    BGPAdvertisement => bgp_advertisements, metallb::BgpAdvertisementSpec, optional, validate::bgp_advertisement;
    Community => communities, metallb::CommunitySpec, optional, validate::community;
    BFDProfile => bfd_profiles, metallb::BfdProfileSpec, optional, validate::bfd_profile;
    ClientTrafficPolicy => client_traffic_policies, envoy::ClientTrafficPolicySpec, spec, validate::client_traffic_policy;
    BackendTrafficPolicy => backend_traffic_policies, envoy::BackendTrafficPolicySpec, spec, validate::backend_traffic_policy;
    SecurityPolicy => security_policies, envoy::SecurityPolicySpec, spec, validate::nothing;
    EnvoyProxy => envoy_proxies, envoy::EnvoyProxySpec, optional, validate::nothing;
    Backend => backends, envoy::BackendSpec, spec, validate::backend;
    UpstreamSettingsPolicy => upstream_settings_policies, nginx::UpstreamSettingsPolicySpec, spec, validate::upstream_settings_policy;
    HTTPRouteFilter => http_route_filters, envoy::HttpRouteFilterSpec, spec, validate::http_route_filter;
    ClientSettingsPolicy => client_settings_policies, nginx::ClientSettingsPolicySpec, spec, validate::client_settings_policy;
    ProxySettingsPolicy => proxy_settings_policies, nginx::ProxySettingsPolicySpec, spec, validate::proxy_settings_policy;
    RateLimitPolicy => rate_limit_policies, nginx::RateLimitPolicySpec, spec, validate::rate_limit_policy;
    AuthenticationFilter => authentication_filters, nginx::AuthenticationFilterSpec, spec, validate::authentication_filter;
    SnippetsFilter => snippets_filters, nginx::SnippetsFilterSpec, spec, validate::snippets_filter;
    SnippetsPolicy => snippets_policies, nginx::SnippetsPolicySpec, spec, validate::snippets_policy;
}

impl AnyObject {
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::new(self.kind(), self.meta().key.clone())
    }

    /// Why the policy for which it only stands cannot be read.
    pub fn unreadable(&self) -> Option<&str> {
        match self {
            Self::SecurityPolicy(policy) => policy.spec.unreadable.as_deref(),
            Self::ClientTrafficPolicy(policy) => policy.spec.unreadable.as_deref(),
            _ => None,
        }
    }
}
