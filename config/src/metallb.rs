//! MetalLB's kinds: IPAddressPool, L2Advertisement, BGPPeer, BGPAdvertisement, Community, BFDProfile, with the
//! defaults of their CRDs, and what their texts mean.
//! Standards: metallb.io v1beta1, and v1beta2 of BGPPeer.

mod bgp;

use serde::{Deserialize, Serialize};

use crate::gateway::LabelSelector;

pub use bgp::{
    BfdProfileSpec, BgpAdvertisementSpec, BgpPeerSpec, CommunityAlias, CommunitySpec, PresentText, SecretName,
};

/// The annotation with which a Gateway (or Service) names its pool; the older `metallb.universe.tf` spelling counts too.
pub const POOL_ANNOTATIONS: [&str; 2] = ["metallb.io/address-pool", "metallb.universe.tf/address-pool"];
/// The annotation with a comma-separated list of addresses.
pub const ADDRESSES_ANNOTATIONS: [&str; 2] = ["metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"];

/// The annotation with the key under which objects share an address.
pub const SHARING_ANNOTATIONS: [&str; 2] = ["metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"];
/// Written back to a Service: the pool of its addresses.
pub const ALLOCATED_ANNOTATION: &str = "metallb.io/ip-allocated-from-pool";
/// Written back to a Service beside the addresses in its status: the same, so that Edge knows later that they are its own.
pub const WRITTEN_ANNOTATION: &str = "edge.internal/load-balancer-addresses";

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpAddressPoolSpec {
    /// CIDRs and `first-last` ranges, IPv4 or IPv6.
    pub addresses: Vec<String>,
    /// Whether a Gateway that names no pool may get an address of this one.
    #[serde(default = "yes")]
    pub auto_assign: bool,
    /// Leaves out `.0` and `.255`.
    #[serde(default, rename = "avoidBuggyIPs")]
    pub avoid_buggy_ips: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_allocation: Option<ServiceAllocation>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAllocation {
    /// Lower is preferred; 0 or absent comes last.
    #[serde(default)]
    pub priority: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespace_selectors: Vec<LabelSelector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_selectors: Vec<LabelSelector>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct L2AdvertisementSpec {
    #[serde(default, rename = "ipAddressPools", skip_serializing_if = "Vec::is_empty")]
    pub ip_address_pools: Vec<String>,
    #[serde(default, rename = "ipAddressPoolSelectors", skip_serializing_if = "Vec::is_empty")]
    pub ip_address_pool_selectors: Vec<LabelSelector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_selectors: Vec<LabelSelector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_selectors: Vec<LabelSelector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preferred_node_selectors: Vec<PreferredNodes>,
}

/// Nodes that are better than others, by so much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreferredNodes {
    /// 1 to 100.
    pub weight: i32,
    pub preference: LabelSelector,
}
