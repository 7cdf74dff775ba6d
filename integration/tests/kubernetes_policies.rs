//! Envoy Gateway's policies and Backends in a real API server, by its own definitions: what is said of them in their status,
//! and what is said of the world and goes again.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use edge_integration::cluster::process::await_within;
use edge_integration::cluster::{Channel, Cluster};
use edge_integration::documented::Checkout;
use edge_integration::edged::workspace;
use edge_integration::lab::skip;
use edge_integration::netns;
use serde_json::Value;

/// What is said of the world changes at most once a minute.
const LIMIT: Duration = Duration::from_secs(180);
const DEFINITIONS: &str = "charts/gateway-helm/charts/crds/crds/generated";

/// The provider is nowhere: nobody listens there.
const OBJECTS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: default}
spec:
  gatewayClassName: gateway-conformance
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: v1
kind: Secret
metadata: {name: client, namespace: default}
stringData: {client-secret: s}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: good, namespace: default}
spec: {endpoints: [{ip: {address: 192.0.2.1, port: 80}}]}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: refused, namespace: default}
spec: {type: DynamicResolver}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: default}
spec:
  parentRefs: [{name: web}]
  rules: [{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: good}]}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {name: login, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}]
  oidc:
    provider: {issuer: "https://127.0.0.1:9/nobody"}
    clientID: edge
    clientSecret: {name: client}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: traffic, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}]
  loadBalancer: {type: RoundRobin, zoneAware: {preferLocal: {force: {}}}}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata: {name: clients, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}]
  tls: {clientValidation: {mode: RequireAndVerify}}
"#;

#[test]
fn policies_are_told_to_a_real_api_server() {
    if let Err(why) = netns::available() {
        return skip("status of policies in the API", &why);
    }
    let definitions = match Checkout::envoy_gateway() {
        Ok(files) => files.path(DEFINITIONS),
        Err(why) => return skip("status of policies in the API", &why),
    };
    let mut cluster = Cluster::start("k7p", &workspace().join("target/kubernetes-policies"));
    cluster.define(Channel::Experimental);
    cluster.apply_file(&definitions);
    cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=120s", "crd", "--all"]);
    cluster.start_edge();
    cluster.apply("objects", OBJECTS);
    let accepted = |name: &str, expected: &str| {
        await_within(LIMIT, &format!("{name} is Accepted {expected}"), || {
            (of_policy(&cluster, name, "Accepted")["status"] == expected).then_some(())
        });
    };
    accepted("securitypolicy/login", "True");
    accepted("backendtrafficpolicy/traffic", "True");
    accepted("clienttrafficpolicy/clients", "False");
    let warning = of_policy(&cluster, "backendtrafficpolicy/traffic", "Warning");
    assert!(warning["message"].as_str().is_some_and(|message| message.contains("zoneAware")), "{warning}");

    for (name, expected) in [("backend/good", "True"), ("backend/refused", "False")] {
        await_within(LIMIT, &format!("{name} is Accepted {expected}"), || {
            let status = object(&cluster, name)["status"].clone();
            (condition(&status, "Accepted")["status"] == expected).then_some(())
        });
    }

    // Who is asked is away: that is said beside Accepted, and no more when nobody is asked.
    let away = await_within(LIMIT, "the provider is told to be away", || {
        Some(of_policy(&cluster, "securitypolicy/login", "Reachable")).filter(|found| found["status"] == "False")
    });
    assert_eq!(away["reason"], "Away", "{away}");
    assert!(away["message"].as_str().is_some_and(|why| why.contains("127.0.0.1:9")), "{away}");
    assert_eq!(of_policy(&cluster, "securitypolicy/login", "Accepted")["status"], "True");
    let patch = r#"{"spec":{"oidc":null,"authorization":{"defaultAction":"Allow"}}}"#;
    cluster.kubectl(&["patch", "securitypolicy/login", "--type=merge", "--patch", patch]);
    await_within(LIMIT, "nobody is away any more", || {
        let accepted = of_policy(&cluster, "securitypolicy/login", "Accepted");
        let reachable = of_policy(&cluster, "securitypolicy/login", "Reachable");
        (accepted["observedGeneration"] == 2 && reachable.is_null()).then_some(())
    });
}

fn object(cluster: &Cluster, name: &str) -> Value {
    serde_json::from_str(&cluster.kubectl(&["get", name, "--output=json"]).stdout).unwrap()
}

fn condition(of: &Value, kind: &str) -> Value {
    let all = of["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}

/// A condition of the first ancestor of a policy.
fn of_policy(cluster: &Cluster, name: &str, kind: &str) -> Value {
    condition(&object(cluster, name)["status"]["ancestors"][0], kind)
}
