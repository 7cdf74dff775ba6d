//! Manifest texts that scenarios need again and again.
//!
//! Flows in: names and addresses. Flows out: YAML documents, each with its own `---`.

use std::fmt::Write as _;
use std::net::SocketAddr;

/// The class that Edge claims by default.
pub const CLASS: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: edge}
spec: {controllerName: edge.internal/gateway-controller}
";

/// A Gateway in `default`; `listeners` is YAML, indented by four.
pub fn gateway(name: &str, listeners: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: default}}
spec:
  gatewayClassName: edge
  listeners:
{listeners}"
    )
}

/// Plain HTTP on 8080 and HTTPS on 8443 whose Secret nobody supplies, for routes of any namespace.
pub const LISTENERS: &str = "    - {name: http, port: 8080, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
    - name: https
      port: 8443
      protocol: HTTPS
      allowedRoutes: {namespaces: {from: All}}
      tls: {certificateRefs: [{name: web-tls}]}
";

/// A Service with one port and an EndpointSlice for each endpoint.
pub fn service(namespace: &str, name: &str, port: u16, endpoints: &[SocketAddr]) -> String {
    service_with(namespace, name, port, "", "TCP", endpoints)
}

/// The same with an `appProtocol` (may be empty) and a transport.
pub fn service_with(
    namespace: &str,
    name: &str,
    port: u16,
    app_protocol: &str,
    transport: &str,
    endpoints: &[SocketAddr],
) -> String {
    let app = if app_protocol.is_empty() { String::new() } else { format!(", appProtocol: {app_protocol}") };
    let mut text = format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  ports: [{{name: main, port: {port}, protocol: {transport}{app}}}]
"
    );
    text += &slices(namespace, name, "main", &format!("{transport}{app}"), endpoints);
    text
}

/// An EndpointSlice for each endpoint. `port` is the name of the Service's port (may be empty), `protocol` its transport, and
/// behind that what else is said of it.
pub fn slices(namespace: &str, service: &str, port: &str, protocol: &str, endpoints: &[SocketAddr]) -> String {
    let mut text = String::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let family = if endpoint.is_ipv4() { "IPv4" } else { "IPv6" };
        let (ip, number) = (endpoint.ip(), endpoint.port());
        let _ = write!(
            text,
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {service}-{index}
  namespace: {namespace}
  labels: {{kubernetes.io/service-name: {service}}}
addressType: {family}
ports: [{{name: \"{port}\", port: {number}, protocol: {protocol}}}]
endpoints: [{{addresses: [\"{ip}\"], conditions: {{ready: true}}}}]
"
        );
    }
    text
}

/// An HTTPRoute in `default` on the Gateway `web`; `rules` is YAML, indented by four.
pub fn http_route(name: &str, hosts: &[&str], rules: &str) -> String {
    route("HTTPRoute", name, "{name: web}", hosts, rules)
}

/// A route of any kind in `default`; `parent` is a flow mapping.
pub fn route(kind: &str, name: &str, parent: &str, hosts: &[&str], rules: &str) -> String {
    let hostnames = if hosts.is_empty() { String::new() } else { format!("  hostnames: {hosts:?}\n") };
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: default}}
spec:
  parentRefs: [{parent}]
{hostnames}  rules:
{rules}"
    )
}

/// The simplest rule: everything to one Service.
pub fn to(service: &str, port: u16) -> String {
    format!("    - backendRefs: [{{name: {service}, port: {port}}}]\n")
}
