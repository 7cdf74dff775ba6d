//! Volumes: what is in them (pure), and writing that to disk.
//!
//! Flows in: a Pod's volumes and the objects they come from. Flows out: files under the Pod's directory. They are
//! written when a container starts, not followed afterwards.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume};

use crate::objects::{Fault, Objects, Place, field};

const USUAL_MODE: i32 = 0o644;

/// Where a volume's contents come from.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// Read-only for the container.
    Files(Vec<Entry>),
    /// Its own, empty at the start of the Pod.
    Empty,
    Host(PathBuf),
}

#[derive(PartialEq, Eq)]
pub struct Entry {
    /// Relative, never upwards.
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// Contents may be secret.
impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:o} [{} bytes]", self.path.display(), self.mode, self.bytes.len())
    }
}

/// What one volume holds.
pub fn content(pod: &Pod, volume: &Volume, place: &Place, objects: &Objects) -> Result<Content, Fault> {
    let mut files = Files { volume: &volume.name, entries: Vec::new() };
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let found = objects.entries("Secret", name, secret.optional)?;
        files.select(("Secret", name), found, secret.items.as_deref(), secret.default_mode, secret.optional)?;
    } else if let Some(map) = &volume.config_map {
        let found = objects.entries("ConfigMap", &map.name, map.optional)?;
        files.select(("ConfigMap", &map.name), found, map.items.as_deref(), map.default_mode, map.optional)?;
    } else if let Some(downward) = &volume.downward_api {
        files.fields(pod, place, downward.items.as_deref(), downward.default_mode)?;
    } else if let Some(projected) = &volume.projected {
        let mode = projected.default_mode;
        for source in projected.sources.iter().flatten() {
            if let Some(secret) = &source.secret {
                let found = objects.entries("Secret", &secret.name, secret.optional)?;
                files.select(("Secret", &secret.name), found, secret.items.as_deref(), mode, secret.optional)?;
            } else if let Some(map) = &source.config_map {
                let found = objects.entries("ConfigMap", &map.name, map.optional)?;
                files.select(("ConfigMap", &map.name), found, map.items.as_deref(), mode, map.optional)?;
            } else if let Some(downward) = &source.downward_api {
                files.fields(pod, place, downward.items.as_deref(), mode)?;
            } else if let Some(token) = &source.service_account_token {
                let absent = || Fault::Absent { kind: "token of ServiceAccount", name: account(pod) };
                let text = objects.tokens.get(&token.audience).ok_or_else(absent)?;
                files.add(&token.path, text.as_bytes().to_vec(), None, mode)?;
            } else {
                return Err(Fault::Unsupported { volume: volume.name.clone(), what: "this projected source" });
            }
        }
    } else if volume.empty_dir.is_some() {
        return Ok(Content::Empty);
    } else if let Some(host) = &volume.host_path {
        return Ok(Content::Host(PathBuf::from(&host.path)));
    } else {
        return Err(Fault::Unsupported { volume: volume.name.clone(), what: "a volume of this kind" });
    }
    Ok(Content::Files(files.entries))
}

/// The ServiceAccount a Pod runs as.
pub fn account(pod: &Pod) -> String {
    let name = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    name.unwrap_or_else(|| "default".to_owned())
}

struct Files<'a> {
    volume: &'a str,
    entries: Vec<Entry>,
}

impl Files<'_> {
    fn add(&mut self, path: &str, bytes: Vec<u8>, mode: Option<i32>, usual: Option<i32>) -> Result<(), Fault> {
        let relative = Path::new(path);
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if path.is_empty() || !plain {
            return Err(Fault::Path { volume: self.volume.to_owned(), path: path.to_owned() });
        }
        let mode = mode.or(usual).unwrap_or(USUAL_MODE).unsigned_abs() & 0o777;
        self.entries.push(Entry { path: relative.to_owned(), bytes, mode });
        Ok(())
    }

    /// All keys of an object by their names, or the listed ones by their paths.
    fn select(
        &mut self,
        (kind, name): (&'static str, &str),
        found: Option<&BTreeMap<String, Vec<u8>>>,
        items: Option<&[KeyToPath]>,
        usual: Option<i32>,
        optional: Option<bool>,
    ) -> Result<(), Fault> {
        let Some(found) = found else { return Ok(()) };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            return found.iter().try_for_each(|(key, bytes)| self.add(key, bytes.clone(), None, usual));
        };
        for item in items {
            match found.get(&item.key) {
                Some(bytes) => self.add(&item.path, bytes.clone(), item.mode, usual)?,
                None if optional == Some(true) => {}
                None => return Err(Fault::NoKey { kind, name: name.to_owned(), key: item.key.clone() }),
            }
        }
        Ok(())
    }

    fn fields(
        &mut self,
        pod: &Pod,
        place: &Place,
        items: Option<&[DownwardAPIVolumeFile]>,
        usual: Option<i32>,
    ) -> Result<(), Fault> {
        for item in items.unwrap_or_default() {
            let path = item.field_ref.as_ref().map(|reference| reference.field_path.as_str());
            let value = path.and_then(|path| field(pod, place, path));
            let unsupported = || Fault::Unsupported { volume: self.volume.to_owned(), what: "this downward API field" };
            let value = value.ok_or_else(unsupported)?;
            self.add(&item.path, value.into_bytes(), item.mode, usual)?;
        }
        Ok(())
    }
}

/// Writes one volume under `directory`, and says where its contents then are.
pub fn write(directory: &Path, name: &str, content: &Content) -> io::Result<PathBuf> {
    let target = directory.join(name);
    match content {
        Content::Host(path) => return Ok(path.clone()),
        Content::Empty => std::fs::create_dir_all(&target)?,
        Content::Files(entries) => {
            std::fs::create_dir_all(&target)?;
            for entry in entries {
                place_file(&target.join(&entry.path), entry)?;
            }
        }
    }
    Ok(target)
}

/// By renaming: a container that runs already sees the old file or the new one.
fn place_file(path: &Path, entry: &Entry) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(".podlet-new");
    let draft = PathBuf::from(draft);
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    io::Write::write_all(&mut file, &entry.bytes)?;
    // Not by the mode of opening, which the umask would narrow.
    file.set_permissions(std::fs::Permissions::from_mode(entry.mode))?;
    std::fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::objects::tests::{objects, place, pod};

    fn read(volume: Value) -> Result<Content, Fault> {
        let mut volume = volume;
        volume["name"] = json!("v");
        let pod = pod(json!({"containers": [], "volumes": [volume]}));
        content(&pod, &pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0], &place(), &objects())
    }

    fn listing(volume: Value) -> String {
        match read(volume).unwrap() {
            Content::Files(entries) => {
                let text = |entry: &Entry| {
                    format!("{}={}:{:o}", entry.path.display(), String::from_utf8_lossy(&entry.bytes), entry.mode)
                };
                entries.iter().map(text).collect::<Vec<_>>().join(" ")
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn contents() {
        let cases = [
            (
                json!({"secret": {"secretName": "certificate",
                    "items": [{"key": "tls.crt", "path": "crt"}, {"key": "tls.key", "path": "private/key", "mode": 256}]}}),
                "crt=CERT:644 private/key=KEY:400",
            ),
            (
                json!({"configMap": {"name": "settings", "defaultMode": 420, "items": [{"key": "Corefile", "path": "Corefile"}]}}),
                "Corefile=. { whoami }:644",
            ),
            (json!({"configMap": {"name": "settings"}}), "Corefile=. { whoami }:644 LEVEL=debug:644 bits=\0\x01:644"),
            (json!({"configMap": {"name": "no", "optional": true}}), ""),
            (
                json!({"projected": {"defaultMode": 288, "sources": [
                    {"serviceAccountToken": {"path": "token"}},
                    {"configMap": {"name": "settings", "items": [{"key": "LEVEL", "path": "level"}]}},
                    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}),
                "token=token:440 level=debug:440 namespace=shop:440",
            ),
            (json!({"emptyDir": {}}), "Empty"),
            (json!({"hostPath": {"path": "/srv"}}), "Host(\"/srv\")"),
        ];
        for (volume, expected) in cases {
            assert_eq!(listing(volume.clone()), expected, "{volume}");
        }
    }

    #[test]
    fn faults() {
        let cases = [
            (json!({"secret": {"secretName": "later"}}), "Secret later: not found"),
            (
                json!({"secret": {"secretName": "certificate", "items": [{"key": "no", "path": "x"}]}}),
                "Secret certificate: has no key no",
            ),
            (
                json!({"secret": {"secretName": "certificate", "items": [{"key": "tls.crt", "path": "../x"}]}}),
                "volume v: path ../x leaves the volume",
            ),
            (
                json!({"secret": {"secretName": "certificate", "items": [{"key": "tls.crt", "path": "/x"}]}}),
                "volume v: path /x leaves the volume",
            ),
            (
                json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "other"}}]}}),
                "token of ServiceAccount default: not found",
            ),
            (
                json!({"nfs": {"server": "a", "path": "b"}}),
                "volume v: a volume of this kind is not supported by podlet",
            ),
        ];
        for (volume, expected) in cases {
            assert_eq!(read(volume.clone()).unwrap_err().to_string(), expected, "{volume}");
        }
    }

    #[test]
    fn files_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let entry = |bytes: &[u8]| Entry { path: "a/b".into(), bytes: bytes.to_vec(), mode: 0o640 };
        for bytes in [b"one".as_slice(), b"two"] {
            let path = write(directory.path(), "v", &Content::Files(vec![entry(bytes)])).unwrap();
            assert_eq!(std::fs::read(path.join("a/b")).unwrap(), bytes);
            assert_eq!(std::fs::metadata(path.join("a/b")).unwrap().permissions().mode() & 0o777, 0o640);
            assert_eq!(std::fs::read_dir(path.join("a")).unwrap().count(), 1);
        }
        assert!(write(directory.path(), "e", &Content::Empty).unwrap().is_dir());
    }
}
