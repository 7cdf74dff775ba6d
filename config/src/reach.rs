//! How an edge outside of the cluster gets to Pods, as far as objects tell: the routes that lead to them by way of their
//! nodes, and the node ports that stand in for them. What flows in are inputs and endpoints; what flows out is what the
//! actor is to install, to probe, or to use. Nothing here knows which way works; that is probed.
//!
//! Standards: Kubernetes v1 Node (`podCIDRs`, `InternalIP`), Service (`nodePort`, `externalTrafficPolicy`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use ipnet::IpNet;

use crate::core::{PortProtocol, ServiceSpec, TrafficPolicy};
use crate::inputs::Inputs;
use crate::names::Kind;
use crate::snapshot::{Endpoint, EndpointSet, EndpointState, Endpoints, Snapshot, Upstream};

/// Nodes with this label take no traffic of load balancers.
const EXCLUDED_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Routes beyond this many are not installed: a cluster of nodes has hundreds, one of Pods some thousands.
pub const MOST_ROUTES: usize = 16_384;

struct Node {
    addresses: Vec<IpAddr>,
    cidrs: Vec<IpNet>,
    /// Ready, and not taken out of load balancing.
    takes_traffic: bool,
}

impl Node {
    /// The address of the family through which its Pods are reached.
    fn address(&self, is_ipv4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == is_ipv4)
    }
}

fn nodes(inputs: &Inputs) -> HashMap<&str, Node> {
    let mut nodes = HashMap::with_capacity(inputs.nodes.len());
    for (key, node) in &inputs.nodes {
        let (spec, status) = (&node.spec.spec, &node.spec.status);
        let listed = status.addresses.iter().filter(|address| address.kind == "InternalIP");
        let cidrs = if spec.pod_cidrs.is_empty() { spec.pod_cidr.as_slice() } else { &spec.pod_cidrs };
        let is_ready = status.conditions.iter().any(|one| one.kind == "Ready" && one.status == "True");
        let node = Node {
            addresses: listed.filter_map(|address| address.address.parse().ok()).collect(),
            cidrs: cidrs.iter().filter_map(|text| text.parse::<IpNet>().ok()).map(|net| net.trunc()).collect(),
            takes_traffic: is_ready && !node.meta.labels.contains_key(EXCLUDED_LABEL),
        };
        nodes.insert(&*key.name, node);
    }
    nodes
}

/// The routes that lead to every Pod: its node's network where the Pod is in it, else the Pod alone (networks such as
/// Kube-OVN's span nodes). Endpoints that are a node, or whose node is not known, need none.
pub fn pod_routes(inputs: &Inputs, endpoints: &Endpoints) -> BTreeMap<IpNet, IpAddr> {
    if inputs.nodes.is_empty() {
        return BTreeMap::new();
    }
    let nodes = nodes(inputs);
    let own: BTreeSet<IpAddr> = nodes.values().flat_map(|node| node.addresses.iter().copied()).collect();
    let mut routes = BTreeMap::new();
    for node in nodes.values() {
        for cidr in &node.cidrs {
            if let Some(gateway) = node.address(cidr.addr().is_ipv4()).filter(|gateway| !cidr.contains(gateway)) {
                routes.insert(*cidr, gateway);
            }
        }
    }
    for endpoint in of_nodes(endpoints) {
        let address = endpoint.address.ip();
        let Some(node) = nodes.get(&*endpoint.node).filter(|_| !own.contains(&address)) else { continue };
        if node.cidrs.iter().any(|cidr| cidr.contains(&address)) {
            continue;
        }
        if let Some(gateway) = node.address(address.is_ipv4()) {
            routes.insert(IpNet::from(address), gateway);
        }
    }
    while routes.len() > MOST_ROUTES {
        routes.pop_last();
    }
    routes
}

/// Ready Pods, one of each node first, to which a connection tells whether Pods are reached: TCP only.
pub fn probes(inputs: &Inputs, snapshot: &Snapshot, endpoints: &Endpoints, most: usize) -> Vec<SocketAddr> {
    let nodes = nodes(inputs);
    let own: BTreeSet<IpAddr> = nodes.values().flat_map(|node| node.addresses.iter().copied()).collect();
    let mut of_node: BTreeMap<&str, BTreeSet<SocketAddr>> = BTreeMap::new();
    for (upstream, set) in snapshot.upstreams.iter().zip(endpoints) {
        let EndpointSet::Addresses(list) = &**set else { continue };
        let is_tcp = !upstream.is_udp();
        let ready = list.iter().filter(|one| is_tcp && one.state == EndpointState::Ready && !one.node.is_empty());
        for endpoint in ready.filter(|one| !own.contains(&one.address.ip())) {
            of_node.entry(&endpoint.node).or_default().insert(endpoint.address);
        }
    }
    let mut probes = Vec::new();
    for turn in 0..most {
        probes.extend(of_node.values().filter_map(|addresses| addresses.iter().nth(turn)));
        if probes.len() >= most {
            break;
        }
    }
    probes.truncate(most);
    probes
}

/// Node addresses and node ports in the place of a Service's Pods; the error is why there are none. With
/// `externalTrafficPolicy: Local` a node passes on to its own Pods only, so only nodes with a ready one are used.
pub fn node_ports(inputs: &Inputs, upstream: &Upstream, set: &EndpointSet) -> Result<EndpointSet, String> {
    let EndpointSet::Addresses(list) = set else { return Err("it has a DNS name".to_owned()) };
    let key = &upstream.key;
    let service = inputs.services.get(&key.object.key).filter(|_| key.object.kind == Kind::Service);
    let service: &ServiceSpec = &service.ok_or("it is no Service")?.spec;
    let transport = if upstream.is_udp() { PortProtocol::Udp } else { PortProtocol::Tcp };
    let port = service.ports.iter().find(|port| port.port == key.port && port.protocol == transport);
    let port = port.and_then(|port| port.node_port).filter(|port| *port > 0);
    let port = port.ok_or_else(|| format!("port {} of the Service has no node port", key.port))?;
    let ready = || list.iter().filter(|endpoint| endpoint.state == EndpointState::Ready);
    if ready().next().is_none() {
        // Nothing behind the node ports either.
        return Ok(EndpointSet::Addresses(Vec::new()));
    }
    let hosts: BTreeSet<&str> = ready().map(|endpoint| &*endpoint.node).collect();
    let is_local = service.external_traffic_policy == Some(TrafficPolicy::Local);
    let nodes = nodes(inputs);
    let mut found: Vec<Endpoint> = Vec::new();
    for (name, node) in nodes.iter().filter(|(name, node)| node.takes_traffic && (!is_local || hosts.contains(*name))) {
        // The family of its Pods is one that the Service has.
        let address = ready().find_map(|endpoint| node.address(endpoint.address.is_ipv4()));
        let Some(address) = address else { continue };
        let target = format!("Node {name}");
        let (state, node) = (EndpointState::Ready, (*name).into());
        found.push(Endpoint { address: SocketAddr::new(address, port), state, target: target.into(), node });
    }
    if found.is_empty() {
        return Err("no node is ready to take its traffic".to_owned());
    }
    found.sort();
    Ok(EndpointSet::Addresses(found))
}

/// Whether Pods of this set are on nodes at all: everything else is reached as it is.
pub fn has_pods(set: &EndpointSet) -> bool {
    matches!(set, EndpointSet::Addresses(list) if list.iter().any(|endpoint| !endpoint.node.is_empty()))
}

/// Every upstream by way of node ports, as far as there are any, and for the others why not.
pub fn by_node_ports(
    inputs: &Inputs,
    snapshot: &Snapshot,
    endpoints: &Endpoints,
) -> (Endpoints, BTreeMap<crate::snapshot::UpstreamKey, String>) {
    let mut without = BTreeMap::new();
    let one = |(upstream, set): (&Arc<Upstream>, &Arc<EndpointSet>)| {
        if !has_pods(set) {
            return Arc::clone(set);
        }
        match node_ports(inputs, upstream, set) {
            Ok(set) => Arc::new(set),
            Err(why) => {
                without.insert(upstream.key.clone(), why);
                Arc::clone(set)
            }
        }
    };
    let found = snapshot.upstreams.iter().zip(endpoints).map(one).collect();
    (found, without)
}

fn of_nodes(endpoints: &Endpoints) -> impl Iterator<Item = &Endpoint> {
    let lists = endpoints.iter().filter_map(|set| match &**set {
        EndpointSet::Addresses(list) => Some(list),
        EndpointSet::Dns { .. } => None,
    });
    lists.flatten().filter(|endpoint| !endpoint.node.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::compile::compile;
    use crate::compile::tests::{add, base};
    use crate::core::SERVICE_NAME_LABEL;
    use crate::names::ObjectKey;

    /// Two nodes with networks, a third without; a Pod in its node's network, one outside of it, one on the host.
    fn inputs(policy: &str) -> Inputs {
        let mut inputs = base();
        let node = |name: &str, address: &str, cidr: Option<&str>, ready: &str| {
            let spec = cidr.map_or(json!({}), |cidr| json!({"podCIDR": cidr, "podCIDRs": [cidr]}));
            let addresses = json!([{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}]);
            let conditions = json!([{"type": "Ready", "status": ready}]);
            (name.to_owned(), json!({"spec": spec, "status": {"addresses": addresses, "conditions": conditions}}))
        };
        for (name, body) in [
            node("n1", "192.0.2.1", Some("10.1.1.0/24"), "True"),
            node("n2", "192.0.2.2", Some("10.1.2.0/24"), "False"),
            node("n3", "192.0.2.3", None, "True"),
        ] {
            add(&mut inputs.nodes, &name, 0, body);
        }
        let spec = json!({
            "type": "LoadBalancer", "loadBalancerClass": "edge.internal/load-balancer",
            "externalTrafficPolicy": policy,
            "ports": [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81}],
        });
        add(&mut inputs.services, "shop/db", 0, spec);
        let slice = json!({
            "addressType": "IPv4",
            "ports": [{"name": "a", "port": 8080}, {"name": "b", "port": 8081}],
            "endpoints": [
                {"addresses": ["10.1.1.5"], "nodeName": "n1"},
                {"addresses": ["10.9.0.7"], "nodeName": "n2"},
                {"addresses": ["192.0.2.3"], "nodeName": "n3"},
                {"addresses": ["10.9.0.8"], "nodeName": "gone"},
                {"addresses": ["203.0.113.1"]},
            ],
        });
        add(&mut inputs.endpoint_slices, "shop/db-1", 0, slice);
        let slice = inputs.endpoint_slices.get_mut(&ObjectKey::new("shop", "db-1")).unwrap();
        Arc::make_mut(slice).meta.labels.insert(SERVICE_NAME_LABEL.to_owned(), "db".to_owned());
        inputs
    }

    #[test]
    fn routes_lead_to_pods_by_way_of_their_nodes() {
        let inputs = inputs("Cluster");
        let compiled = compile(&inputs);
        let routes = pod_routes(&inputs, &compiled.endpoints);
        let text: Vec<String> = routes.iter().map(|(net, gateway)| format!("{net} via {gateway}")).collect();
        let expected = ["10.1.1.0/24 via 192.0.2.1", "10.1.2.0/24 via 192.0.2.2", "10.9.0.7/32 via 192.0.2.2"];
        assert_eq!(text, expected);
        // Pods only, and one of each node before a second one.
        let probes = probes(&inputs, &compiled.snapshot, &compiled.endpoints, 3);
        let text: Vec<String> = probes.iter().map(SocketAddr::to_string).collect();
        assert_eq!(text, ["10.9.0.8:8080", "10.1.1.5:8080", "10.9.0.7:8080"]);
        let mut gone = inputs.clone();
        gone.nodes.remove(&ObjectKey::new("", "n2"));
        assert_eq!(pod_routes(&gone, &compiled.endpoints).len(), 1);
    }

    #[test]
    fn node_ports_stand_in_for_pods() {
        for (policy, expected) in [
            ("Cluster", &["192.0.2.1:30080", "192.0.2.3:30080"][..]),
            // The Pod of n2 is ready, the node is not.
            ("Local", &["192.0.2.1:30080", "192.0.2.3:30080"]),
        ] {
            let inputs = inputs(policy);
            let compiled = compile(&inputs);
            let (found, without) = by_node_ports(&inputs, &compiled.snapshot, &compiled.endpoints);
            let EndpointSet::Addresses(list) = &*found[0] else { panic!("addresses") };
            assert_eq!(list.iter().map(|one| one.address.to_string()).collect::<Vec<_>>(), expected, "{policy}");
            assert_eq!(&*list[0].target, "Node n1");
            assert!(Arc::ptr_eq(&found[1], &compiled.endpoints[1]), "what has no node port stays as it is");
            let why: Vec<&str> = without.values().map(String::as_str).collect();
            assert_eq!(why, ["port 81 of the Service has no node port"]);
        }
        let mut local = inputs("Local");
        let slice = local.endpoint_slices.get_mut(&ObjectKey::new("shop", "db-1")).unwrap();
        Arc::make_mut(slice).spec.endpoints.truncate(1);
        let compiled = compile(&local);
        let set = node_ports(&local, &compiled.snapshot.upstreams[0], &compiled.endpoints[0]).unwrap();
        let EndpointSet::Addresses(list) = set else { panic!("addresses") };
        assert_eq!(list.iter().map(|one| &*one.node).collect::<Vec<_>>(), ["n1"]);
    }
}
