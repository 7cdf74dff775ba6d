//! The container image: the same bytes from the same package, a layout that is right by the image specification and that
//! others' tools read, and a container of it that has its VIP, answers, and ends when it is told, as nobody in particular.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use aws_lc_rs::digest::{SHA256, digest};
use edge_integration::edged::{Said, run, until};
use edge_integration::images::{self, must};
use edge_integration::lab;
use edge_integration::manifests::{CLASS, gateway};
use edge_integration::netns::{self, Namespace};
use serde_json::{Value, json};
use tempfile::TempDir;

const TOOLS: [&str; 7] = ["apt-get", "jq", "setcap", "gzip", "skopeo", "umoci", "runc"];

fn available(scenario: &str) -> Option<()> {
    let tools = [&images::TOOLS[..], &TOOLS[..]].concat();
    let Some(why) = images::missing(&tools) else { return Some(()) };
    lab::skip(scenario, &why);
    None
}

/// The package and the folder of the image, made once.
fn built() -> &'static (PathBuf, PathBuf) {
    static BUILT: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oci");
        let _ = std::fs::remove_dir_all(&out);
        let package = images::deb(&out.join("deb"), &[]);
        (package.clone(), image(&package, &out.join("image"), &[]))
    })
}

/// Builds it into a folder; which is quick with little compression.
fn image(package: &Path, out: &Path, before: &[(&str, &str)]) -> PathBuf {
    images::make("oci/build", &[package, out], &[&[("COMPRESSION", "1")], before].concat());
    out.to_owned()
}

/// A layout whose every byte is looked at.
struct Layout(PathBuf);

impl Layout {
    /// The bytes that a descriptor names, if they are what it says.
    fn blob(&self, descriptor: &Value) -> Vec<u8> {
        let (algorithm, name) = descriptor["digest"].as_str().unwrap().split_once(':').unwrap();
        assert_eq!(algorithm, "sha256");
        let bytes = std::fs::read(self.0.join("blobs/sha256").join(name)).unwrap();
        assert_eq!(bytes.len() as u64, descriptor["size"].as_u64().unwrap(), "{descriptor}");
        assert_eq!(sha256(&bytes), name, "{descriptor}");
        bytes
    }

    fn json(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(&self.blob(descriptor)).unwrap()
    }

    fn index(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.0.join("index.json")).unwrap()).unwrap()
    }

    /// As others' tools name it.
    fn reference(&self) -> String {
        let index = self.index();
        let tag = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap();
        format!("{}:{tag}", self.0.display())
    }
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn the_same_package_gives_the_same_image() {
    let Some(()) = available("the_same_package_gives_the_same_image") else { return };
    let (package, out) = built();
    let other = tempfile::Builder::new().prefix("edge-oci-").tempdir().unwrap();
    // By somebody else, elsewhere, and with other habits.
    let line = r#"umask 077; export TZ=Pacific/Auckland LC_ALL=C.UTF-8 COMPRESSION=1; exec "$0" "$@""#;
    let recipe = edge_integration::edged::workspace().join("images/oci/build");
    let words = ["-c", line, recipe.to_str().unwrap(), package.to_str().unwrap(), other.path().to_str().unwrap()];
    must("bash", &words);
    let files = |folder: &Path| -> BTreeSet<String> {
        let found = must("env", &["-C", folder.to_str().unwrap(), "find", ".", "-type", "f"]);
        found.lines().map(str::to_owned).collect()
    };
    assert_eq!(files(out), files(other.path()));
    for file in files(out) {
        let read = |folder: &Path| std::fs::read(folder.join(&file)).unwrap();
        assert!(read(out) == read(other.path()), "{file} differs");
    }
    must("env", &["-C", out.to_str().unwrap(), "sha256sum", "--check", "--strict", "SHA256SUMS"]);
}

#[test]
fn the_layout_is_right_by_the_specification() {
    let Some(()) = available("the_layout_is_right_by_the_specification") else { return };
    let layout = Layout(built().1.join("edge"));
    let marker: Value = serde_json::from_slice(&std::fs::read(layout.0.join("oci-layout")).unwrap()).unwrap();
    assert_eq!(marker, json!({"imageLayoutVersion": "1.0.0"}));
    let index = layout.index();
    assert_eq!((&index["schemaVersion"], index["manifests"].as_array().unwrap().len()), (&json!(2), 2));
    let described = &index["manifests"][0];
    assert_eq!(described["platform"]["os"], "linux");
    let mut reached = BTreeSet::new();
    let mut reach = |descriptor: &Value| reached.insert(descriptor["digest"].as_str().unwrap()[7..].to_owned());

    // The image: each layer is what the config says it unpacks to.
    let manifest = layout.json(described);
    reach(described);
    assert_eq!(manifest["mediaType"], described["mediaType"]);
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    let config = layout.json(&manifest["config"]);
    reach(&manifest["config"]);
    let (layers, plain) = (manifest["layers"].as_array().unwrap(), config["rootfs"]["diff_ids"].as_array().unwrap());
    assert_eq!((layers.len(), plain.len(), config["history"].as_array().unwrap().len()), (3, 3, 3));
    for (layer, plain) in layers.iter().zip(plain) {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        layout.blob(layer);
        reach(layer);
        let path = layout.0.join("blobs/sha256").join(&layer["digest"].as_str().unwrap()[7..]);
        let unpacked = Command::new("zcat").stdin(File::open(path).unwrap()).output().unwrap();
        assert_eq!(format!("sha256:{}", sha256(&unpacked.stdout)), plain.as_str().unwrap());
    }
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/edged"]));
    let label =
        |name: &str| config["config"]["Labels"][format!("org.opencontainers.image.{name}")].as_str().map(str::to_owned);
    assert_eq!(label("created"), config["created"].as_str().map(str::to_owned));
    assert!(label("version").unwrap().starts_with(env!("CARGO_PKG_VERSION")));
    assert!(label("revision").is_some_and(|revision| !revision.is_empty()));

    // What refers to it: the list of all that is inside, of ours and of Debian.
    let referrer = layout.json(&index["manifests"][1]);
    reach(&index["manifests"][1]);
    assert_eq!(referrer["subject"]["digest"], described["digest"]);
    assert_eq!(referrer["subject"]["size"], described["size"]);
    assert_eq!(referrer["artifactType"], "application/vnd.cyclonedx+json");
    reach(&referrer["config"]);
    assert_eq!(layout.blob(&referrer["config"]), b"{}");
    reach(&referrer["layers"][0]);
    let bom = layout.json(&referrer["layers"][0]);
    let purls: Vec<&str> = bom["components"].as_array().unwrap().iter().filter_map(|it| it["purl"].as_str()).collect();
    for wanted in
        ["pkg:deb/debian/libc6@", "pkg:deb/debian/gobgpd@", "pkg:deb/debian/ca-certificates@", "pkg:cargo/rustls@"]
    {
        assert!(purls.iter().any(|purl| purl.starts_with(wanted)), "no {wanted} in {purls:?}");
    }

    let files = std::fs::read_dir(layout.0.join("blobs/sha256")).unwrap();
    let files: BTreeSet<String> = files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files, reached, "nothing is missing and nothing lies about");

    let seen = must("skopeo", &["inspect", &format!("oci:{}", layout.reference())]);
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen["Digest"], described["digest"]);
    let archive = std::fs::read_dir(&built().1).unwrap().map(|entry| entry.unwrap().path());
    let archive = archive.filter(|path| path.to_str().unwrap().ends_with(".oci.tar")).collect::<Vec<_>>();
    let tag = layout.reference().rsplit_once(':').unwrap().1.to_owned();
    let seen = must("skopeo", &["inspect", &format!("oci-archive:{}:{tag}", archive[0].display())]);
    assert_eq!(serde_json::from_str::<Value>(&seen).unwrap()["Digest"], described["digest"]);
}

const SETTINGS: &str = r#"
[[manifests]]
path = "manifests"

[[pool]]
name = "public"
addresses = ["192.0.2.10"]

[bgp]
asn = 64512
router_id = "192.0.2.10"
listen_port = 179
"#;

/// A container that runs, and everything of it.
struct Container {
    namespace: Namespace,
    state: TempDir,
    process: Child,
}

impl Container {
    /// Of the image, with capabilities as a runtime gives them to a user that is not root: none of them is ambient.
    fn start(role: &str, capabilities: &[&str]) -> Self {
        let namespace = Namespace::new(role).unwrap();
        let state = tempfile::Builder::new().prefix("edge-oci-").tempdir().unwrap();
        let bundle = state.path().join("bundle");
        let reference = Layout(built().1.join("edge")).reference();
        must("umoci", &["unpack", "--image", &reference, bundle.to_str().unwrap()]);
        std::fs::write(bundle.join("rootfs/etc/edge/edge.toml"), SETTINGS).unwrap();
        let site = format!("{CLASS}{}", gateway("web", "    - {name: http, port: 80, protocol: HTTP}\n"));
        let manifest = bundle.join("rootfs/etc/edge/manifests/site.yaml");
        std::fs::write(&manifest, site).unwrap();
        std::fs::set_permissions(&manifest, std::fs::Permissions::from_mode(0o644)).unwrap();

        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let process = &mut config["process"];
        process["capabilities"] =
            json!({"bounding": capabilities, "permitted": capabilities, "effective": capabilities});
        process["noNewPrivileges"] = json!(false);
        process["terminal"] = json!(false);
        config["root"]["readonly"] = json!(true);
        let mounts = config["mounts"].as_array_mut().unwrap();
        for place in ["/var/lib/edge", "/run/edge"] {
            let options = ["uid=65532", "gid=65532", "mode=0755"];
            mounts.push(json!({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options}));
        }
        for kind in config["linux"]["namespaces"].as_array_mut().unwrap() {
            if kind["type"] == "network" {
                kind["path"] = json!(format!("/run/netns/{}", namespace.name()));
            }
        }
        std::fs::write(&path, config.to_string()).unwrap();
        let log = File::create(state.path().join("log")).unwrap();
        let process = Command::new("runc")
            .args(["--root", state.path().join("runc").to_str().unwrap(), "run", "--bundle"])
            .args([bundle.to_str().unwrap(), namespace.name()])
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        Self { namespace, state, process }
    }

    fn runc(&self, words: &[&str]) -> Said {
        let root = self.state.path().join("runc");
        run(Path::new("runc"), &[&["--root", root.to_str().unwrap()], words].concat())
    }

    fn edgectl(&self, words: &[&str]) -> Said {
        self.runc(&[&["exec", self.namespace.name(), "/usr/bin/edgectl"], words].concat())
    }

    /// What the VIP answers.
    fn answer(&self) -> String {
        let words =
            ["netns", "exec", self.namespace.name(), "curl", "--silent", "--max-time", "5", "--output", "/dev/null"];
        run(Path::new("ip"), &[&words[..], &["--write-out", "%{http_code}", "http://192.0.2.10/"]].concat()).stdout
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.state.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the container said:\n{}", self.log());
        }
        self.runc(&["delete", "--force", self.namespace.name()]);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where containers can run; `None`: skipped, loudly.
fn containers(scenario: &str) -> Option<()> {
    available(scenario)?;
    if let Err(why) = netns::available() {
        lab::skip(scenario, &why);
        return None;
    }
    Some(())
}

#[test]
fn a_container_has_its_vip_and_answers() {
    let Some(()) = containers("a_container_has_its_vip_and_answers") else { return };
    let mut container = Container::start("oci", &["CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN", "CAP_NET_RAW"]);
    until("the VIP answers", || (container.answer() == "404").then_some(()));
    // gobgpd, which needs a port below 1024, got from edged what it needs for it.
    let listens = || must("ip", &["netns", "exec", container.namespace.name(), "ss", "-Hltn"]).contains(":179 ");
    until("gobgpd listens", || listens().then_some(()));
    assert!(container.namespace.ip("address show dev lo").unwrap().contains("192.0.2.10/32"));
    let inside = container.runc(&["state", container.namespace.name()]).json()["pid"].as_u64().unwrap();
    let owner = std::fs::metadata(format!("/proc/{inside}")).unwrap().uid();
    assert_eq!(owner, 65532);

    // Nobody finds a shell here.
    let root = container.state.path().join("bundle/rootfs");
    let programs = std::fs::read_dir(root.join("usr/bin")).unwrap().map(|entry| entry.unwrap().file_name());
    let programs: BTreeSet<String> = programs.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(programs, ["edgectl", "edged", "gobgpd"].map(str::to_owned).into());

    assert_eq!(container.runc(&["kill", container.namespace.name(), "TERM"]).code, Some(0));
    assert!(container.process.wait().unwrap().success(), "it ends in order");
    assert!(container.log().contains("\"stopped\""), "{}", container.log());
}

#[test]
fn a_container_starts_where_capabilities_are_withheld() {
    let Some(()) = containers("a_container_starts_where_capabilities_are_withheld") else { return };
    let container = Container::start("ocibare", &["CAP_NET_BIND_SERVICE"]);
    // It cannot add the address, says so, and runs.
    until("edgectl says why", || container.edgectl(&["status"]).stdout.contains("needs CAP_NET_ADMIN").then_some(()));
    assert_ne!(container.answer(), "404");
    // Somebody else added it, and edged may bind what is there.
    container.namespace.ip("address add 192.0.2.10/32 dev lo").unwrap();
    until("the VIP answers", || (container.answer() == "404").then_some(()));
}
