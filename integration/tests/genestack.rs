//! Genestack's own gateway files, unmodified: every host name of every route that they make attachable answers over HTTPS
//! from its own backend on the VIP of their MetalLB pool, asked from another host. Needs root and the files:
//! `EDGE_GENESTACK`, or `../shared/genestack` beside the workspace.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use edge_integration::client::{Connection, fetch};
use edge_integration::edged::{Edged, edgectl};
use edge_integration::genestack::files::{DOMAIN, OPENSTACK, files, services};
use edge_integration::lab::{Lab, block_on, skip};
use edge_integration::netns::{self, Namespace};
use edge_integration::region::{Region, route_conditions};

const VIP: [u8; 4] = [10, 74, 8, 99];

fn configure(lab: &Lab, files: &Path, services: &str) {
    let dir = lab.dir().display();
    let files = files.display();
    lab.manifest("services.yaml", services);
    lab.write_file(
        "edge.toml",
        &format!(
            r#"
[state]
directory = "{dir}/state"

[control]
socket = "{dir}/edged.sock"

[access_log]
path = "{dir}/access.log"

[gateway]
controller_names = ["gateway.envoyproxy.io/gatewayclass-controller"]

[[manifests]]
path = "{files}/base-kustomize/envoyproxy-gateway/base"
exclude = ["kustomization.yaml"]

[[manifests]]
path = "{files}/etc/gateway-api/routes"

[[manifests]]
path = "{files}/manifests/metallb"

[[manifests]]
path = "{dir}/manifests"

[[patch]]
target = {{ kind = "Gateway", namespace = "envoy-gateway", name = "flex-gateway" }}
path = "{files}/etc/gateway-api/listeners"

[substitute]
"your.domain.tld" = "{DOMAIN}"

[proxy]
workers = 2
"#
        ),
    );
}

#[test]
fn every_public_host_of_genestack_answers_from_its_backend() {
    let files = match files() {
        Ok(files) => files,
        Err(why) => return skip("genestack", &why),
    };
    if let Err(why) = netns::available() {
        return skip("genestack", &why);
    }
    let edge = Namespace::new("gs-edge").unwrap();
    let client = Namespace::new("gs-client").unwrap();
    edge.link("10.74.0.1/24", &client, "10.74.0.2/24").unwrap();
    client.ip("route add 10.74.8.99/32 via 10.74.0.1").unwrap();

    edge.run(|| {
        let lab = Lab::with_vip(VIP.into());
        let doubled = ["keystone-api", "skyline-api"];
        let (services, _running) = services(lab.origins(), Ipv4Addr::LOCALHOST.into(), &doubled);
        configure(&lab, &files, &services);
        check_offline(&lab);

        let mut edged = lab.spawn();
        edged.wait_port(lab.at(443));
        edged.wait_port(lab.at(80));
        edged.wait_shown();
        client.run(|| block_on(ask())).unwrap();
        trusted_hops(&lab);
        check_conditions(&edged);
        let explain = edged.ctl(&["explain", &format!("https://keystone.{DOMAIN}/v3")]);
        for word in ["keystone-https", "custom-keystone-gateway-route", "keystone-api"] {
            assert!(explain.stdout.contains(word), "no {word} in {explain:?}");
        }
    })
    .unwrap();
    drop(client);
}

/// Asks as a client on another host.
async fn ask() {
    let region = Region { vip: VIP.into(), http: 80, https: 443 };
    for (label, service, _) in OPENSTACK {
        let host = format!("{label}.{DOMAIN}");
        let second = format!("{service}-2");
        region.serves(&host, &[service, &second]).await;
        region.redirects(&host).await;
    }
    region.serves(&format!("grafana.{DOMAIN}"), &["grafana"]).await;
    region.redirects(&format!("grafana.{DOMAIN}")).await;

    // Loki has a plaintext listener of its own, more specific than the one that redirects.
    let loki = format!("internal.loki-gateway.{DOMAIN}");
    let reply = fetch(region.plain(), None, &loki, "/ready").await.unwrap();
    assert_eq!((reply.status, reply.backend()), (200, Some("loki-gateway")), "{loki}");

    // What the files leave dangling: the redirect works, and then there is nobody.
    for label in ["alertmanager", "prometheus", "manila"] {
        region.redirects(&format!("{label}.{DOMAIN}")).await;
    }
    let manila = format!("manila.{DOMAIN}");
    let tls = Region::tls(&manila, &["http/1.1"]);
    assert_eq!(fetch(region.secure(), Some(&tls), &manila, "/").await.unwrap().status, 404, "listener without a route");
    for host in [format!("alertmanager.{DOMAIN}"), format!("prometheus.{DOMAIN}"), format!("loki.{DOMAIN}")] {
        let tls = Region::tls(&host, &["http/1.1"]);
        assert!(Connection::open(region.secure(), Some(&tls)).await.is_err(), "{host}: no listener, yet a handshake");
    }
    // grafana's further names are outside of its listener: *.cluster.local has no route, the rest no listener.
    let tls = Region::tls("grafana.cluster.local", &["http/1.1"]);
    let reply = fetch(region.secure(), Some(&tls), "grafana.cluster.local", "/").await.unwrap();
    assert_eq!(reply.status, 404, "grafana.cluster.local");
    for host in ["grafana", "grafana.grafana"] {
        let tls = Region::tls(host, &["http/1.1"]);
        assert!(Connection::open(region.secure(), Some(&tls)).await.is_err(), "{host}: no listener, yet a handshake");
    }

    let keystone = format!("keystone.{DOMAIN}");
    region.sticks(&keystone, "KeystoneSession", 300, &["keystone-api", "keystone-api-2"]).await;
    region.sticks(&format!("skyline.{DOMAIN}"), "SkylineSession", 300, &["skyline-api", "skyline-api-2"]).await;
    region.closes_idle(&keystone, Duration::from_secs(5)).await;

    // Nothing trusted is thrown away; our own peer is appended.
    let told = region.forwarded_for(&keystone, "198.51.100.1, 198.51.100.2, 198.51.100.3").await;
    assert!(told.ends_with("198.51.100.2, 198.51.100.3, 10.74.0.2"), "x-forwarded-for: {told}");
}

/// numTrustedHops 2: the client is who the second-last proxy says.
fn trusted_hops(lab: &Lab) {
    let of = |line: &&serde_json::Value| line.to_string().contains("\"198.51.100.2\"");
    edge_integration::edged::until("an access log line with the trusted client address", || {
        lab.access_log().iter().find(of).is_some().then_some(())
    });
}

fn check_offline(lab: &Lab) {
    let check = edgectl(&["check", &lab.config().to_string_lossy()]);
    let text = check.text();
    // Dangling references are told, but the files are served: every complaint is known.
    for (what, words) in [
        ("alertmanager names a listener that is not there", ["custom-alertmanager-gateway-route", "http"]),
        ("prometheus names a listener that is not there", ["custom-prometheus-gateway-route", "http"]),
        ("manila names a Gateway that is not there", ["custom-manila-gateway-route", "nginx-gateway"]),
        ("EnvoyProxy's provider is not acted on", ["custom-proxy-config", "provider"]),
        ("L2 advertisements are not acted on", ["openstack-external-advertisement", "not acted on"]),
        ("the policy is in another namespace than its routes", ["least-request-policy", "custom-nova-gateway-route"]),
    ] {
        let told = text.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(told, "{what}: not told in\n{text}");
    }
    assert_eq!(check.code, Some(1), "dangling references are problems: {text}");
}

fn check_conditions(edged: &Edged) {
    let says = |namespace: &str, name: &str| route_conditions(edged, "httproute", namespace, name);
    let has = |list: &[(String, String, String)], kind: &str, status: &str, reason: &str| {
        list.iter().any(|(k, s, r)| k == kind && s.eq_ignore_ascii_case(status) && r == reason)
    };
    for name in ["custom-alertmanager-gateway-route", "custom-prometheus-gateway-route"] {
        let parents = says("monitoring", name);
        assert!(parents.len() == 1 && has(&parents[0], "Accepted", "False", "NoMatchingParent"), "{name}: {parents:?}");
    }
    // A parent that is no Gateway of ours gets no status from us (RouteStatus.Parents).
    assert_eq!(says("openstack", "custom-manila-gateway-route"), Vec::<Vec<_>>::new());
    for (namespace, name) in [
        ("openstack", "custom-keystone-gateway-route"),
        ("openstack", "http2https-route"),
        ("monitoring", "grafana-gateway-route"),
        ("monitoring", "internal-loki-gateway-route"),
    ] {
        let parents = says(namespace, name);
        assert!(
            parents.len() == 1
                && has(&parents[0], "Accepted", "True", "Accepted")
                && has(&parents[0], "ResolvedRefs", "True", "ResolvedRefs"),
            "{name}: {parents:?}"
        );
    }
}
