# The slot of a loopback benchmark harness: @name@ is replaced by it, the lines between the two marks are repeated for
# every host. One worker, one address, everything in this file.

[state]
directory = "@dir@/state"

[control]
socket = "@dir@/edged.sock"

[log]
level = "warn"

[access_log]
path = "@log@"

[proxy]
workers = 1
max_connections = 19000
idle_timeout = "1h"
stream_idle_timeout = "1h"
upstream_idle_timeout = "1h"
upstream_idle_connections = 512

[[pool]]
name = "bench"
addresses = ["127.0.0.1"]

[[secret]]
name = "default/bench-tls"
certificate = "@cert@"
key = "@key@"

[[manifests]]
inline = '''
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: edge}
spec: {controllerName: edge.internal/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: bench}
spec:
  gatewayClassName: edge
  listeners:
    - {name: http, port: @http@, protocol: HTTP}
    - {name: https, port: @https@, protocol: HTTPS, tls: {certificateRefs: [{name: bench-tls}]}}
    - {name: grpc, port: @grpc@, protocol: HTTPS, tls: {certificateRefs: [{name: bench-tls}]}}
    - {name: l4, port: @l4@, protocol: TLS, hostname: h0.example.test, tls: {mode: Passthrough}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: grpc}
spec:
  parentRefs: [{name: bench, sectionName: grpc}]
  rules: [{backendRefs: [{name: h2c, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: l4}
spec:
  parentRefs: [{name: bench, sectionName: l4}]
  hostnames: [h0.example.test]
  rules: [{backendRefs: [{name: sni, port: 443}]}]
---
apiVersion: v1
kind: Service
metadata: {name: h2c}
spec: {ports: [{port: 80, appProtocol: kubernetes.io/h2c}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: h2c-1, labels: {kubernetes.io/service-name: h2c}}
addressType: IPv4
ports: [{port: @be_h2c@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: sni}
spec: {ports: [{port: 443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: sni-1, labels: {kubernetes.io/service-name: sni}}
addressType: IPv4
ports: [{port: @be_sni@}]
endpoints: [{addresses: ["127.0.0.1"]}]
'''

# Sixteen pools that lead to the one origin.
[[manifests]]
inline = '''
apiVersion: v1
kind: Service
metadata: {name: u0}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u0-1, labels: {kubernetes.io/service-name: u0}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: u1}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u1-1, labels: {kubernetes.io/service-name: u1}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: u2}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u2-1, labels: {kubernetes.io/service-name: u2}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: u3}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u3-1, labels: {kubernetes.io/service-name: u3}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: u4}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u4-1, labels: {kubernetes.io/service-name: u4}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: u5}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u5-1, labels: {kubernetes.io/service-name: u5}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: u6}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u6-1, labels: {kubernetes.io/service-name: u6}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: u7}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u7-1, labels: {kubernetes.io/service-name: u7}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: u8}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u8-1, labels: {kubernetes.io/service-name: u8}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: u9}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u9-1, labels: {kubernetes.io/service-name: u9}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: u10}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u10-1, labels: {kubernetes.io/service-name: u10}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: u11}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u11-1, labels: {kubernetes.io/service-name: u11}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: u12}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u12-1, labels: {kubernetes.io/service-name: u12}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: u13}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u13-1, labels: {kubernetes.io/service-name: u13}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: u14}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u14-1, labels: {kubernetes.io/service-name: u14}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
---
apiVersion: v1
kind: Service
metadata: {name: u15}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: u15-1, labels: {kubernetes.io/service-name: u15}}
addressType: IPv4
ports: [{port: @be_http@}]
endpoints: [{addresses: ["127.0.0.1"]}]
'''

[[manifests]]
inline = '''
@@route
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: "@host@"}
spec:
  parentRefs: [{name: bench, sectionName: http}, {name: bench, sectionName: https}]
  hostnames: ["@host@"]
  rules: [{backendRefs: [{name: u@ups@, port: 80}]}]
@@end
'''
