# Caddy, GOMAXPROCS=1. It passes no TCP and no TLS through without a plugin.
{
	admin 127.0.0.1:@admin@
	auto_https off
	persist_config off
	log default {
		level ERROR
	}
	servers {
		timeouts {
			idle 1h
		}
	}
}

(hosts) {
@@pool
	@p@pool@ host @hosts@
	handle @p@pool@ {
		reverse_proxy 127.0.0.1:@be_http@ {
			transport http {
				keepalive 1h
				keepalive_idle_conns_per_host 512
				compression off
			}
		}
	}
@@end
	handle {
		respond 404
	}
}

http://:@http@ {
	bind 127.0.0.1
	import hosts
}

https://:@https@ {
	bind 127.0.0.1
	tls @cert@ @key@ {
		protocols tls1.3 tls1.3
		curves x25519
	}
	import hosts
}

https://:@grpc@ {
	bind 127.0.0.1
	tls @cert@ @key@ {
		protocols tls1.3 tls1.3
		curves x25519
	}
	reverse_proxy h2c://127.0.0.1:@be_h2c@ {
		transport http {
			keepalive 1h
			keepalive_idle_conns_per_host 512
			compression off
		}
	}
}
