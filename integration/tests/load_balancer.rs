//! Services of type LoadBalancer on a real control plane: an address from the pool, traffic to Pods through it, what is
//! written to the Service, and that all of it goes when the Service goes.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use edge_integration::cluster::process::{LIMIT, await_within};
use edge_integration::cluster::{Channel, Cluster};
use edge_integration::edged::workspace;
use edge_integration::lab::skip;
use edge_integration::netns;
use serde_json::{Value, json};

const ECHO: &str = "
apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}}
spec:
  containers:
    - name: echo
      image: echo-basic
      env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
";

/// A name server that answers every question, by UDP and TCP.
const NAMES: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: names, namespace: default}
data:
  Corefile: |
    .:5353 {
        whoami
    }
---
apiVersion: v1
kind: Pod
metadata: {name: names, namespace: default, labels: {app: names}}
spec:
  volumes: [{name: config, configMap: {name: names}}]
  containers:
    - name: coredns
      image: coredns
      args: [-conf, /etc/coredns/Corefile]
      volumeMounts: [{name: config, mountPath: /etc/coredns}]
---
apiVersion: v1
kind: Service
metadata: {name: names, namespace: default}
spec:
  type: LoadBalancer
  loadBalancerClass: edge.internal/load-balancer
  allocateLoadBalancerNodePorts: false
  selector: {app: names}
  ports:
    - {name: dns, protocol: UDP, port: 53, targetPort: 5353}
    - {name: dns-tcp, protocol: TCP, port: 53, targetPort: 5353}
";

/// MetalLB's definition as far as the API server needs one.
const POOLS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ipaddresspools.metallb.io}
spec:
  group: metallb.io
  scope: Namespaced
  names: {kind: IPAddressPool, listKind: IPAddressPoolList, plural: ipaddresspools, singular: ipaddresspool}
  versions:
    - name: v1beta1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";
const POOL: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: live, namespace: default}
spec: {addresses: [10.99.0.200-10.99.0.209], autoAssign: false}
";

const POOL_ANNOTATION: &str = "metallb.io/ip-allocated-from-pool";
const OWN_ANNOTATION: &str = "edge.internal/load-balancer-addresses";

/// A Service of Edge's class that leads to the echo.
fn service(name: &str, annotations: &str, port: u16, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default, annotations: {{{annotations}}}}}
spec:
  type: LoadBalancer
  loadBalancerClass: edge.internal/load-balancer
  allocateLoadBalancerNodePorts: false
  selector: {{app: echo}}
  ports: [{{port: {port}, targetPort: 3000}}]
{more}"
    )
}

#[test]
fn services_get_addresses() {
    if let Err(why) = netns::available() {
        return skip("Services of type LoadBalancer", &why);
    }
    let mut cluster = Cluster::start("k8lb", &workspace().join("target/load-balancer"));
    cluster.define(Channel::Experimental);
    cluster.start_node();
    cluster.start_edge();
    cluster.apply("echo", ECHO);
    one_is_served(&cluster);
    datagrams(&cluster);
    two_share(&cluster);
    sources_are_refused(&cluster);
    an_address_stays(&mut cluster);
    pools_are_read_live(&cluster);
    what_cannot_be_had_is_told(&cluster);
    a_class_that_is_not_ours(&cluster);
    an_address_is_free_again(&cluster);
}

fn one_is_served(cluster: &Cluster) {
    cluster.apply("one", &service("one", "metallb.io/allow-shared-ip: k", 8080, ""));
    let ingress =
        await_within(LIMIT, "it has an address", || Some(ingress(cluster, "one")).filter(|list| !list.is_null()));
    assert_eq!(ingress, json!([{"ip": "10.99.0.1", "ipMode": "Proxy"}]));
    // The status is one thing that is written, annotations are another.
    await_within(LIMIT, "its annotations say the same", || {
        let is = |name, value| annotation(cluster, "one", name) == value;
        (is(POOL_ANNOTATION, "rig") && is(OWN_ANNOTATION, "10.99.0.1")).then_some(())
    });
    answers(cluster, "10.99.0.1", 8080);
}

/// One port number for both transports; gone with the Service, so that the addresses of the others are what they were.
fn datagrams(cluster: &Cluster) {
    cluster.apply("names", NAMES);
    let address: IpAddr = address(cluster, "names").parse().unwrap();
    let to = SocketAddr::new(address, 53);
    await_within(LIMIT, "names are answered by UDP", || cluster.fabric.client.run(|| asked(to).ok()).unwrap());
    await_within(LIMIT, "and by TCP", || {
        let work = || TcpStream::connect_timeout(&to, Duration::from_secs(5)).and_then(asked_on);
        cluster.fabric.client.run(|| work().ok()).unwrap()
    });
    assert_eq!(ingress(cluster, "names"), json!([{"ip": address.to_string(), "ipMode": "Proxy"}]));
    cluster.kubectl(&["delete", "service/names", "pod/names", "configmap/names", "--timeout=60s"]);
    await_within(LIMIT, "nobody answers any more", || {
        cluster.fabric.client.run(|| asked(to).is_err().then_some(())).unwrap()
    });
}

/// RFC 1035: the address of `edge.test`, please.
const QUESTION: &[u8] = b"\xed\x9e\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04edge\x04test\x00\x00\x01\x00\x01";

fn is_answer(bytes: &[u8]) -> io::Result<()> {
    // The same number, and the bit that makes it an answer.
    let is = bytes.get(..2) == QUESTION.get(..2) && bytes.get(2).is_some_and(|flags| flags & 0x80 != 0);
    if is { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn asked(to: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    // Connected: an answer from another address than the VIP would not count.
    socket.connect(to)?;
    socket.send(QUESTION)?;
    let mut bytes = [0; 512];
    let length = socket.recv(&mut bytes)?;
    is_answer(&bytes[..length])
}

fn asked_on(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let length = u16::try_from(QUESTION.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes()[..], QUESTION].concat())?;
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes)?;
    is_answer(&bytes[2..])
}

fn two_share(cluster: &Cluster) {
    cluster.apply("two", &service("two", "metallb.io/allow-shared-ip: k", 8081, ""));
    cluster.apply("three", &service("three", "", 8080, ""));
    // Sharing is allowed, not asked for; asking for the address is.
    let asks = "metallb.io/allow-shared-ip: k, metallb.io/loadBalancerIPs: 10.99.0.1";
    cluster.apply("asks", &service("asks", asks, 8082, ""));
    for (name, port) in [("two", 8081), ("three", 8080), ("asks", 8082)] {
        answers(cluster, &address(cluster, name), port);
    }
    assert_eq!(address(cluster, "asks"), "10.99.0.1");
    assert_ne!(address(cluster, "three"), "10.99.0.1");
}

fn sources_are_refused(cluster: &Cluster) {
    let name = "guarded";
    cluster.apply(name, &service(name, "", 8080, "  loadBalancerSourceRanges: [10.91.0.0/24]\n"));
    let address = address(cluster, name);
    answers(cluster, &address, 8080);
    cluster.kubectl(&[
        "patch",
        "service",
        name,
        "--patch",
        r#"{"spec":{"loadBalancerSourceRanges":["192.0.2.0/24"]}}"#,
    ]);
    await_within(LIMIT, "the client is not let in any more", || ask(cluster, &address, 8080).is_err().then_some(()));
    cluster.kubectl(&["delete", "service", name, "--timeout=60s"]);
}

/// What the API shows is what the next edge gives out, with nothing of its own to go by.
fn an_address_stays(cluster: &mut Cluster) {
    let before = ["one", "two", "three", "asks"].map(|name| address(cluster, name));
    let version = version(cluster, "three");
    cluster.edge().process.stop(Duration::from_secs(20));
    std::fs::remove_dir_all(cluster.dir().join("state")).unwrap();
    // The oldest would get the first address, were it not for what the Services show.
    cluster.kubectl(&["delete", "service", "one", "--timeout=60s"]);
    cluster.edge().restart(Duration::ZERO);
    answers(cluster, &before[2], 8080);
    assert_eq!(["two", "three", "asks"].map(|name| address(cluster, name)), [&*before[1], &before[2], &before[3]]);
    assert_eq!(self::version(cluster, "three"), version, "nothing was to be written");
}

fn pools_are_read_live(cluster: &Cluster) {
    cluster.apply("from-live", &service("from-live", "metallb.io/address-pool: live", 8080, ""));
    cluster.apply("pools", POOLS);
    cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=120s", "crd/ipaddresspools.metallb.io"]);
    cluster.apply("pool", POOL);
    answers(cluster, "10.99.0.200", 8080);
    assert_eq!(address(cluster, "from-live"), "10.99.0.200");
    await_within(LIMIT, "the pool is named", || {
        (annotation(cluster, "from-live", POOL_ANNOTATION) == "live").then_some(())
    });
}

fn what_cannot_be_had_is_told(cluster: &Cluster) {
    cluster.apply("none", &service("none", "metallb.io/loadBalancerIPs: 192.0.2.1", 8080, ""));
    await_within(LIMIT, "an Event says so", || {
        let output = "--output=jsonpath={range .items[?(@.regarding.name==\"none\")]}{.type} {.reason} {.note}{end}";
        let said = cluster.kubectl(&["get", "events.events.k8s.io", output]).stdout;
        (said.starts_with("Warning AllocationFailed") && said.contains("192.0.2.1")).then_some(())
    });
    assert_eq!(ingress(cluster, "none"), Value::Null);
}

fn a_class_that_is_not_ours(cluster: &Cluster) {
    let other = service("other", "", 8080, "").replace("edge.internal/load-balancer", "example.com/other");
    cluster.apply("other", &other);
    let status = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1"}]}}}"#;
    cluster.kubectl(&["patch", "service", "other", "--subresource=status", "--type=merge", "--patch", status]);
    // One that is no load balancer any more keeps nothing that Edge wrote.
    let patch = r#"{"spec":{"type":"ClusterIP","loadBalancerClass":null,"allocateLoadBalancerNodePorts":null}}"#;
    cluster.kubectl(&["patch", "service", "from-live", "--type=merge", "--patch", patch]);
    await_within(LIMIT, "its annotations are gone", || {
        [POOL_ANNOTATION, OWN_ANNOTATION]
            .iter()
            .all(|name| annotation(cluster, "from-live", name).is_empty())
            .then_some(())
    });
    assert_eq!(annotation(cluster, "from-live", "metallb.io/address-pool"), "live");
    await_within(LIMIT, "and its status", || (ingress(cluster, "from-live") == Value::Null).then_some(()));
    assert_eq!(ingress(cluster, "other")[0]["ip"], "203.0.113.1");
    assert_eq!(annotation(cluster, "other", OWN_ANNOTATION), "");
}

fn an_address_is_free_again(cluster: &Cluster) {
    let freed = address(cluster, "three");
    cluster.kubectl(&["delete", "service", "three", "--timeout=60s"]);
    await_within(LIMIT, "nothing is served there", || ask(cluster, &freed, 8080).is_err().then_some(()));
    cluster.apply("next", &service("next", &format!("metallb.io/loadBalancerIPs: {freed}"), 8080, ""));
    answers(cluster, &freed, 8080);
}

fn object(cluster: &Cluster, name: &str) -> Value {
    serde_json::from_str(&cluster.kubectl(&["get", "service", name, "--output=json"]).stdout).unwrap()
}

fn ingress(cluster: &Cluster, name: &str) -> Value {
    object(cluster, name)["status"]["loadBalancer"]["ingress"].clone()
}

/// The first address that the Service shows, once it shows one.
fn address(cluster: &Cluster, name: &str) -> String {
    await_within(LIMIT, "it has an address", || Some(ingress(cluster, name)[0]["ip"].as_str()?.to_owned()))
}

fn annotation(cluster: &Cluster, name: &str, annotation: &str) -> String {
    object(cluster, name)["metadata"]["annotations"][annotation].as_str().unwrap_or_default().to_owned()
}

fn version(cluster: &Cluster, name: &str) -> String {
    object(cluster, name)["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

/// Waits until the echo answers the client there.
fn answers(cluster: &Cluster, address: &str, port: u16) {
    await_within(LIMIT, &format!("{address}:{port} answers"), || {
        let answer = ask(cluster, address, port).ok()?;
        answer.contains("\"pod\": \"echo\"").then_some(())
    });
}

/// One request from the client's host, which knows nothing of the cluster.
fn ask(cluster: &Cluster, address: &str, port: u16) -> io::Result<String> {
    let to = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
    let work = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: echo\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.is_empty() {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(answer),
        }
    };
    cluster.fabric.client.run(work).unwrap()
}
