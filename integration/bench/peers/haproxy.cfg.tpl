# HAProxy, one thread: reused upstream connections, a map for the hosts, splicing where it only moves bytes.
global
    nbthread 1
    no strict-limits
    maxconn 12000
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    stats socket @dir@/haproxy.sock mode 600 level admin

defaults
    mode http
    backlog 4096
    timeout client 3600s
    timeout server 3600s
    timeout connect 5s
    timeout tunnel 3600s
    timeout http-keep-alive 3600s

frontend web
    bind 127.0.0.1:@http@
    bind 127.0.0.1:@https@ ssl crt @pem@ curves X25519 alpn h2,http/1.1
    option forwardfor
    use_backend %[req.hdr(host),lower,map(@dir@/hosts.map,none)]

backend none
    http-request return status 404

@@pool
backend u@pool@
    http-reuse always
    server origin 127.0.0.1:@be_http@ pool-max-conn 512
@@end

frontend grpc
    bind 127.0.0.1:@grpc@ ssl crt @pem@ curves X25519 alpn h2
    default_backend grpc

backend grpc
    http-reuse always
    server origin 127.0.0.1:@be_h2c@ proto h2

frontend by-name
    mode tcp
    bind 127.0.0.1:@l4@
    option splice-auto
    tcp-request inspect-delay 5s
    tcp-request content accept if { req.ssl_hello_type 1 }
    use_backend bytes if { req.ssl_sni -m str h0.example.test }

frontend tcp
    mode tcp
    bind 127.0.0.1:@tcp@
    option splice-auto
    default_backend bytes

backend bytes
    mode tcp
    option splice-auto
    server origin 127.0.0.1:@be_http@
