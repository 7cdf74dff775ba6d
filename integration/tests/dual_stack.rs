//! Both IP families on a real control plane, whose API server has no streaming lists, as one with an old etcd: Gateways and
//! Services with addresses of IPv4 and IPv6, endpoints of either, and more objects than a page of a list holds.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use edge_integration::client::Connection;
use edge_integration::cluster::control::Server;
use edge_integration::cluster::edge::{BOTH_FAMILIES, CLASS};
use edge_integration::cluster::fabric::{NODE, NODE6};
use edge_integration::cluster::process::{LIMIT, Process, Program, await_within};
use edge_integration::cluster::{Channel, Cluster};
use edge_integration::edged::{program, workspace};
use edge_integration::lab::{block_on, skip};
use edge_integration::netns;
use serde_json::{Value, json};

/// More than a page of a list holds, which is 500.
const MANY: usize = 520;
const PORT: u16 = 9001;
const GATEWAY: [&str; 2] = ["10.99.0.210", "fd99::60"];
/// Whatever a watch that begins with a list asks for.
const STREAM: &str = "/api/v1/services?watch=true&sendInitialEvents=true&allowWatchBookmarks=true\
                      &resourceVersionMatch=NotOlderThan&timeoutSeconds=1";

#[test]
fn both_families_without_streaming_lists() {
    if let Err(why) = netns::available() {
        return skip("both IP families in a cluster", &why);
    }
    let dir = workspace().join("target/dual-stack");
    let mut cluster = Cluster::start_with("dual", &dir, Server { streams_lists: false });
    cluster.define(Channel::Experimental);
    let _origins = [("four", IpAddr::from(NODE)), ("six", IpAddr::from(NODE6))].map(|(name, address)| {
        let listen = SocketAddr::new(address, PORT).to_string();
        let origin =
            Program::new(program("demo-backend")).args(["--name", name, "--listen", &listen, "--udp", &listen]);
        Process::start(name, cluster.fabric.node.name(), &origin, &cluster.log(name))
    });
    cluster.apply("many", &(0..MANY).map(idle).collect::<String>());
    cluster.apply("objects", &objects());
    cluster.start_edge();

    lists_are_read_in_pages(&cluster);
    a_gateway_of_both_families(&cluster);
    services_of_each_family(&cluster);
    a_change_is_followed(&mut cluster);
}

/// A Service that nobody uses.
fn idle(index: usize) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: idle-{index}, namespace: default}}
spec: {{clusterIP: None, ports: [{{port: 80}}]}}
"
    )
}

fn objects() -> String {
    let mut all = vec![json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "gatewayClassName": CLASS,
            "addresses": GATEWAY.map(|address| json!({"type": "IPAddress", "value": address})),
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
        },
    })];
    for (name, families) in [("four", &["IPv4"][..]), ("six", &["IPv6"]), ("both", &["IPv4", "IPv6"])] {
        let policy = if families.len() == 2 { "RequireDualStack" } else { "SingleStack" };
        // The same Service is what a route names and what has an address of its own.
        all.push(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": name, "namespace": "default", "annotations": {"metallb.io/address-pool": BOTH_FAMILIES},
            },
            "spec": {
                "type": "LoadBalancer", "loadBalancerClass": "edge.internal/load-balancer",
                "allocateLoadBalancerNodePorts": false, "ipFamilyPolicy": policy, "ipFamilies": families,
                "ports": [
                    {"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "echo", "port": 8080, "protocol": "UDP"},
                ],
            },
        }));
        for family in families {
            let address = if *family == "IPv4" { NODE.to_string() } else { NODE6.to_string() };
            all.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{name}-{}", family.to_lowercase()), "namespace": "default",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": family,
                "ports": [
                    {"name": "http", "port": PORT, "protocol": "TCP"}, {"name": "echo", "port": PORT, "protocol": "UDP"},
                ],
                "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            }));
        }
        all.push(route(name, name));
    }
    all.iter().map(|object| format!("---\n{object}\n")).collect()
}

fn route(name: &str, service: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "parentRefs": [{"name": "web"}], "hostnames": [format!("{name}.test")],
            "rules": [{"backendRefs": [{"name": service, "port": 8080}]}],
        },
    })
}

fn lists_are_read_in_pages(cluster: &Cluster) {
    let refused = cluster.control.kubectl(&["get", "--raw", STREAM]);
    assert!(refused.code != Some(0) && refused.text().contains("sendInitialEvents"), "{}", refused.text());
    await_within(LIMIT, "all Services are known", || {
        let status = cluster.edge_seen().ctl(&["status", "--output", "json"]).stdout;
        let status: Value = serde_json::from_str(&status).ok()?;
        let sources = status["edge"]["sources"].as_array()?;
        let mut rows = sources.iter().filter_map(|source| source["collections"].as_array()).flatten();
        let services = rows.find(|row| row["name"] == "Service")?;
        (services["objects"].as_u64()? > MANY as u64 && services["failures"] == 0).then_some(())
    });
}

fn a_gateway_of_both_families(cluster: &Cluster) {
    let addresses = await_within(LIMIT, "the Gateway is programmed", || {
        let gateway = cluster.kubectl(&["get", "gateway", "web", "--output=json"]).stdout;
        let gateway: Value = serde_json::from_str(&gateway).ok()?;
        let conditions = gateway["status"]["conditions"].as_array()?;
        let is_programmed = conditions.iter().any(|one| one["type"] == "Programmed" && one["status"] == "True");
        is_programmed.then(|| gateway["status"]["addresses"].clone())
    });
    let expected = GATEWAY.map(|address| json!({"type": "IPAddress", "value": address}));
    assert_eq!(addresses, Value::from(expected.to_vec()));
    for vip in GATEWAY {
        for name in ["four", "six"] {
            answers(cluster, vip, 80, &format!("{name}.test"), name);
        }
        // Endpoints of both families are those of one Service.
        for name in ["four", "six"] {
            answers(cluster, vip, 80, "both.test", name);
        }
    }
}

fn services_of_each_family(cluster: &Cluster) {
    for (name, families, origins) in [
        ("four", &["10.99."][..], &["four"][..]),
        ("six", &["fd99:"], &["six"]),
        ("both", &["10.99.", "fd99:"], &["four", "six"]),
    ] {
        let addresses = await_within(LIMIT, &format!("Service {name} has its addresses"), || {
            let service = cluster.kubectl(&["get", "service", name, "--output=json"]).stdout;
            let service: Value = serde_json::from_str(&service).ok()?;
            let ingress = service["status"]["loadBalancer"]["ingress"].as_array()?;
            let addresses = ingress.iter().map(|entry| entry["ip"].as_str().map(str::to_owned));
            addresses.collect::<Option<Vec<String>>>().filter(|list| !list.is_empty())
        });
        assert_eq!(addresses.len(), families.len(), "{name}: {addresses:?}");
        for (address, family) in addresses.iter().zip(families) {
            assert!(address.starts_with(family), "{name}: {addresses:?}");
            for origin in origins {
                answers(cluster, address, 8080, "any.test", origin);
                echoes(cluster, address, 8080, origin);
            }
        }
    }
}

/// The API server goes and comes back; what is new then is heard of by a watch that did not begin with a list.
fn a_change_is_followed(cluster: &mut Cluster) {
    cluster.control.stop_apiserver();
    answers(cluster, GATEWAY[1], 80, "six.test", "six");
    cluster.control.start_apiserver();
    cluster.apply("late", &route("late", "six").to_string());
    answers(cluster, GATEWAY[0], 80, "late.test", "six");
}

/// Waits until an origin answers the client there; there may be others, and they have their turns.
fn answers(cluster: &Cluster, vip: &str, port: u16, host: &str, origin: &str) {
    let to = SocketAddr::new(vip.parse().unwrap(), port);
    await_within(LIMIT, &format!("{origin} answers for {host} at {to}"), || {
        let ask = || {
            block_on(async {
                let mut connection = Connection::open(to, None).await?;
                connection.get(host, "/").await
            })
        };
        let reply: io::Result<_> = cluster.fabric.client.run(ask).unwrap();
        reply.ok().filter(|reply| reply.status == 200 && reply.backend() == Some(origin)).map(drop)
    });
}

/// The same for datagrams: each socket is a session of its own.
fn echoes(cluster: &Cluster, vip: &str, port: u16, origin: &str) {
    let to = SocketAddr::new(vip.parse().unwrap(), port);
    await_within(LIMIT, &format!("{origin} echoes at {to}"), || {
        let ask = || -> io::Result<String> {
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.send_to(b"hello", to)?;
            let mut answer = [0; 64];
            let (length, from) = socket.recv_from(&mut answer)?;
            assert_eq!(from, to);
            Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
        };
        let answer = cluster.fabric.client.run(ask).unwrap().ok()?;
        (answer == format!("{origin}:hello")).then_some(())
    });
}
