//! SecurityPolicy without tokens: passwords, keys, other origins, addresses, fields and methods.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_integration::documented::{Scene, secret};

use crate::{WWW, envoy};

fn basic(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

#[test]
fn basic_auth() {
    envoy("basic-auth", |files| {
        let mut scene = Scene::quickstart(files, 1);
        // `htpasswd -cbs .htpasswd foo bar; htpasswd -bs .htpasswd foo1 bar1`
        let users = "foo:{SHA}Ys23Ag/5IOWqZCw9QGaVDdHwH00=\nfoo1:{SHA}djZ11qHY0KOijeymK7aKvYuvhvM=\n";
        scene.add("users", &secret("basic-auth", ".htpasswd", users));
        scene.apply(files.task("security/basic-auth").block(&["kind: SecurityPolicy"]));
        scene.start();
        let nobody = scene.get(WWW, "/", &[]);
        assert_eq!(nobody.status, 401, "{nobody:?}");
        assert!(nobody.header("www-authenticate").is_some_and(|value| value.starts_with("Basic")), "{nobody:?}");
        for (who, status) in [("foo:bar", 200), ("foo1:bar1", 200), ("foo:baz", 401), ("bar:bar", 401)] {
            assert_eq!(scene.get(WWW, "/", &[("authorization", &basic(who))]).status, status, "{who}");
        }
    });
}

#[test]
fn api_keys() {
    envoy("apikey-auth", |files| {
        let mut scene = Scene::quickstart(files, 1);
        let page = files.task("security/apikey-auth");
        scene.apply(page.block(&["kind: Secret\ntype: Opaque"]));
        scene.apply(page.block(&["kind: SecurityPolicy"]));
        scene.start();
        assert_eq!(scene.get(WWW, "/", &[]).status, 401);
        assert_eq!(scene.get(WWW, "/", &[("x-api-key", "supersecret")]).status, 200);
        assert_eq!(scene.get(WWW, "/", &[("x-api-key", "wrong")]).status, 401);
    });
}

#[test]
fn cors_by_the_policy_and_by_the_filter() {
    envoy("cors", |files| {
        let page = files.task("security/cors");
        for kind in ["kind: SecurityPolicy", "type: CORS"] {
            let mut scene = Scene::quickstart(files, 1);
            scene.apply(page.block(&[kind]));
            scene.start();
            let preflight = |origin: &str| {
                let fields = [("origin", origin), ("access-control-request-method", "GET")];
                scene.ask("OPTIONS", WWW, "/", &fields, b"")
            };
            let known = preflight("http://www.foo.com");
            assert!((200..300).contains(&known.status), "{kind}: {known:?}");
            for (name, value) in [
                ("access-control-allow-origin", "http://www.foo.com"),
                ("access-control-allow-credentials", "true"),
                ("access-control-allow-methods", "GET, POST"),
                ("access-control-allow-headers", "x-header-1, x-header-2"),
            ] {
                let said = known.header(name).unwrap_or_default().replace(' ', "");
                assert_eq!(said, value.replace(' ', ""), "{kind}: {name} of {known:?}");
            }
            let exposed = scene.get(WWW, "/", &[("origin", "http://www.foo.com")]);
            let told = exposed.header("access-control-expose-headers").unwrap_or_default().replace(' ', "");
            assert_eq!(told, "x-header-3,x-header-4", "{kind}: {exposed:?}");
            for stranger in ["http://www.bar.com", "http://www.foo.com:8080"] {
                let reply = preflight(stranger);
                assert_eq!(reply.header("access-control-allow-origin"), None, "{kind} {stranger}: {reply:?}");
            }
        }
    });
}

#[test]
fn csrf_and_its_shadow() {
    envoy("csrf", |files| {
        let page = files.task("security/csrf");
        for (name, foreign) in [("name: csrf-example", 403), ("name: csrf-shadow", 200)] {
            let mut scene = Scene::quickstart(files, 1);
            scene.apply(page.block(&[name]));
            scene.start();
            let ask = |method: &str, origin: &str| scene.ask(method, WWW, "/", &[("origin", origin)], b"").status;
            assert_eq!(ask("POST", "http://www.example.com"), 200, "{name}: the same origin");
            assert_eq!(ask("POST", "https://www.example.com"), 200, "{name}: an origin of the policy");
            assert_eq!(ask("POST", "https://malicious.example.net"), foreign, "{name}: a foreign origin");
            assert_eq!(ask("GET", "https://malicious.example.net"), 200, "{name}: what changes nothing");
            if name == "name: csrf-example" {
                assert_eq!(ask("POST", "https://app.trusted.com"), 200, "a wildcard");
                assert_eq!(scene.ask("POST", WWW, "/", &[], b"").status, 403, "without Origin and Referer");
            }
        }
    });
}

#[test]
fn fields_and_methods() {
    envoy("http-header-method-auth", |files| {
        let page = files.task("security/http-header-method-auth");
        // The page's policies are for a Gateway of this name.
        let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gateway-1}\nspec:\n  \
                       gatewayClassName: eg\n  listeners: [{name: http, port: 80, protocol: HTTP}]\n---\n\
                       apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: eg}\n\
                       spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}\n---\n\
                       apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: backend}\n\
                       spec:\n  parentRefs: [{name: gateway-1}]\n  rules: [{backendRefs: [{name: backend, port: 3000}]}]\n---\n\
                       apiVersion: v1\nkind: Service\nmetadata: {name: backend}\nspec: {ports: [{name: http, port: 3000}]}\n";
        let user: &[(&str, &str)] = &[("x-user-id", "example-user")];
        let other: &[(&str, &str)] = &[("x-user-id", "somebody-else")];
        for (name, cases) in [
            ("name: header-auth", [("GET", user, 200), ("GET", other, 403), ("GET", &[], 403), ("DELETE", user, 200)]),
            ("name: method-auth", [("GET", &[], 200), ("POST", &[], 200), ("DELETE", &[], 403), ("PUT", user, 403)]),
            ("name: combined-auth", [("GET", user, 200), ("GET", other, 403), ("POST", user, 403), ("GET", &[], 403)]),
        ] {
            let mut scene = Scene::empty();
            scene.add("gateway", gateway);
            scene.service("backend", "http", 1);
            scene.apply(page.block(&[name]));
            scene.start();
            for (method, fields, status) in cases {
                assert_eq!(scene.ask(method, WWW, "/", fields, b"").status, status, "{name}: {method} {fields:?}");
            }
        }
    });
}

#[test]
fn addresses_of_clients() {
    envoy("restrict-ip-access", |files| {
        let page = files.task("security/restrict-ip-access");
        let mut scene = Scene::quickstart(files, 1);
        scene.apply(page.block(&["name: authorization-client-ip"]));
        scene.apply(page.block(&["kind: ClientTrafficPolicy"]));
        scene.start();
        assert_eq!(scene.get(WWW, "/", &[]).status, 403);
        assert_eq!(scene.get(WWW, "/", &[("x-forwarded-for", "10.0.1.1")]).status, 200);
        assert_eq!(scene.get(WWW, "/", &[("x-forwarded-for", "10.0.2.1")]).status, 403);
    });
}

#[test]
fn injected_credentials() {
    envoy("credential-injection", |files| {
        let page = files.task("security/credential-injection");
        let token = files.file("examples/kubernetes/jwt/test.jwt");
        let bearer = format!("Bearer {}", token.trim());
        // The page writes a blank before the scheme; its first route names a filter that nothing on it makes.
        for (route, status) in [("      filters:\n      - type", 200), ("    filters:\n    - type", 500)] {
            let mut scene = Scene::quickstart(files, 1);
            scene.add("secret", &secret("jwt-credential", "credential", &format!(" {bearer}")));
            scene.apply(page.block(&["kind: HTTPRouteFilter\nmetadata"]));
            scene.apply(page.block(&["kind: HTTPRoute\n", &format!("\n{route}")]));
            scene.start();
            let reply = scene.get(WWW, "/", &[]);
            assert_eq!(reply.status, status, "{route}: {reply:?}");
            if status == 200 {
                let told = reply.json()["headers"]["authorization"][0].as_str().unwrap_or_default().to_owned();
                assert_eq!(told.trim(), bearer);
                let overwritten = scene.get(WWW, "/", &[("authorization", "Bearer mine")]);
                assert_eq!(overwritten.json()["headers"]["authorization"].as_array().unwrap().len(), 1);
            }
        }
    });
}
