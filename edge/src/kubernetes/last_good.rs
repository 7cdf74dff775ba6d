//! The last good objects of the API server on disk: edged boots from them and serves while the API server is away.
//!
//! In: all objects as they are served, and their keys. Out: the same entries after a restart. One file per kind, written
//! whole (temporary file, fsync, rename, fsync of the directory), only when the kind changed, each with a version and a
//! checksum; a file that is not whole is set aside, reported, and costs its kind only. Each line is an object in the form of the API, so the code that
//! reads objects reads them, whatever version of Edge wrote them. Secrets hold private keys: files are 0600 in a folder of
//! 0700, as those of certificates are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_config::core::{SERVICE_NAME_LABEL, SecretContents};
use edge_config::inputs::Inputs;
use edge_config::manifest::AnyObject;
use edge_config::names::{CertId, Kind, ObjectRef};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::watch::{self, Restored};
use crate::source::Keys;
use crate::store::{private_directory, sync_directory, write_whole};

/// The first line of every file; the number is that of the form.
const MAGIC: &str = "edge objects 1 sha256 ";
/// A file larger than this is not read: no cluster is that large.
const MOST_OF_A_FILE: u64 = 1 << 30;

/// What was found on disk.
#[derive(Debug, Default)]
pub struct LastGood {
    pub objects: Restored,
    /// When the newest part of it was written.
    pub written: Option<SystemTime>,
    pub notices: Vec<String>,
}

fn folder(state_directory: &Path) -> PathBuf {
    state_directory.join("kubernetes")
}

fn file(folder: &Path, kind: Kind) -> PathBuf {
    folder.join(format!("{kind}.objects"))
}

/// Reads what is there. Blocks on the disk.
pub fn read(state_directory: &Path) -> LastGood {
    let folder = folder(state_directory);
    let mut found = LastGood::default();
    for kind in Kind::ALL {
        let path = file(&folder, kind);
        match read_file(&path) {
            Ok(None) => {}
            Ok(Some((text, written))) => {
                found.written = found.written.max(Some(written));
                let mut lost = 0_usize;
                for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    match watch::restore(kind, line) {
                        Some((key, entry)) => drop(found.objects.insert(ObjectRef::new(kind, key), Arc::new(entry))),
                        None => lost += 1,
                    }
                }
                if lost > 0 {
                    found.notices.push(format!("{}: {lost} objects cannot be read any more", path.display()));
                }
            }
            Err(error) => {
                found.notices.push(format!("{}: set aside: {error}", path.display()));
                // It stays there where it cannot be renamed, and is found broken again.
                let _ = fs::rename(&path, path.with_extension("broken"));
            }
        }
    }
    found
}

/// The objects of a kind and when they were written.
type Content = (Zeroizing<Vec<u8>>, SystemTime);

fn read_file(path: &Path) -> Result<Option<Content>, String> {
    // A FIFO or a device in place of a file must not hold up the start.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > MOST_OF_A_FILE {
        return Err("not a regular file, or larger than 1 GiB".to_owned());
    }
    let length = usize::try_from(metadata.len()).map_err(|error| error.to_string())?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(length));
    file.take(MOST_OF_A_FILE).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("has no first line")?;
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "its first line is no text")?;
    let sum = head.strip_prefix(MAGIC).ok_or("its first line is not that of this version")?;
    let text = bytes.get(end + 1..).unwrap_or_default();
    if sum != checksum(text) {
        return Err("its checksum does not fit".to_owned());
    }
    let written = metadata.modified().map_err(|error| error.to_string())?;
    Ok(Some((Zeroizing::new(text.to_vec()), written)))
}

fn checksum(text: &[u8]) -> String {
    digest::digest(&digest::SHA256, text).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the kinds that changed. Blocks on the disk.
#[derive(Debug, Default)]
pub struct Writer {
    folder: PathBuf,
    /// What is on disk, of these kinds. Shared with what serves, as long as that is the same.
    written: Inputs,
    known: BTreeSet<Kind>,
}

impl Writer {
    pub fn new(state_directory: &Path) -> Self {
        Self { folder: folder(state_directory), ..Self::default() }
    }

    /// Makes the disk hold these objects.
    pub fn write(&mut self, objects: &Inputs, keys: &Keys) -> io::Result<()> {
        let mut notices = Vec::new();
        private_directory(&self.folder, &mut notices)?;
        let mut is_changed = false;
        for kind in Kind::ALL {
            if self.known.contains(&kind) && objects.shares_kind(&self.written, kind) {
                // The same objects in another map are from now on in this one, too.
                self.written.share_kind(objects, kind);
                continue;
            }
            let list = objects.of_kind(kind);
            if list.is_empty() && !file(&self.folder, kind).exists() {
                self.note(objects, kind);
                continue;
            }
            let mut text = Zeroizing::new(Vec::new());
            for object in &list {
                serde_json::to_writer(&mut *text, &manifest(object, keys)?)?;
                text.push(b'\n');
            }
            let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() + 128));
            writeln!(bytes, "{MAGIC}{}", checksum(&text))?;
            bytes.extend_from_slice(&text);
            write_whole(&file(&self.folder, kind), &bytes, 0o600)?;
            is_changed = true;
            drop(list);
            self.note(objects, kind);
        }
        if is_changed {
            sync_directory(&self.folder)?;
        }
        Ok(())
    }

    fn note(&mut self, objects: &Inputs, kind: Kind) {
        self.written.share_kind(objects, kind);
        self.known.insert(kind);
    }
}

/// An object in the form of the API.
fn manifest(object: &AnyObject, keys: &Keys) -> io::Result<Value> {
    let body = match object {
        AnyObject::Secret(secret) => {
            let mut values: BTreeMap<&str, String> =
                secret.spec.keys.iter().map(|key| (key.as_str(), String::new())).collect();
            if let Some(password) = keys.password_of(&object.reference()) {
                values.insert("password", STANDARD.encode(password.bytes()));
            }
            if let Some(key) = keys.get(&CertId(object.meta().key.clone())) {
                values.insert("tls.crt", STANDARD.encode(&key.certificate_pem));
                values.insert("tls.key", STANDARD.encode(&*key.key_pem));
            }
            let ca = match &secret.spec.contents {
                SecretContents::Tls { ca, .. } => ca.as_ref(),
                SecretContents::Ca(ca) => Some(ca),
                SecretContents::Other => None,
            };
            if let Some(text) = ca.and_then(|bundle| pem("CERTIFICATE", bundle.0.as_ref().ok()?)) {
                values.insert("ca.crt", STANDARD.encode(text));
            }
            if let Some(text) = secret.spec.crl.as_ref().and_then(|lists| pem("X509 CRL", lists.0.as_ref().ok()?)) {
                values.insert("ca.crl", STANDARD.encode(text));
            }
            json!({ "type": secret.spec.kind, "data": values })
        }
        AnyObject::ConfigMap(map) => {
            let mut values: BTreeMap<&str, String> =
                map.spec.keys.iter().map(|key| (key.as_str(), String::new())).collect();
            values.extend(map.spec.parameters.iter().map(|(key, value)| (key.as_str(), value.clone())));
            if let Some(text) = map.spec.ca.as_ref().and_then(|bundle| pem("CERTIFICATE", bundle.0.as_ref().ok()?)) {
                values.insert("ca.crt", text);
            }
            if let Some(text) = map.spec.crl.as_ref().and_then(|lists| pem("X509 CRL", lists.0.as_ref().ok()?)) {
                values.insert("ca.crl", text);
            }
            if let (Some(Ok(text)), Some(key)) = (&map.spec.body, map.spec.body_key()) {
                values.insert(key, text.to_string());
            }
            json!({ "data": values })
        }
        object => {
            let mut body = object.body().map_err(io::Error::other)?;
            // In the body there is only that it has one.
            if let Some(place) = body.pointer_mut("/spec/password") {
                let text = keys.password_of(&object.reference()).map(|password| password.bytes());
                *place = text.and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default().into();
            }
            body
        }
    };
    Ok(in_api_form(object, body))
}

/// A body with everything that goes before it.
pub fn in_api_form(object: &AnyObject, mut body: Value) -> Value {
    let meta = object.meta();
    let kind = object.kind();
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), meta.key.name.as_ref().into());
    if !meta.key.namespace.is_empty() {
        metadata.insert("namespace".to_owned(), meta.key.namespace.as_ref().into());
    }
    metadata.insert("generation".to_owned(), meta.generation.into());
    if let Some(created) = &meta.created {
        metadata.insert("creationTimestamp".to_owned(), created.to_string().into());
    }
    for (name, values) in [("labels", &meta.labels), ("annotations", &meta.annotations)] {
        if !values.is_empty() {
            metadata.insert(name.to_owned(), json!(values));
        }
    }
    if let AnyObject::EndpointSlice(slice) = object
        && let Some(service) = &slice.spec.service
    {
        metadata.insert("labels".to_owned(), json!({ SERVICE_NAME_LABEL: service }));
    }
    if let Value::Object(members) = &mut body {
        members.insert("metadata".to_owned(), Value::Object(metadata));
        members.insert("kind".to_owned(), kind.as_str().into());
        members.insert("apiVersion".to_owned(), watch::api_version(kind).into());
    }
    body
}

fn pem(label: &str, ders: &[Arc<[u8]>]) -> Option<String> {
    let block = |der: &Arc<[u8]>| {
        let text = STANDARD.encode(der);
        let lines: Vec<&str> =
            (0..text.len()).step_by(64).map(|start| &text[start..text.len().min(start + 64)]).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    };
    Some(ders.iter().map(block).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use edge_config::announce::Password;
    use edge_config::problem::Severity;

    use super::*;
    use crate::source::{Cache, load_directory};

    fn configurations() -> Vec<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let cases = fs::read_dir(root.join("config/tests/cases")).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<PathBuf> = cases.filter(|path| path.is_dir()).collect();
        all.extend([root.join("examples"), root.join("config/tests/golden")]);
        all
    }

    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    /// Writes everything and reads it again.
    fn round(inputs: &Inputs, keys: &Keys) -> Inputs {
        let directory = tempfile::tempdir().unwrap();
        Writer::new(directory.path()).write(inputs, keys).unwrap();
        let found = read(directory.path());
        assert_eq!(found.notices, Vec::<String>::new());
        let mut after = Inputs::default();
        for entry in found.objects.values() {
            entry.served.as_ref().unwrap().object.clone().put(&mut after);
        }
        after
    }

    #[test]
    fn every_shape_comes_back_as_it_was() {
        let mut count = 0;
        for path in configurations() {
            let loaded = load_directory(&path, &mut Cache::default());
            let once = round(&loaded.inputs, &loaded.keys);
            let twice = round(&once, &loaded.keys);
            for (key, slice) in &loaded.inputs.endpoint_slices {
                let service = slice.meta.labels.get(SERVICE_NAME_LABEL).map(String::as_str);
                assert_eq!(twice.endpoint_slices[key].spec.service.as_deref(), service, "{}: {key}", path.display());
            }
            for kind in Kind::ALL {
                let bodies = |inputs: &Inputs| -> Vec<_> {
                    inputs.of_kind(kind).iter().map(|object| (object.reference(), object.body().unwrap())).collect()
                };
                assert_eq!(bodies(&once), bodies(&twice), "{}", path.display());
                // What an API server serves of these is cut down to what Edge reads.
                if !matches!(kind, Kind::Service | Kind::EndpointSlice) {
                    assert_eq!(bodies(&loaded.inputs), bodies(&once), "{}", path.display());
                }
                assert_eq!(loaded.inputs.of_kind(kind).len(), once.of_kind(kind).len(), "{}", path.display());
                count += once.of_kind(kind).len();
            }
        }
        assert!(count > 200, "only {count} objects were looked at");
    }

    #[test]
    fn secrets_keep_their_keys_and_stay_private() {
        let (chain, key) = pair();
        let site = tempfile::tempdir().unwrap();
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        let (chain_text, key_text) = (quoted(&chain), quoted(&key));
        let manifest = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: s, namespace: n}}\ntype: kubernetes.io/tls\nstringData: {{tls.crt: {chain_text}, tls.key: {key_text}, ca.crt: {chain_text}}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c, namespace: n}}\ndata: {{ca.crt: {chain_text}, other: x, requestTimeout: 5s}}\n",
        );
        fs::write(site.path().join("objects.yaml"), manifest).unwrap();
        let loaded = load_directory(site.path(), &mut Cache::default());
        assert_eq!(loaded.keys.certificates.len(), 1, "{:?}", loaded.problems);
        let directory = tempfile::tempdir().unwrap();
        Writer::new(directory.path()).write(&loaded.inputs, &loaded.keys).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let folder = folder(directory.path());
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&file(&folder, Kind::Secret)), 0o600);
        let found = read(directory.path());
        for object in loaded.inputs.of_kind(Kind::Secret).iter().chain(&loaded.inputs.of_kind(Kind::ConfigMap)) {
            let served = found.objects[&object.reference()].served.as_ref().unwrap();
            match (object, &served.object) {
                (AnyObject::Secret(before), AnyObject::Secret(after)) => assert_eq!(before.spec, after.spec),
                (AnyObject::ConfigMap(before), AnyObject::ConfigMap(after)) => assert_eq!(before.spec, after.spec),
                (before, after) => panic!("{before:?} became {after:?}"),
            }
            if object.kind() == Kind::Secret {
                assert_eq!(served.key.as_ref().unwrap().key_pem.as_slice(), key.as_bytes());
            }
        }
    }

    #[test]
    fn passwords_come_back_and_are_in_no_object() {
        let site = tempfile::tempdir().unwrap();
        let manifest = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: n}\ntype: kubernetes.io/basic-auth\nstringData: {username: u, password: \"md5 one\"}\n---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: p, namespace: n}\nspec: {myASN: 1, peerASN: 2, peerAddress: 192.0.2.1, password: \"md5 two\"}\n---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: q, namespace: n}\nspec: {myASN: 1, peerASN: 2, peerAddress: 192.0.2.2, passwordSecret: {name: s}}\n";
        fs::write(site.path().join("objects.yaml"), manifest).unwrap();
        let loaded = load_directory(site.path(), &mut Cache::default());
        assert_eq!(loaded.problems.iter().filter(|found| found.severity == Severity::Error).count(), 0);
        let printed = format!("{loaded:?}");
        assert!(!printed.contains("md5"), "{printed}");
        let texts = |keys: &Keys| {
            let key = |name: &str| edge_config::names::ObjectKey::new("n", name);
            [Password::Secret(key("s")), Password::Inline(key("p")), Password::Inline(key("q"))]
                .map(|place| keys.password(&place).map(|text| String::from_utf8_lossy(text.bytes()).into_owned()))
        };
        let expected = [Some("md5 one".to_owned()), Some("md5 two".to_owned()), None];
        assert_eq!(texts(&loaded.keys), expected);
        let directory = tempfile::tempdir().unwrap();
        Writer::new(directory.path()).write(&loaded.inputs, &loaded.keys).unwrap();
        let found = read(directory.path());
        let mut keys = Keys::default();
        for (object, entry) in &found.objects {
            keys.put(object, entry.served.as_ref().unwrap());
        }
        assert_eq!(texts(&keys), expected);
        let peer = &found.objects[&ObjectRef::new(Kind::BGPPeer, edge_config::names::ObjectKey::new("n", "p"))];
        let body = peer.served.as_ref().unwrap().object.body().unwrap().to_string();
        assert!(!body.contains("md5") && body.contains("[redacted]"), "{body}");
    }

    #[test]
    fn a_damaged_file_costs_its_kind_only() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart");
        let loaded = load_directory(&path, &mut Cache::default());
        let directory = tempfile::tempdir().unwrap();
        Writer::new(directory.path()).write(&loaded.inputs, &loaded.keys).unwrap();
        let services = file(&folder(directory.path()), Kind::Service);
        let whole = fs::read(&services).unwrap();
        for damage in ["truncated", "flipped", "empty", "other version"] {
            let mut bytes = whole.clone();
            match damage {
                "truncated" => bytes.truncate(whole.len() - 3),
                "flipped" => bytes[whole.len() - 10] ^= 1,
                "empty" => bytes.clear(),
                _ => bytes[13] = b'2',
            }
            fs::write(&services, bytes).unwrap();
            let found = read(directory.path());
            assert_eq!(found.notices.len(), 1, "{damage}");
            assert!(found.objects.keys().all(|object| object.kind != Kind::Service), "{damage}");
            assert!(found.objects.keys().any(|object| object.kind == Kind::HTTPRoute), "{damage}");
            assert!(services.with_extension("broken").exists(), "{damage}");
        }
    }
}
