//! Who may pass, with real processes: the example, and the documented policies of Envoy Gateway and filters of NGINX Gateway
//! Fabric as they are written.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_integration::client::{Connection, Reply};
use edge_integration::edged::{edgectl, until};
use edge_integration::lab::{HTTP, Lab, Origins, block_on, copy_example, isolated, start_example};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};

fn loopback(last: u8, port: u16) -> SocketAddr {
    ([127, 0, 0, last], port).into()
}

fn ask(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    block_on(async {
        let mut connection = Connection::open(at, None).await.unwrap();
        connection.request(method, path, headers, b"").await.unwrap()
    })
}

fn basic(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

#[test]
fn the_example_of_authentication_does_what_it_says() {
    isolated("auth-example", || {
        let example = copy_example("authentication");
        let check = edgectl(&["check", &example.path().join("edge.toml").to_string_lossy()]);
        assert_eq!(check.code, Some(0), "{check:?}");
        let origins = Origins::start();
        let _shop = origins.http_at("shop", loopback(1, 18421), None);
        let at = loopback(43, 8080);
        let edged = start_example(example.path(), &[at]);
        let readme = std::fs::read_to_string(example.path().join("README.md")).unwrap();
        let token = readme.lines().find_map(|line| line.trim().strip_prefix("TOKEN=")).unwrap();
        let bearer = format!("Bearer {token}");
        let door = |path: &str, name: &str, value: &str| {
            let reply = ask(at, "GET", path, &[("host", "shop.edge.test"), (name, value)]);
            (reply.status, reply.json().to_string())
        };
        until("the password opens", || {
            (door("/password", "authorization", &basic("ann:password")).0 == 200).then_some(())
        });
        for (path, name, value, expected) in [
            ("/password", "authorization", basic("ann:wrong"), 401),
            ("/password", "x-api-key", "key-of-the-robot".to_owned(), 401),
            ("/key", "x-api-key", "key-of-the-robot".to_owned(), 200),
            ("/key", "x-api-key", "key-of-nobody".to_owned(), 401),
            ("/token", "authorization", bearer.clone(), 200),
            ("/token", "authorization", format!("{bearer}x"), 401),
            ("/filter", "authorization", basic("bob:password"), 200),
            ("/filter", "authorization", basic("bob:wrong"), 401),
        ] {
            assert_eq!(door(path, name, &value).0, expected, "{path} {value}");
        }
        let (_, seen) = door("/password", "authorization", &basic("ann:password"));
        assert!(seen.contains("\"x-user\"") && seen.contains("\"ann\""), "{seen}");
        let (_, seen) = door("/key", "x-api-key", "key-of-the-robot");
        assert!(seen.contains("robot") && !seen.contains("key-of"), "{seen}");
        let (_, seen) = door("/token", "authorization", &bearer);
        assert!(seen.contains("\"x-name\"") && seen.contains("\"Ann\""), "{seen}");
        let explained = edged.ctl(&["explain", "http://shop.edge.test:8080/token"]).stdout;
        assert!(explained.contains("token of https://issuer.edge.test for shop"), "{explained}");
        assert!(explained.contains("SecurityPolicy default/token"), "{explained}");

        // A new password holds without a restart; without its Secret one door is closed, and only that one.
        let manifest = example.path().join("manifests/shop.yaml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        let sha = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=";
        std::fs::write(&manifest, text.replace(sha, "{PLAIN}another")).unwrap();
        until("the new password", || {
            (door("/password", "authorization", &basic("ann:another")).0 == 200).then_some(())
        });
        edged.apply();
        assert_eq!(door("/password", "authorization", &basic("ann:password")).0, 401);
        std::fs::write(&manifest, text.replace("  .htpasswd: ", "  other: ")).unwrap();
        until("the door is closed", || {
            (door("/password", "authorization", &basic("ann:another")).0 == 500).then_some(())
        });
        edged.apply();
        assert_eq!(door("/key", "x-api-key", "key-of-the-robot").0, 200);
        let checked = edgectl(&["check", &example.path().join("edge.toml").to_string_lossy()]);
        let said = format!("{checked:?} {}", edged.ctl(&["status", "--all", "-o", "json"]).stdout);
        assert!(said.contains("Secret default/users has no key"), "{said}");
        for secret in ["key-of-the-robot", "W6ph5Mm5Pz8GgiULbPgzG37mj9g", "YSBzaGFyZWQgc2VjcmV0"] {
            assert!(!said.contains(secret), "{secret} in the status");
        }
    });
}

/// Policies as the documentation of Envoy Gateway has them; each is for the HTTPRoute `backend`.
const DOCUMENTED: [(&str, &str); 6] = [
    (
        "basic-auth",
        "  basicAuth:
    users:
      name: \"basic-auth\"
",
    ),
    (
        "api-key",
        "  apiKeyAuth:
    credentialRefs:
    - group: \"\"
      kind: Secret
      name: apikey-secret
    extractFrom:
    - headers:
      - x-api-key
",
    ),
    (
        "cors",
        "  cors:
    allowOrigins:
    - \"http://*.foo.com\"
    allowCredentials: true
    allowMethods:
    - GET
    - POST
    allowHeaders:
    - \"x-header-1\"
    - \"x-header-2\"
    exposeHeaders:
    - \"x-header-3\"
    - \"x-header-4\"
",
    ),
    (
        "csrf",
        "  csrf:
    additionalOrigins:
    - \"https://www.example.com\"
    - \"https://*.trusted.com\"
",
    ),
    (
        "deny",
        "  authorization:
    defaultAction: Deny
    rules:
    - action: Allow
      principal:
        clientCIDRs:
        - 10.0.1.0/24
",
    ),
    (
        "header-method",
        "  authorization:
    defaultAction: Deny
    rules:
    - name: \"allow\"
      action: Allow
      operation:
        methods: [\"GET\"]
      principal:
        headers:
        - name: x-user-id
          values: [\"foo\"]
",
    ),
];

#[test]
fn documented_policies_behave_as_documented() {
    let mut lab = Lab::new();
    let origin = lab.origin("backend");
    let base = [
        CLASS,
        &gateway("web", LISTENERS),
        &service("default", "backend", 3000, &[origin.address]),
        &http_route("backend", &["www.example.com"], &to("backend", 3000)),
        &http_route("open", &["open.example.com"], &to("backend", 3000)),
        // `htpasswd -cbs .htpasswd foo bar`
        "---\napiVersion: v1\nkind: Secret\nmetadata: {name: basic-auth, namespace: default}\n\
         stringData: {.htpasswd: \"foo:{SHA}Ys23Ag/5IOWqZCw9QGaVDdHwH00=\\n\"}\n",
        "---\napiVersion: v1\nkind: Secret\ntype: Opaque\nmetadata: {name: apikey-secret, namespace: default}\n\
         stringData: {client1: supersecret}\n",
    ]
    .concat();
    lab.manifest("base.yaml", &base);
    lab.start(&[HTTP]);
    let at = lab.at(HTTP);
    type Case<'c> = (&'c str, &'c str, &'c [(&'c str, &'c str)], u16);
    let password = basic("foo:bar");
    let wrong = basic("foo:baz");
    for (name, part) in DOCUMENTED {
        lab.manifest(
            "policy.yaml",
            &format!(
                "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata:\n  name: {name}\nspec:\n  \
                 targetRefs:\n    - group: gateway.networking.k8s.io\n      kind: HTTPRoute\n      name: backend\n{part}"
            ),
        );
        let cases: &[Case<'_>] = match name {
            "basic-auth" => &[
                ("basic", "GET", &[], 401),
                ("basic", "GET", &[("authorization", &password)], 200),
                ("basic", "GET", &[("authorization", &wrong)], 401),
            ],
            "api-key" => &[
                ("key", "GET", &[], 401),
                ("key", "GET", &[("x-api-key", "supersecret")], 200),
                ("key", "GET", &[("x-api-key", "invalid")], 401),
            ],
            "cors" => &[
                (
                    "preflight",
                    "OPTIONS",
                    &[("origin", "http://www.foo.com"), ("access-control-request-method", "GET")],
                    204,
                ),
                ("plain", "GET", &[("origin", "http://www.foo.com")], 200),
            ],
            "csrf" => &[
                ("another site", "POST", &[("origin", "https://malicious.example.net")], 403),
                ("named", "POST", &[("origin", "https://www.example.com")], 200),
                ("below", "POST", &[("origin", "https://app.trusted.com")], 200),
                ("read", "GET", &[("origin", "https://malicious.example.net")], 200),
            ],
            "deny" => &[("outside", "GET", &[], 403)],
            _ => &[
                ("nobody", "GET", &[], 403),
                ("foo", "GET", &[("x-user-id", "foo")], 200),
                ("posts", "POST", &[("x-user-id", "foo")], 403),
            ],
        };
        for (what, method, headers, expected) in cases {
            let fields = [&[("host", "www.example.com")], *headers].concat();
            until(&format!("{name}: {what} is {expected}"), || {
                let reply = ask(at, method, "/get", &fields);
                (reply.status == *expected).then_some(())
            });
        }
        assert_eq!(ask(at, "GET", "/", &[("host", "open.example.com")]).status, 200, "{name}");
    }
}
