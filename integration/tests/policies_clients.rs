//! ClientTrafficPolicy and Backend with real peers: curl and openssl as clients that show certificates or do not, with
//! openssl as the judge of what is told of them; what is offered in TLS; bounds of HTTP/2 and timeouts; endpoints in TLS.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use edge_integration::client::{Connection, H2, Tls, fetch, within};
use edge_integration::edged::{edgectl, until};
use edge_integration::lab::{HTTP, HTTPS, Lab, block_on, copy_example, isolated, start_example};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};
use edge_integration::pki::{self, Authority, Leaf, Pair};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;

const FIELD: &str = "x-forwarded-client-cert";

fn encode(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn tls_secret(name: &str, pair: &Pair) -> String {
    let (certificate, key) = (encode(&pair.certificate), encode(&pair.key));
    format!(
        "---
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: default}}
type: kubernetes.io/tls
data: {{tls.crt: {certificate}, tls.key: {key}}}
"
    )
}

/// A Secret with any texts.
fn secret(name: &str, texts: &[(&str, &str)]) -> String {
    let texts: Vec<String> = texts.iter().map(|(key, text)| format!("{key}: {}", encode(text))).collect();
    let texts = texts.join(", ");
    format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\ndata: {{{texts}}}\n")
}

/// A listener for one host on port 8443, its route and its policy; `policy` is a flow mapping.
fn door(name: &str, policy: &str) -> (String, String) {
    let listener = format!(
        "    - {{name: {name}, port: 8443, protocol: HTTPS, hostname: {name}.test, tls: {{certificateRefs: [{{name: server}}]}}}}\n"
    );
    let objects = format!(
        "{}---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: web, sectionName: {name}}}]
  {policy}
",
        http_route(name, &[&format!("{name}.test")], &to("a", 80))
    );
    (listener, objects)
}

/// Starts edged with these doors before an origin; the server's certificate is of `ca`.
fn behind(lab: &mut Lab, ca: &Authority, doors: &[(&str, String)], more: &str) {
    let hosts: Vec<String> = doors.iter().map(|(name, _)| format!("{name}.test")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let server = ca.sign(&Leaf { dns: &hosts, ..Leaf::default() }).unwrap();
    let origin = lab.origin("a");
    let (mut listeners, mut objects) = (String::new(), String::new());
    for (name, policy) in doors {
        let (listener, own) = door(name, policy);
        listeners += &listener;
        objects += &own;
    }
    let base = [CLASS, &gateway("web", &listeners), &tls_secret("server", &server)].concat();
    lab.manifest("all.yaml", &[&base, &objects, &service("default", "a", 80, &[origin.address]), more].concat());
    lab.write_file("server-ca.pem", &ca.certificate);
    lab.start(&[HTTPS]);
}

fn save(lab: &Lab, name: &str, pair: &Pair) {
    lab.write_file(&format!("{name}.crt"), &pair.certificate);
    lab.write_file(&format!("{name}.key"), &pair.key);
}

/// What curl gets: the status, or `None` where there was no connection, and the echo of the origin.
fn curl(lab: &Lab, door: &str, identity: Option<&str>, more: &[&str]) -> (Option<u16>, Value) {
    let host = format!("{door}.test");
    let mut command = Command::new("curl");
    command.current_dir(lab.dir()).args(["-sS", "--noproxy", "*", "--max-time", "20", "-w", "\n%{http_code}"]);
    command.args(["--cacert", "server-ca.pem", "--resolve", &format!("{host}:8443:{}", lab.at(HTTPS).ip())]);
    if let Some(name) = identity {
        command.args(["--cert", &format!("{name}.crt"), "--key", &format!("{name}.key")]);
    }
    let output = command.args(more).arg(format!("https://{host}:8443/")).output().expect("curl is installed");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap_or_default();
    let status = status.parse().ok().filter(|status| *status != 0);
    (status, serde_json::from_str(body).unwrap_or_default())
}

fn told(echo: &Value) -> Option<String> {
    let values = echo["headers"][FIELD].as_array()?;
    Some(values.iter().map(|value| value.as_str().unwrap()).collect::<Vec<_>>().join(" | "))
}

fn openssl(directory: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new("openssl")
        .current_dir(directory)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed (make packages)");
    // It may be gone before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// What openssl says of a certificate in a file, as one line.
fn says(lab: &Lab, arguments: &[&str]) -> String {
    let output = openssl(lab.dir(), arguments, "");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// In lower-case hex, by openssl.
fn digest(lab: &Lab, name: &str) -> String {
    let line = says(lab, &["x509", "-in", &format!("{name}.crt"), "-noout", "-fingerprint", "-sha256"]);
    line.split_once('=').unwrap().1.replace(':', "").to_ascii_lowercase()
}

#[test]
fn who_shows_which_certificate_comes_in() {
    let mut lab = Lab::new();
    let (ca, clients, strangers) =
        (Authority::new("public").unwrap(), Authority::new("clients").unwrap(), Authority::new("strangers").unwrap());
    let sign = |by: &Authority, name: &str, uri: &str, days: i64| {
        let leaf = Leaf { dns: &[name], uri: &[uri], client: true, days: Some(days), ..Leaf::default() };
        by.sign(&leaf).unwrap()
    };
    let ann = sign(&clients, "ann.corp.test", "spiffe://corp/ann", 30);
    let revoked = sign(&clients, "eve.corp.test", "spiffe://corp/eve", 30);
    for (name, pair) in [
        ("ann", &ann),
        ("bob", &sign(&clients, "bob.corp.test", "spiffe://corp/bob", 30)),
        ("old", &sign(&clients, "old.corp.test", "spiffe://corp/old", -2)),
        ("revoked", &revoked),
        ("stranger", &sign(&strangers, "ann.corp.test", "spiffe://corp/ann", 30)),
    ] {
        save(&lab, name, pair);
    }
    let with = |more: &str| format!("tls: {{clientValidation: {{caCertificateRefs: [{{name: clients}}]{more}}}}}");
    // By openssl, as an operator takes it.
    let key = says(&lab, &["x509", "-in", "bob.crt", "-noout", "-pubkey"]);
    lab.write_file("bob.pub", &key);
    let _der = says(&lab, &["pkey", "-pubin", "-in", "bob.pub", "-outform", "DER", "-out", "bob.spki"]);
    let _sum = says(&lab, &["dgst", "-sha256", "-binary", "-out", "bob.sum", "bob.spki"]);
    let spki = base64::engine::general_purpose::STANDARD.encode(std::fs::read(lab.path("bob.sum")).unwrap());
    let hashes = format!(", certificateHashes: [{}], spkiHashes: [\"{spki}\"]", digest(&lab, "ann"));
    let doors = [
        ("required", with("")),
        ("optional", with(", optional: true")),
        ("any", "tls: {clientValidation: {mode: RequireAny}}".to_owned()),
        ("request", with(", mode: Request")),
        ("hashes", with(&hashes)),
        (
            "names",
            with(
                ", subjectAltNames: {uris: [{type: Prefix, value: spiffe://corp/a}], dnsNames: [{value: BOB.corp.test}]}",
            ),
        ),
        ("crl", with(", crl: {refs: [{name: revoked}]}")),
        ("expired", with(", allowExpiredCertificate: true")),
        ("broken", with(", certificateHashes: [abc]")),
        ("open", "headers: {requestID: Generate}".to_owned()),
    ];
    let crl = clients.revocations(&[&revoked]).unwrap();
    let more = secret("clients", &[("ca.crt", &clients.certificate)]) + &secret("revoked", &[("ca.crl", &crl)]);
    behind(&mut lab, &ca, &doors, &more);
    let (yes, no) = (Some(200), None);
    for (door, nobody, ann, bob, old, revoked, stranger) in [
        ("required", no, yes, yes, no, yes, no),
        ("optional", yes, yes, yes, no, yes, no),
        ("any", no, yes, yes, yes, yes, yes),
        ("request", yes, yes, yes, yes, yes, yes),
        ("hashes", no, yes, yes, no, no, no),
        ("names", no, yes, yes, no, no, no),
        ("crl", no, yes, yes, no, no, no),
        ("expired", no, yes, yes, yes, yes, no),
        ("broken", no, no, no, no, no, no),
        ("open", yes, yes, yes, yes, yes, yes),
    ] {
        let clients = [
            (None, nobody),
            (Some("ann"), ann),
            (Some("bob"), bob),
            (Some("old"), old),
            (Some("revoked"), revoked),
            (Some("stranger"), stranger),
        ];
        for (identity, expected) in clients {
            let (status, echo) = curl(&lab, door, identity, &[]);
            assert_eq!(status, expected, "{identity:?} at {door}: {echo}");
            assert_eq!(told(&echo), None, "nothing is told unless a policy says so");
        }
    }
    // The other implementation of TLS, by hand, in both versions.
    for version in ["-tls1_2", "-tls1_3"] {
        let at = lab.at(HTTPS).to_string();
        let ask = |more: &[&str]| {
            // It waits for the server's last word, which comes after the answer, or instead of it.
            let base = ["s_client", "-connect", &at, "-servername", "required.test", "-quiet", version];
            let request = "GET / HTTP/1.1\r\nHost: required.test\r\nConnection: close\r\n\r\n";
            openssl(lab.dir(), &[&base[..], more].concat(), request)
        };
        let refused = ask(&[]);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(text.contains("alert"), "{version}: {text}");
        let accepted = ask(&["-cert", "ann.crt", "-key", "ann.key"]);
        let text = String::from_utf8_lossy(&accepted.stdout).into_owned();
        assert!(text.starts_with("HTTP/1.1 200"), "{version}: {accepted:?}");
    }
    // What the policy that cannot be honoured says, and what explain says of one that can.
    let config = lab.config();
    let check = edgectl(&["check", &config.to_string_lossy()]);
    let text = format!("{check:?}");
    assert!(
        check.code != Some(0) && text.contains("certificateHashes[0]") && text.contains("default/broken"),
        "{text}"
    );
    let explained = lab.edged().ctl(&["explain", "https://crl.test:8443/"]);
    for words in [
        "clients",
        "need a certificate of a CA of Secret default/clients",
        "not revoked by a list of Secret default/revoked",
    ] {
        assert!(explained.stdout.contains(words), "{words} in {}", explained.stdout);
    }
    until("refusals are counted", || {
        let socket = lab.path("edged.sock");
        let arguments = ["-sS", "--unix-socket", socket.to_str().unwrap(), "http://edge/metrics"];
        let output = Command::new("curl").args(arguments).output().unwrap();
        let metrics = String::from_utf8(output.stdout).unwrap();
        let line = metrics.lines().find(|line| line.contains("reason=\"client_certificate\""))?;
        (line.rsplit(' ').next()?.parse::<f64>().ok()? >= 20.0).then_some(())
    });
}

#[test]
fn endpoints_are_told_of_certificates_as_the_policy_says() {
    let mut lab = Lab::new();
    let (ca, clients, strangers) =
        (Authority::new("public").unwrap(), Authority::new("clients").unwrap(), Authority::new("strangers").unwrap());
    let leaf = Leaf {
        dns: &["ann.test", "b.test"],
        uri: &["spiffe://corp/ann?a=b"],
        client: true,
        common_name: Some("Ann \"the, one\""),
        organisation: Some("Corp"),
        ..Leaf::default()
    };
    save(&lab, "ann", &clients.sign(&leaf).unwrap());
    save(&lab, "stranger", &strangers.sign(&leaf).unwrap());
    let with = |mode: &str, validation: &str| {
        format!(
            "headers: {{xForwardedClientCert: {{{mode}}}}}\n  tls: {{clientValidation: {{caCertificateRefs: [{{name: clients}}]{validation}}}}}"
        )
    };
    let all = "certDetailsToAdd: [DNS, URI, Subject, Chain, Cert]";
    let doors = [
        ("sanitize", with("mode: Sanitize", "")),
        ("forward", with("mode: ForwardOnly", ", optional: true")),
        ("append", with("mode: AppendForward, certDetailsToAdd: [URI]", "")),
        ("set", with("mode: SanitizeSet, certDetailsToAdd: [Subject, DNS, URI]", ", optional: true")),
        ("whole", with(&format!("mode: SanitizeSet, {all}"), "")),
        ("always", with("mode: AlwaysForwardOnly", ", optional: true")),
        ("any", with("mode: AppendForward", ", mode: RequireAny")),
    ];
    behind(&mut lab, &ca, &doors, &secret("clients", &[("ca.crt", &clients.certificate)]));
    let (mine, theirs) = (format!("Hash={}", digest(&lab, "ann")), format!("Hash={}", digest(&lab, "stranger")));
    let subject = says(&lab, &["x509", "-in", "ann.crt", "-noout", "-subject", "-nameopt", "RFC2253"]);
    let subject = subject.strip_prefix("subject=").unwrap();
    let uri = "URI=\"spiffe://corp/ann?a=b\"";
    let set = format!("{mine};Subject=\"{subject}\";{uri};DNS=ann.test;DNS=b.test");
    let claim = "Hash=forged";
    let (appended, any) = (format!("{claim},{mine};{uri}"), theirs.clone());
    for (door, identity, sends, expected) in [
        ("sanitize", Some("ann"), true, None),
        ("forward", None, true, None),
        ("forward", Some("ann"), true, Some(claim)),
        ("forward", Some("ann"), false, None),
        ("append", Some("ann"), true, Some(appended.as_str())),
        ("set", None, true, None),
        ("set", Some("ann"), true, Some(set.as_str())),
        ("always", None, true, Some(claim)),
        // Who it is was not verified: nothing that it says passes.
        ("any", Some("stranger"), true, Some(any.as_str())),
    ] {
        for version in ["--http1.1", "--http2"] {
            let field = format!("X-Forwarded-Client-Cert: {claim}");
            let alias = format!("X-Forwarded_Client-Cert: {claim}");
            let mut more = vec![version, "-H", &alias];
            if sends {
                more.extend(["-H", &field]);
            }
            let (status, echo) = curl(&lab, door, identity, &more);
            assert_eq!(status, Some(200), "{door} {identity:?}");
            assert_eq!(told(&echo).as_deref(), expected, "{door} {identity:?} {version}");
            assert!(echo["headers"]["x-forwarded_client-cert"].is_null());
        }
    }
    let (_, echo) = curl(&lab, "whole", Some("ann"), &[]);
    let whole = told(&echo).unwrap();
    let pem = std::fs::read_to_string(lab.path("ann.crt")).unwrap().replace("\r\n", "\n");
    let part = whole.split(';').find_map(|part| part.strip_prefix("Cert=\"")).unwrap().trim_end_matches('"');
    let decoded = percent_decoded(part);
    assert_eq!(pki::certificates(&decoded).unwrap(), pki::certificates(&pem).unwrap());
    assert!(whole.contains(&format!(";Chain=\"{part}\";")), "a chain of one: {whole}");
    // One connection, one element: what a second request says is the same.
    block_on(async {
        let identity = Pair { certificate: pem, key: std::fs::read_to_string(lab.path("ann.key")).unwrap() };
        let config = pki::client(&ca.certificate, &["h2"], Some(&identity)).unwrap();
        let tls = Tls { config, server_name: Some("set.test".to_owned()) };
        let mut connection = H2::open(lab.at(HTTPS), Some(&tls)).await.unwrap();
        for _ in 0..3 {
            let echo = connection.get("set.test", "/").await.unwrap().json();
            assert_eq!(told(&echo).as_deref(), Some(set.as_str()));
        }
    });
}

fn percent_decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut found = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_at(2);
        found.push(char::from(u8::from_str_radix(code, 16).unwrap()));
        found.push_str(rest);
    }
    found
}

#[test]
fn what_is_offered_in_tls() {
    let mut lab = Lab::new();
    let ca = Authority::new("public").unwrap();
    let doors = [
        ("old", "tls: {maxVersion: \"1.2\", ciphers: [ECDHE-ECDSA-AES128-GCM-SHA256, AES128-SHA]}".to_owned()),
        ("new", "tls: {minVersion: \"1.3\"}".to_owned()),
        ("curve", "tls: {ecdhCurves: [P-384]}".to_owned()),
        ("one", "tls: {alpnProtocols: [http/1.1]}".to_owned()),
        ("none", "tls: {alpnProtocols: []}".to_owned()),
        ("usual", "headers: {requestID: Generate}".to_owned()),
    ];
    behind(&mut lab, &ca, &doors, "");
    let at = lab.at(HTTPS).to_string();
    let ask = |door: &str, more: &[&str]| {
        let name = format!("{door}.test");
        let base = [
            "s_client",
            "-connect",
            &at,
            "-servername",
            &name,
            "-CAfile",
            "server-ca.pem",
            "-verify_return_error",
            "-brief",
        ];
        let output = openssl(lab.dir(), &[&base[..], more].concat(), "");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    for (door, more, expected) in [
        ("old", &["-tls1_2"][..], "ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("old", &["-tls1_3"], "alert"),
        ("old", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"], "alert"),
        ("new", &["-tls1_2"], "alert"),
        ("new", &[], "TLSv1.3"),
        ("usual", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"], "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("curve", &["-groups", "X25519"], "alert"),
        ("curve", &["-groups", "P-384"], "Protocol version"),
        ("usual", &["-groups", "X25519"], "Protocol version"),
    ] {
        let text = ask(door, more);
        assert!(text.contains(expected), "{door} {more:?}: {text}");
        assert!(expected == "alert" || !text.contains("alert"), "{door} {more:?}: {text}");
    }
    for (door, asked, expected) in [
        ("usual", &["h2", "http/1.1"][..], Some("h2")),
        ("one", &["h2", "http/1.1"], Some("http/1.1")),
        ("none", &["h2", "http/1.1"], None),
    ] {
        let config = pki::client(&ca.certificate, asked, None).unwrap();
        let tls = Tls { config, server_name: Some(format!("{door}.test")) };
        let connection = block_on(Connection::open(lab.at(HTTPS), Some(&tls))).unwrap();
        let found = connection.handshake.alpn.map(|name| String::from_utf8(name).unwrap());
        assert_eq!(found.as_deref(), expected, "{door}");
    }
    let explained = lab.edged().ctl(&["explain", "https://old.test:8443/"]);
    assert!(explained.stdout.contains("TLS 1.2 only; of 1.2 TLS_ECDHE_ECDSA"), "{}", explained.stdout);
}

/// What an HTTP/2 server begins with: its SETTINGS, and by how much it widens the window of the connection.
async fn greeting(at: std::net::SocketAddr, tls: &Tls) -> (Vec<(u16, u32)>, u32) {
    let mut connection = Connection::open(at, Some(tls)).await.unwrap();
    // RFC 9113 §3.4: the preface and empty SETTINGS.
    connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut stream = connection.into_stream();
    let (mut settings, mut window) = (None, None);
    loop {
        if let (Some(settings), Some(window)) = (&settings, window) {
            return (Vec::clone(settings), window);
        }
        let mut head = [0; 9];
        within("frame", stream.read_exact(&mut head)).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        within("payload", stream.read_exact(&mut payload)).await.unwrap();
        match head[3] {
            4 if head[4] == 0 => {
                let entry = |entry: &[u8]| {
                    let (id, value) = entry.split_at(2);
                    (u16::from_be_bytes(id.try_into().unwrap()), u32::from_be_bytes(value.try_into().unwrap()))
                };
                settings = Some(payload.chunks_exact(6).map(entry).collect());
            }
            8 => window = Some(u32::from_be_bytes(payload.try_into().unwrap())),
            _ => {}
        }
    }
}

#[test]
fn bounds_of_http2_and_timeouts() {
    let mut lab = Lab::new();
    // Longer than any test waits: what ends sooner ends by its policy.
    lab.write_config_with("head_timeout = \"300s\"\nidle_timeout = \"300s\"\nstream_idle_timeout = \"300s\"", "");
    let ca = Authority::new("public").unwrap();
    let doors = [
        (
            "h2",
            "http2: {maxConcurrentStreams: 7, initialStreamWindowSize: 128Ki, initialConnectionWindowSize: 2Mi}"
                .to_owned(),
        ),
        ("head", "timeout: {http: {requestHeadersReceivedTimeout: 2s}}".to_owned()),
        ("idle", "timeout: {http: {idleTimeout: 2s}}".to_owned()),
        ("still", "timeout: {http: {streamIdleTimeout: 2s}}".to_owned()),
        ("handshake", "timeout: {tcp: {tlsHandshakeTimeout: 2s}}".to_owned()),
        ("counted", "connection: {connectionLimit: {maxRequestsPerConnection: 2}}".to_owned()),
    ];
    behind(&mut lab, &ca, &doors, "");
    let at = lab.at(HTTPS);
    let tls = |door: &str, alpn: &[&str]| {
        let config = pki::client(&ca.certificate, alpn, None).unwrap();
        Tls { config, server_name: Some(format!("{door}.test")) }
    };
    block_on(async {
        let (settings, window) = greeting(at, &tls("h2", &["h2"])).await;
        assert!(settings.contains(&(3, 7)), "SETTINGS_MAX_CONCURRENT_STREAMS in {settings:?}");
        assert!(settings.contains(&(4, 128 << 10)), "SETTINGS_INITIAL_WINDOW_SIZE in {settings:?}");
        // What is more than the 65535 that a connection begins with.
        assert_eq!(window, (2 << 20) - 65_535);

        let mut slow = Connection::open(at, Some(&tls("head", &["http/1.1"]))).await.unwrap();
        slow.send(b"GET / HTTP/1.1\r\nhost: head.test\r\n").await.unwrap();
        assert_eq!(slow.reply("GET").await.unwrap().status, 408);
        slow.closed().await.unwrap();

        let mut idle = Connection::open(at, Some(&tls("idle", &["http/1.1"]))).await.unwrap();
        assert_eq!(idle.get("idle.test", "/").await.unwrap().status, 200);
        idle.closed().await.unwrap();

        let mut still = Connection::open(at, Some(&tls("still", &["http/1.1"]))).await.unwrap();
        let cut = still.get("still.test", "/stall").await.unwrap_err();
        assert_ne!(cut.kind(), std::io::ErrorKind::TimedOut, "a body that never comes: {cut}");

        let mut counted = Connection::open(at, Some(&tls("counted", &["http/1.1"]))).await.unwrap();
        assert_eq!(counted.get("counted.test", "/").await.unwrap().header("connection"), None);
        assert_eq!(counted.get("counted.test", "/").await.unwrap().header("connection"), Some("close"));
        counted.closed().await.unwrap();
        silent_after_hello(at, "handshake.test").await;
    });
}

/// Says a whole ClientHello, and then nothing: the server closes.
async fn silent_after_hello(at: std::net::SocketAddr, name: &str) {
    use tokio::io::AsyncWriteExt as _;
    let config = pki::client_accepting_anything(&[]);
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    // Its flight, and then the end, whether by FIN or by reset.
    let _ = within("the end", async { stream.read_to_end(&mut answer).await.or(Ok(0)) }).await.unwrap();
    assert!(!answer.is_empty(), "the ServerHello");
}

#[test]
fn endpoints_in_tls_by_backend() {
    let mut lab = Lab::new();
    let (inside, other) = (Authority::new("inside").unwrap(), Authority::new("other").unwrap());
    let pair = inside.sign(&Leaf { dns: &["inside.test"], ..Leaf::default() }).unwrap();
    let own = other.sign(&Leaf { dns: &["edge"], client: true, ..Leaf::default() }).unwrap();
    let plain = lab.origins().http("tls", Some(pki::acceptor(&pair, None).unwrap()));
    let strict = lab.origins().http("strict", Some(pki::acceptor(&pair, Some(&other.certificate)).unwrap()));
    let refs = "caCertificateRefs: [{group: \"\", kind: ConfigMap, name: inside}], sni: inside.test";
    let backends = [
        ("good", refs.to_owned(), 200, "inside.test"),
        (
            "by-secret",
            "caCertificateRefs: [{group: \"\", kind: Secret, name: inside}], sni: inside.test".to_owned(),
            200,
            "inside.test",
        ),
        (
            "wrong-ca",
            "caCertificateRefs: [{group: \"\", kind: ConfigMap, name: other}], sni: inside.test".to_owned(),
            502,
            "",
        ),
        ("wrong-name", refs.replace("inside.test", "elsewhere.test"), 502, ""),
        // Nobody's system trusts a CA that was made a moment ago.
        ("system", "wellKnownCACertificates: System, sni: inside.test".to_owned(), 502, ""),
        ("believed", "insecureSkipVerify: true, sni: whoever.test".to_owned(), 200, "whoever.test"),
        (
            "missing",
            "caCertificateRefs: [{group: \"\", kind: ConfigMap, name: nowhere}], sni: inside.test".to_owned(),
            500,
            "",
        ),
        ("strict", format!("{refs}, clientCertificateRef: {{name: own}}"), 200, "inside.test"),
        ("no-certificate", refs.to_owned(), 502, ""),
        ("version", format!("{refs}, minVersion: \"1.2\", maxVersion: \"1.2\""), 200, "inside.test"),
        ("curves", format!("{refs}, ecdhCurves: [P-256]"), 200, "inside.test"),
    ];
    let map = |name: &str, ca: &Authority| {
        let text = ca.certificate.replace('\n', "\n    ");
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\ndata:\n  ca.crt: |\n    {text}\n"
        )
    };
    let mut text = [
        CLASS,
        &gateway("web", LISTENERS),
        &map("inside", &inside),
        &map("other", &other),
        &secret("inside", &[("ca.crt", &inside.certificate)]),
        &tls_secret("own", &own),
    ]
    .concat();
    for (name, tls, ..) in &backends {
        let address = if ["strict", "no-certificate"].contains(name) { strict.address } else { plain.address };
        text += &format!(
            "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {{name: {name}, namespace: default}}
spec:
  endpoints: [{{ip: {{address: {}, port: {}}}}}]
  tls: {{{tls}}}
",
            address.ip(),
            address.port()
        );
        let rule = format!("    - backendRefs: [{{group: gateway.envoyproxy.io, kind: Backend, name: {name}}}]\n");
        text += &http_route(name, &[&format!("{name}.test")], &rule);
    }
    lab.manifest("all.yaml", &text);
    lab.start(&[HTTP]);
    for (name, _, status, server_name) in &backends {
        let reply = block_on(fetch(lab.at(HTTP), None, &format!("{name}.test"), "/")).unwrap();
        assert_eq!(reply.status, *status, "{name}: {reply:?}");
        let echo = reply.json();
        assert_eq!(echo["server_name"].as_str().unwrap_or_default(), *server_name, "{name}");
        assert_eq!(echo["client_certificate"] == true, *name == "strict", "{name}");
    }
    for (name, words) in [
        ("good", "TLS to inside.test, verified by CAs of ConfigMap default/inside"),
        ("system", "verified by the system's CAs"),
        ("believed", "TLS to whoever.test, whoever answers is believed"),
        ("strict", "shows the certificate default/own"),
        ("version", "TLS 1.2 only"),
    ] {
        let text = lab.edged().ctl(&["explain", &format!("http://{name}.test:8080/")]).stdout;
        assert!(text.contains(words), "{words} in {text}");
    }
}

#[test]
fn the_example_lets_in_who_shows_its_certificate() {
    isolated("mtls", || {
        let example = copy_example("mutual-tls");
        let origins = edge_integration::lab::Origins::start();
        let _shop = origins.http_at("shop", ([127, 0, 0, 1], 18431).into(), None);
        let at: std::net::SocketAddr = ([127, 0, 0, 44], 8443).into();
        let _edged = start_example(example.path(), &[at]);
        let ask = |identity: bool| {
            let mut command = Command::new("curl");
            command.current_dir(example.path()).args([
                "-sS",
                "-k",
                "--noproxy",
                "*",
                "--max-time",
                "20",
                "--connect-to",
            ]);
            command.arg(format!("shop.edge.test:8443:{}:8443", at.ip()));
            if identity {
                command.args(["--cert", "client/ann.crt", "--key", "client/ann.key"]);
            }
            let output = command.arg("https://shop.edge.test:8443/").output().expect("curl is installed");
            serde_json::from_slice::<Value>(&output.stdout).ok()
        };
        let echo = until("the shop", || ask(true));
        let told = told(&echo).unwrap();
        assert!(
            told.contains("Subject=\"CN=ann,O=Example Corp\"") && told.ends_with("URI=spiffe://edge.test/ann"),
            "{told}"
        );
        assert_eq!(ask(false), None, "without a certificate");
    });
}
