//! What the peers document: their own pages and example folders, read where they are and never copied.
//!
//! Flows in: a checkout of Envoy Gateway (`EDGE_ENVOY_GATEWAY`, or `../shared/peers/envoy-gateway` beside the workspace)
//! and one of NGINX Gateway Fabric (`EDGE_NGINX_GATEWAY_FABRIC`, or `../shared/peers/nginx-gateway-fabric`). Flows out:
//! YAML as it is written there, and a scene: `edged` on it, with what a cluster would add. Nothing of a document is
//! changed on the way.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::client::{Connection, Reply};
use crate::edged::{Edged, Said, edgectl, until, workspace};
use crate::lab::{Lab, Running, block_on};
use crate::manifests::slices;
use crate::netns;

/// What the documents' Gateways listen on; only root may.
pub const PORT: u16 = 80;

/// Where the files of one peer are.
pub struct Checkout(PathBuf);

impl Checkout {
    pub fn envoy_gateway() -> Result<Self, String> {
        Self::at("EDGE_ENVOY_GATEWAY", "envoy-gateway", "examples/kubernetes/quickstart.yaml")
    }

    pub fn nginx_gateway_fabric() -> Result<Self, String> {
        Self::at("EDGE_NGINX_GATEWAY_FABRIC", "nginx-gateway-fabric", "examples/cafe-example")
    }

    fn at(variable: &str, folder: &str, known: &str) -> Result<Self, String> {
        netns::available()?;
        let beside = || workspace().join("../shared/peers").join(folder);
        let path = std::env::var_os(variable).map_or_else(beside, PathBuf::from);
        match path.join(known).exists() {
            true => Ok(Self(path)),
            false => Err(format!("{} is no checkout; set {variable}", path.display())),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn file(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// A task of Envoy Gateway's documentation, such as `security/cors`.
    pub fn task(&self, name: &str) -> Page {
        let name = format!("site/content/en/latest/tasks/{name}.md");
        Page { blocks: blocks(&self.file(&name)), name }
    }
}

/// One document in Markdown.
pub struct Page {
    name: String,
    blocks: Vec<String>,
}

impl Page {
    /// The YAML block that has all of the words; pages say some blocks twice, which is one.
    pub fn block(&self, words: &[&str]) -> &str {
        let mut found: Vec<&str> = Vec::new();
        for block in self.blocks.iter().filter(|block| words.iter().all(|word| block.contains(word))) {
            // Twice: once with the opening line of a document, once without.
            let known = |one: &&str| {
                one.trim().trim_start_matches("---").trim() == block.trim().trim_start_matches("---").trim()
            };
            if !found.iter().any(known) {
                found.push(block);
            }
        }
        match found[..] {
            [block] => block,
            _ => panic!("{}: {} blocks with {words:?}, expected one", self.name, found.len()),
        }
    }

    /// The first block that is nothing but a route.
    pub fn route(&self) -> &str {
        let route = |block: &&String| {
            block.contains("kind: HTTPRoute\n")
                && block.matches("apiVersion:").count() == 1
                && !block.contains("kind: BackendTrafficPolicy")
        };
        self.blocks.iter().find(route).unwrap_or_else(|| panic!("{}: no block with a route", self.name))
    }

    /// All YAML blocks.
    pub fn blocks(&self) -> &[String] {
        &self.blocks
    }
}

/// The fenced blocks in YAML, without the indentation of a list around them.
fn blocks(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(usize, bool, String)> = None;
    for line in text.lines() {
        let bare = line.trim_start();
        match &mut open {
            None if bare.starts_with("```") => {
                let language = bare.trim_start_matches('`').trim();
                open = Some((line.len() - bare.len(), language.starts_with("yaml"), String::new()));
            }
            None => {}
            Some((_, yaml, block)) if bare.trim_end() == "```" => {
                if *yaml {
                    found.push(std::mem::take(block));
                }
                open = None;
            }
            Some((indent, _, block)) => {
                block.push_str(line.get(*indent..).unwrap_or_default());
                block.push('\n');
            }
        }
    }
    found
}

/// A Secret as `kubectl create secret generic` makes it of one literal.
pub fn secret(name: &str, key: &str, value: &str) -> String {
    let value = serde_json::Value::from(value);
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\nstringData: {{{key}: {value}}}\n"
    )
}

/// A configuration of documents, its backends, and edged on it.
pub struct Scene {
    pub lab: Lab,
    pub backends: Vec<Running>,
    edged: Option<Edged>,
    includes: String,
    /// Kind and name, and the document.
    applied: Vec<((String, String), String)>,
}

impl Scene {
    /// Nothing but the controllers' names of both peers, so that their GatewayClasses are ours.
    pub fn empty() -> Self {
        let includes = "[gateway]\ncontroller_names = [\"gateway.envoyproxy.io/gatewayclass-controller\", \
                        \"gateway.nginx.org/nginx-gateway-controller\"]\n";
        let lab = Lab::new();
        lab.write_config(includes);
        Self { lab, backends: Vec::new(), edged: None, includes: includes.to_owned(), applied: Vec::new() }
    }

    /// Envoy Gateway's quickstart, with so many pods of its `backend`.
    pub fn quickstart(files: &Checkout, pods: usize) -> Self {
        let mut scene = Self::empty();
        scene.apply(&files.file("examples/kubernetes/quickstart.yaml"));
        scene.service("backend", "http", pods);
        scene
    }

    /// A folder of NGINX Gateway Fabric's examples, and the class that its installation makes.
    pub fn example(files: &Checkout, folder: &str, services: &[&str]) -> Self {
        let mut scene = Self::empty();
        scene.include(files, &format!("examples/{folder}"));
        scene.add(
            "class",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: nginx}\n\
             spec: {controllerName: gateway.nginx.org/nginx-gateway-controller}\n",
        );
        for service in services {
            scene.service(service, "http", 1);
        }
        scene
    }

    /// Loads a file or folder from where it is.
    pub fn include(&mut self, files: &Checkout, name: &str) {
        let _ = write!(self.includes, "[[manifests]]\npath = \"{}\"\n", files.path(name).display());
        self.lab.write_config(&self.includes);
    }

    /// More of the usual settings.
    pub fn settings(&mut self, text: &str) {
        self.includes.push_str(text);
        self.lab.write_config(&self.includes);
    }

    /// Pods of a Service that a document has; each answers with its own name.
    pub fn service(&mut self, service: &str, port: &str, pods: usize) {
        let fresh: Vec<Running> = (1..=pods).map(|pod| self.lab.origin(&format!("{service}-{pod}"))).collect();
        let at: Vec<SocketAddr> = fresh.iter().map(|one| one.address).collect();
        self.add(&format!("pods-of-{service}"), &slices("default", service, port, "TCP", &at));
        self.backends.extend(fresh);
    }

    /// `kubectl apply -f`: an object of the same kind and name is replaced, everything else stays.
    pub fn apply(&mut self, text: &str) {
        for document in format!("\n{text}").split("\n---").filter(|document| !document.trim().is_empty()) {
            let key = identity(document);
            let text = format!("---{document}\n");
            match self.applied.iter_mut().find(|(known, _)| *known == key) {
                Some((_, known)) => *known = text,
                None => self.applied.push((key, text)),
            }
        }
        let all: String = self.applied.iter().map(|(_, text)| text.as_str()).collect();
        self.add("applied", &all);
    }

    /// What a cluster adds.
    pub fn add(&self, name: &str, text: &str) {
        self.lab.manifest(&format!("{name}.yaml"), text);
    }

    pub fn start(&mut self) -> SocketAddr {
        let mut edged = self.lab.spawn();
        let at = self.lab.at(PORT);
        edged.wait_port(at);
        self.edged = Some(edged);
        at
    }

    /// The same by a program that becomes edged, with its arguments before.
    pub fn start_by(&mut self, before: &[&str]) -> SocketAddr {
        let lab = &self.lab;
        let mut edged = Edged::spawn_by(before, &lab.config(), &lab.path("edged.sock"), &lab.path("edged.log"));
        let at = self.lab.at(PORT);
        edged.wait_port(at);
        self.edged = Some(edged);
        at
    }

    pub fn edged(&self) -> &Edged {
        self.edged.as_ref().expect("the scene was started")
    }

    /// What `edgectl check` says of the files.
    pub fn check(&self) -> Said {
        edgectl(&["check", &self.lab.config().to_string_lossy()])
    }

    /// All conditions, as JSON text.
    pub fn status(&self) -> String {
        self.edged().ctl(&["status", "--all", "-o", "json"]).stdout
    }

    /// One request on a connection of its own.
    pub fn ask(&self, method: &str, host: &str, path: &str, more: &[(&str, &str)], body: &[u8]) -> Reply {
        ask(self.lab.at(PORT), method, host, path, more, body)
    }

    pub fn get(&self, host: &str, path: &str, more: &[(&str, &str)]) -> Reply {
        self.ask("GET", host, path, more, b"")
    }

    /// Until a request is answered with a status.
    pub fn until(&self, status: u16, host: &str, path: &str, more: &[(&str, &str)]) -> Reply {
        until(&format!("{status} for {host}{path} {more:?}"), || {
            Some(self.get(host, path, more)).filter(|reply| reply.status == status)
        })
    }

    /// The statuses of so many requests in a row.
    pub fn statuses(&self, count: usize, method: &str, host: &str, path: &str, more: &[(&str, &str)]) -> Vec<u16> {
        (0..count).map(|_| self.ask(method, host, path, more, b"").status).collect()
    }

    /// The pods that answer so many requests in a row.
    pub fn pods(&self, count: usize, host: &str, path: &str, more: &[(&str, &str)]) -> Vec<String> {
        let named = |reply: Reply| reply.backend().map_or_else(|| reply.status.to_string(), str::to_owned);
        (0..count).map(|_| named(self.get(host, path, more))).collect()
    }
}

/// Kind and name of an object that is written in block style.
fn identity(document: &str) -> (String, String) {
    let value = |line: &str, key: &str| line.strip_prefix(key).map(|rest| rest.trim().trim_matches('"').to_owned());
    let kind = document.lines().find_map(|line| value(line, "kind:"));
    let metadata = document.lines().skip_while(|line| !line.starts_with("metadata:"));
    let name = metadata.skip(1).take_while(|line| line.starts_with(' ')).find_map(|line| value(line, "  name:"));
    match (kind, name) {
        (Some(kind), Some(name)) => (kind, name),
        _ => panic!("no object: {document}"),
    }
}

/// One request on a connection of its own.
pub fn ask(at: SocketAddr, method: &str, host: &str, path: &str, more: &[(&str, &str)], body: &[u8]) -> Reply {
    block_on(async {
        let mut connection = Connection::open(at, None).await.unwrap();
        let fields = [&[("host", host)], more].concat();
        connection.request(method, path, &fields, body).await.unwrap_or_else(|error| panic!("{host}{path}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::{Page, blocks};

    #[test]
    fn a_page_gives_its_yaml_blocks_as_they_are() {
        let text = "```shell\ncat <<EOF\nkind: A\nEOF\n```\n```yaml\n---\nkind: A\n```\n1. list\n\n   ``` yaml title=\"b\"\n   kind: B\n     deep: 1\n   ```\n```yaml\nkind: A\n```\n";
        let page = Page { name: "page".to_owned(), blocks: blocks(text) };
        assert_eq!(page.blocks(), ["---\nkind: A\n", "kind: B\n  deep: 1\n", "kind: A\n"]);
        assert_eq!(page.block(&["kind: A"]), "---\nkind: A\n", "said twice is said once");
        assert_eq!(page.block(&["kind: B", "deep"]), "kind: B\n  deep: 1\n");
    }
}
