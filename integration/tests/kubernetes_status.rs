//! Status in a real API server: what is said, what is left alone, nothing written at rest, and several edges.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use edge_integration::cluster::process::{Process, Program, await_within};
use edge_integration::cluster::{Channel, Cluster};
use edge_integration::edged::{program, workspace};
use edge_integration::lab::skip;
use edge_integration::netns;
use edge_integration::pki::{Authority, Leaf};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

const OBJECTS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: default}
spec:
  gatewayClassName: gateway-conformance
  infrastructure: {labels: {team: a}, annotations: {note: b}}
  allowedListeners: {namespaces: {from: Same}}
  listeners:
    - {name: http, port: 80, protocol: HTTP}
    - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: nope}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more, namespace: default}
spec:
  parentRef: {name: web}
  listeners: [{name: alt, port: 8080, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: lost, namespace: default}
spec:
  parentRefs: [{name: web, sectionName: http}]
  rules: [{backendRefs: [{name: nowhere, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: tcp, namespace: default}
spec:
  parentRefs: [{name: web}]
  rules: [{backendRefs: [{name: nowhere, port: 80}]}]
"#;

const SECURED: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: secured, namespace: default}
spec:
  gatewayClassName: gateway-conformance
  listeners: [{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: tls}]}}]
"#;

/// A Gateway whose name is as long as one can be.
fn long_name() -> String {
    format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61))
}

#[test]
fn status_is_told_to_a_real_api_server() {
    if let Err(why) = netns::available() {
        return skip("status in the API", &why);
    }
    let mut cluster = Cluster::start("k4", &workspace().join("target/kubernetes-status"));
    cluster.define(Channel::Experimental);
    cluster.start_edge();
    cluster.apply("objects", OBJECTS);
    what_is_said(&cluster);
    what_others_say(&cluster);
    a_secret_that_turns_to_garbage(&cluster);
    nothing_at_rest(&cluster);
    names_of_any_length(&cluster);
    several_edges(&mut cluster);
}

fn what_is_said(cluster: &Cluster) {
    await_within(LIMIT, "the Gateway is programmed", || {
        (says(cluster, "gateway/web", "Programmed") == "True 1").then_some(())
    });
    // One object is written after the other, and what is attached may come a moment later.
    await_within(LIMIT, "the class says what it can", || {
        let class = object(cluster, "gatewayclass/gateway-conformance");
        (class["status"]["supportedFeatures"].as_array()?.len() > 40).then_some(())
    });
    await_within(LIMIT, "the Gateway says what is attached", || {
        let status = object(cluster, "gateway/web")["status"].clone();
        let is_counted = status["attachedListenerSets"] == 1 && status["listeners"][0]["attachedRoutes"] == 1;
        (status["addresses"][0]["value"] == "10.99.0.1" && is_counted).then_some(())
    });
    await_within(LIMIT, "the ListenerSet is programmed", || {
        (says(cluster, "listenerset/more", "Programmed") == "True 1").then_some(())
    });
    let parent = |route: &str| object(cluster, route)["status"]["parents"][0].clone();
    await_within(LIMIT, "routes have a status", || parent("httproute/lost")["conditions"].is_array().then_some(()));
    assert_eq!(condition(&parent("httproute/lost"), "ResolvedRefs")["reason"], "BackendNotFound");
    assert_eq!(parent("httproute/lost")["parentRef"]["sectionName"], "http");
    await_within(LIMIT, "the TCPRoute has a status", || parent("tcproute/tcp")["conditions"].is_array().then_some(()));
    assert_eq!(condition(&parent("tcproute/tcp"), "Accepted")["reason"], "NotAllowedByListeners");
    let told = ["BackendNotFound", "NotAllowedByListeners", "InvalidCertificateRef"];
    await_within(LIMIT, "Events tell of it", || {
        let events = cluster.kubectl(&["get", "events.events.k8s.io", "--output=jsonpath={.items[*].reason}"]).stdout;
        told.iter().all(|reason| events.contains(reason)).then_some(())
    });
    let selector = "--selector=gateway.networking.k8s.io/gateway-name=web";
    await_within(LIMIT, "a Service stands for the Gateway", || {
        let services = cluster.kubectl(&["get", "services", selector, "--output=json"]).stdout;
        let services: Value = serde_json::from_str(&services).unwrap();
        let metadata = &services["items"][0]["metadata"];
        (metadata["labels"]["team"] == "a" && metadata["annotations"]["note"] == "b").then_some(())
    });
    await_within(LIMIT, "it leads to the address", || {
        let slices = cluster.kubectl(&["get", "endpointslices", selector, "--output=json"]).stdout;
        let slices: Value = serde_json::from_str(&slices).unwrap();
        (slices["items"][0]["endpoints"][0]["addresses"][0] == "10.99.0.1").then_some(())
    });
}

fn what_others_say(cluster: &Cluster) {
    let condition = r#"{"type":"example.com/Seen","status":"True","reason":"X","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}"#;
    patch_status(
        cluster,
        "gateway/web",
        &format!(r#"[{{"op":"add","path":"/status/conditions/-","value":{condition}}}]"#),
    );
    let entry =
        format!(r#"{{"controllerName":"example.com/other","parentRef":{{"name":"web"}},"conditions":[{condition}]}}"#);
    patch_status(cluster, "httproute/lost", &format!(r#"[{{"op":"add","path":"/status/parents/0","value":{entry}}}]"#));
    let merge = |object: &str, patch: &str| cluster.kubectl(&["patch", object, "--type=merge", "--patch", patch]);
    merge("httproute/lost", r#"{"spec":{"parentRefs":[{"name":"web"}]}}"#);
    await_within(LIMIT, "the route's new generation is answered for", || {
        let parents = object(cluster, "httproute/lost")["status"]["parents"].clone();
        let ours = parents.as_array()?.iter().find(|entry| entry["controllerName"] != "example.com/other")?.clone();
        (self::condition(&ours, "Accepted")["observedGeneration"] == 2
            && ours["parentRef"].get("sectionName").is_none())
        .then_some(())
    });
    let parents = object(cluster, "httproute/lost")["status"]["parents"].clone();
    assert_eq!(parents.as_array().unwrap().len(), 2, "one entry each");
    assert_eq!(parents[0]["controllerName"], "example.com/other", "in its place");
    merge("gateway/web", r#"{"spec":{"listeners":[{"name":"http","port":80,"protocol":"HTTP"}]}}"#);
    await_within(LIMIT, "the Gateway's new generation is programmed", || {
        (says(cluster, "gateway/web", "Programmed") == "True 2").then_some(())
    });
    assert_eq!(says(cluster, "gateway/web", "example.com/Seen"), "True null");
    assert_eq!(object(cluster, "gateway/web")["status"]["listeners"].as_array().unwrap().len(), 1);
}

/// Its last good certificate serves, and whoever looks at the Gateway or at the Secret sees that it does, and since when.
fn a_secret_that_turns_to_garbage(cluster: &Cluster) {
    let authority = Authority::new("garbage").unwrap();
    let pair = authority.sign(&Leaf { dns: &["a.test"], ..Leaf::default() }).unwrap();
    let other = authority.sign(&Leaf { dns: &["a.test"], ..Leaf::default() }).unwrap();
    let secret = |key: &str| {
        let text = |text: &str| serde_json::to_string(text).unwrap();
        let (chain, key) = (text(&pair.certificate), text(key));
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: tls, namespace: default}}\ntype: kubernetes.io/tls\nstringData: {{tls.crt: {chain}, tls.key: {key}}}\n"
        )
    };
    cluster.apply("secret", &secret(&pair.key));
    cluster.apply("secured", SECURED);
    let resolved = || {
        let gateway = object(cluster, "gateway/secured");
        condition(&gateway["status"]["listeners"][0], "ResolvedRefs")
    };
    let is = |reason: &str| (resolved()["reason"] == reason).then_some(());
    await_within(LIMIT, "its certificate serves", || is("ResolvedRefs"));
    // A key that is whole, and none of this certificate.
    cluster.apply("secret", &secret(&other.key));
    await_within(LIMIT, "the listener says that its last good version serves", || is("LastGoodVersionServed"));
    let said = resolved();
    assert_eq!(said["status"], "True");
    let message = said["message"].as_str().unwrap();
    let rest = message.strip_prefix("Secret default/tls: ").unwrap_or_else(|| panic!("{message}"));
    let (why, since) =
        rest.split_once("; its last good version is served since ").unwrap_or_else(|| panic!("{message}"));
    assert!(why.contains("key"), "{message}");
    assert!(since.starts_with("20") && since.ends_with('Z') && since.len() == 20, "{message}");
    let gateway = object(cluster, "gateway/secured");
    assert_eq!(condition(&gateway["status"]["listeners"][0], "Programmed")["status"], "True");
    await_within(LIMIT, "an Event on the Secret says it, too", || {
        let output = "--output=jsonpath={range .items[?(@.regarding.kind==\"Secret\")]}{.type} {.reason} {.regarding.name} {.note}{end}";
        let said = cluster.kubectl(&["get", "events.events.k8s.io", output]).stdout;
        (said.starts_with("Warning LastGoodVersionServed tls ") && said.contains("key")).then_some(())
    });
    cluster.apply("secret", &secret(&pair.key));
    await_within(LIMIT, "all is well again", || is("ResolvedRefs"));
    assert_eq!(resolved()["message"], "");
    cluster.kubectl(&["delete", "gateway/secured", "secret/tls", "--timeout=60s"]);
    only_web_is_left(cluster);
}

/// Waits until the cluster has collected what stood for Gateways that are gone: it does so when it comes to it.
fn only_web_is_left(cluster: &Cluster) {
    await_within(LIMIT * 2, "what stood for other Gateways is gone", || {
        let is_other = |name: &String| name.contains("/edge-") && !name.contains("/edge-web-");
        (!versions(cluster).keys().any(is_other)).then_some(())
    });
}

/// Waits until nothing is left to write, then sees whether nothing is written.
fn nothing_at_rest(cluster: &Cluster) {
    let settled = settle(cluster);
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(versions(cluster), settled, "something was written at rest");
}

fn settle(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut last = versions(cluster);
    await_within(LIMIT, "objects stay as they are", || {
        std::thread::sleep(Duration::from_secs(2));
        let now = versions(cluster);
        let is_same = now == last;
        last = now;
        is_same.then_some(())
    });
    last
}

fn names_of_any_length(cluster: &Cluster) {
    let name = long_name();
    cluster.apply(
        "long",
        &format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: default}}
spec: {{gatewayClassName: gateway-conformance, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}
"
        ),
    );
    let gateway = format!("gateway/{name}");
    await_within(LIMIT, "it is programmed", || (says(cluster, &gateway, "Programmed") == "True 1").then_some(()));
    let services = |count: usize| {
        let said =
            cluster.kubectl(&["get", "services", "--selector=app.kubernetes.io/managed-by=edge", "--output=name"]);
        (said.stdout.lines().count() == count).then_some(())
    };
    await_within(LIMIT, "it has a Service", || services(2));
    cluster.kubectl(&["delete", &gateway]);
    await_within(LIMIT * 2, "the Service went with it", || services(1));
    only_web_is_left(cluster);
}

fn several_edges(cluster: &mut Cluster) {
    let other = cluster.dir().join("b");
    std::fs::create_dir_all(&other).unwrap();
    let config = other.join("edge.toml");
    let text = std::fs::read_to_string(cluster.edge().config()).unwrap();
    let first = cluster.dir().display().to_string();
    let text = text
        .replace(&format!("{first}/state"), &format!("{}/state", other.display()))
        .replace(&format!("{first}/edged.sock"), &format!("{}/edged.sock", other.display()))
        .replace("[kubernetes]\n", "[kubernetes]\nedge_name = \"b\"\n");
    std::fs::write(&config, text).unwrap();
    let before = settle(cluster);
    let mut second = daemon(cluster, &config);
    second.until("both are there", || (leases(cluster).len() == 3).then_some(()));
    second.until("it serves the same", || {
        let digests: Vec<Value> =
            leases(cluster).values().filter_map(said).map(|said| said["digest"].clone()).collect();
        (digests.len() == 2 && digests[0] == digests[1]).then_some(())
    });
    assert_eq!(settle(cluster), before, "two edges, and nothing to write");

    // The one that writes dies without a word; the other one takes over and finds all as it should be.
    cluster.edge().process.stop(Duration::ZERO);
    second.until("the other one writes", || writer(cluster).starts_with("b_").then_some(()));
    assert_eq!(settle(cluster), before, "taking over writes nothing");
    let patch = r#"{"spec":{"hostnames":["a.test"]}}"#;
    cluster.kubectl(&["patch", "httproute/lost", "--type=merge", "--patch", patch]);
    second.until("it answers for what is new", || {
        let parents = object(cluster, "httproute/lost")["status"]["parents"].clone();
        let entries = parents.as_array()?.iter().filter(|entry| entry["controllerName"] != "example.com/other");
        entries
            .into_iter()
            .next_back()
            .filter(|entry| condition(entry, "Accepted")["observedGeneration"] == 3)
            .map(|_| ())
    });
    // One that is stopped in order leaves nothing to wait for.
    second.stop(Duration::from_secs(20));
    assert_eq!(writer(cluster), "");
    assert!(leases(cluster).keys().all(|name| name != "edge-b"));
}

fn daemon(cluster: &Cluster, config: &Path) -> Process {
    let program = Program::new(program("edged")).args(["--config".into(), config.as_os_str().to_owned()]);
    Process::start("edged b", cluster.fabric.node.name(), &program, &cluster.log("edged-b"))
}

fn object(cluster: &Cluster, name: &str) -> Value {
    serde_json::from_str(&cluster.kubectl(&["get", name, "--output=json"]).stdout).unwrap()
}

/// `True 2`: the status of a condition and the generation that it is about.
fn says(cluster: &Cluster, name: &str, kind: &str) -> String {
    let object = object(cluster, name);
    let found = condition(&object["status"], kind);
    format!("{} {}", found["status"].as_str().unwrap_or_default(), found["observedGeneration"])
}

fn condition(of: &Value, kind: &str) -> Value {
    let all = of["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}

fn patch_status(cluster: &Cluster, object: &str, patch: &str) {
    cluster.kubectl(&["patch", object, "--subresource=status", "--type=json", "--patch", patch]);
}

/// The version of everything that Edge may write, Leases and Events excepted.
fn versions(cluster: &Cluster) -> BTreeMap<String, String> {
    let kinds = "gatewayclass,gateway,listenerset,httproute,tcproute,service,endpointslice";
    let list: Value = serde_json::from_str(&cluster.kubectl(&["get", kinds, "--output=json"]).stdout).unwrap();
    let version = |object: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        (format!("{}/{}", text(&object["kind"]), text(&metadata["name"])), text(&metadata["resourceVersion"]))
    };
    list["items"].as_array().unwrap().iter().map(version).collect()
}

fn leases(cluster: &Cluster) -> BTreeMap<String, Value> {
    let said = cluster.kubectl(&["get", "leases", "--namespace=edge-system", "--output=json"]).stdout;
    let list: Value = serde_json::from_str(&said).unwrap();
    let leases = list["items"].as_array().unwrap().iter();
    leases.map(|lease| (lease["metadata"]["name"].as_str().unwrap().to_owned(), lease.clone())).collect()
}

/// What an edge says of itself in its Lease.
fn said(lease: &Value) -> Option<Value> {
    serde_json::from_str(lease["metadata"]["annotations"]["edge.internal/acknowledged"].as_str()?).ok()
}

fn writer(cluster: &Cluster) -> String {
    leases(cluster)["edge"]["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}
