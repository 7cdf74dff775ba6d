# Envoy, one worker (--concurrency 1): routes by a watched file, circuit breakers out of the way.
node: {id: bench, cluster: bench}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: @admin@}}}
static_resources:
  listeners:
    - name: http
      address: {socket_address: {address: 127.0.0.1, port_value: @http@}}
      tcp_backlog_size: 4096
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config: &web
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: web
                codec_type: AUTO
                use_remote_address: true
                generate_request_id: false
                stream_idle_timeout: 0s
                upgrade_configs: [{upgrade_type: websocket}]
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
                rds:
                  route_config_name: hosts
                  config_source: {resource_api_version: V3, path_config_source: {path: "@dir@/routes.json"}}
    - name: https
      address: {socket_address: {address: 127.0.0.1, port_value: @https@}}
      tcp_backlog_size: 4096
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config: *web
          transport_socket: &tls
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              common_tls_context:
                alpn_protocols: [h2, http/1.1]
                tls_params: {tls_minimum_protocol_version: TLSv1_3, ecdh_curves: [X25519]}
                tls_certificates: [{certificate_chain: {filename: "@cert@"}, private_key: {filename: "@key@"}}]
    - name: grpc
      address: {socket_address: {address: 127.0.0.1, port_value: @grpc@}}
      tcp_backlog_size: 4096
      filter_chains:
        - transport_socket: *tls
          filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: grpc
                codec_type: AUTO
                use_remote_address: true
                generate_request_id: false
                stream_idle_timeout: 0s
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
                route_config:
                  virtual_hosts:
                    - {name: grpc, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: grpc, timeout: 0s}}]}
    - name: by-name
      address: {socket_address: {address: 127.0.0.1, port_value: @l4@}}
      tcp_backlog_size: 4096
      listener_filters:
        - name: envoy.filters.listener.tls_inspector
          typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}
      filter_chains:
        - filter_chain_match: {server_names: [h0.example.test]}
          filters: &bytes
            - name: envoy.filters.network.tcp_proxy
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
                stat_prefix: bytes
                cluster: bytes
    - name: tcp
      address: {socket_address: {address: 127.0.0.1, port_value: @tcp@}}
      tcp_backlog_size: 4096
      filter_chains: [{filters: *bytes}]
  clusters:
    - name: grpc
      type: STATIC
      connect_timeout: 5s
      circuit_breakers: &wide {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]}
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      load_assignment: {cluster_name: grpc, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @be_h2c@}}}}]}]}
    - name: bytes
      type: STATIC
      connect_timeout: 5s
      circuit_breakers: *wide
      load_assignment: {cluster_name: bytes, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @be_http@}}}}]}]}
@@pool
    - name: u@pool@
      type: STATIC
      connect_timeout: 5s
      circuit_breakers: *wide
      load_assignment: {cluster_name: u@pool@, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @be_http@}}}}]}]}
@@end
