
# Added to ../edge.toml.tpl: plain TCP, on an address of its own because a Gateway has one.
[[pool]]
name = "bench-tcp"
addresses = ["127.0.0.2"]
auto_assign = false

[[manifests]]
inline = '''
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: bench-tcp, annotations: {metallb.io/address-pool: bench-tcp}}
spec:
  gatewayClassName: edge
  listeners:
    - {name: tcp, port: @tcp@, protocol: TCP}
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: tcp}
spec:
  parentRefs: [{name: bench-tcp, sectionName: tcp}]
  rules: [{backendRefs: [{name: u0, port: 80}]}]
'''
