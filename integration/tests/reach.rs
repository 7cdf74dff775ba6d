//! Every way to Pods carries traffic: an edge, two nodes, and a Pod behind each, all in namespaces of their own.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use edge_integration::client::fetch;
use edge_integration::edged::{Edged, until};
use edge_integration::lab::{Origins, block_on, skip};
use edge_integration::netns::{self, Namespace};

const VIP: &str = "10.76.0.1";
const ROUTES: [&str; 2] = ["10.75.1.0/24 via 10.74.21.2", "10.75.2.0/24 via 10.74.22.2"];

struct Net {
    edge: Namespace,
    nodes: [Namespace; 2],
    pods: [Namespace; 2],
}

impl Net {
    fn new() -> Self {
        let new = |role: &str| Namespace::new(role).unwrap();
        let net = Self {
            edge: new("k5-edge"),
            nodes: [new("k5-node1"), new("k5-node2")],
            pods: [new("k5-pod1"), new("k5-pod2")],
        };
        for (place, (node, pod)) in net.nodes.iter().zip(&net.pods).enumerate() {
            let number = place + 1;
            let join = |one: &Namespace, a: (&str, String), other: &Namespace, b: (&str, String)| {
                one.ip(&format!("link add {} type veth peer name {} netns {}", a.0, b.0, other.name())).unwrap();
                for (namespace, (interface, address)) in [(one, a), (other, b)] {
                    namespace.ip(&format!("addr add {address}/24 dev {interface}")).unwrap();
                    namespace.ip(&format!("link set {interface} up")).unwrap();
                }
            };
            let uplink = format!("n{number}");
            join(&net.edge, (&uplink, format!("10.74.2{number}.1")), node, ("eth0", format!("10.74.2{number}.2")));
            join(node, ("pods", format!("10.75.{number}.1")), pod, ("eth0", format!("10.75.{number}.5")));
            pod.ip(&format!("route add default via 10.75.{number}.1")).unwrap();
        }
        net.forward(true);
        net
    }

    /// Whether the nodes pass packets on to their Pods.
    fn forward(&self, on: bool) {
        for node in &self.nodes {
            let set = || fs::write("/proc/sys/net/ipv4/ip_forward", if on { "1" } else { "0" });
            node.run(set).unwrap().unwrap();
        }
    }

    /// Edge's routes, by the kernel.
    fn routes(&self) -> Vec<String> {
        let listed = self.edge.ip("-4 route show proto 237").unwrap();
        let words = |line: &str| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
        let mut routes: Vec<String> = listed.lines().map(words).collect();
        routes.sort();
        routes
    }

    fn wait_routes(&self, what: &str, expected: &[&str]) {
        until(what, || (self.routes() == expected).then_some(()));
    }

    /// Who answers at the VIP now.
    fn answer(&self) -> Option<String> {
        let at: SocketAddr = format!("{VIP}:80").parse().unwrap();
        let reply = self.edge.run(|| block_on(fetch(at, None, "x.test", "/"))).unwrap().ok()?;
        reply.backend().map(str::to_owned)
    }

    fn wait_answers(&self, what: &str, expected: &[&str]) {
        for name in expected {
            until(&format!("{what}: {name}"), || self.answer().filter(|found| found == name));
        }
    }
}

fn manifests(nodes: &[usize]) -> String {
    let mut text = String::from(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec:\n  type: LoadBalancer\n  \
         loadBalancerClass: edge.internal/load-balancer\n  ports: [{port: 80, nodePort: 30080}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n\
         ports: [{port: 8080}]\nendpoints:\n",
    );
    for number in 1..=2 {
        text += &format!("  - {{addresses: [10.75.{number}.5], nodeName: node{number}}}\n");
    }
    for number in nodes {
        text += &format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: node{number}}}\n\
             spec: {{podCIDR: 10.75.{number}.0/24, podCIDRs: [10.75.{number}.0/24]}}\n\
             status:\n  addresses: [{{type: InternalIP, address: 10.74.2{number}.2}}]\n  \
             conditions: [{{type: Ready, status: \"True\"}}]\n",
        );
    }
    text
}

fn write(directory: &Path, mode: &str, nodes: &[usize]) {
    let config = format!(
        "[state]\ndirectory = \"state\"\n[control]\nsocket = \"edged.sock\"\n[proxy]\nworkers = 1\n\
         [[manifests]]\npath = \"manifests\"\n[[pool]]\nname = \"a\"\naddresses = [\"{VIP}\"]\n[reach]\nmode = \"{mode}\"\n"
    );
    fs::create_dir_all(directory.join("manifests")).unwrap();
    fs::write(directory.join("manifests/all.yaml"), manifests(nodes)).unwrap();
    fs::write(directory.join("edge.toml"), config).unwrap();
}

fn spawn(net: &Net, directory: &Path) -> Edged {
    let start = || {
        let mut edged =
            Edged::spawn(&directory.join("edge.toml"), &directory.join("edged.sock"), &directory.join("edged.log"));
        edged.wait_control();
        edged
    };
    net.edge.run(start).unwrap()
}

/// How the status says that the backend is reached.
fn way(edged: &Edged) -> String {
    let status = edged.ctl(&["status", "-o", "json"]).json();
    status["backends"][0]["reach"].as_str().unwrap_or_default().to_owned()
}

fn is_way(edged: &Edged, expected: &str) {
    until(&format!("the backend is reached by {expected}"), || (way(edged) == expected).then_some(()));
}

#[test]
fn every_way_to_pods_carries_traffic() {
    if let Err(why) = netns::available() {
        return skip("namespaces", &why);
    }
    let net = Net::new();
    let origin = |namespace: &Namespace, name: &str, at: &str| {
        let serve = || {
            let origins = Origins::start();
            let running = origins.http_at(name, at.parse().unwrap(), None);
            (origins, running)
        };
        namespace.run(serve).unwrap()
    };
    let _pods = [origin(&net.pods[0], "pod1", "10.75.1.5:8080"), origin(&net.pods[1], "pod2", "10.75.2.5:8080")];
    let _nodes =
        [origin(&net.nodes[0], "node1", "10.74.21.2:30080"), origin(&net.nodes[1], "node2", "10.74.22.2:30080")];
    let directory = tempfile::tempdir().unwrap();
    let reload = |edged: &Edged, mode: &str, nodes: &[usize]| {
        write(directory.path(), mode, nodes);
        edged.ctl(&["reload"]);
    };

    write(directory.path(), "pod-route", &[1, 2]);
    let mut edged = spawn(&net, directory.path());
    net.wait_routes("a route per node", &ROUTES);
    net.wait_answers("by routes", &["pod1", "pod2"]);
    is_way(&edged, "pod-route");
    net.edge.ip("route del 10.75.1.0/24").unwrap();
    net.wait_routes("a route that somebody removed comes back", &ROUTES);
    reload(&edged, "pod-route", &[2]);
    net.wait_routes("a node that is gone has no route", &ROUTES[1..]);

    // Routes of others carry traffic too, and are not Edge's to change.
    reload(&edged, "direct", &[1, 2]);
    net.wait_routes("no routes of ours", &[]);
    for route in ROUTES {
        net.edge.ip(&format!("route add {route}")).unwrap();
    }
    net.wait_answers("directly", &["pod1", "pod2"]);
    reload(&edged, "pod-route", &[1, 2]);
    until("it says whose route is there", || {
        let status = edged.ctl(&["status", "-o", "json"]).json();
        status["edge"]["notices"].to_string().contains("a route of somebody else is there").then_some(())
    });
    net.wait_answers("by routes of somebody else", &["pod1", "pod2"]);
    for route in ROUTES {
        net.edge.ip(&format!("route del {}", route.split(' ').next().unwrap())).unwrap();
    }
    net.wait_routes("ours take their place", &ROUTES);

    reload(&edged, "node-port", &[1, 2]);
    net.wait_routes("node ports need no routes", &[]);
    net.wait_answers("by node ports", &["node1", "node2"]);
    is_way(&edged, "node-port");
    assert!(edged.terminate().is_some_and(|status| status.success()));

    // Left to itself: there is no route, so it makes them; and when nodes pass nothing on, node ports do.
    write(directory.path(), "auto", &[1, 2]);
    let mut edged = spawn(&net, directory.path());
    is_way(&edged, "pod-route");
    net.wait_answers("by routes that were chosen", &["pod1", "pod2"]);
    net.forward(false);
    is_way(&edged, "node-port");
    net.wait_answers("by node ports that were chosen", &["node1", "node2"]);
    let status = edged.ctl(&["status", "-o", "json"]).json();
    let why = status["backends"][0]["reach_reason"].to_string();
    assert!(why.contains("Pods are not reached by routes: 10.75."), "{why}");
    assert!(edged.terminate().is_some_and(|status| status.success()));
    assert_eq!(net.routes(), [""; 0], "routes are removed at the end");
}
