//! Files in a temporary directory, read again and again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use edge_config::names::{CertId, Kind, ObjectKey, ObjectRef};
use edge_config::problem::Severity;
use tempfile::TempDir;

use super::*;

struct Site {
    directory: TempDir,
    cache: Cache,
}

fn route(name: &str, host: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: n}}\nspec: {{hostnames: [{host}]}}\n"
    )
}

const TOML: &str = "[[manifests]]\npath = \"manifests\"\nexclude = [\"kustomization.yaml\", \"old\"]\n";
const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: n}\nspec: {gatewayClassName: c, listeners: [{name: a, port: 80, protocol: HTTP}]}\n";

impl Site {
    fn new() -> Self {
        let site = Self { directory: tempfile::tempdir().unwrap(), cache: Cache::default() };
        fs::create_dir(site.path("manifests")).unwrap();
        site.write("edge.toml", TOML);
        site
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn load(&mut self) -> Loaded {
        load(&self.path("edge.toml"), &mut self.cache)
    }

    /// The problems with paths relative to the site.
    fn problems(&self, loaded: &Loaded) -> Vec<String> {
        let prefix = format!("{}/", self.directory.path().display());
        loaded.problems.iter().map(|problem| problem.to_string().replace(&prefix, "")).collect()
    }

    /// The host of each route, and the problems.
    fn look(&mut self) -> (Vec<String>, Vec<String>) {
        let loaded = self.load();
        let hosts = loaded.inputs.http_routes.values().map(|route| route.spec.hostnames.join(" ")).collect();
        (hosts, self.problems(&loaded))
    }
}

#[test]
fn trees_are_read_in_order() {
    let mut site = Site::new();
    site.write("manifests/b.yaml", &format!("---\n{}---\n{}", route("b", "b.b"), route("c", "c.c")));
    site.write("manifests/a/deep.yml", &route("a", "a.a"));
    site.write("manifests/kustomization.yaml", "resources: []");
    site.write("manifests/old/x.yaml", &route("x", "x.x"));
    site.write("manifests/.hidden.yaml", &route("y", "y.y"));
    site.write("manifests/readme.md", "no manifest");
    std::os::unix::fs::symlink(site.path("manifests"), site.path("manifests/a/loop")).unwrap();
    assert_eq!(site.look(), (vec!["a.a".into(), "b.b".into(), "c.c".into()], vec![]));
    // The second definition of one object names the first.
    site.write("manifests/z.yaml", &format!("# moved down\n{}", route("b", "z.z")));
    assert_eq!(
        site.look(),
        (
            vec!["a.a".into(), "b.b".into(), "c.c".into()],
            vec![
                "manifests/z.yaml:2:1: HTTPRoute n/b: is there twice; the one at $/manifests/b.yaml:2:1 is in effect"
                    .replace("$/", "")
            ]
        )
    );
    fs::remove_file(site.path("manifests/b.yaml")).unwrap();
    assert_eq!(site.look(), (vec!["a.a".into(), "z.z".into()], vec![]));
}

#[test]
fn the_last_good_version_keeps_serving() {
    let mut site = Site::new();
    let good = format!("{}---\n{}", route("a", "a.a"), route("b", "b.b"));
    site.write("manifests/r.yaml", &good);
    let both = vec!["a.a".to_owned(), "b.b".to_owned()];
    assert_eq!(site.look(), (both.clone(), vec![]));
    for (text, expected) in [
        (
            good.replace("[b.b]", "[B.B]"),
            "manifests/r.yaml:9:20: HTTPRoute n/b: spec.hostnames[0]: \"B.B\" is no host name, expected a lower-case DNS name, or one with \"*.\" before it; the last good version keeps serving",
        ),
        (
            good.replace("[b.b]", "b.b"),
            "manifests/r.yaml:9:19: HTTPRoute n/b: spec.hostnames: found the string \"b.b\", expected a list; the last good version keeps serving",
        ),
    ] {
        site.write("manifests/r.yaml", &text);
        assert_eq!(site.look(), (both.clone(), vec![expected.to_owned()]), "{text}");
    }
    // A document that is no YAML at all has lost its name.
    site.write("manifests/r.yaml", &good.replace("[b.b]", "["));
    let (hosts, problems) = site.look();
    assert_eq!(hosts, both);
    assert!(problems.iter().any(|problem| problem.contains("manifests/r.yaml:9:20: not valid YAML")), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains("HTTPRoute n/b: is not found beside a broken document")));
    // And it stays so, however often it is looked at, until it is mended or gone.
    assert_eq!(site.look(), (both, problems));
    site.write("manifests/r.yaml", &route("a", "a.a"));
    assert_eq!(site.look(), (vec!["a.a".into()], vec![]));
    site.write("manifests/r.yaml", &route("a", "A"));
    site.cache = Cache::default();
    let loaded = site.load();
    let object = ObjectRef::new(Kind::HTTPRoute, ObjectKey::new("n", "a"));
    assert!(loaded.inputs.unusable[&object].contains("\"A\" is no host name"));
}

#[test]
fn a_policy_that_cannot_be_read_closes_unless_it_was_good_before() {
    let good = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: p, namespace: n}\n\
                spec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}]\n  \
                authorization: {defaultAction: Deny}\n";
    let mistyped = good.replace("{defaultAction: Deny}", "Deny");
    let unknown = good.replace("defaultAction", "action");
    let no_yaml = good.replace("name: a}]", "name: a");
    let mut site = Site::new();
    for text in [&mistyped, &unknown, &no_yaml] {
        site.cache = Cache::default();
        site.write("manifests/p.yaml", text);
        let loaded = site.load();
        let policies: Vec<_> = loaded.inputs.security_policies.values().collect();
        let [policy] = &policies[..] else { panic!("{text}: {policies:?}") };
        assert!(policy.spec.unreadable.is_some() && &*policy.meta.key.namespace == "n", "{text}: {policy:?}");
        assert!(loaded.problems.iter().any(|problem| problem.severity == Severity::Error), "{text}");
        // Another broken text says something else, and the good one is in effect at once.
        for (text, is_closed) in [(&mistyped, true), (&good.to_owned(), false), (&unknown, false), (&no_yaml, false)] {
            site.write("manifests/p.yaml", text);
            let loaded = site.load();
            let policies: Vec<_> = loaded.inputs.security_policies.values().collect();
            let [policy] = &policies[..] else { panic!("{text}: {policies:?}") };
            assert_eq!(policy.spec.unreadable.is_some(), is_closed, "{text}");
        }
    }
}

#[test]
fn so_does_one_that_validates_clients() {
    let good = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ClientTrafficPolicy\nmetadata: {name: p, namespace: n}\n\
                spec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}]\n  \
                tls: {clientValidation: {caCertificateRefs: [{name: ca}]}}\n";
    let mut site = Site::new();
    for (text, targets) in [
        (good.replace("[{name: ca}]", "ca"), (1, 0)),
        (good.replace("name: g}]", "name: g"), (0, 2)),
        (good.replace("kind: Gateway, name: g", "kind: Gateway"), (0, 2)),
    ] {
        site.cache = Cache::default();
        site.write("manifests/p.yaml", &text);
        let loaded = site.load();
        let policies: Vec<_> = loaded.inputs.client_traffic_policies.values().collect();
        let [policy] = &policies[..] else { panic!("{text}: {policies:?}") };
        let found = (policy.spec.target_refs.len(), policy.spec.target_selectors.len());
        assert!(policy.spec.unreadable.is_some() && found == targets, "{text}: {policy:?}");
    }
    // Another kind that is not found any more beside it is not the one that cannot be read.
    let open = good.replace("clientValidation: {caCertificateRefs: [{name: ca}]}", "minVersion: '1.3'");
    let security = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nspec: [\n";
    site.cache = Cache::default();
    site.write("manifests/p.yaml", &open);
    assert!(site.load().inputs.security_policies.is_empty());
    site.write("manifests/p.yaml", security);
    let loaded = site.load();
    assert!(loaded.inputs.security_policies.values().any(|policy| policy.spec.unreadable.is_some()));
    // One that lets in everybody leaves edge.toml's settings.
    site.cache = Cache::default();
    site.write("manifests/p.yaml", &good.replace("{clientValidation: {caCertificateRefs: [{name: ca}]}}", "strict"));
    assert!(site.load().inputs.client_traffic_policies.is_empty());
}

#[test]
fn what_vanishes_and_what_is_deleted() {
    let mut site = Site::new();
    site.write("manifests/r.yaml", &route("a", "a.a"));
    assert_eq!(site.look().0, ["a.a"]);
    fs::rename(site.path("manifests"), site.path("elsewhere")).unwrap();
    for _ in 0..2 {
        let (hosts, problems) = site.look();
        assert_eq!(hosts, ["a.a"]);
        assert!(
            problems.contains(&"manifests is not there; what was read from it before keeps serving".to_owned()),
            "{problems:?}"
        );
    }
    fs::rename(site.path("elsewhere"), site.path("manifests")).unwrap();
    assert_eq!(site.look(), (vec!["a.a".into()], vec![]));
    fs::remove_file(site.path("manifests/r.yaml")).unwrap();
    assert_eq!(site.look(), (vec![], vec![]));
    site.write("manifests/latin.yaml", "x");
    fs::write(site.path("manifests/latin.yaml"), b"a: 1\nb: \xe9").unwrap();
    // Whatever was to be protected by what nobody can read is open, and that is told.
    let unknown = "; nothing in it is in effect, and a policy in it protects nothing";
    let problem = format!("manifests/latin.yaml is not UTF-8 text, first on line 2{unknown}");
    assert_eq!(site.look(), (vec![], vec![problem]));
    fs::remove_file(site.path("manifests/latin.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", site.path("manifests/link.yaml")).unwrap();
    assert_eq!(site.look(), (vec![], vec![format!("manifests/link.yaml is not there{unknown}")]));
}

#[test]
fn broken_toml_keeps_the_old_settings() {
    let mut site = Site::new();
    site.write("manifests/r.yaml", &route("a", "a.a"));
    assert!(site.load().settings_are_sound);
    site.write("edge.toml", &format!("{TOML}[proxy]\nworkers = 9999\nx = 1\n"));
    let loaded = site.load();
    assert!(!loaded.settings_are_sound);
    assert_eq!(loaded.inputs.http_routes.len(), 1);
    assert_eq!(
        site.problems(&loaded),
        [
            "edge.toml:5:11: proxy.workers: 9999 is out of range, expected 0 to 512",
            "edge.toml:6:1: unknown key `proxy.x`"
        ]
    );
    fs::remove_file(site.path("edge.toml")).unwrap();
    let loaded = site.load();
    assert_eq!((loaded.settings_are_sound, loaded.inputs.http_routes.len()), (false, 1));
    assert_eq!(site.problems(&loaded), ["edge.toml is not there"]);
}

#[test]
fn patches_substitutions_and_inline_manifests() {
    let mut site = Site::new();
    let patch = |host: &str| {
        format!(
            "[{{op: add, path: /spec/listeners/-, value: {{name: p, port: 81, protocol: HTTP, hostname: {host}}}}}]"
        )
    };
    site.write("manifests/g.yaml", GATEWAY);
    site.write("patches/1.json", &patch("a.your.domain.tld"));
    let toml = |domain: &str| {
        format!(
            "{TOML}[[manifests]]\ninline = \"\"\"\n{}\"\"\"\n[[patch]]\ntarget = {{kind = \"Gateway\", namespace = \"n\", name = \"g\"}}\npath = \"patches\"\n[[patch]]\ntarget = {{kind = \"Gateway\", namespace = \"n\", name = \"missing\"}}\ninline = \"[]\"\n[substitute]\n\"your.domain.tld\" = \"{domain}\"\n",
            route("i", "i.your.domain.tld")
        )
    };
    site.write("edge.toml", &toml("one.example"));
    let hosts = |site: &mut Site| {
        let loaded = site.load();
        let gateway = loaded.inputs.gateways.values().next().unwrap().clone();
        let listeners: Vec<_> =
            gateway.spec.listeners.iter().filter_map(|listener| listener.hostname.clone()).collect();
        let routes: Vec<_> = loaded.inputs.http_routes.values().map(|route| route.spec.hostnames[0].clone()).collect();
        (listeners, routes, site.problems(&loaded))
    };
    let missing = "edge.toml:14:1: warning: patch: there is no Gateway n/missing that it could change";
    assert_eq!(hosts(&mut site), (vec!["a.one.example".into()], vec!["i.one.example".into()], vec![missing.into()]));
    site.write("patches/1.json", &patch("b.your.domain.tld"));
    assert_eq!(hosts(&mut site).0, ["b.one.example"]);
    site.write("edge.toml", &toml("two.example"));
    assert_eq!(hosts(&mut site), (vec!["b.two.example".into()], vec!["i.two.example".into()], vec![missing.into()]));
    // A patch that is no YAML keeps its last good text; one that does not apply costs itself.
    site.write("patches/1.json", "[{");
    let (listeners, _, problems) = hosts(&mut site);
    assert_eq!(listeners, ["b.two.example"]);
    assert!(
        problems.iter().any(|problem| problem.starts_with("patches/1.json:")
            && problem.ends_with("the last good version keeps serving")),
        "{problems:?}"
    );
    site.write("patches/1.json", &patch("A_B"));
    let (listeners, _, problems) = hosts(&mut site);
    assert_eq!(listeners, Vec::<String>::new());
    assert!(
        problems
            .iter()
            .any(|problem| problem.starts_with("patches/1.json:1:90: Gateway n/g: spec.listeners[1].hostname: \"A_B\"")),
        "{problems:?}"
    );
}

fn pem() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn secrets_come_from_manifests_and_from_pem_files() {
    let mut site = Site::new();
    let (chain, key) = pem();
    let (_, other) = pem();
    let indent = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let secret = |chain: &str, key: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: s, namespace: n}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
            indent(chain),
            indent(key)
        )
    };
    site.write("manifests/s.yaml", &secret(&chain, &key));
    site.write(
        "edge.toml",
        &format!("{TOML}[[secret]]\nname = \"n/pem\"\ncertificate = \"tls.crt\"\nkey = \"tls.key\"\n"),
    );
    site.write("tls.crt", &chain);
    site.write("tls.key", &key);
    let ids = |loaded: &Loaded| loaded.keys.certificates.keys().map(ToString::to_string).collect::<Vec<_>>();
    let loaded = site.load();
    assert_eq!((ids(&loaded), site.problems(&loaded)), (vec!["n/pem".into(), "n/s".into()], vec![]));
    let printed = format!("{loaded:?}");
    assert!(!printed.contains("PRIVATE"), "no key is printed");
    assert!(loaded.inputs.secrets.values().all(|secret| secret.spec.certificate().is_ok()));
    // A pair that does not fit, or a file that is gone, keeps what was there.
    site.write("manifests/s.yaml", &secret(&chain, &other));
    site.write("tls.key", &other);
    let loaded = site.load();
    assert_eq!(ids(&loaded), ["n/pem", "n/s"]);
    assert_eq!(
        site.problems(&loaded),
        [
            "edge.toml:4:1: Secret n/pem: tls.crt and tls.key: private key does not belong to the certificate; the last good version keeps serving",
            "manifests/s.yaml:1:1: Secret n/s: private key does not belong to the certificate; the last good version keeps serving",
        ]
    );
    fs::remove_file(site.path("tls.key")).unwrap();
    let loaded = site.load();
    assert_eq!(ids(&loaded), ["n/pem", "n/s"]);
    assert!(site.problems(&loaded)[0].contains("tls.key is not there; the last good version keeps serving"));
    // Without anything before, the Secret is there and says why it cannot serve.
    site.cache = Cache::default();
    site.write("tls.key", "garbage");
    let loaded = site.load();
    assert_eq!(ids(&loaded), Vec::<String>::new());
    assert!(loaded.inputs.secrets.values().all(|secret| secret.spec.certificate().is_err()));
    assert!(!loaded.keys.certificates.contains_key(&CertId(ObjectKey::new("n", "s"))));
}

#[test]
fn a_directory_without_toml() {
    let mut site = Site::new();
    site.write("manifests/r.yaml", &route("a", "a.a"));
    let loaded = load_directory(&site.path("manifests"), &mut site.cache);
    assert_eq!((loaded.inputs.http_routes.len(), loaded.problems.len()), (1, 0));
}

#[test]
fn an_unchanged_document_is_not_decoded_again() {
    let mut site = Site::new();
    site.write("manifests/r.yaml", &format!("{}---\n{}", route("a", "a.a"), route("b", "b.b")));
    let before = site.load();
    site.write("manifests/r.yaml", &format!("# one line more\n{}---\n{}", route("a", "changed"), route("b", "b.b")));
    let after = site.load();
    let [a, b] = ["a", "b"].map(|name| ObjectKey::new("n", name));
    assert_eq!(after.inputs.http_routes[&a].spec.hostnames, ["changed"]);
    assert_eq!(after.inputs.http_routes[&b].meta.origin.line, 7);
    assert_eq!(before.inputs.http_routes[&b].meta.origin.line, 6);
    let again = site.load();
    assert!(std::sync::Arc::ptr_eq(&after.inputs.http_routes[&b], &again.inputs.http_routes[&b]));
}

const QUIET: Duration = Duration::from_millis(800);

async fn heard(receiver: &mut tokio::sync::mpsc::Receiver<()>) -> bool {
    let heard = tokio::time::timeout(Duration::from_secs(30), receiver.recv()).await.is_ok();
    // What belongs to the same change comes within the patience of the watcher, and what a busy machine adds to it.
    while tokio::time::timeout(QUIET, receiver.recv()).await.is_ok() {}
    heard
}

#[tokio::test(flavor = "current_thread")]
async fn changes_are_told() {
    let mut site = Site::new();
    site.write("manifests/r.yaml", &route("a", "a.a"));
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let watcher = Watcher::start(sender).unwrap();
    watcher.set(&site.load().watched);
    heard(&mut receiver).await;
    let rename = |from: &Path, to: &Path| fs::rename(from, to).unwrap();

    site.write("manifests/r.yaml", &route("a", "b.b"));
    assert!(heard(&mut receiver).await, "a file is written");
    watcher.set(&site.load().watched);
    assert!(tokio::time::timeout(QUIET, receiver.recv()).await.is_err(), "reading is no change");

    site.write("access.log", "one line\n");
    heard(&mut receiver).await;
    let mut log = fs::OpenOptions::new().append(true).open(site.path("access.log")).unwrap();
    std::io::Write::write_all(&mut log, b"another\n").unwrap();
    drop(log);
    assert!(tokio::time::timeout(QUIET, receiver.recv()).await.is_err(), "a log that grows is none");

    site.write("new.yaml", &route("a", "c.c"));
    rename(&site.path("new.yaml"), &site.path("manifests/r.yaml"));
    assert!(heard(&mut receiver).await, "a file is renamed over");
    assert_eq!(site.look().0, ["c.c"]);

    rename(&site.path("manifests"), &site.path("away"));
    assert!(heard(&mut receiver).await, "the directory goes away");
    watcher.set(&site.load().watched);
    site.write("next/r.yaml", &route("a", "d.d"));
    rename(&site.path("next"), &site.path("manifests"));
    assert!(heard(&mut receiver).await, "another takes its place");
    watcher.set(&site.load().watched);
    site.write("manifests/sub/s.yaml", &route("s", "s.s"));
    assert!(heard(&mut receiver).await, "a directory appears in it");
    watcher.set(&site.load().watched);
    heard(&mut receiver).await;
    site.write("manifests/sub/s.yaml", &route("s", "t.t"));
    assert!(heard(&mut receiver).await, "and is watched too");
    assert_eq!(site.look().0, ["d.d", "t.t"]);

    drop(watcher);
    let closed =
        tokio::time::timeout(Duration::from_secs(30), async { while receiver.recv().await.is_some() {} }).await;
    assert!(closed.is_ok(), "the thread ends with the watcher");
}
