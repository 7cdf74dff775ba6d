//! One edge of the cloud: its edge.toml around Genestack's files, the real `edged` in its namespace, and what can be done to
//! it.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::Cloud;
use super::files::DOMAIN;
use crate::acme::Pebble;
use crate::client::{Connection, Tls};
use crate::edged::{Edged, Said};
use crate::lab::block_on;
use crate::netns::{Namespace, run_in};
use crate::pki;

/// Where the fleet talks: the segment of the backends.
const FLEET: u16 = 7946;
const SECRET: &str = "of both edges of this cloud, and of nobody else";
/// As the documents of Genestack have the operator write it.
const ISSUER: &str = "---
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: {name: letsencrypt-prod}
spec:
  acme:
    email: ops@example.com
    server: https://acme-v02.api.letsencrypt.org/directory
    privateKeySecretRef: {name: letsencrypt-prod}
    solvers:
      - http01:
          gatewayHTTPRoute:
            parentRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: flex-gateway, namespace: envoy-gateway}]
";

/// What every edge is given alike.
pub struct Inputs<'a> {
    files: &'a Path,
    services: &'a str,
    /// Of the CA: the directory, the CA of its own HTTPS, the name server.
    directory: String,
    trust: String,
    dns: String,
}

impl<'a> Inputs<'a> {
    pub fn new(files: &'a Path, services: &'a str, pebble: &Pebble) -> Self {
        let (directory, trust) = (pebble.directory(), pebble.trust().to_owned());
        Self { files, services, directory, trust, dns: pebble.names.dns.to_string() }
    }
}

pub struct Edge {
    pub name: &'static str,
    namespace: String,
    home: PathBuf,
    /// `None`: it does not run.
    edged: Option<Edged>,
}

impl Edge {
    /// Writes its files; nothing runs yet, and its store is empty.
    pub fn new(name: &'static str, number: u8, space: &Namespace, home: &Path, inputs: &Inputs<'_>) -> Self {
        std::fs::create_dir_all(home.join("manifests")).unwrap();
        let write = |file: &str, text: &str| std::fs::write(home.join(file), text).unwrap();
        write("manifests/services.yaml", inputs.services);
        write("manifests/letsencrypt-prod.yaml", ISSUER);
        write("fleet.key", SECRET);
        std::fs::set_permissions(home.join("fleet.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
        write("edge.toml", &settings(name, number, home, inputs));
        Self { name, namespace: space.name().to_owned(), home: home.to_owned(), edged: None }
    }

    pub fn start(&mut self) {
        let [config, socket, log] = ["edge.toml", "edged.sock", "edged.log"].map(|name| self.home.join(name));
        self.edged = Some(run_in(&self.namespace, || Edged::spawn(&config, &socket, &log)).unwrap());
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill(&mut self) {
        self.edged().kill();
        self.edged = None;
    }

    pub fn edged(&mut self) -> &mut Edged {
        self.edged.as_mut().expect("edged runs")
    }

    /// Adds a manifest, or replaces it.
    pub fn manifest(&self, name: &str, text: &str) {
        let path = self.home.join("manifests").join(name);
        let fresh = path.with_extension("fresh~");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    pub fn ctl(&self, arguments: &[&str]) -> Said {
        self.edged.as_ref().expect("edged runs").ctl(arguments)
    }

    /// What it knows of the fleet; null before its control socket answers.
    pub fn fleet(&self) -> Value {
        let said = self.ctl(&["status", "-o", "json"]);
        serde_json::from_str::<Value>(&said.stdout).map_or(Value::Null, |status| status["fleet"].clone())
    }

    /// The edge that orders, as this one sees it.
    pub fn who_orders(&self) -> Option<String> {
        self.fleet()["orders"].as_str().map(str::to_owned)
    }

    /// Requests that it has answered, by its access log.
    pub fn requests(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.home.join("access.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How many questions of the CA it has answered.
    pub fn challenges(&self) -> usize {
        self.requests().iter().filter(|entry| entry["reason"] == "acme_challenge").count()
    }

    /// Runs in its namespace, where the VIP is this edge alone.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        run_in(&self.namespace, work).unwrap()
    }

    /// The leaf that this edge serves for each host that it has a certificate of the CA (`root`, PEM) for.
    pub fn leaves(&self, root: &str, hosts: &[String]) -> BTreeMap<String, Vec<u8>> {
        self.run(|| {
            block_on(async {
                let mut found = BTreeMap::new();
                for host in hosts {
                    let config = pki::client(root, &["http/1.1"], None).unwrap();
                    let tls = Tls { config, server_name: Some(host.clone()) };
                    if let Ok(open) = Connection::open(Cloud::https(), Some(&tls)).await {
                        found.insert(host.clone(), open.handshake.certificates[0].to_vec());
                    }
                }
                found
            })
        })
    }
}

fn settings(name: &str, number: u8, home: &Path, inputs: &Inputs<'_>) -> String {
    let (home, files, dns) = (home.display(), inputs.files.display(), &inputs.dns);
    let aimed = json!({ "spec": { "acme": {
        "server": inputs.directory,
        "caBundle": BASE64_STANDARD.encode(&inputs.trust),
    } } });
    let peers: String = (1..=2)
        .map(|tor| {
            format!("[[bgp.peer]]\nname = \"tor{tor}\"\naddress = \"10.{tor}.{number}.2\"\nasn = 6500{tor}\nhold_time = \"9s\"\n\n")
        })
        .collect();
    let members: String = super::NAMES
        .iter()
        .zip(1..)
        .map(|(name, number)| format!("[[fleet.edge]]\nname = \"{name}\"\naddress = \"10.50.0.{number}:{FLEET}\"\n\n"))
        .collect();
    format!(
        r#"[edge]
name = "{name}"

[state]
directory = "{home}/state"

[control]
socket = "{home}/edged.sock"

[access_log]
path = "{home}/access.log"

[log]
format = "human"

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
path = "{home}/manifests"

# 26 listeners, one file each.
[[patch]]
target = {{ kind = "Gateway", namespace = "envoy-gateway", name = "flex-gateway" }}
path = "{files}/etc/gateway-api/listeners"

# From the self-signed issuer to Let's Encrypt.
[[patch]]
type = "merge"
target = {{ kind = "Gateway", namespace = "envoy-gateway", name = "flex-gateway" }}
path = "{files}/etc/gateway-api/gateway-letsencrypt.yaml"

# From Let's Encrypt to the CA of this test. Without this it is the real thing.
[[patch]]
type = "merge"
target = {{ kind = "ClusterIssuer", name = "letsencrypt-prod" }}
inline = '{aimed}'

[substitute]
"your.domain.tld" = "{DOMAIN}"

[certificates]
resolvers = ["{dns}"]

[fleet]
listen = "10.50.0.{number}:{FLEET}"
secret_file = "{home}/fleet.key"
alone_after = "1m"

{members}[vips]
hold_down = "1s"

[bgp]
asn = 6510{number}
router_id = "10.8.0.{number}"
graceful_shutdown = "1s"

{peers}"#
    )
}
