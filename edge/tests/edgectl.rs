//! The binary `edgectl`, on files and against a running API.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::SystemTime;

use edge::certs::command::{CertCommand, Material, RevocationReason};
use edge::certs::table::Origin;
use edge::control::api::{Api, Sockets, start};
use edge::control::fleet::Witnessed;
use edge::control::observed::{Observed, SocketState, VipState};
use edge::control::world::{Command as Order, Handle, Reloaded, World, channels};
use edge::history::Folder;
use edge::proxy::metrics::Text;
use edge::source::{Cache, load_directory};
use edge::store::Store;

const SHOP: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: edge }
spec: { controllerName: edge.internal/gateway-controller }
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: { name: public, namespace: metallb-system }
spec: { addresses: [192.0.2.10-192.0.2.20] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: public, namespace: shop }
spec:
  gatewayClassName: edge
  listeners:
    - { name: http, port: 80, protocol: HTTP }
    - name: https
      port: 443
      protocol: HTTPS
      hostname: shop.example.com
      tls: { certificateRefs: [{ name: shop-tls }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: cart, namespace: shop }
spec:
  parentRefs: [{ name: public }]
  hostnames: [shop.example.com]
  rules:
    - matches: [{ path: { type: PathPrefix, value: /cart } }]
      backendRefs: [{ name: cart, port: 80 }]
---
apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec:
  ports: [{ name: http, port: 80, targetPort: 8080 }]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: cart-1, namespace: shop, labels: { kubernetes.io/service-name: cart } }
addressType: IPv4
endpoints:
  - addresses: [127.0.0.1]
    conditions: { ready: true }
ports: [{ name: http, port: 8080 }]
"#;

fn directory(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("shop.yaml"), text).unwrap();
    directory
}

/// Runs in `at`, without a terminal and without what the environment might say.
fn edgectl(at: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edgectl"))
        .args(arguments)
        .current_dir(at)
        .env_remove("EDGECTL_SOCKET")
        .output()
        .unwrap()
}

#[track_caller]
fn expect(output: &Output, code: i32, part: &str) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}{error}");
    assert!(text.contains(part) || error.contains(part), "{part:?} is not in:\n{text}{error}");
    assert!(!text.contains('\x1b'), "colours without a terminal");
    text
}

#[test]
fn check() {
    let good = directory(SHOP);
    expect(&edgectl(good.path(), &["check", "shop.yaml"]), 0, "ok: 6 objects, 0 errors, 1 warning");
    expect(&edgectl(good.path(), &["check", "."]), 0, "ok: 6 objects, 0 errors, 1 warning");

    let dangling = directory(&SHOP.replace("name: cart, port: 80 }", "name: carts, port: 80 }"));
    let text = expect(&edgectl(dangling.path(), &["check", "shop.yaml"]), 1, "Service shop/carts not found");
    assert!(text.contains("\nshop.yaml:25:1: HTTPRoute shop/cart: Service"), "{text}");

    let broken = directory(&SHOP.replace("port: 443", "port: many"));
    let text = expect(&edgectl(broken.path(), &["check", "shop.yaml", "-o", "json"]), 1, "many");
    let checked: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(checked["ok"], false);
    let first = &checked["problems"][0];
    assert_eq!((first["origin"]["line"].as_u64(), first["severity"].as_str()), (Some(20), Some("error")), "{text}");

    expect(&edgectl(good.path(), &["check", "nowhere.yaml"]), 2, "edgectl: nowhere.yaml: No such file");
}

#[test]
fn check_of_settings() {
    let at = directory(SHOP);
    let settings = "[vips]\nbind = \"sometimes\"\nfoo = 1\n[[manifests]]\npath = \"shop.yaml\"\n";
    std::fs::write(at.path().join("edge.toml"), settings).unwrap();
    let text = expect(&edgectl(at.path(), &["check", "edge.toml"]), 1, "edge.toml:2:8: ");
    assert!(text.contains("edge.toml:3:1: "), "every fault at once: {text}");
    std::fs::write(at.path().join("edge.toml"), "[[manifests]]\npath = \"shop.yaml\"\n").unwrap();
    expect(&edgectl(at.path(), &["check", "edge.toml"]), 0, "ok: 6 objects");
}

#[test]
fn warnings_are_errors_when_asked() {
    let at = directory(SHOP);
    std::fs::write(at.path().join("patch.json"), r#"[{"op":"add","path":"/spec/x","value":1}]"#).unwrap();
    let fix =
        "[[patch]] target = { kind = \"Gateway\", namespace = \"shop\", name = \"public\" } path = \"./patch.json\"";
    expect(&edgectl(at.path(), &["check", "."]), 0, fix);
    expect(&edgectl(at.path(), &["check", ".", "--strict"]), 1, "failed: 6 objects, 0 errors, 2 warnings");
}

#[test]
fn explain_from_files() {
    let at = directory(SHOP);
    let ask = |arguments: &[&str]| {
        let mut all = vec!["explain", "--dir", "."];
        all.extend(arguments);
        edgectl(at.path(), &all)
    };
    expect(&ask(&["https://shop.example.com/cart"]), 0, "answered by Service shop/cart:80");
    expect(&ask(&["https://shop.example.com/other"]), 1, "404: no route of listener https matches");
    expect(&ask(&["https://shop.exampel.com/cart"]), 1, "did you mean shop.example.com?");
    let text = expect(&ask(&["https://shop.example.com/cart", "-o", "json"]), 0, "");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["walks"][0]["rule"]["backends"][0]["upstream"]["endpoints"][0]["address"], "127.0.0.1:8080");
    assert_eq!(value["walks"][0]["sockets"][0]["address"], "192.0.2.10:443");
    expect(&ask(&["ftp://shop.example.com/"]), 64, "scheme \"ftp\"");
    expect(&ask(&["https://shop.example.com/", "-H", "bad"]), 64, "expected \"name: value\"");
}

#[test]
fn differences_between_files() {
    let before = directory(SHOP);
    let after = directory(&SHOP.replace("value: /cart", "value: /basket"));
    let path = after.path().to_str().unwrap();
    expect(&edgectl(before.path(), &["diff", ".", "--against", "."]), 0, "no difference");
    let text = expect(&edgectl(before.path(), &["diff", path, "--against", "."]), 1, "2 added, 0 changed, 2 removed");
    assert!(text.contains("+ https://shop.example.com PathPrefix /basket [shop/public/https]"), "{text}");
    assert!(text.contains("- https://shop.example.com PathPrefix /cart [shop/public/https]"), "{text}");
}

#[test]
fn usage() {
    let at = tempfile::tempdir().unwrap();
    expect(&edgectl(at.path(), &["stat"]), 64, "unrecognized subcommand");
    expect(&edgectl(at.path(), &["--help"]), 0, "Exit codes:");
    expect(&edgectl(at.path(), &["--socket", "none.sock", "status"]), 3, "edged cannot be reached at none.sock");
    expect(&edgectl(at.path(), &["completions", "bash"]), 0, "_edgectl()");
    expect(&edgectl(at.path(), &["man"]), 0, ".TH edgectl 1");
    expect(&edgectl(at.path(), &["man", "--dir", "pages"]), 0, "");
    for page in ["edgectl.1", "edgectl-status.1", "edgectl-explain.1", "edgectl-check.1"] {
        assert!(at.path().join("pages").join(page).exists(), "{page}");
    }
}

fn api(handle: Handle, directory: &Path) -> Api {
    let witness = Arc::new(Witnessed::new(handle.world.clone()));
    Api { handle, metrics: Arc::new(|_: &mut Text| {}), revisions: Folder::new(directory), fleet: None, witness }
}

/// Serves the API of a world made from the shop, and answers one reload.
struct Running {
    directory: tempfile::TempDir,
    publish: tokio::sync::watch::Sender<Arc<World>>,
    stop: tokio::sync::watch::Sender<bool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Running {
    fn new() -> Self {
        let directory = directory(SHOP);
        let (publish, mut commands, handle) = channels(world(directory.path()));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let sockets = Sockets::bind(&socket(&directory), None).unwrap();
        let api = start(api(handle, directory.path()), sockets, stopped).unwrap();
        let supervisor = std::thread::spawn(move || {
            if let Some(Order::Reload { reply, .. }) = commands.blocking_recv() {
                reply.send(Ok(Reloaded { generation: 2, changed: true, errors: 0, warnings: 0 })).unwrap();
            }
        });
        Self { directory, publish, stop, threads: vec![api, supervisor] }
    }

    fn edgectl(&self, arguments: &[&str]) -> Output {
        let socket = socket(&self.directory);
        let mut all = vec!["--socket", socket.to_str().unwrap()];
        all.extend(arguments);
        edgectl(self.directory.path(), &all)
    }

    fn end(self) {
        self.stop.send(true).unwrap();
        drop(self.publish);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

fn socket(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("edged.sock")
}

fn world(path: &Path) -> World {
    let loaded = load_directory(path, &mut Cache::default());
    let compiled = edge_config::compile(&loaded.inputs);
    let sockets = compiled.snapshot.sockets.iter();
    let observed = Observed {
        workers: 2,
        acknowledged: 2,
        serving: true,
        sockets: sockets.map(|socket| ((socket.address, socket.transport), SocketState::Bound)).collect(),
        vips: compiled.snapshot.vips.iter().map(|vip| (vip.address, VipState::Bound { announced: None })).collect(),
        ..Observed::default()
    };
    World {
        generation: 1,
        inputs: Arc::new(loaded.inputs),
        endpoints: Arc::new(compiled.endpoints.clone()),
        compiled: Arc::new(compiled),
        problems: loaded.problems.into(),
        observed: Arc::new(observed),
        ..World::empty("edge-1", SystemTime::now())
    }
}

#[test]
fn migrations() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/tests/migrate");
    let at = tempfile::tempdir().unwrap();
    let input = |name: &str| cases.join(name).join("in").to_str().unwrap().to_owned();
    // Everything is in the output, with something left to decide.
    let text =
        expect(&edgectl(at.path(), &["migrate", "metallb", &input("metallb/genestack")]), 0, "0 without equivalent");
    assert!(text.starts_with("# ----- edge.toml -----\n[edge]\n"), "{text}");
    expect(&edgectl(at.path(), &["migrate", "f5", &input("f5/bigip")]), 1, "bigip.conf:");
    let json = expect(&edgectl(at.path(), &["migrate", "f5", &input("f5/as3"), "-o", "json"]), 1, "");
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["files"][0]["path"], "edge.toml");
    assert!(value["notes"].as_array().unwrap().iter().any(|note| note["kind"] == "no-equivalent"));

    // What is written is read again, and nothing is written over.
    expect(
        &edgectl(at.path(), &["migrate", "metallb", &input("metallb/services"), "--into", "out"]),
        0,
        "wrote out/edge.toml",
    );
    expect(&edgectl(at.path(), &["check", "out/edge.toml"]), 0, "ok:");
    expect(
        &edgectl(at.path(), &["migrate", "metallb", &input("metallb/services"), "--into", "out"]),
        74,
        "is there already",
    );

    std::fs::write(at.path().join("broken.conf"), "ltm pool p {\n  members {\n").unwrap();
    expect(&edgectl(at.path(), &["migrate", "f5", "broken.conf"]), 2, "broken.conf:2:11: the block is not closed");
    std::fs::write(at.path().join("broken.yaml"), "kind: Ingress\n  x: [\n").unwrap();
    expect(&edgectl(at.path(), &["migrate", "ingress", "broken.yaml"]), 2, "broken.yaml:2:");
    expect(&edgectl(at.path(), &["migrate", "ingress", "nowhere"]), 2, "nowhere");
}

#[test]
fn pools_of_files() {
    let at = directory(SHOP);
    let text = expect(&edgectl(at.path(), &["pool", "--config", "."]), 0, "192.0.2.10-192.0.2.20");
    assert!(text.contains("192.0.2.10") && text.contains("Gateway shop/public"), "{text}");
    let ask = |file: &str| edgectl(at.path(), &["pool", "--against", "shop.yaml", "--dry-run", file]);
    std::fs::write(at.path().join("more.yaml"), SHOP.replace("192.0.2.20", "192.0.2.30")).unwrap();
    expect(&ask("more.yaml"), 0, "nobody loses an address");
    std::fs::write(at.path().join("less.yaml"), SHOP.replace("192.0.2.10-", "192.0.2.12-")).unwrap();
    expect(
        &ask("less.yaml"),
        1,
        "~ Gateway shop/public moves from 192.0.2.10 to 192.0.2.12: no pool covers 192.0.2.10",
    );
}

/// A world in which somebody answers for the certificate thread.
#[test]
fn certificates_of_a_running_edge() {
    let directory = directory(SHOP);
    let (publish, mut commands, handle) = channels(world(directory.path()));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let sockets = Sockets::bind(&socket(&directory), None).unwrap();
    let api = start(api(handle, directory.path()), sockets, stopped).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = rcgen::CertificateParams::new(vec!["shop.example.com".into()]).unwrap().self_signed(&key).unwrap();
    let (chain_pem, key_pem) = (chain.pem(), zeroize::Zeroizing::new(key.serialize_pem()));
    let (served, secret) = (chain_pem.clone(), key_pem.clone());
    let thread = std::thread::spawn(move || {
        while let Some(order) = commands.blocking_recv() {
            let Order::Certificate(command) = order else { continue };
            match command {
                CertCommand::Renew { reply, .. } => reply.send(Err("not now: its limit is reached".into())).unwrap(),
                CertCommand::Revoke { id, reason, reply } => {
                    assert_eq!(reason, RevocationReason::KeyCompromise);
                    reply.send(Ok(format!("{id} is revoked"))).unwrap();
                }
                CertCommand::Import { id, reply, .. } => reply.send(Ok(format!("{id} is served"))).unwrap(),
                CertCommand::Read { with_key, reply, .. } => {
                    let key_pem = with_key.then(|| secret.clone());
                    let material = Material { origin: Origin::Issued, chain_pem: served.clone(), key_pem };
                    drop(reply.send(Ok(material)));
                }
                CertCommand::Backup { reply } => reply.send(Store::in_memory().backup()).unwrap(),
                CertCommand::Received { .. } | CertCommand::Held { .. } => {}
            }
        }
    });
    let ask = |arguments: &[&str]| {
        let socket = socket(&directory);
        let mut all = vec!["--socket", socket.to_str().unwrap()];
        all.extend(arguments);
        edgectl(directory.path(), &all)
    };
    // It is not issued yet.
    expect(&ask(&["cert", "list"]), 2, "1 certificate, 1 with a problem");
    expect(&ask(&["cert", "why", "shop.example.com"]), 2, "edged has not issued it yet");
    expect(&ask(&["cert", "why", "shop/shop-tls", "-o", "json"]), 2, "\"cause\": \"unknown\"");
    expect(&ask(&["cert", "why", "no.example.com"]), 2, "no certificate is wanted or served for no.example.com");
    expect(&ask(&["cert", "show", "shop.example.com"]), 2, "CN=rcgen self signed cert");
    expect(&ask(&["cert", "budget"]), 0, "no ACME issuer is configured");
    expect(&ask(&["cert", "renew", "shop.example.com"]), 1, "not now: its limit is reached");
    expect(&ask(&["cert", "revoke", "shop/shop-tls", "--reason", "key-compromise"]), 0, "shop/shop-tls is revoked");

    let text = expect(&ask(&["cert", "export", "shop.example.com", "--key", "shop.key"]), 0, "");
    assert_eq!(text, chain_pem);
    assert_eq!(std::fs::read_to_string(directory.path().join("shop.key")).unwrap(), *key_pem);
    expect(&ask(&["cert", "export", "shop.example.com", "--key", "shop.key"]), 74, "File exists");
    expect(&ask(&["cert", "export", "shop.example.com", "--key", "-"]), 0, "PRIVATE KEY");
    std::fs::write(directory.path().join("shop.pem"), &chain_pem).unwrap();
    expect(&ask(&["cert", "import", "shop.pem"]), 2, "no private key in these files");
    expect(&ask(&["cert", "import", "shop.pem", "shop.key"]), 0, "shop/shop-tls is served");
    expect(&ask(&["cert", "import", "shop.pem", "nowhere"]), 2, "nowhere: No such file");

    expect(&ask(&["backup", "edge.backup"]), 0, "written to edge.backup");
    expect(&ask(&["backup", "edge.backup"]), 74, "File exists");
    expect(&edgectl(directory.path(), &["restore", "edge.backup", "--state", "state"]), 0, "restored into state");
    expect(&edgectl(directory.path(), &["restore", "shop.pem", "--state", "state"]), 2, "not a backup of Edge");

    stop.send(true).unwrap();
    drop(publish);
    api.join().unwrap();
    thread.join().unwrap();
}

#[test]
fn a_running_edge() {
    let running = Running::new();
    // The certificate is not issued yet.
    let text = expect(&running.edgectl(&["status"]), 1, "edge-1 up  generation 1");
    assert!(text.contains("shop/shop-tls"), "{text}");
    let status: serde_json::Value =
        serde_json::from_str(&expect(&running.edgectl(&["status", "-o", "json"]), 1, "")).unwrap();
    assert_eq!(status["vips"][0]["address"], "192.0.2.10");
    assert_eq!(status["backends"][0]["ready"], 1);

    expect(&running.edgectl(&["explain", "https://shop.example.com/cart"]), 0, "answered by Service shop/cart:80");
    expect(&running.edgectl(&["explain", "https://other.example.com/"]), 1, "handshake fails");

    expect(&running.edgectl(&["get"]), 0, "HTTPRoute");
    expect(&running.edgectl(&["get", "httproutes"]), 0, "shop.yaml:25:1");
    expect(&running.edgectl(&["get", "svc", "shop/cart", "-o", "yaml"]), 0, "kind: Service");
    expect(&running.edgectl(&["get", "svc", "shop/none"]), 1, "Service shop/none does not exist");
    expect(&running.edgectl(&["get", "problems"]), 0, "");
    expect(&running.edgectl(&["get", "config"]), 0, "controller_names:");

    expect(&running.edgectl(&["diff", "shop.yaml"]), 0, "no difference");
    std::fs::write(running.directory.path().join("new.yaml"), SHOP.replace("value: /cart", "value: /")).unwrap();
    expect(&running.edgectl(&["diff", "new.yaml"]), 1, "PathPrefix / [shop/public/https]");

    expect(&running.edgectl(&["pool"]), 0, "Gateway shop/public");
    let pool = |range: &str| {
        let text = format!(
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{ name: public, namespace: metallb-system \
             }}\nspec: {{ addresses: [{range}] }}\n"
        );
        std::fs::write(running.directory.path().join("pool.yaml"), text).unwrap();
        running.edgectl(&["pool", "--dry-run", "pool.yaml"])
    };
    expect(&pool("192.0.2.10"), 0, "nobody loses an address; 1 object unchanged");
    expect(&pool("192.0.2.11"), 1, "moves from 192.0.2.10 to 192.0.2.11");
    expect(&pool("nonsense"), 2, "pool.yaml:4:");
    std::fs::write(running.directory.path().join("new.toml"), "[[pool]]\nname = 1\n").unwrap();
    expect(&running.edgectl(&["pool", "--dry-run", "new.toml"]), 2, "new.toml:2:8: pool[0].name");

    expect(&running.edgectl(&["reload"]), 0, "generation 2 is published");
    expect(&running.edgectl(&["reload"]), 1, "does not take commands");
    running.end();
}
