//! The appliance: what it takes from a seed, how its slots are written, and on request (`make image-test`) the whole of it
//! under an emulated firmware and processor, until its VIP answers, an update runs, and a broken one is gone again.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use edge_integration::appliance::{Appliance, VIP, seed};
use edge_integration::edged::{Said, program, run, workspace};
use edge_integration::images::{self, must};
use edge_integration::manifests::{CLASS, gateway};
use edge_integration::{lab, netns};
use tempfile::TempDir;

fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("edge-appliance-").tempdir().unwrap()
}

fn recipe(name: &str) -> PathBuf {
    workspace().join("images/appliance").join(name)
}

fn write(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Runs a program of the appliance with places of its own.
fn run_with(path: &Path, arguments: &[&str], places: &[(&str, &Path)]) -> Said {
    let output = Command::new(path).args(arguments).envs(places.iter().copied()).output().unwrap();
    Said {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

const SETTINGS: &str =
    "[[manifests]]\npath = \"manifests\"\n\n[[pool]]\nname = \"public\"\naddresses = [\"10.0.2.50\"]\n";

/// A folder that says all that a seed can say.
fn seed_folder(folder: &Path, key: &str) {
    write(&folder.join("hostname"), "edge-a\r\n");
    write(&folder.join("authorized_keys"), key);
    write(&folder.join("network/10-uplink.network"), "[Match]\nName=en*\n\n[Network]\nDHCP=yes\n");
    write(&folder.join("sysctl/10-edge.conf"), "net.ipv4.conf.all.rp_filter = 2\n");
    write(&folder.join("edge/edge.toml"), SETTINGS);
    let site = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: default}
spec:
  parentRefs: [{name: web}]
  hostnames: [shop.edge.test]
  rules:
    - filters: [{type: ExtensionRef, extensionRef: {group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: hello}}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: HTTPRouteFilter
metadata: {name: hello, namespace: default}
spec: {directResponse: {statusCode: 200, contentType: text/plain, body: {type: Inline, inline: an appliance}}}
";
    let listeners = "    - {name: http, port: 80, protocol: HTTP}\n";
    write(&folder.join("edge/manifests/site.yaml"), format!("{CLASS}{}{site}", gateway("web", listeners)));
    // Somebody took it for another kind of machine, and mistyped.
    write(&folder.join("user-data"), "#cloud-config\n");
    write(&folder.join("hostnaem"), "edge-b\n");
}

fn new_key(folder: &Path) -> PathBuf {
    let key = folder.join("key");
    must("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", key.to_str().unwrap()]);
    key
}

#[test]
fn a_seed_is_taken_once_and_what_it_says_in_vain_is_named() {
    let scenario = "a_seed_is_taken_once";
    if let Some(why) = images::missing(&["ssh-keygen", "sha256sum"]) {
        return lab::skip(scenario, &why);
    }
    let place = scratch();
    let at = |name: &str| place.path().join(name);
    let key = read(&new_key(place.path()).with_extension("pub"));
    seed_folder(&at("seed"), &key);
    let (owner, edgectl) = (format!("{}", rustix::process::geteuid().as_raw()), program("edgectl"));
    let again = || {
        let places = [
            ("STATE", at("state")),
            ("ETC", at("etc")),
            ("SEED", at("seed")),
            ("EDGECTL", edgectl.clone()),
            ("OWNER", PathBuf::from(&owner)),
            ("DEFAULT", workspace().join("images/deb/edge.toml")),
        ];
        std::fs::create_dir_all(at("etc")).unwrap();
        let places: Vec<(&str, &Path)> = places.iter().map(|(name, path)| (*name, path.as_path())).collect();
        let said = run_with(&recipe("root/usr/lib/edge/seed"), &[], &places);
        assert_eq!(said.code, Some(0), "{said:?}");
        said.text()
    };

    let said = again();
    assert!(said.contains("user-data: cloud-init is not supported"), "{said}");
    assert!(said.contains("hostnaem: unknown, ignored"), "{said}");
    assert!(said.contains("key of this host: 256 SHA256:"), "{said}");
    assert!(!said.contains("edge.toml and its manifests:"), "{said}");
    assert_eq!(read(&at("etc/hostname")), "edge-a\n");
    assert_eq!(read(&at("state/config/authorized_keys")), key);
    assert!(read(&at("etc/systemd/network/10-uplink.network")).contains("DHCP"));
    assert!(read(&at("etc/sysctl.d/10-edge.conf")).contains("rp_filter"));
    assert_eq!(read(&at("state/edge/edge.toml")), SETTINGS);
    assert!(read(&at("state/edge/manifests/site.yaml")).contains("an appliance"));

    // What the administrator has changed since stays, as long as the seed is the same; so does the key of the host.
    let host_key = read(&at("state/ssh/ssh_host_ed25519_key"));
    write(&at("state/edge/edge.toml"), format!("# mine\n{SETTINGS}"));
    assert!(again().contains("applied before"));
    assert!(read(&at("state/edge/edge.toml")).starts_with("# mine"));

    // Another seed is another will; what of it makes no sense costs itself.
    write(&at("seed/hostname"), "-edge\n");
    write(&at("seed/authorized_keys"), "nothing of the kind\n");
    write(&at("seed/network/uplink.yaml"), "network: {}\n");
    write(&at("seed/edge/edge.toml"), format!("{SETTINGS}[edeg]\n"));
    let said = again();
    for words in [
        "\"-edge\" is no host name",
        "no key that ssh-keygen",
        "uplink.yaml: unknown, ignored; known are *.network",
        "unknown table `edeg`",
    ] {
        assert!(said.contains(words), "no {words}: {said}");
    }
    assert_eq!(read(&at("etc/hostname")), "edge-a\n");
    assert_eq!(read(&at("state/config/authorized_keys")), key);
    assert_eq!(read(&at("state/ssh/ssh_host_ed25519_key")), host_key);

    // Without any, there is something to start with.
    std::fs::remove_dir_all(at("state")).unwrap();
    std::fs::remove_dir_all(at("seed")).unwrap();
    assert!(again().contains("NO SEED"));
    assert!(at("state/edge/edge.toml").exists() && at("state/edge/manifests").is_dir());
}

/// What `edge-slot` works on, in a folder.
struct Slots {
    place: TempDir,
}

impl Slots {
    /// Slot a runs; a key is trusted.
    fn new() -> Self {
        let place = scratch();
        let at = |name: &str| place.path().join(name);
        write(&at("run"), "SLOT=a\nHASH='hash of 1'\n");
        write(&at("boot/loader/entries/edge-a.conf"), "title Edge 1\nsort-key edge\nversion 1\nefi /edge/a.efi\n");
        write(&at("partitions/edge-b"), vec![0; 65536]);
        let slots = Self { place };
        must("mkdir", &["-m", "700", slots.path("keys").to_str().unwrap()]);
        slots.gpg(&["--quick-generate-key", "--passphrase", "", "release@edge.test", "ed25519", "sign", "never"]);
        slots.gpg(&["--output", slots.path("release.gpg").to_str().unwrap(), "--export", "release@edge.test"]);
        slots
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn gpg(&self, words: &[&str]) {
        let keys = self.path("keys");
        must("gpg", &[&["--homedir", keys.to_str().unwrap(), "--batch", "--quiet"], words].concat());
    }

    /// A signed update whose root is `root`.
    fn update(&self, version: &str, root: &[u8]) -> PathBuf {
        let parts = self.path(&format!("parts-{version}"));
        write(&parts.join("root.img"), root);
        write(&parts.join("version"), format!("{version}\n"));
        write(&parts.join("root.size"), format!("{}\n", root.len()));
        write(&parts.join("root.hash"), format!("hash of {version}\n"));
        write(&parts.join("edge.efi"), format!("kernel {version}"));
        let inside = parts.to_str().unwrap();
        must("zstd", &["--quiet", parts.join("root.img").to_str().unwrap()]);
        must(
            "sh",
            &["-c", &format!("cd {inside} && sha256sum edge.efi root.hash root.img.zst root.size version >SHA256SUMS")],
        );
        self.gpg(&["--armor", "--detach-sign", parts.join("SHA256SUMS").to_str().unwrap()]);
        self.pack(
            version,
            &["SHA256SUMS", "SHA256SUMS.asc", "version", "root.hash", "root.size", "edge.efi", "root.img.zst"],
        )
    }

    fn pack(&self, version: &str, names: &[&str]) -> PathBuf {
        let (parts, file) = (self.path(&format!("parts-{version}")), self.path(&format!("{version}.update")));
        let words = ["--create", "--file", file.to_str().unwrap(), "--directory", parts.to_str().unwrap()];
        must("tar", &[&words[..], names].concat());
        file
    }

    fn edge_slot(&self, words: &[&str]) -> Said {
        let places = [
            ("BOOT", "boot"),
            ("RUN", "run"),
            ("KEYRING", "release.gpg"),
            ("PARTITIONS", "partitions"),
            ("LOCK", "lock"),
        ];
        let places = places.map(|(name, path)| (name, self.path(path)));
        let places: Vec<(&str, &Path)> = places.iter().map(|(name, path)| (*name, path.as_path())).collect();
        run_with(&recipe("root/usr/sbin/edge-slot"), words, &places)
    }

    fn install(&self, file: &Path) -> Said {
        self.edge_slot(&["install", file.to_str().unwrap()])
    }

    fn entries(&self) -> Vec<String> {
        let found = std::fs::read_dir(self.path("boot/loader/entries")).unwrap();
        let mut names: Vec<String> = found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        run(Path::new("gpgconf"), &["--homedir", self.path("keys").to_str().unwrap(), "--kill", "gpg-agent"]);
    }
}

#[test]
fn an_update_goes_into_the_other_slot_whole_or_not_at_all() {
    if let Some(why) = images::missing(&["gpg", "gpgv", "zstd", "tar"]) {
        return lab::skip("an_update_goes_into_the_other_slot", &why);
    }
    let slots = Slots::new();
    let root: Vec<u8> =
        (0..40_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).take(40_000).collect();
    let refused = |file: &Path, why: &str| {
        let said = slots.install(file);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains(why), "no {why}: {said:?}");
    };

    // Refused before anything is touched: no update, not signed, signed by nobody we know, too large.
    write(&slots.path("other"), "something else");
    refused(&slots.path("other"), "is no update of Edge");
    let good = slots.update("2", &root);
    let unsigned = slots.pack("2", &["SHA256SUMS", "version", "root.hash", "root.size", "edge.efi", "root.img.zst"]);
    refused(&unsigned, "is not signed");
    let said = slots.edge_slot(&["install", "--unsigned", unsigned.to_str().unwrap()]);
    assert!(said.code == Some(1) && said.stderr.contains("takes signed updates only"), "{said:?}");
    let sums = slots.path("parts-2/SHA256SUMS");
    let signed = read(&sums);
    write(&sums, signed.replace("version", "version\n"));
    slots.pack("2", &["SHA256SUMS", "SHA256SUMS.asc", "version", "root.hash", "root.size", "edge.efi", "root.img.zst"]);
    refused(&good, "has no good signature");
    write(&sums, &signed);
    let large = slots.update("3", &[7; 100_000]);
    refused(&large, "does not fit");
    refused(&slots.update("1", &root), "this is what runs already");
    assert_eq!(slots.entries(), ["edge-a.conf"]);

    // Written, and to be tried.
    let good = slots
        .pack("2", &["SHA256SUMS", "SHA256SUMS.asc", "version", "root.hash", "root.size", "edge.efi", "root.img.zst"]);
    let said = slots.install(&good);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("other    b  Edge 2: to be tried, 3 times at most\nnext     b"), "{said:?}");
    assert_eq!(&std::fs::read(slots.path("partitions/edge-b")).unwrap()[..root.len()], root);
    assert_eq!(read(&slots.path("boot/edge/b.efi")), "kernel 2");
    assert_eq!(slots.entries(), ["edge-a.conf", "edge-b+3.conf"]);
    assert!(read(&slots.path("boot/loader/entries/edge-b+3.conf")).contains("version 2\nefi /edge/b.efi"));

    // It failed, as systemd-boot notes it: the old one is next. By hand it gets another chance.
    let entry = |name: &str| slots.path("boot/loader/entries").join(name);
    std::fs::rename(entry("edge-b+3.conf"), entry("edge-b+0-3.conf")).unwrap();
    let said = slots.edge_slot(&["status"]).stdout;
    assert!(said.contains("other    b  Edge 2: failed, not started any more\nnext     a"), "{said}");
    assert_eq!(slots.edge_slot(&["switch"]).code, Some(0));
    assert_eq!(slots.entries(), ["edge-a.conf", "edge-b+3.conf"]);

    // It was good and runs: the way back is the same.
    std::fs::rename(entry("edge-b+3.conf"), entry("edge-b.conf")).unwrap();
    write(&slots.path("run"), "SLOT=b\n");
    let said = slots.edge_slot(&["switch"]);
    assert!(said.stdout.contains("running  b  Edge 2: good\nother    a  Edge 1: to be tried"), "{said:?}");
    assert!(said.stdout.ends_with("next     a\n"), "{said:?}");

    // One that is damaged on its way leaves the slot empty, and never half of it to be started.
    write(&slots.path("run"), "SLOT=a\n");
    let mut bytes = std::fs::read(slots.path("parts-2/root.img.zst")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    write(&slots.path("parts-2/root.img.zst"), bytes);
    let damaged = slots
        .pack("2", &["SHA256SUMS", "SHA256SUMS.asc", "version", "root.hash", "root.size", "edge.efi", "root.img.zst"]);
    refused(&damaged, "slot b");
    assert_eq!(slots.entries(), ["edge-a+3.conf"]);
    let said = slots.edge_slot(&["switch"]);
    assert!(said.code == Some(1) && said.stderr.contains("slot b is empty"), "{said:?}");
}

/// What makes the disk, and what boots it.
const BUILDS: [&str; 11] = [
    "apt-get",
    "mmdebstrap",
    "mksquashfs",
    "veritysetup",
    "sfdisk",
    "mcopy",
    "mkfs.vfat",
    "mke2fs",
    "cpio",
    "depmod",
    "zstd",
];
const BOOTS: [&str; 3] = ["qemu-system-x86_64", "ssh", "curl"];

/// A folder for what is large.
fn large(name: &str) -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&out);
    out
}

#[test]
#[ignore = "makes the disk twice, with a root from Debian: make image-test"]
fn the_same_package_gives_the_same_disk() {
    let scenario = "the_same_package_gives_the_same_disk";
    if let Some(why) = images::missing(&[&images::TOOLS[..], &BUILDS[..]].concat()) {
        return lab::skip(scenario, &why);
    }
    let out = large("appliance-twice");
    let package = images::deb(&out.join("deb"), &[("VERSION", "1")]);
    let (one, other) = (out.join("one"), out.join("other"));
    let disk = images::make("appliance/build", &[&package, &one], &[("COMPRESSION", "1"), ("PLAIN", "1")]);
    // By somebody with other habits, later, and with nothing of Debian yet.
    let line =
        r#"umask 077; export TZ=Pacific/Auckland LC_ALL=C.UTF-8 COMPRESSION=1 PLAIN=1; CACHE="$3" exec "$0" "$1" "$2""#;
    let (build, cache) = (recipe("build"), out.join("cache"));
    let places = [&build, &package, &other, &cache].map(|path| path.to_str().unwrap());
    must("bash", &[&["-c", line], &places[..]].concat());
    let name = Path::new(&disk).file_name().unwrap().to_str().unwrap().to_owned();
    for ending in ["img", "img.zst", "update", "packages"] {
        let file = format!("{name}.{ending}");
        let said = run(Path::new("cmp"), &[one.join(&file).to_str().unwrap(), other.join(&file).to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    must("env", &["-C", one.to_str().unwrap(), "sha256sum", "--check", "--strict", "SHA256SUMS"]);
    let _ = std::fs::remove_dir_all(out);
}

/// A disk, an update to the version after it, and one to its own, of the programs that the tests were built with. What comes
/// from Debian is kept in between.
fn built() -> (PathBuf, PathBuf, PathBuf) {
    let out = large("appliance");
    let make = |version: &str| {
        let package = images::deb(&out.join(version).join("deb"), &[("VERSION", version)]);
        images::make("appliance/build", &[&package, &out.join(version)], &[("COMPRESSION", "1"), ("PLAIN", "1")])
    };
    let (one, two) = (make("1"), make("2"));
    std::fs::remove_file(format!("{two}.img")).unwrap();
    let [disk, update, same] =
        [format!("{one}.img"), format!("{two}.update"), format!("{one}.update")].map(PathBuf::from);
    (disk, update, same)
}

/// An update that was made in good order, and is broken all the same: its root is not the one that its kernel looks for, so it
/// never gets as far as systemd. Nor may the other slot have that root, which the kernel would take.
fn broken(update: &Path, place: &Path) -> PathBuf {
    let (parts, file) = (place.join("parts"), place.join("broken.update"));
    std::fs::create_dir(&parts).unwrap();
    must("tar", &["--extract", "--file", update.to_str().unwrap(), "--directory", parts.to_str().unwrap()]);
    let line = format!(
        "cd {} && zstd -dq --rm root.img.zst && printf broken | dd of=root.img bs=1 conv=notrunc status=none && \
         zstd -q --rm -1 root.img && echo broken >version && sha256sum edge.efi root.hash root.img.zst root.size version >SHA256SUMS && tar -cf {} *",
        parts.display(),
        file.display()
    );
    must("sh", &["-c", &line]);
    std::fs::remove_dir_all(parts).unwrap();
    file
}

#[test]
#[ignore = "boots six times on an emulated processor: make image-test"]
fn it_boots_serves_is_updated_and_falls_back() {
    const SCENARIO: &str = "it_boots_serves_is_updated_and_falls_back";
    if let Some(why) =
        images::missing(&[&images::TOOLS[..], &BUILDS[..], &BOOTS[..]].concat()).or_else(|| netns::available().err())
    {
        return lab::skip(SCENARIO, &why);
    }
    let (disk, update, same) = built();
    let place = scratch();
    let key = new_key(place.path());
    let (folder, volume) = (place.path().join("seed"), place.path().join("seed.img"));
    seed_folder(&folder, &read(&key.with_extension("pub")));
    seed(&folder, &volume);
    let broken = broken(&same, place.path());
    // Somebody has written it to a larger disk.
    must("truncate", &["--size", "3G", disk.to_str().unwrap()]);

    lab::isolated("appliance", || {
        let volumes = [("seed", &*volume), ("update", &*update), ("broken", &*broken)];
        let appliance = Appliance::start(&disk, &volumes, &key);
        appliance.wait_answer("an appliance");
        let said = appliance.must("edge-slot status; hostname; cat /etc/machine-id; df --output=size -m /state; cat /proc/sys/net/ipv4/conf/all/rp_filter");
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0] == "running  a  Edge 1: good", "{said}");
        assert!(lines[1..4] == ["other    b  empty", "next     a", "edge-a"] && lines.last() == Some(&"2"), "{said}");
        let machine = lines[4].to_owned();
        appliance.wait_said("slot a serves", 1);
        let console = appliance.console();
        for words in ["hostnaem: unknown, ignored", "user-data: cloud-init is not supported", "the state has 1"] {
            assert!(console.contains(words), "no {words}");
        }
        // Nothing of the system can be written, not by root either.
        assert_ne!(appliance.run("touch /usr/bin/edged").code, Some(0));
        assert!(
            appliance
                .must(&format!("edgectl why {VIP}; systemctl is-system-running || systemctl --failed"))
                .contains("running")
        );

        // Updated: the other slot is tried, serves the same, and stays.
        appliance.must("edge-slot install --unsigned /dev/disk/by-id/virtio-update");
        appliance.must("echo kept >/etc/edge/manifests/note.txt; sync; systemctl --no-block reboot");
        appliance.wait_said("slot b serves", 1);
        appliance.wait_answer("an appliance");
        let is_good =
            || appliance.run("edge-slot status").stdout.lines().next().is_some_and(|line| line.ends_with(": good"));
        edge_integration::edged::until("the slot is kept", || is_good().then_some(()));
        let said = appliance.must("cat /etc/machine-id /etc/edge/manifests/note.txt");
        assert_eq!(said, format!("{machine}\nkept\n"));
        appliance.wait_said("this seed was applied before", 1);

        // Broken: tried three times, and given up by itself.
        appliance.must("edge-slot install --unsigned /dev/disk/by-id/virtio-broken");
        appliance.must("systemctl --no-block reboot");
        appliance.wait_said("or it is damaged; starting anew", 3);
        appliance.wait_said("slot b serves", 2);
        appliance.wait_answer("an appliance");
        let said = appliance.must("edge-slot status");
        assert!(
            said == "running  b  Edge 2: good\nother    a  Edge broken: failed, not started any more\nnext     b\n",
            "{said}"
        );
        assert_eq!(appliance.console().matches("or it is damaged").count(), 3);
    });
    let _ = std::fs::remove_dir_all(disk.ancestors().nth(2).unwrap());
}
