//! TLS on both sides of the edge: server names and misdirected requests, client certificates, passthrough beside
//! termination, BackendTLSPolicy, and certificates that are no good.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use base64::Engine as _;
use edge_integration::client::{Connection, H2, Reply, Tls, fetch};
use edge_integration::edged::until;
use edge_integration::lab::{HTTP, HTTPS, Lab, block_on};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, route, service, service_with, to};
use edge_integration::pki::{self, Authority, Leaf, Pair};

fn tls(ca: &str, server_name: &str, alpn: &[&str]) -> Tls {
    Tls { config: pki::client(ca, alpn, None).unwrap(), server_name: Some(server_name.to_owned()) }
}

fn secret(name: &str, pair: &Pair) -> String {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\ntype: kubernetes.io/tls\ndata:\n  tls.crt: {}\n  tls.key: {}\n",
        encode(&pair.certificate),
        encode(&pair.key)
    )
}

fn config_map(name: &str, ca: &str) -> String {
    let indented: String = ca.lines().map(|line| format!("    {}\n", line.trim_end())).collect();
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\ndata:\n  ca.crt: |\n{indented}"
    )
}

fn https_listener(name: &str, port: u16, hostname: &str, secret: &str) -> String {
    format!(
        "    - {{name: {name}, port: {port}, protocol: HTTPS, hostname: \"{hostname}\", tls: {{certificateRefs: [{{name: {secret}}}]}}}}\n"
    )
}

fn attached(name: &str, listener: &str, host: &str, backend: &str) -> String {
    route("HTTPRoute", name, &format!("{{name: web, sectionName: {listener}}}"), &[host], &to(backend, 80))
}

#[test]
fn the_server_name_chooses_the_certificate_and_a_foreign_host_is_misdirected() {
    let mut lab = Lab::new();
    let ca = Authority::new("public").unwrap();
    let one = ca.sign(&Leaf { dns: &["one.test"], ..Leaf::default() }).unwrap();
    let wild = ca.sign(&Leaf { dns: &["*.two.test"], ..Leaf::default() }).unwrap();
    let (a, b) = (lab.origin("a"), lab.origin("b"));
    let listeners =
        https_listener("one", HTTPS, "one.test", "one") + &https_listener("two", HTTPS, "*.two.test", "two");
    lab.manifest(
        "all.yaml",
        &[
            CLASS,
            &gateway("web", &listeners),
            &secret("one", &one),
            &secret("two", &wild),
            &attached("one", "one", "one.test", "a"),
            &attached("two", "two", "x.two.test", "b"),
            &attached("more", "two", "y.two.test", "b"),
            &service("default", "a", 80, &[a.address]),
            &service("default", "b", 80, &[b.address]),
        ]
        .concat(),
    );
    lab.start(&[HTTPS]);
    block_on(async {
        for alpn in ["http/1.1", "h2"] {
            for (name, host, status, backend) in [
                ("one.test", "one.test:8443", 200, Some("a")),
                ("x.two.test", "x.two.test:8443", 200, Some("b")),
                // One certificate, one listener: no misdirection.
                ("x.two.test", "y.two.test:8443", 200, Some("b")),
                ("x.two.test", "z.two.test:8443", 404, None),
                ("one.test", "x.two.test:8443", 421, None),
                ("x.two.test", "one.test:8443", 421, None),
                ("one.test", "unknown.test:8443", 404, None),
            ] {
                let tls = tls(&ca.certificate, name, &[alpn]);
                let reply: Reply = match alpn {
                    "h2" => H2::open(lab.at(HTTPS), Some(&tls)).await.unwrap().get(host, "/").await.unwrap(),
                    _ => fetch(lab.at(HTTPS), Some(&tls), host, "/").await.unwrap(),
                };
                // RFC 9110 §15.5.20 leaves 404 and 421 to us where no listener at all has the host.
                let fits = reply.status == status || (host.starts_with("unknown") && reply.status == 421);
                assert!(
                    fits && reply.backend() == backend,
                    "{alpn} {name} {host}: {} {:?}",
                    reply.status,
                    reply.backend()
                );
            }
        }
        for foreign in ["three.test", "two.test"] {
            let tls = Tls { config: pki::client_accepting_anything(&["h2"]), server_name: Some(foreign.to_owned()) };
            assert!(Connection::open(lab.at(HTTPS), Some(&tls)).await.is_err(), "{foreign}: no listener has this name");
        }
    });
}

#[test]
fn a_bad_certificate_costs_its_listener_only_and_a_new_one_is_taken_at_once() {
    let mut lab = Lab::new();
    let ca = Authority::new("public").unwrap();
    let sign = |name: &str, days| ca.sign(&Leaf { dns: &[name], days: Some(days), ..Leaf::default() }).unwrap();
    let (good, expired, other) = (sign("good.test", 30), sign("expired.test", -2), sign("other.test", 30));
    let mismatch = Pair { certificate: other.certificate.clone(), key: good.key.clone() };
    let garbage = Pair { certificate: "no certificate".to_owned(), key: good.key.clone() };
    let a = lab.origin("a");
    let listeners: String = ["good", "expired", "mismatch", "garbage"]
        .map(|name| https_listener(name, HTTPS, &format!("{name}.test"), name))
        .concat();
    let routes: String = ["good", "expired", "mismatch", "garbage"]
        .map(|name| attached(name, name, &format!("{name}.test"), "a"))
        .concat();
    lab.manifest(
        "base.yaml",
        &[CLASS, &gateway("web", &listeners), &routes, &service("default", "a", 80, &[a.address])].concat(),
    );
    for (name, pair) in [("good", &good), ("expired", &expired), ("mismatch", &mismatch), ("garbage", &garbage)] {
        lab.manifest(&format!("secret-{name}.yaml"), &secret(name, pair));
    }
    lab.start(&[HTTPS]);
    let https = lab.at(HTTPS);
    let fine = |name: &str| block_on(fetch(https, Some(&tls(&ca.certificate, name, &["http/1.1"])), name, "/"));
    assert_eq!(fine("good.test").unwrap().backend(), Some("a"));
    for name in ["expired.test", "mismatch.test", "garbage.test"] {
        assert!(fine(name).is_err(), "{name}: a valid certificate out of nowhere");
    }
    let status = lab.edged().ctl(&["status"]);
    assert_ne!(status.code, Some(0), "bad certificates are no good status");
    for word in ["expired", "mismatch", "garbage"] {
        assert!(status.stdout.contains(word), "{word} in {}", status.stdout);
    }
    for name in ["mismatch", "garbage"] {
        lab.manifest(&format!("secret-{name}.yaml"), &secret(name, &sign(&format!("{name}.test"), 30)));
        until("the new certificate", || fine(&format!("{name}.test")).ok());
    }
}

#[test]
fn client_certificates_are_demanded_or_asked_for() {
    let mut lab = Lab::new();
    let (public, clients, strangers) =
        (Authority::new("public").unwrap(), Authority::new("clients").unwrap(), Authority::new("strangers").unwrap());
    let server = public.sign(&Leaf { dns: &["c.test"], ..Leaf::default() }).unwrap();
    let leaf = Leaf { dns: &["client"], client: true, ..Leaf::default() };
    let (friend, stranger) = (clients.sign(&leaf).unwrap(), strangers.sign(&leaf).unwrap());
    let a = lab.origin("a");
    let listeners =
        https_listener("strict", HTTPS, "c.test", "server") + &https_listener("lax", 9443, "c.test", "server");
    let gateway = gateway("web", &listeners).replace(
        "  listeners:",
        "  tls:
    frontend:
      default: {validation: {caCertificateRefs: [{group: \"\", kind: ConfigMap, name: clients}]}}
      perPort:
        - port: 9443
          tls: {validation: {mode: AllowInsecureFallback, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: clients}]}}
  listeners:",
    );
    lab.manifest(
        "all.yaml",
        &[
            CLASS,
            &gateway,
            &config_map("clients", &clients.certificate),
            &secret("server", &server),
            &http_route("all", &["c.test"], &to("a", 80)),
            &service("default", "a", 80, &[a.address]),
        ]
        .concat(),
    );
    lab.start(&[HTTPS, 9443]);
    let ask = |port: u16, identity: Option<&Pair>| {
        let config = pki::client(&public.certificate, &["http/1.1"], identity).unwrap();
        let tls = Tls { config, server_name: Some("c.test".to_owned()) };
        block_on(fetch(lab.at(port), Some(&tls), "c.test", "/")).ok().map(|reply| reply.status)
    };
    for (port, identity, expected) in [
        (HTTPS, Some(&friend), Some(200)),
        (HTTPS, None, None),
        (HTTPS, Some(&stranger), None),
        (9443, Some(&friend), Some(200)),
        (9443, None, Some(200)),
        (9443, Some(&stranger), Some(200)),
    ] {
        assert_eq!(ask(port, identity), expected, "port {port}");
    }
}

#[test]
fn passthrough_and_termination_share_a_port() {
    let mut lab = Lab::new();
    let ca = Authority::new("backend").unwrap();
    let inner = ca.sign(&Leaf { dns: &["pass.test"], ..Leaf::default() }).unwrap();
    let edge = ca.sign(&Leaf { dns: &["web.test", "raw.test"], ..Leaf::default() }).unwrap();
    let encrypted = lab.origins().http("inside", Some(pki::acceptor(&inner, None).unwrap()));
    let (web, raw) = (lab.origin("web"), lab.origins().tcp("raw"));
    let listeners = https_listener("web", HTTPS, "web.test", "edge")
        + "    - {name: pass, port: 8443, protocol: TLS, hostname: pass.test, tls: {mode: Passthrough}}\n"
        + "    - {name: raw, port: 8443, protocol: TLS, hostname: raw.test, tls: {mode: Terminate, certificateRefs: [{name: edge}]}}\n";
    let tls_route = |name: &str, port: u16| {
        route(
            "TLSRoute",
            name,
            &format!("{{name: web, sectionName: {name}}}"),
            &[&format!("{name}.test")],
            &to(name, port),
        )
    };
    lab.manifest(
        "all.yaml",
        &[
            CLASS,
            &gateway("web", &listeners),
            &secret("edge", &edge),
            &attached("web", "web", "web.test", "web"),
            &tls_route("pass", 443),
            &tls_route("raw", 7000),
            &service("default", "web", 80, &[web.address]),
            &service("default", "pass", 443, &[encrypted.address]),
            &service("default", "raw", 7000, &[raw.address]),
        ]
        .concat(),
    );
    lab.start(&[HTTPS]);
    block_on(async {
        let reply = fetch(lab.at(HTTPS), Some(&tls(&ca.certificate, "web.test", &["http/1.1"])), "web.test", "/").await;
        assert_eq!(reply.unwrap().backend(), Some("web"));
        let mut pass = H2::open(lab.at(HTTPS), Some(&tls(&ca.certificate, "pass.test", &["h2"]))).await.unwrap();
        let echo = pass.get("pass.test", "/").await.unwrap().json();
        assert_eq!((&echo["backend"], &echo["server_name"]), (&"inside".into(), &"pass.test".into()));

        let mut raw = Connection::open(lab.at(HTTPS), Some(&tls(&ca.certificate, "raw.test", &[]))).await.unwrap();
        raw.send(b"ping").await.unwrap();
        let mut stream = raw.into_stream();
        let mut answer = [0u8; 8];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer).await.unwrap();
        assert_eq!(&answer, b"raw\nping");
        let nobody = tls(&ca.certificate, "nobody.test", &["h2"]);
        assert!(Connection::open(lab.at(HTTPS), Some(&nobody)).await.is_err(), "no listener has this name");
    });
}

#[test]
fn backends_are_authenticated_as_their_policy_says() {
    let mut lab = Lab::new();
    let (ca, other) = (Authority::new("inside").unwrap(), Authority::new("other").unwrap());
    let pair = ca.sign(&Leaf { dns: &["inside.test"], uri: &["spiffe://inside/a"], ..Leaf::default() }).unwrap();
    let edge = other.sign(&Leaf { dns: &["edge"], client: true, ..Leaf::default() }).unwrap();
    let origin = lab.origins().http("tls", Some(pki::acceptor(&pair, None).unwrap()));
    let strict = lab.origins().http("strict", Some(pki::acceptor(&pair, Some(&other.certificate)).unwrap()));
    let policy = |service: &str, ca: &str, hostname: &str, more: &str| {
        format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: {service}, namespace: default}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]
  validation:
    hostname: {hostname}
    caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: {ca}}}]
{more}"
        )
    };
    let names = ["good", "wrong-ca", "wrong-name", "san", "wrong-san", "strict", "no-ca"];
    let mut text = format!("{CLASS}{}", gateway("web", LISTENERS))
        .replace("  listeners:", "  tls: {backend: {clientCertificateRef: {name: edge-client}}}\n  listeners:");
    for name in names {
        let address = if name == "strict" { strict.address } else { origin.address };
        text += &service("default", name, 80, &[address]);
        text += &http_route(name, &[&format!("{name}.test")], &to(name, 80));
    }
    text += &[
        config_map("inside", &ca.certificate),
        config_map("other", &other.certificate),
        secret("edge-client", &edge),
        policy("good", "inside", "inside.test", ""),
        policy("wrong-ca", "other", "inside.test", ""),
        policy("wrong-name", "inside", "elsewhere.test", ""),
        policy("san", "inside", "sni.test", "    subjectAltNames: [{type: URI, uri: \"spiffe://inside/a\"}]\n"),
        policy(
            "wrong-san",
            "inside",
            "inside.test",
            "    subjectAltNames: [{type: URI, uri: \"spiffe://inside/b\"}]\n",
        ),
        policy("strict", "inside", "inside.test", ""),
        policy("no-ca", "missing", "inside.test", ""),
    ]
    .concat();
    lab.manifest("all.yaml", &text);
    lab.start(&[HTTP]);
    block_on(async {
        for (name, status, server_name) in [
            ("good", 200, "inside.test"),
            ("wrong-ca", 502, ""),
            ("wrong-name", 502, ""),
            ("san", 200, "sni.test"),
            ("wrong-san", 502, ""),
            ("strict", 200, "inside.test"),
        ] {
            let reply = fetch(lab.at(HTTP), None, &format!("{name}.test"), "/").await.unwrap();
            assert_eq!(reply.status, status, "{name}: {reply:?}");
            let echo = reply.json();
            assert_eq!(echo["server_name"].as_str().unwrap_or_default(), server_name, "{name}");
            assert_eq!(echo["client_certificate"] == true, name == "strict", "{name}");
        }
        let reply = fetch(lab.at(HTTP), None, "no-ca.test", "/").await.unwrap();
        assert!(reply.status >= 500, "a broken policy never means plaintext: {reply:?}");
        assert_eq!(strict.origin.count("/"), 1);
    });
}

#[test]
fn a_listener_without_its_secret_serves_a_certificate_of_the_internal_ca() {
    let mut lab = Lab::new();
    let a = lab.origin("a");
    let text =
        [CLASS, &gateway("web", LISTENERS), &service_with("default", "a", 80, "http", "TCP", &[a.address])].concat();
    lab.manifest("base.yaml", &text);
    lab.manifest("route.yaml", &http_route("first", &["first.test"], &to("a", 80)));
    lab.start(&[HTTPS]);
    let trusted = |name: &str| {
        let tls = lab.tls(name, &["http/1.1"]);
        block_on(fetch(lab.at(HTTPS), Some(&tls), name, "/")).ok().filter(|reply| reply.status == 200)
    };
    until("a certificate for the first host", || trusted("first.test"));
    assert!(trusted("second.test").is_none());
    lab.manifest("second.yaml", &http_route("second", &["second.test"], &to("a", 80)));
    until("a certificate for the second host", || trusted("second.test"));
    until("the first still has one", || trusted("first.test"));
}
