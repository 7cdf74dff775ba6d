//! ACME in a real API server: cert-manager's issuers aimed at Pebble, accounts and certificates in Secrets, and what a
//! lost store, a hand in a Secret, an issuer half written and an API server that is away cost: no order too many.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_integration::acme::{Pebble, Settings};
use edge_integration::client::{Connection, Tls};
use edge_integration::cluster::fabric::{CONTROL, EDGE, VIPS};
use edge_integration::cluster::objects::{condition, object, secret, settle, versions};
use edge_integration::cluster::process::await_within;
use edge_integration::cluster::{Channel, Cluster};
use edge_integration::edged::workspace;
use edge_integration::lab::{block_on, skip};
use edge_integration::netns;
use edge_integration::pki::{self, Authority, Leaf};
use edge_integration::trials::field::writes;
use rustix::process::Signal;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
/// So long nothing must happen.
const REST: Duration = Duration::from_secs(6);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 10);
/// Pebble's external account.
const KEY_ID: &str = "kid-1";
const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
const SHOP: &str = "shop.example.com";
const LEAF: &str = "leaf.example.com";
const LATE: &str = "late.example.com";

struct Rig {
    cluster: Cluster,
    pebble: Pebble,
}

#[test]
fn acme_in_a_real_api_server() {
    if let Err(why) = netns::available() {
        return skip("ACME in the API", &why);
    }
    let cluster = Cluster::start("kube6acme", &workspace().join("target/kubernetes-acme"));
    let route = format!("route add {VIPS} via {EDGE}");
    cluster.fabric.control.ip(&route).unwrap();
    let settings = Settings {
        namespace: cluster.fabric.control.name().to_owned(),
        listen: CONTROL.into(),
        names_lead_to: VIP.into(),
        external_accounts: vec![(KEY_ID.to_owned(), KEY.to_owned())],
        ..Settings::default()
    };
    let pebble = match Pebble::start(&settings) {
        Ok(pebble) => pebble,
        Err(why) => return skip("ACME in the API", &why),
    };
    let mut rig = Rig { cluster, pebble };
    rig.prepare();
    an_issuer_half_written(&rig);
    an_issuer_registers(&rig);
    a_gateway_and_a_certificate_are_issued(&rig);
    nothing_at_rest(&rig);
    a_working_issuer_is_broken_and_mended(&rig);
    an_address_of_mail_is_changed(&rig);
    an_empty_store_orders_nothing(&mut rig);
    a_secret_is_replaced_by_hand(&rig);
    issuance_while_the_api_is_down(&mut rig);
}

impl Rig {
    fn prepare(&mut self) {
        let Self { cluster, pebble } = self;
        cluster.define(Channel::Experimental);
        cluster.apply_file(&workspace().join("manifests/cert-manager-crds.yaml"));
        cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=120s", "crd", "--all"]);
        cluster.kubectl(&["create", "namespace", "cert-manager"]);
        cluster.kubectl(&[
            "create",
            "secret",
            "generic",
            "eab",
            "--namespace=cert-manager",
            &format!("--from-literal=secret={KEY}"),
        ]);
        cluster.start_edge_with(&format!("\n[certificates]\nresolvers = [\"{}\"]\n", pebble.names.dns));
    }

    /// The ClusterIssuer, after a change.
    fn issuer(&self, change: impl FnOnce(&mut Value)) {
        let mut issuer = json!({
            "apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer", "metadata": {"name": "letsencrypt"},
            "spec": {"acme": {
                "server": self.pebble.directory(),
                "email": "ops@example.com",
                "caBundle": STANDARD.encode(self.pebble.trust()),
                "privateKeySecretRef": {"name": "letsencrypt"},
                "externalAccountBinding": {"keyID": KEY_ID, "keySecretRef": {"name": "eab", "key": "secret"}},
                "solvers": [{"http01": {"gatewayHTTPRoute": {"parentRefs": [
                    {"name": "web", "namespace": "default", "kind": "Gateway"},
                ]}}}],
            }},
        });
        change(&mut issuer["spec"]["acme"]);
        self.cluster.apply("issuer", &issuer.to_string());
    }

    fn issuer_ready(&self) -> Value {
        condition(&object(&self.cluster, "clusterissuer/letsencrypt")["status"], "Ready")
    }

    fn gateway(&self, hosts: &[&str]) {
        let listener = |host: &&str| {
            let name = host.split('.').next().unwrap_or_default();
            json!({
                "name": name, "port": 443, "protocol": "HTTPS", "hostname": host,
                "tls": {"certificateRefs": [{"name": format!("{name}-tls")}]},
            })
        };
        let mut listeners: Vec<Value> = hosts.iter().map(listener).collect();
        listeners.push(json!({"name": "http", "port": 80, "protocol": "HTTP"}));
        let annotations = json!({
            "cert-manager.io/cluster-issuer": "letsencrypt",
            "cert-manager.io/private-key-algorithm": "ECDSA",
            "acme.cert-manager.io/http01-edit-in-place": "true",
        });
        let gateway = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "web", "namespace": "default", "annotations": annotations},
            "spec": {
                "gatewayClassName": "gateway-conformance",
                "addresses": [{"type": "IPAddress", "value": VIP.to_string()}],
                "listeners": listeners,
            },
        });
        self.cluster.apply("gateway", &gateway.to_string());
    }

    /// The leaf that the VIP serves under a name, if it is of the CA that is trusted.
    fn served(&self, name: &str, trusted: &str) -> Option<Vec<u8>> {
        let config = pki::client(trusted, &["http/1.1"], None).unwrap();
        let tls = Tls { config, server_name: Some(name.to_owned()) };
        let open = || block_on(Connection::open(SocketAddr::new(VIP.into(), 443), Some(&tls)));
        let opened = self.cluster.fabric.client.run(open).unwrap().ok()?;
        opened.handshake.certificates.first().map(|leaf| leaf.to_vec())
    }

    fn root(&self) -> String {
        self.pebble.root(0)
    }
}

/// The first certificate of a Secret, as it is.
fn leaf(secret: &Value) -> Vec<u8> {
    let pem = STANDARD.decode(secret["data"]["tls.crt"].as_str().unwrap()).unwrap();
    let chain = pki::certificates(std::str::from_utf8(&pem).unwrap()).unwrap();
    chain.first().unwrap().to_vec()
}

fn an_issuer_half_written(rig: &Rig) {
    let says = |missing: &str| {
        await_within(LIMIT, missing, || {
            let ready = rig.issuer_ready();
            (ready["status"] == "False" && ready["message"].as_str()?.contains(missing)).then_some(())
        });
    };
    // Not even an address of the CA: nothing of it can be used, and it says so.
    rig.issuer(|acme| *acme = json!({"privateKeySecretRef": {"name": "letsencrypt"}}));
    says("`server` is missing");
    assert_eq!(rig.issuer_ready()["reason"], "ConfigError");
    rig.issuer(|acme| acme["solvers"] = json!([]));
    says("no solver");
    assert_eq!(secret(&rig.cluster, "cert-manager/letsencrypt-edge"), None, "no account for that");
}

fn an_issuer_registers(rig: &Rig) {
    rig.issuer(|_| ());
    rig.cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "clusterissuer/letsencrypt"]);
    let status = object(&rig.cluster, "clusterissuer/letsencrypt")["status"].clone();
    assert_eq!(condition(&status, "Ready")["reason"], "ACMEAccountRegistered");
    let account = status["acme"]["uri"].as_str().unwrap();
    assert!(account.starts_with(&format!("https://{}/", rig.pebble.address)), "{account}");
    assert_eq!(status["acme"]["lastRegisteredEmail"], "ops@example.com");
    let key =
        await_within(LIMIT, "the account's key is written", || secret(&rig.cluster, "cert-manager/letsencrypt-edge"));
    assert_eq!(key["metadata"]["labels"]["app.kubernetes.io/managed-by"], "edge");
    let pem = STANDARD.decode(key["data"]["tls.key"].as_str().unwrap()).unwrap();
    assert!(pem.starts_with(b"-----BEGIN PRIVATE KEY-----"));
    assert_eq!(secret(&rig.cluster, "cert-manager/letsencrypt"), None, "cert-manager's own place is left to it");
}

fn a_gateway_and_a_certificate_are_issued(rig: &Rig) {
    rig.gateway(&[SHOP]);
    let certificate = json!({
        "apiVersion": "cert-manager.io/v1", "kind": "Certificate",
        "metadata": {"name": "leaf", "namespace": "default"},
        "spec": {
            "secretName": "leaf-tls", "dnsNames": [LEAF], "privateKey": {"algorithm": "ECDSA"},
            "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"},
        },
    });
    rig.cluster.apply("certificate", &certificate.to_string());
    rig.cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "certificate/leaf"]);
    let root = rig.root();
    let shop = await_within(LIMIT, "the listener serves it", || rig.served(SHOP, &root));
    for (name, host) in [("shop-tls", SHOP), ("leaf-tls", LEAF)] {
        let written = await_within(LIMIT, "the Secret is written", || secret(&rig.cluster, name));
        assert_eq!(written["type"], "kubernetes.io/tls");
        let annotations = &written["metadata"]["annotations"];
        for (annotation, value) in
            [("alt-names", host), ("issuer-name", "letsencrypt"), ("issuer-kind", "ClusterIssuer")]
        {
            assert_eq!(annotations[format!("cert-manager.io/{annotation}")], value, "{annotations}");
        }
        assert_eq!(written["data"]["ca.crt"], Value::Null, "whoever asks a public CA knows it");
    }
    assert_eq!(leaf(&secret(&rig.cluster, "shop-tls").unwrap()), shop);
    assert_eq!(rig.pebble.orders(), 2);
    await_within(LIMIT, "the listener says so", || {
        let gateway = object(&rig.cluster, "gateway/web");
        let ready = condition(&gateway["status"]["listeners"][0], "CertificateReady");
        (ready["status"] == "True" && ready["message"].as_str()?.contains(", renewal at 20")).then_some(())
    });
    for expected in ["CreateCertificate listener shop: shop.example.com: until", "ACMEAccountRegistered The ACME"] {
        told(&rig.cluster, expected);
    }
}

/// Waits for an Event.
fn told(cluster: &Cluster, expected: &str) {
    await_within(LIMIT, expected, || {
        let output = "--output=jsonpath={range .items[*]}{.reason} {.note}\n{end}";
        let said = cluster.kubectl(&["get", "events.events.k8s.io", "--all-namespaces", output]).stdout;
        said.contains(expected).then_some(())
    });
}

fn nothing_at_rest(rig: &Rig) {
    let settled = settle(&rig.cluster);
    let before = writes(rig.cluster.edge_seen().socket());
    std::thread::sleep(REST);
    assert_eq!(writes(rig.cluster.edge_seen().socket()), before, "calls at rest");
    assert_eq!(versions(&rig.cluster), settled);
}

fn a_working_issuer_is_broken_and_mended(rig: &Rig) {
    let root = rig.root();
    let before = (rig.served(SHOP, &root).unwrap(), secret(&rig.cluster, "shop-tls").unwrap()["data"].clone());
    let account = object(&rig.cluster, "clusterissuer/letsencrypt")["status"]["acme"]["uri"].clone();
    let now = || (rig.served(SHOP, &root).unwrap(), secret(&rig.cluster, "shop-tls").unwrap()["data"].clone());
    rig.issuer(|acme| acme["solvers"] = json!([]));
    await_within(LIMIT, "it says so", || (rig.issuer_ready()["status"] == "False").then_some(()));
    std::thread::sleep(REST);
    assert!(now() == before, "what there is serves on");
    // Of no use at all: the last good version keeps serving, and an Event tells why.
    rig.issuer(|acme| drop(acme.as_object_mut().unwrap().remove("server")));
    told(&rig.cluster, "LastGoodVersionServed");
    assert!(now() == before, "what there is serves on");
    rig.cluster.kubectl(&["delete", "clusterissuer/letsencrypt"]);
    std::thread::sleep(REST);
    assert!(now() == before, "what there is serves on");
    rig.issuer(|_| ());
    rig.cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "clusterissuer/letsencrypt"]);
    rig.cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "certificate/leaf"]);
    assert_eq!(object(&rig.cluster, "clusterissuer/letsencrypt")["status"]["acme"]["uri"], account);
    assert!(now() == before);
    assert_eq!(rig.pebble.orders(), 2);
}

fn an_address_of_mail_is_changed(rig: &Rig) {
    rig.issuer(|acme| acme["email"] = json!("new@example.com"));
    await_within(LIMIT, "the CA was told", || {
        let status = object(&rig.cluster, "clusterissuer/letsencrypt")["status"].clone();
        (status["acme"]["lastRegisteredEmail"] == "new@example.com").then_some(())
    });
    assert!(rig.issuer_ready()["status"] == "True");
}

fn an_empty_store_orders_nothing(rig: &mut Rig) {
    let root = rig.root();
    let before = rig.served(SHOP, &root).unwrap();
    let account = object(&rig.cluster, "clusterissuer/letsencrypt")["status"]["acme"]["uri"].clone();
    let versions = settle(&rig.cluster);
    let state = rig.cluster.dir().join("state");
    rig.cluster.edge().restart_after(Duration::from_secs(20), || std::fs::remove_dir_all(&state).unwrap());
    assert_eq!(await_within(LIMIT, "it serves again", || rig.served(SHOP, &root)), before);
    std::thread::sleep(REST);
    assert_eq!(settle(&rig.cluster), versions, "nothing is to be said anew");
    assert_eq!(object(&rig.cluster, "clusterissuer/letsencrypt")["status"]["acme"]["uri"], account);
    assert_eq!(rig.pebble.orders(), 2, "what Secrets hold is taken up");
    assert_eq!(rig.served(SHOP, &root).unwrap(), before);
}

fn a_secret_is_replaced_by_hand(rig: &Rig) {
    let cluster = &rig.cluster;
    let authority = Authority::new("hands").unwrap();
    let put = |name: &str| {
        let pair = authority.sign(&Leaf { dns: &[name], ..Leaf::default() }).unwrap();
        let data = json!({"stringData": {"tls.crt": pair.certificate, "tls.key": pair.key}}).to_string();
        cluster.kubectl(&["patch", "secret", "shop-tls", "--type=merge", "--patch", &data]);
        // It may be replaced by the time it is read.
        pki::certificates(&pair.certificate).unwrap().first().unwrap().to_vec()
    };
    let theirs = put(SHOP);
    assert_eq!(await_within(LIMIT, "a good one is served", || rig.served(SHOP, &authority.certificate)), theirs);
    let wrong = put("other.example.com");
    await_within(LIMIT, "one for another name is replaced", || {
        (leaf(&secret(cluster, "shop-tls")?) == theirs && wrong != theirs).then_some(())
    });
    assert_eq!(rig.served(SHOP, &authority.certificate), Some(theirs));
    assert_eq!(rig.pebble.orders(), 2);
}

fn issuance_while_the_api_is_down(rig: &mut Rig) {
    let root = rig.root();
    // The CA stands still until the API server is away.
    rig.pebble.process.signal(Signal::STOP);
    rig.gateway(&[SHOP, LATE]);
    let anything = pki::client_accepting_anything(&["http/1.1"]);
    let tls = Tls { config: anything, server_name: Some(LATE.to_owned()) };
    await_within(LIMIT, "a placeholder is served", || {
        let open = || block_on(Connection::open(SocketAddr::new(VIP.into(), 443), Some(&tls)));
        let opened = rig.cluster.fabric.client.run(open).unwrap().ok()?;
        let facts = pki::facts(opened.handshake.certificates.first()?).ok()?;
        facts.dns.iter().any(|name| name == LATE).then_some(())
    });
    rig.cluster.control.stop_apiserver();
    // It has nothing but its disk now: neither the issuer nor the key of its external account can be asked for.
    rig.cluster.edge().restart(Duration::from_secs(20));
    rig.pebble.process.signal(Signal::CONT);
    let late = await_within(LIMIT * 2, "it is issued, and served", || rig.served(LATE, &root));
    rig.cluster.control.start_apiserver();
    let written = await_within(LIMIT * 2, "the Secret is written later", || secret(&rig.cluster, "late-tls"));
    assert_eq!(leaf(&written), late);
    await_within(LIMIT, "the listener says so", || {
        let gateway = object(&rig.cluster, "gateway/web");
        let ready = condition(&gateway["status"]["listeners"][1], "CertificateReady");
        (ready["status"] == "True").then_some(())
    });
    assert_eq!(rig.served(LATE, &root).unwrap(), late);
}
