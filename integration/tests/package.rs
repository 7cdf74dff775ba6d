//! The Debian package: the same bytes from the same sources, everything in its place, its list of contents complete; and on
//! a machine with a real systemd, installed, upgraded, removed and purged as Debian's policy has it.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use edge_integration::edged::{Said, until};
use edge_integration::host::Host;
use edge_integration::images::{self, must};
use edge_integration::{lab, machine};
use serde_json::Value;

/// What builds a package; `None`: skipped, loudly.
fn available(scenario: &str) -> Option<()> {
    let Some(why) = images::missing(&images::TOOLS) else { return Some(()) };
    lab::skip(scenario, &why);
    None
}

/// Made once, signed by a key of its own. Its folder stays until the next run makes it anew.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package");
        let _ = std::fs::remove_dir_all(&out);
        // Sockets with short names are in it.
        let keys = tempfile::Builder::new().prefix("edge-package-").tempdir().unwrap();
        gpg(
            keys.path(),
            &["--quick-generate-key", "--passphrase", "", "release@edge.test", "ed25519", "sign", "never"],
        );
        let home = keys.path().to_str().unwrap();
        let package = images::deb(&out, &[("GNUPGHOME", home), ("SIGN", "release@edge.test")]);
        let path = |name: &str| out.join(name).to_str().unwrap().to_owned();
        gpg(keys.path(), &["--verify", &path("SHA256SUMS.asc"), &path("SHA256SUMS")]);
        // gpg has started it to sign, and would leave it.
        must("gpgconf", &["--homedir", home, "--kill", "gpg-agent"]);
        package
    })
}

fn gpg(keys: &Path, arguments: &[&str]) {
    let all = [&["--homedir", keys.to_str().unwrap(), "--batch", "--quiet"], arguments].concat();
    must("gpg", &all);
}

#[test]
fn the_same_sources_give_the_same_bytes() {
    let Some(()) = available("the_same_sources_give_the_same_bytes") else { return };
    let built = built();
    // By somebody else, elsewhere, and later.
    let other = tempfile::Builder::new().prefix("edge-package-").tempdir().unwrap();
    let again = images::deb(other.path(), &[("TZ", "Pacific/Auckland"), ("LC_ALL", "C.UTF-8"), ("USER", "nobody")]);
    assert_eq!(built.file_name(), again.file_name());
    let out = built.parent().unwrap();
    for entry in std::fs::read_dir(other.path()).unwrap() {
        let name = entry.unwrap().file_name();
        let read = |folder: &Path| std::fs::read(folder.join(&name)).unwrap();
        assert!(read(out) == read(other.path()), "{name:?} differs");
    }

    let sums = std::fs::read_to_string(out.join("SHA256SUMS")).unwrap();
    assert_eq!(sums.lines().count(), 2, "{sums}");
    must("env", &["-C", out.to_str().unwrap(), "sha256sum", "--check", "--strict", "SHA256SUMS"]);
}

#[test]
fn everything_is_in_its_place() {
    let Some(()) = available("everything_is_in_its_place") else { return };
    let package = built().to_str().unwrap();
    let listed = must("dpkg-deb", &["--contents", package]);
    let mut paths = BTreeSet::new();
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (mode, owner, path) = (words[0], words[1], words[5]);
        assert_eq!(owner, "root/root", "{line}");
        assert!(["drwxr-xr-x", "-rwxr-xr-x", "-rw-r--r--"].contains(&mode), "{line}");
        assert_eq!(mode.starts_with("-rwx"), path.starts_with("./usr/bin/edge"), "{line}");
        paths.insert(path.trim_start_matches('.').to_owned());
    }
    let wanted = [
        "/etc/edge/edge.toml",
        "/etc/edge/manifests/",
        "/usr/bin/edged",
        "/usr/bin/edgectl",
        "/usr/lib/systemd/system/edged.service",
        "/usr/lib/sysusers.d/edge.conf",
        "/usr/lib/tmpfiles.d/edge.conf",
        "/usr/share/bash-completion/completions/edgectl",
        "/usr/share/zsh/vendor-completions/_edgectl",
        "/usr/share/fish/vendor_completions.d/edgectl.fish",
        "/usr/share/man/man1/edgectl.1.gz",
        "/usr/share/man/man1/edgectl-cert-why.1.gz",
        "/usr/share/man/man5/edge.toml.5.gz",
        "/usr/share/man/man8/edged.8.gz",
        "/usr/share/doc/edge/copyright",
        "/usr/share/doc/edge/changelog.gz",
        "/usr/share/doc/edge/edge.cdx.json",
        "/usr/share/doc/edge/third-party-licences.gz",
        "/usr/share/doc/edge/docs/edge.toml.md",
        "/usr/share/doc/edge/examples/quickstart/edge.toml",
        "/usr/share/doc/edge/manifests/edge-read.yaml",
        "/usr/share/doc/edge/monitoring/alerts.yaml",
    ];
    for path in wanted {
        assert!(paths.contains(path), "{path} is not in the package");
    }

    let field = |name: &str| must("dpkg-deb", &["--field", package, name]);
    assert!(field("Depends").starts_with("libc6 (>= 2."), "{}", field("Depends"));
    assert!(field("Recommends").contains("gobgpd"));
    assert!(field("Version").starts_with(env!("CARGO_PKG_VERSION")));
    let conffiles = must("sh", &["-c", &format!("dpkg-deb --ctrl-tarfile {package} | tar -xO ./conffiles")]);
    assert_eq!(conffiles, "/etc/edge/edge.toml\n");
}

#[test]
fn the_list_of_contents_is_whole() {
    let Some(()) = available("the_list_of_contents_is_whole") else { return };
    let package = built().to_str().unwrap();
    let inside =
        must("sh", &["-c", &format!("dpkg-deb --fsys-tarfile {package} | tar -xO ./usr/share/doc/edge/edge.cdx.json")]);
    let bom: Value = serde_json::from_str(&inside).unwrap();
    assert_eq!((&bom["bomFormat"], &bom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let components = bom["components"].as_array().unwrap();
    let product = &bom["metadata"]["component"];
    assert_eq!(text(product, "name"), "edge");
    let known: BTreeSet<String> = components.iter().chain([product]).map(|it| text(it, "bom-ref")).collect();
    assert_eq!(known.len(), components.len() + 1, "each once");
    for component in components {
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
        let is_ours = text(component, "name").starts_with("edge-");
        assert_eq!(component["hashes"][0]["content"].is_string(), !is_ours, "{component}");
    }
    for depends in bom["dependencies"].as_array().unwrap() {
        let named = depends["dependsOn"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        for name in named.chain([text(depends, "ref")]) {
            assert!(known.contains(&name), "{name} is depended on and not listed");
        }
    }
    let scope = |name: &str| components.iter().find(|it| it["name"] == name).map(|it| text(it, "scope"));
    assert_eq!(scope("rustls").as_deref(), Some("required"));
    assert_eq!(scope("cc").as_deref(), Some("excluded"), "it compiles, and is not linked");
    assert_eq!(scope("proptest"), None, "of tests only");

    // Whoever gets the programs gets the licences of all that is linked into them.
    let unpack =
        format!("dpkg-deb --fsys-tarfile {package} | tar -xO ./usr/share/doc/edge/third-party-licences.gz | zcat");
    let licences = must("sh", &["-c", &unpack]);
    for name in ["rustls ", "hyper ", "aws-lc-sys ", "sled "] {
        assert!(licences.lines().any(|line| line.starts_with("Of ") && line.contains(name)), "no licence of {name}");
    }
}

/// An edge that has something to serve.
const SETTINGS: &str = r#"
[[manifests]]
path = "manifests"

[[pool]]
name = "loopback"
addresses = ["127.0.0.10"]
"#;

const SITE: &str = "\
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: edge}, spec: {controllerName: edge.internal/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: edge
  listeners: [{name: http, port: 8080, protocol: HTTP}]
";

#[test]
fn it_is_installed_upgraded_and_removed_as_debian_does() {
    const SCENARIO: &str = "it_is_installed_upgraded_and_removed";
    let Some(()) = available(SCENARIO) else { return };
    if let Err(why) = machine::available() {
        return lab::skip(SCENARIO, &why);
    }
    let package = built();
    let host = Host::start();
    std::fs::copy(package, host.share().join("edge.deb")).unwrap();
    let install = || -> Said { host.run("dpkg --install /share/edge.deb") };
    let pid = || host.property("MainPID");

    // Out of the box it runs and serves nothing; nobody else may read what is in /etc/edge.
    host.must("dpkg --install /share/edge.deb");
    assert_eq!(host.property("ActiveState"), "active");
    assert_eq!(host.must("systemctl is-enabled edged"), "enabled\n");
    assert_eq!(host.must("stat --format '%a %U:%G' /etc/edge"), "750 root:edge\n");
    assert_eq!(host.must("ps -o user= -C edged").trim(), "edge");
    assert_eq!(host.must("dpkg --verify edge"), "", "as it was packed");
    host.must("man --where edged && man --where 5 edge.toml && man --where edgectl-why");

    // Its settings are the administrator's.
    std::fs::write(host.share().join("edge.toml"), SETTINGS).unwrap();
    std::fs::write(host.share().join("site.yaml"), SITE).unwrap();
    host.must("cp /share/site.yaml /etc/edge/manifests/ && cp /share/edge.toml /etc/edge/ && systemctl reload edged");
    let answers =
        || host.run("curl --silent --output /dev/null --write-out '%{http_code}' http://127.0.0.10:8080/").stdout;
    until("the Gateway answers", || (answers() == "404").then_some(()));

    // An upgrade keeps them and starts the new edged.
    let before = pid();
    host.must("dpkg --install /share/edge.deb");
    assert_ne!(pid(), before, "the new one runs");
    assert_eq!(host.must("cmp /share/edge.toml /etc/edge/edge.toml"), "");
    until("the Gateway answers again", || (answers() == "404").then_some(()));

    // A fault of a manifest costs that object. One of edge.toml would cost everything: edged is left as it is.
    host.must("printf 'kind: Gateway\\n' >/etc/edge/manifests/broken.yaml");
    let before = pid();
    assert_eq!(install().code, Some(0));
    assert_ne!(pid(), before, "a broken manifest keeps nobody from an upgrade");
    host.must("echo '[edeg]' >>/etc/edge/edge.toml");
    let before = pid();
    let said = install();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("/etc/edge/edge.toml:8:2: unknown table `edeg`"), "{said:?}");
    assert!(said.stderr.contains("edged was not started anew"), "{said:?}");
    assert_eq!(pid(), before, "the edged that runs goes on serving");
    assert_eq!(answers(), "404");
    host.must("rm /etc/edge/edge.toml");
    assert!(install().stderr.contains("edged was not started anew"), "one that is gone is no better");
    assert_eq!(pid(), before);

    // A unit that is switched off stays off.
    host.must("cp /share/edge.toml /etc/edge/ && systemctl disable --now edged");
    host.must("dpkg --install /share/edge.deb");
    assert_eq!(host.property("ActiveState"), "inactive");
    assert_eq!(host.run("systemctl is-enabled edged").stdout, "disabled\n");
    host.must("systemctl enable --now edged");

    // Removed: what cannot be made again stays. Purged: nothing of Edge does, but what others have put there.
    host.must("dpkg --remove edge");
    assert_eq!(host.must("ps -A -o comm=").lines().filter(|name| name.starts_with("edge")).count(), 0);
    host.must("test -e /var/lib/edge/internal-ca.crt && test -e /etc/edge/edge.toml");
    host.must("dpkg --purge edge");
    host.must("test ! -e /var/lib/edge && test ! -e /etc/edge/edge.toml && test -e /etc/edge/manifests/site.yaml");
    assert!(host.run("systemctl cat edged").code != Some(0));
}
