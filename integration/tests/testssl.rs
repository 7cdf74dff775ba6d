//! What others say of our TLS: testssl.sh against an ECDSA and an RSA certificate, and openssl and rustls clients for what
//! it does not look at.
//!
//! The usual run makes the checks that matter for a change of ours; `make tls-check` makes all of them.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use edge_integration::client::{Tls, fetch};
use edge_integration::lab::{HTTPS, Lab, Running, block_on};
use edge_integration::manifests::{CLASS, gateway, http_route, service, to};
use edge_integration::pki::{self, Authority, Leaf, Pair};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, NamedGroup, StreamOwned};

/// Findings that are about the certificate of this test, or about what Edge leaves out on purpose.
const EXPLAINED: &[(&str, &str)] = &[
    ("engine_problem", "the scanner's own openssl has no GOST, which Edge does not speak either"),
    ("cert_chain_of_trust", "the authority is the test's own"),
    ("cert_revocation", "so it has neither CRL nor OCSP responder"),
    ("cert_ocspURL", "the same"),
    ("cert_crlDistributionPoints", "the same"),
    ("OCSP_stapling", "Let's Encrypt ended OCSP in 2025; short-lived certificates take its place"),
    ("DNS_CAArecord", "the name is not in any DNS"),
    ("certificate_transparency", "the authority is the test's own"),
    ("cert_expirationStatus", "the certificate is young on purpose"),
    ("cert_extlifeSpan", "the same"),
    ("cipher_order", "three AEAD suites with ECDHE: the client knows which of them its hardware is good at"),
    ("HSTS", "a header of applications, which a ResponseHeaderModifier can set"),
    ("security_headers", "the same"),
    (
        "sessionresumption_ticket",
        "it does not wait for the ticket, which follows the handshake; see the resumption below",
    ),
];

struct Served {
    lab: Lab,
    ca: Authority,
    _origin: Running,
}

fn secret(name: &str, pair: &Pair) -> String {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\ntype: kubernetes.io/tls\ndata:\n  tls.crt: {}\n  tls.key: {}\n",
        encode(&pair.certificate),
        encode(&pair.key)
    )
}

/// Listeners on one port: ecdsa.test, rsa.test, and one for all other names.
fn served() -> Served {
    let mut lab = Lab::new();
    let ca = Authority::new("testssl").unwrap();
    let sign = |name: &str, rsa| ca.sign(&Leaf { dns: &[name], days: Some(200), rsa, ..Leaf::default() }).unwrap();
    let listener = |name: &str| {
        format!(
            "    - {{name: {name}, port: 8443, protocol: HTTPS, hostname: {name}.test, tls: {{certificateRefs: [{{name: {name}}}]}}}}\n"
        )
    };
    // Some checks of testssl.sh send no server name.
    let any = "    - {name: any, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: ecdsa}]}}\n";
    let a = lab.origin("a");
    lab.manifest(
        "all.yaml",
        &[
            CLASS,
            &gateway("web", &(listener("ecdsa") + &listener("rsa") + any)),
            &secret("ecdsa", &sign("ecdsa.test", false)),
            &secret("rsa", &sign("rsa.test", true)),
            &http_route("all", &["ecdsa.test", "rsa.test"], &to("a", 80)),
            &service("default", "a", 80, &[a.address]),
        ]
        .concat(),
    );
    lab.start(&[HTTPS]);
    lab.write_file("ca.pem", &ca.certificate);
    let served = Served { lab, ca, _origin: a };
    for name in ["ecdsa.test", "rsa.test"] {
        let tls = Tls { config: served.client(), server_name: Some(name.to_owned()) };
        assert_eq!(block_on(fetch(served.lab.at(HTTPS), Some(&tls), name, "/")).unwrap().status, 200);
    }
    served
}

impl Served {
    fn client(&self) -> Arc<ClientConfig> {
        pki::client(&self.ca.certificate, &["http/1.1"], None).unwrap()
    }

    /// Runs testssl.sh and gives its findings as (id, severity, finding).
    fn testssl(&self, name: &str, checks: &[&str]) -> Vec<(String, String, String)> {
        let report = self.lab.path(&format!("{name}.json"));
        let output = Command::new("testssl")
            .args(["--quiet", "--warnings", "off", "--color", "0", "--nodns", "none", "--ip"])
            .arg(self.lab.vip.to_string())
            .arg("--add-ca")
            .arg(self.lab.path("ca.pem"))
            .arg("--jsonfile")
            .arg(&report)
            .args(checks)
            .arg(format!("{name}:{HTTPS}"))
            .current_dir(self.lab.dir())
            .stdin(Stdio::null())
            .output()
            .expect("testssl is installed by `make packages`");
        let text = std::fs::read_to_string(&report).unwrap_or_default();
        let findings: serde_json::Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stdout)));
        let word = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let findings = findings.as_array().unwrap().iter();
        findings.map(|one| (word(one, "id"), word(one, "severity"), word(one, "finding"))).collect()
    }

    /// Nothing worse than OK and INFO but what is explained.
    fn judge(&self, name: &str, checks: &[&str]) {
        let findings = self.testssl(name, checks);
        assert!(findings.len() > 20, "testssl looked at nothing: {findings:?}");
        let mut severities = std::collections::BTreeMap::<&str, usize>::new();
        let mut bad = Vec::new();
        for (id, severity, finding) in &findings {
            *severities.entry(severity).or_default() += 1;
            let is_explained = EXPLAINED.iter().any(|(known, _)| id.split(' ').next() == Some(*known));
            if !matches!(&**severity, "OK" | "INFO") && !is_explained {
                bad.push(format!("{id}: {severity}: {finding}"));
            }
        }
        eprintln!("{name}: {severities:?}");
        assert!(bad.is_empty(), "{name}: {bad:#?}");
    }
}

#[test]
fn testssl_finds_nothing() {
    let served = served();
    std::thread::scope(|scope| {
        scope.spawn(|| served.judge("ecdsa.test", &["-p", "-s", "-f", "-S"]));
        scope.spawn(|| served.judge("rsa.test", &["-p", "-S", "-U"]));
    });
}

#[test]
#[ignore = "takes minutes: make tls-check"]
fn testssl_finds_nothing_with_every_check() {
    let served = served();
    for name in ["ecdsa.test", "rsa.test"] {
        served.judge(name, &[]);
    }
}

/// What `openssl s_client` says, and whether there was a handshake. `input` is typed into it a moment later.
fn s_client(served: &Served, name: &str, options: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &served.lab.at(HTTPS).to_string(), "-servername", name])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    for line in input.lines() {
        std::thread::sleep(Duration::from_secs(1));
        let _ = writeln!(keyboard, "{line}");
    }
    drop(keyboard);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (said.contains("-----BEGIN CERTIFICATE-----"), said)
}

#[test]
fn only_modern_versions_suites_and_features_are_offered() {
    let served = served();
    for name in ["ecdsa.test", "rsa.test"] {
        for (options, works) in [
            (&["-tls1_3"][..], true),
            (&["-tls1_2"], true),
            (&["-tls1_1", "-cipher", "ALL@SECLEVEL=0"], false),
            (&["-tls1", "-cipher", "ALL@SECLEVEL=0"], false),
            (&["-tls1_2", "-cipher", "ECDHE+AESGCM"], true),
            (&["-tls1_2", "-cipher", "ECDHE+CHACHA20"], true),
            // No key exchange but ephemeral ECDH, no cipher but AEAD.
            (&["-tls1_2", "-cipher", "ALL:COMPLEMENTOFALL:!ECDHE:@SECLEVEL=0"], false),
            (&["-tls1_2", "-cipher", "ALL:!AESGCM:!CHACHA20:@SECLEVEL=0"], false),
            (&["-tls1_3", "-curves", "P-256"], true),
            (&["-tls1_3", "-curves", "brainpoolP256r1"], false),
        ] {
            let (did, said) = s_client(&served, name, options, "");
            assert_eq!(did, works, "{name} {options:?}: {said}");
            assert!(!works || said.contains("Compression: NONE"), "{said}");
        }
    }
    let (_, said) = s_client(&served, "ecdsa.test", &["-tls1_2"], "R\nQ");
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "renegotiation is refused: {said}");
}

/// A connection and what became of its handshake, after one request on it.
fn handshake(served: &Served, config: &Arc<ClientConfig>) -> (Option<NamedGroup>, Option<HandshakeKind>) {
    let connection = ClientConnection::new(Arc::clone(config), "ecdsa.test".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(served.lab.at(HTTPS)).unwrap());
    stream.write_all(b"GET / HTTP/1.1\r\nhost: ecdsa.test\r\nconnection: close\r\n\r\n").unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert!(reply.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&reply));
    let group = stream.conn.negotiated_key_exchange_group().map(|group| group.name());
    (group, stream.conn.handshake_kind())
}

#[test]
fn the_hybrid_key_exchange_comes_first_and_sessions_resume() {
    let served = served();
    for (offered, taken) in [
        (vec![kx_group::X25519MLKEM768, kx_group::X25519], NamedGroup::X25519MLKEM768),
        (vec![kx_group::X25519], NamedGroup::X25519),
        (vec![kx_group::SECP256R1], NamedGroup::secp256r1),
    ] {
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            if version.version == rustls::ProtocolVersion::TLSv1_2 && taken == NamedGroup::X25519MLKEM768 {
                continue;
            }
            let provider = rustls::crypto::CryptoProvider { kx_groups: offered.clone(), ..default_provider() };
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(pki::certificates(&served.ca.certificate).unwrap());
            let config = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[version]);
            let config = Arc::new(config.unwrap().with_root_certificates(roots).with_no_client_auth());
            let (group, kind) = handshake(&served, &config);
            assert_eq!((group, kind), (Some(taken), Some(HandshakeKind::Full)), "{version:?}");
            let (_, kind) = handshake(&served, &config);
            assert_eq!(kind, Some(HandshakeKind::Resumed), "{version:?} {taken:?}");
        }
    }
    // Keys of tickets are thrown away after twice the time that each is used: no ticket outlives a day.
    let (_, said) = s_client(&served, "ecdsa.test", &["-tls1_2"], "Q");
    let hint = said.split("ticket lifetime hint: ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
    assert!(hint.is_some_and(|seconds| seconds <= 86_400), "{said}");
}
