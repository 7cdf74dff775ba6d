use std::path::PathBuf;

use edge_config::inputs::Inputs;
use edge_config::names::{Kind, ObjectKey};

use super::keeper::Desk;
use super::*;
use crate::source::{Cache, Loaded, load, load_directory};

const ALL: Bounds = Bounds { revisions: 50, bytes: 64 << 20, pinned: None };

fn loaded(text: &str) -> Loaded {
    let site = tempfile::tempdir().unwrap();
    std::fs::write(site.path().join("objects.yaml"), text).unwrap();
    load_directory(site.path(), &mut Cache::default())
}

fn route(name: &str, host: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: n}}\nspec: {{hostnames: [{host}]}}\n---\n"
    )
}

fn applied(inputs: &Inputs, portion: &str, cause: Cause) -> Applied {
    Applied {
        generation: 7,
        at: SystemTime::UNIX_EPOCH,
        cause,
        by: Some("root".to_owned()),
        outcome: Outcome::Applied { errors: 0, warnings: 0 },
        is_sound: true,
        counts: Counts::default(),
        inputs: inputs.clone(),
        portion: portion.into(),
        assigned: Assigned::new(),
    }
}

fn names(changes: &Changes) -> Vec<String> {
    changes.named.iter().map(|change| format!("{:?} {}", change.how, change.what)).collect()
}

struct Disk {
    directory: tempfile::TempDir,
    desk: Desk,
}

impl Disk {
    fn new(bounds: Bounds) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let desk = Desk::open(Folder::new(directory.path()), bounds);
        Self { directory, desk }
    }

    fn folder(&self) -> Folder {
        Folder::new(self.directory.path())
    }

    fn reopen(&mut self, bounds: Bounds) {
        self.desk = Desk::open(self.folder(), bounds);
    }

    fn note(&mut self, inputs: &Inputs, portion: &str, cause: Cause) {
        self.desk.take(applied(inputs, portion, cause));
        self.desk.prune();
        assert_eq!(self.desk.observed().trouble, None);
    }

    fn numbers(&self) -> Vec<u64> {
        self.desk.observed().revisions.iter().map(|revision| revision.revision).collect()
    }

    fn newest(&self) -> Revision {
        self.desk.observed().revisions.last().unwrap().clone()
    }

    /// All text that is on the disk.
    fn text(&self) -> String {
        let mut text = String::new();
        for folder in ["history", "history/objects"] {
            for entry in std::fs::read_dir(self.directory.path().join(folder)).unwrap().flatten() {
                if entry.file_type().unwrap().is_file() {
                    text.push_str(&std::fs::read_to_string(entry.path()).unwrap());
                }
            }
        }
        text
    }
}

#[test]
fn what_changed_is_named_and_comes_back() {
    let mut disk = Disk::new(ALL);
    let first = loaded(&(route("a", "a.test") + &route("b", "b.test")));
    disk.note(&first.inputs, "[proxy]\nmax_head = \"16KiB\"\n", Cause::Start);
    let second = loaded(&(route("a", "a.test") + &route("b", "other.test") + &route("c", "c.test")));
    disk.note(&second.inputs, "[proxy]\nmax_head = \"32KiB\"\n", Cause::Files);
    assert_eq!(
        names(&disk.newest().changes),
        ["Changed edge.toml: proxy.max_head", "Changed HTTPRoute n/b", "Added HTTPRoute n/c"]
    );
    // The same once more is no revision, after a restart neither.
    disk.note(&second.inputs, "[proxy]\nmax_head = \"32KiB\"\n", Cause::Files);
    disk.reopen(ALL);
    disk.note(&second.inputs, "[proxy]\nmax_head = \"32KiB\"\n", Cause::Start);
    assert_eq!(disk.numbers(), [1, 2]);
    // What is asked for by name is one, though nothing differs.
    disk.note(&second.inputs, "[proxy]\nmax_head = \"32KiB\"\n", Cause::Release);
    assert_eq!((disk.numbers(), disk.newest().changes.total), (vec![1, 2, 3], 0));

    let mut kept = disk.folder().read(1).unwrap();
    assert_eq!((kept.lost, kept.past.settings.proxy.max_head), (0, 16 << 10));
    let over = kept.past.over(&second.inputs);
    assert_eq!(over.http_routes.len(), 2);
    let get = |inputs: &Inputs, name: &str| inputs.http_routes[&ObjectKey::new("n", name)].clone();
    assert!(
        std::sync::Arc::ptr_eq(&get(&over, "a"), &get(&second.inputs, "a")),
        "what says the same is the one of now"
    );
    let b = get(&over, "b");
    assert_eq!((&*b.spec.hostnames[0], &*b.meta.origin.file), ("b.test", "revision 1"));
    assert!(!b.meta.is_served(), "nothing is written to the API about it");
    let waiting = Changes::between((&over, &kept.portion), (&second.inputs, "[proxy]\nmax_head = \"32KiB\"\n"));
    assert_eq!(names(&waiting), ["Changed edge.toml: proxy.max_head", "Changed HTTPRoute n/b", "Added HTTPRoute n/c"]);
    // The same objects again, so that nothing is compiled anew.
    assert!(kept.past.over(&second.inputs).is_identical(&over));
    assert!(matches!(disk.folder().read(9), Err(HistoryError::Unknown(9))));
}

#[test]
fn a_refusal_is_told_once_and_cannot_be_gone_back_to() {
    let mut disk = Disk::new(ALL);
    let inputs = loaded(&route("a", "a.test")).inputs;
    disk.note(&inputs, "", Cause::Start);
    let outcome = Outcome::Refused { reason: "edge.toml:1:1: no".to_owned() };
    let refused = Applied { outcome, ..applied(&inputs, "", Cause::Hangup) };
    disk.desk.take(refused.clone());
    // What stays in force meanwhile is no news.
    disk.desk.take(Applied { is_sound: false, ..applied(&inputs, "", Cause::Hangup) });
    disk.desk.take(refused);
    assert_eq!(disk.numbers(), [1, 2]);
    assert!(matches!(disk.folder().read(2), Err(HistoryError::Refused(2))));
    // That it was mended is told, too.
    disk.note(&inputs, "", Cause::Files);
    assert_eq!(disk.numbers(), [1, 2, 3]);
}

#[test]
fn state_is_that_of_now() {
    let service = |port: u16| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: n}}\nspec: {{ports: [{{port: 80, nodePort: {port}}}]}}\n---\n"
        )
    };
    let slice = |address: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s, namespace: n, labels: {{kubernetes.io/service-name: s}}}}\naddressType: IPv4\nendpoints: [{{addresses: [{address}]}}]\nports: [{{port: 80}}]\n---\n"
        )
    };
    let map = |text: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m, namespace: n}}\ndata: {{response.body: {text}}}\n---\n"
        )
    };
    let before = loaded(&[service(30001), slice("10.0.0.1"), map("old"), route("a", "a.test")].concat()).inputs;
    let after = loaded(&[service(30002), slice("10.0.0.2"), map("new"), route("a", "b.test")].concat()).inputs;
    let mut disk = Disk::new(ALL);
    disk.note(&before, "", Cause::Start);
    assert!(!disk.text().contains("10.0.0.1"), "no endpoint is written");
    let over = disk.folder().read(1).unwrap().past.over(&after);
    assert!(over.shares_kind(&after, Kind::EndpointSlice) && over.shares_kind(&after, Kind::ConfigMap));
    assert_eq!(&*over.http_routes[&ObjectKey::new("n", "a")].spec.hostnames[0], "a.test");
    let key = ObjectKey::new("n", "s");
    assert!(
        std::sync::Arc::ptr_eq(&over.services[&key], &after.services[&key]),
        "but for what is given out it is the same"
    );
    // A Service that is gone has no port on any node any more.
    let over = disk.folder().read(1).unwrap().past.over(&loaded("").inputs);
    assert_eq!(over.services[&key].spec.ports[0].node_port, None);
}

#[test]
fn nothing_secret_is_written() {
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let manifest = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: s, namespace: n}}\ntype: kubernetes.io/tls\nstringData: {{tls.crt: {}, tls.key: {}}}\n---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: p, namespace: n, annotations: {{kubectl.kubernetes.io/last-applied-configuration: 'hidden word'}}}}\nspec: {{myASN: 1, peerASN: 2, peerAddress: 192.0.2.1, password: \"hidden word\"}}\n---\n",
        quoted(&pem),
        quoted(&key.serialize_pem()),
    );
    let site = tempfile::tempdir().unwrap();
    let inline = format!("[[manifests]]\ninline = '''\n{manifest}'''\n[proxy]\nmax_fields = 50\n");
    std::fs::write(site.path().join("edge.toml"), inline).unwrap();
    let loaded = load(&site.path().join("edge.toml"), &mut Cache::default());
    assert_eq!((loaded.inputs.secrets.len(), loaded.inputs.bgp_peers.len()), (1, 1), "{:?}", loaded.problems);
    let mut disk = Disk::new(ALL);
    disk.note(&loaded.inputs, &loaded.portion, Cause::Start);
    let text = disk.text();
    assert!(text.contains("max_fields") && text.contains("192.0.2.1"), "{text}");
    assert!(!text.contains("hidden word") && !text.contains("PRIVATE KEY") && !text.contains("CERTIFICATE"), "{text}");
    let kept = disk.folder().read(1).unwrap();
    // That there is a password is known; which, the Secrets and peers of now say.
    let (peer, _) = &kept.past.objects[&ObjectRef::new(Kind::BGPPeer, ObjectKey::new("n", "p"))];
    let body = peer.body().unwrap().to_string();
    assert!(body.contains("[redacted]"), "{body}");
}

#[test]
fn bounds_hold_and_what_is_pinned_stays() {
    let mut disk = Disk::new(Bounds { revisions: 3, ..ALL });
    for number in 0..6 {
        disk.note(&loaded(&route("a", &format!("a{number}.test"))).inputs, "", Cause::Files);
    }
    assert_eq!(disk.numbers(), [4, 5, 6]);
    // Of each text one file, and none of those that are gone: one object each, and the empty settings.
    let texts = || std::fs::read_dir(disk.directory.path().join("history/objects")).unwrap().count();
    assert_eq!(texts(), 4);
    disk.desk.bounds = Bounds { revisions: 3, pinned: Some(4), ..ALL };
    for number in 6..9 {
        disk.note(&loaded(&route("a", &format!("a{number}.test"))).inputs, "", Cause::Files);
    }
    assert_eq!(disk.numbers(), [4, 8, 9]);
    assert!(disk.folder().read(4).is_ok());
    // Bytes count, too; the newest stays.
    let many: String =
        (0..200).map(|number| route(&format!("r{number}"), &format!("{}.test", "x".repeat(60)))).collect();
    disk.desk.bounds = Bounds { revisions: 50, bytes: 60 << 10, pinned: None };
    disk.note(&loaded(&many).inputs, "", Cause::Files);
    let more = many + &route("z", "z.test");
    disk.note(&loaded(&more).inputs, "", Cause::Files);
    assert!(disk.desk.observed().size <= 60 << 10 || disk.numbers() == [11], "{:?}", disk.numbers());
    // One route more costs one bucket of objects, not all of them.
    assert!(disk.desk.observed().size < 90 << 10, "{}", disk.desk.observed().size);
}

#[test]
fn damage_costs_what_it_hits() {
    let mut disk = Disk::new(ALL);
    for number in 0..3 {
        disk.note(&loaded(&route("a", &format!("a{number}.test"))).inputs, "", Cause::Files);
    }
    let file = disk.directory.path().join("history/00000002.revision");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert!(matches!(disk.folder().read(2), Err(HistoryError::Broken { .. })));
    disk.reopen(ALL);
    assert_eq!(disk.numbers(), [1, 3]);
    assert!(disk.desk.observed().trouble.unwrap().contains("set aside"));
    assert!(file.with_extension("broken").exists());
    // A text that is not whole is found out by its name.
    for entry in std::fs::read_dir(disk.directory.path().join("history/objects")).unwrap().flatten() {
        std::fs::write(entry.path(), "junk").unwrap();
    }
    assert!(matches!(disk.folder().read(3), Err(HistoryError::Broken { .. })));
}

/// Every object of every example comes back with the same essence, so that holding at what is in force changes nothing.
#[test]
fn every_example_comes_back_as_it_was() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    for entry in std::fs::read_dir(root).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        let loaded = load_directory(&entry.path(), &mut Cache::default());
        let mut disk = Disk::new(ALL);
        disk.note(&loaded.inputs, "", Cause::Start);
        let mut kept = disk.folder().read(1).unwrap();
        assert_eq!(kept.lost, 0, "{}", entry.path().display());
        let over = kept.past.over(&loaded.inputs);
        for kind in record::kinds() {
            let same = over.of_kind(kind).iter().zip(&loaded.inputs.of_kind(kind)).all(|(a, b)| a.is_identical(b));
            let length = over.of_kind(kind).len();
            assert!(same && length == loaded.inputs.of_kind(kind).len(), "{}: {kind}", entry.path().display());
            count += length;
        }
    }
    assert!(count > 50, "{count}");
}
