# nginx, one worker: upstream keep-alive without limits, no temporary files, tickets and a session cache.
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
worker_processes 1;
daemon off;
pid @dir@/nginx.pid;
error_log @dir@/error.log warn;
worker_rlimit_nofile 65536;
events { worker_connections 30000; multi_accept on; }

http {
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
    client_max_body_size 0;
    server_names_hash_max_size 131072;
    server_names_hash_bucket_size 128;
    client_body_temp_path @dir@/t1; proxy_temp_path @dir@/t2; fastcgi_temp_path @dir@/t3;
    uwsgi_temp_path @dir@/t4; scgi_temp_path @dir@/t5;

    ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    ssl_ecdh_curve X25519;
    ssl_session_cache shared:tls:10m;
    ssl_session_tickets on;
    ssl_certificate @cert@;
    ssl_certificate_key @key@;

    map $http_upgrade $connection_upstream { default upgrade; '' ''; }
    proxy_http_version 1.1;
    proxy_set_header Host $host;
    proxy_set_header Connection $connection_upstream;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_request_buffering off;
    proxy_max_temp_file_size 0;
    proxy_buffer_size 8k;
    proxy_buffers 8 32k;
    proxy_busy_buffers_size 64k;
    proxy_read_timeout 3600s;
    proxy_send_timeout 3600s;

    upstream grpc { server 127.0.0.1:@be_h2c@; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 3600s; }
@@pool
    upstream u@pool@ { server 127.0.0.1:@be_http@; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 3600s; }
@@end

    server {
        listen 127.0.0.1:@http@ default_server backlog=4096;
        listen 127.0.0.1:@https@ ssl http2 default_server backlog=4096;
        return 404;
    }
    server {
        listen 127.0.0.1:@grpc@ ssl http2 backlog=4096;
        server_name h0.example.test;
        location / { grpc_pass grpc://grpc; }
    }
@@route
    server { listen 127.0.0.1:@http@; listen 127.0.0.1:@https@ ssl http2; server_name @host@; location / { proxy_pass http://u@ups@; } }
@@end
}

stream {
    tcp_nodelay on;
    map $ssl_preread_server_name $by_name { h0.example.test 127.0.0.1:@be_http@; default 127.0.0.1:1; }
    server { listen 127.0.0.1:@l4@ backlog=4096; ssl_preread on; proxy_pass $by_name; }
    server { listen 127.0.0.1:@tcp@ backlog=4096; proxy_pass 127.0.0.1:@be_http@; }
}
