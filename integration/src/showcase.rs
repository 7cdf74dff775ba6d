//! An edge with something of everything, for the dashboard to show: what serves, what is in trouble, and names that somebody
//! wrote who means harm.
//!
//! Flows in: a [`Lab`]. Flows out: its configuration; the origins that it needs run as long as the value.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use crate::lab::{HTTP, HTTPS, Lab, Running};
use crate::manifests::{CLASS, http_route, service};

/// Where the dashboard of the showcase is: at the address of the lab.
pub const PORT: u16 = 9902;

/// A text that is markup, to be shown as text.
pub const HOSTILE: &str = "<img src=x onerror=document.title=1337><script>document.title=1337</script>";

/// The origins behind it.
pub struct Showcase {
    pub shop: Running,
    pub api: Running,
}

impl Showcase {
    /// Writes edge.toml and the manifests. `more` is the rest of `[dashboard]`, and of edge.toml.
    pub fn furnish(lab: &Lab, more: &str) -> Self {
        let (shop, api) = (lab.origin("shop"), lab.origin("api"));
        lab.write_config(&format!("[dashboard]\naddress = \"{}:{PORT}\"\n{more}", lab.vip));
        // Nobody listens there: its checks fail.
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let mut text = CLASS.to_owned();
        text += &gateway();
        text += &service("default", "shop", 80, &[shop.address, nobody]);
        text += &service("default", "api", 80, &[api.address]);
        text += &service("default", "reports", 80, &[]);
        text += &service("default", "mail", 25, &[api.address]);
        text += CHECKED;
        text += &http_route(
            "shop",
            &["shop.example.com", "www.example.com"],
            "    - matches: [{path: {type: PathPrefix, value: /cart}}]\n      backendRefs: [{name: shop, port: 80, weight: 90}, {name: api, port: 80, weight: 10}]\n    - backendRefs: [{name: shop, port: 80}]\n",
        );
        text += &http_route(
            "api",
            &["api.example.com"],
            "    - name: v2\n      matches: [{path: {type: PathPrefix, value: /v2}}, {path: {type: Exact, value: /v2}}]\n      backendRefs: [{name: api, port: 80}]\n    - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]\n",
        );
        text += &http_route("reports", &["reports.example.com"], "    - backendRefs: [{name: reports, port: 80}]\n");
        text += &http_route("old", &["old.example.com"], "    - backendRefs: [{name: gone, port: 80}]\n");
        text += &http_route("stranger", &["stranger.example.org"], "    - backendRefs: [{name: api, port: 80}]\n");
        lab.manifest("edge.yaml", &text);
        lab.manifest(
            "mail.yaml",
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: mail, namespace: default}
spec:
  parentRefs: [{name: web, sectionName: mail}]
  rules: [{backendRefs: [{name: mail, port: 25}]}]
",
        );
        Self { shop, api }
    }

    /// Objects with markup wherever Kubernetes lets people write text.
    pub fn harm(&self, lab: &Lab) {
        let quoted = serde_json::to_string(HOSTILE).unwrap();
        let address = self.api.address;
        let text = format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: harm, namespace: default}}
spec: {{ports: [{{name: main, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: harm-1, namespace: default, labels: {{kubernetes.io/service-name: harm}}}}
addressType: IPv4
ports: [{{name: main, port: {}, protocol: TCP}}]
endpoints: [{{addresses: [\"{}\"], nodeName: {quoted}, targetRef: {{kind: Pod, name: {quoted}, namespace: default}}, conditions: {{ready: true}}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: harm, namespace: default}}
spec:
  parentRefs: [{{name: web}}]
  hostnames: [harm.example.com]
  rules:
    - matches: [{{headers: [{{name: x-harm, value: {quoted}}}]}}]
      backendRefs: [{{name: harm, port: 80}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {quoted}, namespace: default}}
spec:
  parentRefs: [{{name: web}}]
  hostnames: [{quoted}]
  rules: [{{backendRefs: [{{name: harm, port: 80}}]}}]
",
            address.port(),
            address.ip()
        );
        lab.manifest("harm.yaml", &text);
    }

    /// So many routes more, each with a host of its own.
    pub fn crowd(&self, lab: &Lab, routes: usize) {
        let mut text = String::new();
        for number in 0..routes {
            let host = format!("tenant-{number:04}.example.com");
            text +=
                &http_route(&format!("tenant-{number:04}"), &[&host], "    - backendRefs: [{name: api, port: 80}]\n");
        }
        lab.manifest("crowd.yaml", &text);
    }
}

fn gateway() -> String {
    crate::manifests::gateway(
        "web",
        &format!(
            "    - {{name: http, port: {HTTP}, protocol: HTTP}}
    - name: https
      port: {HTTPS}
      protocol: HTTPS
      hostname: \"*.example.com\"
      tls: {{certificateRefs: [{{name: web-tls}}]}}
    - name: shop
      port: {HTTPS}
      protocol: HTTPS
      hostname: shop.example.com
      tls: {{certificateRefs: [{{name: shop-tls}}]}}
    - {{name: mail, port: 2525, protocol: TCP}}
"
        ),
    )
}

/// Endpoints of `shop` that do not answer are taken out.
const CHECKED: &str = "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: shop, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}]
  healthCheck:
    active: {type: TCP, tcp: {}, interval: 500ms, timeout: 200ms, unhealthyThreshold: 1, healthyThreshold: 1}
";
