//! Objects of the API, written as plain JSON: what a scenario says is what the API server gets.
//!
//! Flows in: names and bodies. Flows out: the API server's answers. A failure is a panic, since no scenario asks for
//! something that may be refused.

use std::net::SocketAddr;
use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

const GATEWAY: &str = "apis/gateway.networking.k8s.io/v1";

/// A kind by its place in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plural {
    Namespaces,
    Gateways,
    /// Written by merging only.
    GatewayStatus,
    HttpRoutes,
    Services,
    EndpointSlices,
    Secrets,
}

impl Plural {
    fn collection(self, namespace: &str) -> String {
        let (api, plural) = match self {
            Self::Namespaces => return "/api/v1/namespaces".to_owned(),
            Self::Gateways | Self::GatewayStatus => (GATEWAY, "gateways"),
            Self::HttpRoutes => (GATEWAY, "httproutes"),
            Self::Services => ("api/v1", "services"),
            Self::EndpointSlices => ("apis/discovery.k8s.io/v1", "endpointslices"),
            Self::Secrets => ("api/v1", "secrets"),
        };
        format!("/{api}/namespaces/{namespace}/{plural}")
    }
}

/// A client of the API for the thread that it is made on; clones share connections.
#[derive(Clone)]
pub struct Objects {
    client: Client,
}

impl Objects {
    pub async fn connect(kubeconfig: &Path) -> Self {
        let file = Kubeconfig::read_from(kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
        Self { client: Client::try_from(config).unwrap() }
    }

    async fn send(&self, method: &str, path: &str, kind: &str, body: Vec<u8>) -> kube::Result<Value> {
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind).body(body);
        self.client.request(request.unwrap()).await
    }

    /// Creates it; what is there already stays as it is.
    pub async fn create(&self, plural: Plural, object: &Value) {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let path = plural.collection(namespace);
        match self.send("POST", &path, "application/json", object.to_string().into_bytes()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
            Err(error) => panic!("create {}: {error}", object["metadata"]["name"]),
        }
    }

    /// RFC 7396.
    pub async fn merge(&self, plural: Plural, namespace: &str, name: &str, patch: &Value) {
        let part = if plural == Plural::GatewayStatus { "/status" } else { "" };
        let path = format!("{}/{name}{part}", plural.collection(namespace));
        let kind = "application/merge-patch+json";
        if let Err(error) = self.send("PATCH", &path, kind, patch.to_string().into_bytes()).await {
            panic!("patch {namespace}/{name}: {error}");
        }
    }

    pub async fn delete(&self, plural: Plural, namespace: &str, name: &str) {
        let path = match plural {
            Plural::Namespaces => format!("/api/v1/namespaces/{name}"),
            _ => format!("{}/{name}", plural.collection(namespace)),
        };
        match self.send("DELETE", &path, "application/json", Vec::new()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("delete {namespace}/{name}: {error}"),
        }
    }

    pub async fn look(&self, plural: Plural, namespace: &str, name: &str) -> Option<Value> {
        let path = match plural {
            Plural::Namespaces => format!("/api/v1/namespaces/{name}"),
            _ => format!("{}/{name}", plural.collection(namespace)),
        };
        match self.send("GET", &path, "application/json", Vec::new()).await {
            Ok(object) => Some(object),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => panic!("get {namespace}/{name}: {error}"),
        }
    }
}

/// The status and the reason of a condition of the first parent of a route.
pub fn condition(route: &Value, kind: &str) -> Option<(String, String)> {
    let conditions = route["status"]["parents"][0]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    Some((found["status"].as_str()?.to_owned(), found["reason"].as_str()?.to_owned()))
}

pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A route with one rule to a Service of its namespace.
pub fn route(namespace: &str, name: &str, host: &str, service: &str) -> Value {
    let rules = json!([{"backendRefs": [{"name": service, "port": 80}]}]);
    route_with(namespace, name, host, &rules)
}

pub fn route_with(namespace: &str, name: &str, host: &str, rules: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "parentRefs": [{"name": "web", "namespace": super::field::HOME}],
            "hostnames": [host],
            "rules": rules,
        },
    })
}

/// A Service without a selector: its endpoints are those of [`slice`].
pub fn service(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
    })
}

pub fn slice(namespace: &str, service: &str, endpoint: SocketAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": service, "namespace": namespace, "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": endpoint.port(), "protocol": "TCP"}],
        "endpoints": [{"addresses": [endpoint.ip()], "conditions": {"ready": true}}],
    })
}

/// What turns a slice to another endpoint.
pub fn endpoint_patch(endpoint: SocketAddr) -> Value {
    json!({
        "ports": [{"name": "http", "port": endpoint.port(), "protocol": "TCP"}],
        "endpoints": [{"addresses": [endpoint.ip()], "conditions": {"ready": true}}],
    })
}
