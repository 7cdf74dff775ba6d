//! Logins over several edges, and the ways to a provider: sessions are good wherever the configuration is the same, and
//! nowhere else; the provider and its keys are reached through Services and Backends with their own TLS; NGINX Gateway
//! Fabric's filter logs in like a policy; an absent provider is told of.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

#[path = "oidc/browser.rs"]
mod browser;

use edge_integration::edged::{Edged, until};
use edge_integration::lab::{Origins, copy_example, isolated};
use edge_integration::pki::{Authority, Leaf};

use browser::{Browser, PROVIDER, SECRET, SHOP, control, discovered, edge_at, loopback, provider, scene, start};

const CALLBACK: &str = "http://shop.edge.test:8080/oauth2/callback";

#[test]
fn a_session_is_good_at_every_edge_of_the_same_configuration_and_at_no_other() {
    isolated("access-edges", || {
        let _provider = provider(&["-lifetime", "4s"]);
        let _one = scene(|text| text);
        let _two = edge_at(44, |text| text);
        let _stranger = edge_at(45, |text| text.replace(SECRET, "a-secret-of-somebody-else-entirely"));
        let mut browser = Browser::new();
        for edge in [44, 45, 42] {
            browser.turn_to(edge);
            discovered(&browser);
        }
        // Begun at one edge, ended at the other.
        let begun = browser.ask(&format!("{SHOP}/cart"), &[]);
        let callback = browser.sign_in(&begun, &format!("http://{PROVIDER}"));
        browser.turn_to(44);
        let arrived = browser.ask(&callback, &[]);
        assert_eq!((arrived.status, arrived.location()), (302, &*format!("{SHOP}/cart")), "{arrived:?}");
        let url = format!("{SHOP}/");
        for edge in [42, 44] {
            browser.turn_to(edge);
            let page = browser.ask(&url, &[]);
            assert_eq!(page.status, 200, "edge {edge}: {page:?}");
        }
        // Its tokens end: the edge that did not log it in prolongs it, and the first one takes what that gave.
        browser.turn_to(42);
        until("the session was prolonged at the other edge", || {
            let page = browser.ask(&url, &[]);
            assert_eq!(page.status, 200, "{page:?}");
            control("counts").contains("refreshes 1").then_some(())
        });
        browser.turn_to(44);
        assert_eq!(browser.ask(&url, &[]).status, 200);
        // With another key it is nobody's session.
        browser.turn_to(45);
        let page = browser.ask(&url, &[]);
        assert_eq!(page.status, 302, "{page:?}");
        assert!(page.location().starts_with(&format!("http://{PROVIDER}/")), "{page:?}");
        // Logged out at one is logged out at all.
        browser.turn_to(42);
        let out = browser.ask(&format!("{SHOP}/logout"), &[]);
        assert_eq!(out.status, 302, "{out:?}");
        browser.turn_to(44);
        assert_eq!(browser.ask(&url, &[]).status, 302);
    });
}

#[test]
fn a_provider_and_its_keys_are_reached_through_backends_with_their_tls() {
    isolated("access-backends", || {
        let authority = Authority::new("test authority").unwrap();
        let pair = authority.sign(&Leaf { dns: &["id.edge.test"], ..Leaf::default() }).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("id.pem"), &pair.certificate).unwrap();
        std::fs::write(path("id.key"), &pair.key).unwrap();
        std::fs::write(path("ca.pem"), &authority.certificate).unwrap();
        let issuer = "https://id.edge.test:18421";
        let arguments = ["-listen", PROVIDER, "-issuer", issuer, "-client", "shop", "-secret", SECRET];
        let more = ["-redirects", CALLBACK, "-certificate", &path("id.pem"), "-key", &path("id.key")];
        let all: Vec<&str> = arguments.into_iter().chain(more).collect();
        let _provider = start("openid-provider", &all, &[PROVIDER.parse().unwrap()]);
        let indented: String = authority.certificate.lines().map(|line| format!("    {line}\n")).collect();
        let by_backend = "group: gateway.envoyproxy.io, kind: Backend, name: provider";
        let by_service = "name: provider, port: 443";
        for (reference, what) in [(by_backend, BACKEND), (by_service, SERVICE)] {
            let scene = scene(|text| {
                let oidc = format!("issuer: {issuer}\n      backendRefs: [{{{reference}}}]");
                let text = text.replace("issuer: http://127.0.0.1:18421", &oidc);
                let keys = KEYS.replace("REFERENCE", reference);
                format!(
                    "{text}{what}{keys}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: default}}\ndata:\n  ca.crt: |\n{indented}"
                )
            });
            let mut browser = Browser::new();
            browser.options.extend(["--cacert".to_owned(), path("ca.pem")]);
            for host in ["id.edge.test:18421:127.0.0.1", "api.edge.test:8080:127.0.0.42"] {
                browser.options.extend(["--resolve".to_owned(), host.to_owned()]);
            }
            let page = discovered(&browser);
            let callback = browser.sign_in(&page, issuer);
            let arrived = browser.ask(&callback, &[]);
            assert_eq!(arrived.status, 302, "{reference}: {arrived:?}");
            let page = browser.ask(&format!("{SHOP}/"), &[]);
            assert_eq!(page.status, 200, "{reference}: {page:?}");
            // The backend was shown the token; with it programs pass where keys come through the same backends.
            let at = page.body.find("eyJ").unwrap_or_else(|| panic!("no token: {page:?}"));
            let token = &page.body[at..];
            let is_of_it = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let end = token.bytes().position(|byte| !is_of_it(byte)).unwrap_or(token.len());
            let bearer = format!("Authorization: Bearer {}", &token[..end]);
            let api = "http://api.edge.test:8080/";
            assert_eq!(browser.ask(api, &["-H", &bearer]).status, 200, "{reference}");
            assert_eq!(browser.ask(api, &["-H", &format!("{}AA", &bearer[..bearer.len() - 2])]).status, 401);
            assert_eq!(browser.ask(api, &[]).status, 401);
            drop(scene);
        }
    });
}

const BACKEND: &str = "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: provider, namespace: default}
spec:
  endpoints: [{ip: {address: 127.0.0.1, port: 18421}}]
  tls: {sni: id.edge.test, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}
";

const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: provider, namespace: default}
spec: {ports: [{port: 443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: provider, namespace: default, labels: {kubernetes.io/service-name: provider}}
addressType: IPv4
ports: [{port: 18421}]
endpoints: [{addresses: [127.0.0.1]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: provider, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: provider}]
  validation: {hostname: id.edge.test, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}
";

const KEYS: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api, namespace: default}
spec:
  parentRefs: [{name: web}]
  hostnames: [api.edge.test]
  rules: [{backendRefs: [{name: shop, port: 80}]}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {name: api, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: api}]
  jwt:
    providers:
      - name: id
        issuer: https://id.edge.test:18421
        audiences: [shop]
        remoteJWKS: {uri: 'https://id.edge.test:18421/keys', backendRefs: [{REFERENCE}]}
";

/// The filter knows no backends and no plain HTTP: its provider is believed by the certificates of the system.
#[test]
fn the_filter_of_nginx_logs_in_like_a_policy() {
    isolated("access-nginx", || {
        let authority = Authority::new("test authority").unwrap();
        let pair = authority.sign(&Leaf { dns: &["127.0.0.1"], ..Leaf::default() }).unwrap();
        let dir = copy_example("oidc");
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("id.pem"), &pair.certificate).unwrap();
        std::fs::write(path("id.key"), &pair.key).unwrap();
        std::fs::write(path("ca.pem"), &authority.certificate).unwrap();
        let issuer = format!("https://{PROVIDER}");
        let arguments = ["-listen", PROVIDER, "-issuer", &issuer, "-client", "shop", "-secret", SECRET];
        let more = ["-redirects", CALLBACK, "-certificate", &path("id.pem"), "-key", &path("id.key")];
        let all: Vec<&str> = arguments.into_iter().chain(more).collect();
        let _provider = start("openid-provider", &all, &[PROVIDER.parse().unwrap()]);
        let text = std::fs::read_to_string(path("manifests/login.yaml")).unwrap();
        let route = text.split("---").next().unwrap().replace("    - backendRefs:\n", NAMED);
        let secret = text.split("---").nth(1).unwrap();
        std::fs::write(path("manifests/login.yaml"), format!("{route}---{secret}---\n{FILTER}")).unwrap();
        let origins = Origins::start();
        let _shop = origins.http_at("shop", loopback(1, 18420), None);
        let trust = format!("SSL_CERT_FILE={}", path("ca.pem"));
        let files = ["edge.toml", ".run/edged.sock", "edged.log"].map(|name| dir.path().join(name));
        let mut edged = Edged::spawn_by(&["env", &trust], &files[0], &files[1], &files[2]);
        edged.wait_port(loopback(42, 8080));
        let mut browser = Browser::new();
        browser.options.extend(["--cacert".to_owned(), path("ca.pem")]);
        let url = format!("{SHOP}/");
        let page = discovered(&browser);
        let callback = browser.sign_in(&page, &issuer);
        let arrived = browser.ask(&callback, &[]);
        assert_eq!((arrived.status, arrived.location()), (302, &*url), "{arrived:?}");
        assert_eq!(browser.ask(&url, &[]).status, 200);
        assert!(browser.cookies().iter().any(|(name, _)| name.starts_with("SHOP_SESSION")), "{:?}", browser.cookies());
        let out = browser.ask(&format!("{SHOP}/bye"), &[]);
        assert!(out.location().contains("/end_session?"), "{out:?}");
        assert_eq!(browser.ask(&url, &[]).status, 302);
    });
}

#[test]
fn strict_cookies_come_with_a_page() {
    isolated("access-strict", || {
        let _provider = provider(&[]);
        let _strict = scene(|text| {
            text.replace("    logoutPath: /logout\n", "    logoutPath: /logout\n    cookieConfig: {sameSite: Strict}\n")
        });
        let browser = Browser::new();
        let page = discovered(&browser);
        let callback = browser.sign_in(&page, &format!("http://{PROVIDER}"));
        // A page of ours and no redirect: with that browsers would not send the cookie that they have just got.
        let arrived = browser.ask(&callback, &[]);
        assert_eq!((arrived.status, arrived.field("location")), (200, None), "{arrived:?}");
        assert!(arrived.body.contains(SHOP), "{arrived:?}");
        let session = arrived.fields("set-cookie").find(|cookie| !cookie.contains("-login-"));
        assert!(session.is_some_and(|cookie| cookie.contains("SameSite=Strict")), "{arrived:?}");
        assert_eq!(browser.ask(&format!("{SHOP}/"), &[]).status, 200);
    });
}

const NAMED: &str = "    - filters:
        - type: ExtensionRef
          extensionRef: {group: gateway.nginx.org, kind: AuthenticationFilter, name: login}
      backendRefs:
";

const FILTER: &str = "apiVersion: gateway.nginx.org/v1alpha1
kind: AuthenticationFilter
metadata: {name: login, namespace: default}
spec:
  type: OIDC
  oidc:
    issuer: https://127.0.0.1:18421
    clientID: shop
    clientSecretRef: {name: shop-client}
    redirectURI: /oauth2/callback
    session: {cookieName: SHOP_SESSION, timeout: 1h}
    logout: {uri: /bye}
";

#[test]
fn a_provider_that_is_away_is_told_of_and_lets_nobody_in() {
    isolated("access-away", || {
        let scene = scene(|text| text);
        let browser = Browser::new();
        let line = until("the status tells", || {
            let told = scene.edged.ctl(&["status"]).stdout;
            told.lines().find(|line| line.contains("the OpenID provider")).map(str::to_owned)
        });
        for part in ["SecurityPolicy default/login", PROVIDER, "nobody can log in"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        let page = browser.ask(&format!("{SHOP}/"), &[]);
        assert_eq!(page.status, 503, "{page:?}");
        assert!(scene.metrics().contains("edge_oidc_provider_up{issuer=\"http://127.0.0.1:18421\"} 0"));
        let _provider = provider(&[]);
        discovered(&browser);
        browser.log_in();
        assert_eq!(browser.ask(&format!("{SHOP}/"), &[]).status, 200);
    });
}

#[test]
fn a_policy_that_was_never_readable_closes_its_route_and_says_so() {
    isolated("access-unread", || {
        let scene = scene(|text| text.replace("    clientID: shop\n", "    clientIdentity: shop\n"));
        let page = Browser::new().ask(&format!("{SHOP}/"), &[]);
        assert_eq!(page.status, 500, "{page:?}");
        let told = scene.edged.ctl(&["status"]).stdout;
        let line = told.lines().find(|line| line.contains("SecurityPolicy default/login closes what it is about"));
        assert!(line.is_some_and(|line| line.contains("clientIdentity")), "{told}");
    });
}
