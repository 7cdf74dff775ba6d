//! The binary `edgectl`, on files and against a running API.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::SystemTime;

use edge::control::api::{Api, Sockets, start};
use edge::control::observed::{Observed, SocketState, VipState};
use edge::control::world::{Command as Order, Reloaded, World, channels};
use edge::proxy::metrics::Text;
use edge::source::{Cache, load_directory};

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
        let api = start(Api { handle, metrics: Arc::new(|_: &mut Text| {}) }, sockets, stopped).unwrap();
        let supervisor = std::thread::spawn(move || {
            if let Some(Order::Reload { reply }) = commands.blocking_recv() {
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

    expect(&running.edgectl(&["reload"]), 0, "generation 2 is published");
    expect(&running.edgectl(&["reload"]), 1, "does not take commands");
    running.end();
}
