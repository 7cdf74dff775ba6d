{"version_info": "@count@", "resources": [{"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": "hosts", "virtual_hosts": [
@@route
{"name": "@host@", "domains": ["@host@"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "u@ups@", "timeout": "0s", "idle_timeout": "0s"}}]}@,@
@@end
]}]}
