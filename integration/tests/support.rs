//! A support bundle of a real edged that has a secret of every kind: what is in it, that none of them is, and what is left of
//! it when edged is down.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use edge_integration::client::Connection;
use edge_integration::edged::{edgectl, program, until, workspace};
use edge_integration::lab::{HTTP, Lab, block_on, isolated};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, service};
use edge_integration::pki::{Authority, Leaf};
use serde_json::json;

/// Secrets by what they are; each is planted once and searched for in every form.
struct Planted(Vec<(&'static str, Vec<u8>)>);

impl Planted {
    /// Texts that occur nowhere by chance.
    fn new() -> Self {
        Self(Vec::new())
    }

    fn plant(&mut self, what: &'static str) -> String {
        let number = self.0.len();
        let text = format!("Pl4nted{}x{number}x{}", what.replace(' ', ""), std::process::id());
        self.0.push((what, text.clone().into_bytes()));
        text
    }

    /// A private key as PEM: each of its lines, and the number itself.
    fn keep(&mut self, what: &'static str, pem: &str) {
        let lines: Vec<&str> = pem.lines().filter(|line| !line.is_empty() && !line.starts_with("-----")).collect();
        self.0.extend(lines.iter().filter(|line| line.len() > 40).map(|line| (what, line.as_bytes().to_vec())));
        // PKCS #8 of P-256 (RFC 5208, RFC 5915) as rcgen writes it: 36 bytes before the number.
        let der = STANDARD.decode(lines.concat()).unwrap();
        let at = memory_find(&der, &[0x04, 0x20]).unwrap() + 2;
        self.0.push((what, der[at..at + 32].to_vec()));
    }

    /// Raw, in base64 at each of the three offsets, in hexadecimal of either case.
    fn search(&self, place: &str, content: &[u8]) {
        for (what, secret) in &self.0 {
            let hex = secret.iter().fold(String::new(), |mut out, byte| {
                write!(out, "{byte:02x}").unwrap();
                out
            });
            let mut forms = vec![secret.clone(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
            for skipped in 0..3 {
                // Whole groups from there on: what stands before and behind changes nothing of them.
                let inner = &secret[skipped..];
                let inner = &inner[..inner.len() / 3 * 3];
                forms.extend([STANDARD.encode(inner).into_bytes(), URL_SAFE_NO_PAD.encode(inner).into_bytes()]);
            }
            for form in forms {
                if let Some(at) = memory_find(content, &form) {
                    let around = &content[at.saturating_sub(80)..content.len().min(at + form.len() + 20)];
                    panic!("{what} is in {place}: {:?}", String::from_utf8_lossy(around));
                }
            }
        }
    }
}

fn memory_find(content: &[u8], part: &[u8]) -> Option<usize> {
    memchr::memmem::find(content, part)
}

fn secret(name: &str, pairs: &[(&str, &str)]) -> String {
    let mut out =
        format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: {name}, namespace: default }}\ndata:\n");
    for (key, value) in pairs {
        writeln!(out, "  {key}: {}", STANDARD.encode(value)).unwrap();
    }
    out
}

fn policy(route: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: {route}, namespace: default }}
spec:
  parentRefs: [{{ name: web }}]
  hostnames: [{route}.edge.test]
  rules: [{{ backendRefs: [{{ name: shop, port: 80 }}] }}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {{ name: {route}, namespace: default }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: {route} }}]
{spec}
"
    )
}

/// A configuration with every kind of secret.
fn furnish(lab: &Lab, origin: std::net::SocketAddr) -> Planted {
    let mut planted = Planted::new();
    let authority = Authority::new("support").unwrap();
    let pair = |dns: &[&str]| authority.sign(&Leaf { dns, ..Leaf::default() }).unwrap();
    let (of_secret, of_file) = (pair(&["web.edge.test"]), pair(&["file.edge.test"]));
    planted.keep("the private key of a Secret", &of_secret.key);
    planted.keep("the private key of a file", &of_file.key);
    lab.write_file("file.pem", &of_file.certificate);
    lab.write_file("file.key", &of_file.key);
    lab.manifest("class.yaml", CLASS);
    lab.manifest("gateway.yaml", &gateway("web", LISTENERS));
    lab.manifest("service.yaml", &service("default", "shop", 80, &[origin]));
    let mut secrets = secret("web-tls", &[("tls.crt", &of_secret.certificate), ("tls.key", &of_secret.key)]);
    secrets.push_str(&secret("opaque", &[("any", &planted.plant("an opaque Secret"))]));
    let mut hash = planted.plant("a password hash");
    hash.truncate(20);
    planted.0.push(("a password hash", hash.clone().into_bytes()));
    secrets.push_str(&secret("basic", &[(".htpasswd", &format!("user:{{SHA}}{}", STANDARD.encode(&hash)))]));
    secrets.push_str(&secret("keys", &[("client-1", &planted.plant("an API key"))]));
    secrets.push_str(&secret("oidc", &[("client-secret", &planted.plant("an OIDC client secret"))]));
    secrets.push_str(&secret("bgp", &[("password", &planted.plant("a BGP password in a Secret"))]));
    secrets.push_str(&secret("eab", &[("secret", &URL_SAFE_NO_PAD.encode(planted.plant("an EAB key in a Secret")))]));
    secrets.push_str(&secret("dns", &[("api-token", &planted.plant("a DNS token in a Secret"))]));
    lab.manifest("secrets.yaml", &secrets);
    let mut policies = policy("basic", "  basicAuth: { users: { name: basic } }");
    policies.push_str(&policy(
        "keys",
        "  apiKeyAuth: { credentialRefs: [{ name: keys }], extractFrom: [{ headers: [x-door] }] }",
    ));
    policies.push_str(&policy(
        "login",
        "  oidc:
    provider: { issuer: 'https://login.edge.test' }
    clientID: edge
    clientSecret: { name: oidc }",
    ));
    lab.manifest("policies.yaml", &policies);
    let inline = planted.plant("a BGP password in an object");
    let header = planted.plant("a header that a filter sets");
    let map = planted.plant("text of a ConfigMap");
    lab.manifest(
        "others.yaml",
        &format!(
            "---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {{ name: one, namespace: default }}
spec: {{ myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, password: {inline} }}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {{ name: two, namespace: default }}
spec: {{ myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.2, passwordSecret: {{ name: bgp }} }}
---
apiVersion: v1
kind: ConfigMap
metadata: {{ name: map, namespace: default }}
data: {{ app.conf: 'password {map}' }}
---
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: {{ name: le }}
spec:
  acme:
    server: https://127.0.0.1:1/directory
    privateKeySecretRef: {{ name: le-account }}
    externalAccountBinding: {{ keyID: kid, keySecretRef: {{ name: eab, key: secret }} }}
    solvers: [{{ dns01: {{ cloudflare: {{ apiTokenSecretRef: {{ name: dns, key: api-token }} }} }} }}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: set, namespace: default }}
spec:
  parentRefs: [{{ name: web }}]
  hostnames: [set.edge.test]
  rules:
    - filters:
        - type: RequestHeaderModifier
          requestHeaderModifier: {{ set: [{{ name: Authorization, value: '{header}' }}] }}
      backendRefs: [{{ name: shop, port: 80 }}]
"
        ),
    );
    for (file, what) in
        [("tsig.key", "a TSIG key"), ("eab.key", "an EAB key in a file"), ("cf.token", "a DNS token in a file")]
    {
        let text = planted.plant(what);
        lab.write_file(file, &if file.ends_with(".key") { STANDARD.encode(&text) } else { text });
    }
    lab.write_file("bgp.password", &planted.plant("a BGP password in a file"));
    lab.write_file("fleet.secret", &planted.plant("the secret of a fleet, which is long enough"));
    lab.write_file("dashboard.token", &planted.plant("the token of a dashboard, which is long enough"));
    let dir = lab.dir().display().to_string();
    let user = json!({"name": "edge", "user": {"token": planted.plant("a token of Kubernetes")}});
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [user],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "edge"}}],
        "current-context": "here",
    });
    lab.write_file("kubeconfig", &kubeconfig.to_string());
    for file in
        ["bgp.password", "fleet.secret", "dashboard.token", "kubeconfig", "file.key", "tsig.key", "eab.key", "cf.token"]
    {
        std::fs::set_permissions(lab.path(file), PermissionsExt::from_mode(0o600)).unwrap();
    }
    lab.write_config(&format!(
        r#"
[edge]
name = "one"
[kubernetes]
kubeconfig = "{dir}/kubeconfig"
sync_timeout = "1s"
[fleet]
listen = "127.0.0.1:7946"
secret_file = "{dir}/fleet.secret"
[[fleet.edge]]
name = "one"
address = "127.0.0.1:7946"
[[fleet.edge]]
name = "two"
address = "127.0.0.1:7947"
[dashboard]
address = "127.0.0.1:7943"
token_file = "{dir}/dashboard.token"
[bgp]
engine = "127.0.0.1:1"
[[bgp.peer]]
name = "file"
address = "192.0.2.9"
asn = 64513
password_file = "{dir}/bgp.password"
[issuers.own]
directory = "https://127.0.0.1:1/directory"
external_account = {{ key_id = "kid", key_file = "{dir}/eab.key" }}
[[issuers.own.solver]]
type = "dns-01"
provider = "rfc2136"
server = "127.0.0.1"
tsig_key_name = "edge"
tsig_key_file = "{dir}/tsig.key"
[[issuers.own.solver]]
type = "dns-01"
zones = ["cf.test"]
provider = "cloudflare"
token_file = "{dir}/cf.token"
[[secret]]
name = "default/file"
certificate = "{dir}/file.pem"
key = "{dir}/file.key"
"#
    ));
    planted
}

/// A request with secrets where clients put them.
struct Asked {
    path: String,
    /// A token, a user with a password.
    proofs: [String; 2],
    fields: Vec<(&'static str, String)>,
}

impl Asked {
    fn new(planted: &mut Planted) -> Self {
        let bearer = format!("Bearer {}", planted.plant("a bearer token of a request"));
        let of_user = format!("user:{}", planted.plant("a password of a request"));
        Self {
            path: format!("/?token={}", planted.plant("a token in a query")),
            proofs: [bearer, format!("Basic {}", STANDARD.encode(of_user))],
            fields: vec![
                ("cookie", format!("session={}", planted.plant("a cookie of a request"))),
                ("x-door", planted.plant("an API key of a request")),
                ("x-auth-token", planted.plant("a token of a request")),
            ],
        }
    }

    /// One of each kind of host.
    fn ask(&self, lab: &Lab) {
        let at = lab.at(HTTP);
        block_on(async {
            for (host, proof) in [("basic", 1), ("keys", 0), ("login", 0), ("set", 1), ("nobody", 0)] {
                let host = format!("{host}.edge.test");
                let mut connection = Connection::open(at, None).await.unwrap();
                let mut fields = vec![("host", &*host), ("authorization", &*self.proofs[proof])];
                fields.extend(self.fields.iter().map(|(name, value)| (*name, &**value)));
                connection.request("GET", &self.path, &fields, b"").await.unwrap();
            }
        });
    }
}

/// The bundle's files by name, without its first folder.
fn unpacked(path: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let directory = tempfile::tempdir().unwrap();
    let status = Command::new("tar").arg("-xzf").arg(path).arg("-C").arg(directory.path()).status().unwrap();
    assert!(status.success());
    let mut found = Vec::new();
    let mut folders = vec![directory.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(directory.path()).unwrap().display().to_string();
                let (_, name) = name.split_once('/').unwrap();
                found.push((name.to_owned(), std::fs::read(&path).unwrap()));
            }
        }
    }
    found
}

fn bundle(lab: &Lab, name: &str) -> (Vec<(String, Vec<u8>)>, String) {
    let file = lab.path(name);
    let (path, config) = (file.display().to_string(), lab.config().display().to_string());
    let socket = lab.path("edged.sock").display().to_string();
    let said = edgectl(&["--socket", &*socket, "support-bundle", &*path, "--config", &*config]);
    // A test machine has no systemd.
    assert!(matches!(said.code, Some(0 | 1)) && said.stdout.starts_with(&format!("wrote {path}: ")), "{said:?}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    (unpacked(&file), said.stdout)
}

#[test]
fn a_bundle_has_what_helps_and_no_secret() {
    isolated("support", || {
        let mut lab = Lab::new();
        let origin = lab.origin("shop");
        let mut planted = furnish(&lab, origin.address);
        lab.start(&[HTTP]);
        // Everything that can be logged is.
        assert_eq!(lab.edged().ctl(&["loglevel", "trace,libraries=trace"]).code, Some(0));
        lab.edged().apply();
        let asked = Asked::new(&mut planted);
        // Whoever looks is shown that there are secrets, not what they are.
        let mut command = Command::new(program("edgectl"));
        command.arg("--socket").arg(lab.path("edged.sock")).args(["tap", "*", "-o", "json", "-n", "20"]);
        let names = || asked.fields.iter().map(|(name, _)| *name).chain(["authorization"]);
        command.args(names().flat_map(|name| ["-H", name]));
        let mut tap = command.stdout(Stdio::piped()).spawn().unwrap();
        until("requests are seen", || {
            asked.ask(&lab);
            tap.try_wait().unwrap()
        });
        let seen = tap.wait_with_output().unwrap().stdout;
        for name in names() {
            let shown = format!(r#"["{name}","[redacted]"]"#);
            assert!(memory_find(&seen, shown.as_bytes()).is_some(), "{name}: {}", String::from_utf8_lossy(&seen));
        }
        planted.search("edgectl tap", &seen);
        // What edged made itself: a line of text, then what is kept (PEM, or bytes as they are).
        let mut made = 0;
        for (kind, what) in [
            ("internal-ca", "the key of the internal CA"),
            ("session-secret", "the session secret"),
            ("ticket-keys", "keys of TLS tickets"),
            ("certificates", "a key that edged made"),
        ] {
            for entry in std::fs::read_dir(lab.path("state/copies").join(kind)).unwrap() {
                let bytes = std::fs::read(entry.unwrap().path()).unwrap();
                let payload = &bytes[memory_find(&bytes, b"\n").unwrap() + 1..];
                made += 1;
                match std::str::from_utf8(payload) {
                    Ok(text) if text.contains("-----BEGIN PRIVATE KEY-----") => {
                        let key = text.split("-----BEGIN PRIVATE KEY-----").nth(1).unwrap();
                        planted.keep(what, key.split("-----END").next().unwrap());
                    }
                    _ => planted.0.push((what, payload[payload.len() - 32..].to_vec())),
                }
            }
        }
        assert!(made >= 2, "{made}");
        until("requests are in the access log", || (lab.access_log().len() >= 5).then_some(()));

        let edged = lab.edged();
        let lines = edged.ctl(&["log", "-n", "100000", "-o", "json"]).stdout;
        assert!(lines.lines().count() > 50, "{lines}");
        planted.search("edgectl log", lines.as_bytes());
        planted.search("standard error", edged.log().as_bytes());
        for view in [
            &["status", "-o", "json"][..],
            &["get", "config"],
            &["get", "secrets", "-o", "json"],
            &["get", "bgppeers", "-o", "json"],
        ] {
            planted.search(&view.join(" "), edged.ctl(view).stdout.as_bytes());
        }
        let page = block_on(async {
            let mut socket = tokio::net::UnixStream::connect(lab.path("edged.sock")).await.unwrap();
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: edge\r\n\r\n").await.unwrap();
            let mut page = Vec::new();
            socket.read_to_end(&mut page).await.unwrap();
            page
        });
        assert!(page.len() > 1000);
        planted.search("/metrics", &page);
        // What a crash would write down has all of it: there is no core.
        let unit = std::fs::read_to_string(workspace().join("systemd/edged.service")).unwrap();
        assert!(unit.contains("\nLimitCORE=0\n"));
        let access = std::fs::read(lab.path("access.log")).unwrap();
        planted.search("the access log", &access);
        let (files, said) = bundle(&lab, "up.tar.gz");
        let has = |name: &str| files.iter().find(|(known, _)| known == name).map(|(_, content)| content.clone());
        for name in [
            "index.txt",
            "versions.txt",
            "edged/status.json",
            "edged/why.json",
            "edged/settings.json",
            "edged/metrics.txt",
            "edged/log.jsonl",
            "edged/top.jsonl",
            "edged/fleet.json",
            "edged/history.json",
            "edged/objects/HTTPRoute.json",
            "edged/objects/Secret.json",
            "files/settings.json",
            "files/objects/Gateway.json",
            "state/listing.txt",
            "process/limits.txt",
            "system/sysctl.txt",
            "system/kernel.txt",
        ] {
            assert!(has(name).is_some_and(|content| !content.is_empty()), "{name} is missing: {said}");
        }
        for (name, content) in &files {
            planted.search(name, content);
        }
        // What users put into a header is seen on the socket, and taken out on the way.
        for name in ["edged/objects/HTTPRoute.json", "files/objects/HTTPRoute.json", "edged/routing.json"] {
            assert!(String::from_utf8_lossy(&has(name).unwrap()).contains("[removed]"), "{name}");
        }
        let there = lab.path("up.tar.gz").display().to_string();
        let again = lab.edged().ctl(&["support-bundle", &there]);
        assert!(again.code == Some(74) && again.stderr.contains("File exists"), "{again:?}");

        // Without edged there is what the files and the machine say, and what is missing is told.
        lab.edged().terminate();
        let (files, said) = bundle(&lab, "down.tar.gz");
        assert!(said.contains("missing: edged/status.json: edged cannot be reached at "), "{said}");
        for name in [
            "files/settings.json",
            "files/problems.json",
            "files/objects/Gateway.json",
            "state/listing.txt",
            "system/sysctl.txt",
        ] {
            assert!(files.iter().any(|(known, _)| known == name), "{name} is missing: {said}");
        }
        for (name, content) in &files {
            planted.search(name, content);
        }
        let index = files.iter().find(|(name, _)| name == "index.txt").unwrap();
        assert!(String::from_utf8_lossy(&index.1).contains("edged/status.json: edged cannot be reached"));
    });
}
