//! Revisions on the disk: one file for each with what it consists of, and the buckets of objects, each once however many
//! revisions have it, under the hash of its text. Whole files only (temporary file, fsync, rename); what is not whole is
//! passed over and told. Files are 0600 in folders of 0700, as everything of the state directory is.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edge_config::edge_toml;
use edge_config::names::{Kind, ObjectRef};
use serde::{Deserialize, Serialize};

use super::record::{self, Past};
use super::{Assigned, Changes, How, Revision};
use crate::store::{private_directory, sync_directory, write_whole};

/// The first line of the file of a revision; the number is that of the form.
const MAGIC: &str = "edge revision 1 ";
const MOST_OF_A_FILE: u64 = 1 << 30;

#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("revision {0} is not kept; edgectl history lists those that are")]
    Unknown(u64),
    #[error("revision {0} was refused, so there is nothing of it")]
    Refused(u64),
    #[error("revision {revision} cannot be read any more: {reason}")]
    Broken { revision: u64, reason: String },
}

/// Where revisions are.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// What a revision consists of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Index {
    pub revision: Revision,
    /// The hash of the portion of edge.toml.
    pub settings: String,
    /// The hash of the text of each, by kind and number, such as `HTTPRoute.17`.
    pub buckets: BTreeMap<String, String>,
    /// The addresses that objects had.
    pub assigned: BTreeMap<String, Vec<IpAddr>>,
}

impl Index {
    /// The texts that it needs.
    pub fn texts(&self) -> impl Iterator<Item = &String> {
        let settings = (!self.settings.is_empty()).then_some(&self.settings);
        self.buckets.values().chain(settings)
    }

    /// Whether both are the same to the last letter.
    pub fn is_same(&self, other: &Self) -> bool {
        self.settings == other.settings && self.buckets == other.buckets
    }
}

pub(super) fn place(kind: Kind, bucket: u8) -> String {
    format!("{kind}.{bucket}")
}

fn kind_of(place: &str) -> Option<Kind> {
    let (name, _) = place.rsplit_once('.')?;
    Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
}

/// A revision, read back.
#[derive(Debug)]
pub struct Kept {
    pub revision: Revision,
    /// The portion of edge.toml.
    pub portion: Arc<str>,
    pub past: Past,
    pub assigned: Assigned,
    /// Objects that this version cannot read.
    pub lost: usize,
}

impl Folder {
    pub fn new(state_directory: &Path) -> Self {
        Self(state_directory.join("history"))
    }

    fn objects(&self) -> PathBuf {
        self.0.join("objects")
    }

    fn file(&self, revision: u64) -> PathBuf {
        self.0.join(format!("{revision:08}.revision"))
    }

    pub(super) fn make(&self) -> io::Result<()> {
        let mut notices = Vec::new();
        private_directory(&self.0, &mut notices)?;
        private_directory(&self.objects(), &mut notices)?;
        notices.into_iter().for_each(|notice| tracing::warn!("history: {notice}"));
        Ok(())
    }

    /// All revisions in their order with the sizes of their files, and a line for each that is not whole.
    pub(super) fn list(&self) -> (Vec<(Index, u64)>, Vec<String>) {
        let (mut found, mut notices) = (Vec::new(), Vec::new());
        let Ok(entries) = fs::read_dir(&self.0) else { return (found, notices) };
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "revision"));
        paths.sort();
        for path in paths {
            match read_index(&path) {
                Ok(index) => found.push(index),
                Err(reason) => {
                    notices.push(format!("history: {}: set aside: {reason}", path.display()));
                    // It stays there where it cannot be renamed, and is found broken again.
                    let _ = fs::rename(&path, path.with_extension("broken"));
                }
            }
        }
        (found, notices)
    }

    /// The sizes of all texts that are there.
    pub(super) fn sizes(&self) -> BTreeMap<String, u64> {
        let entries = fs::read_dir(self.objects()).into_iter().flatten().flatten();
        let size = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.metadata().ok()?.len()));
        entries.filter_map(size).collect()
    }

    pub(super) fn write_text(&self, hash: &str, text: &str) -> io::Result<()> {
        write_whole(&self.objects().join(hash), text.as_bytes(), 0o600)
    }

    /// The texts are there already. Returns the size.
    pub(super) fn write_index(&self, index: &Index) -> io::Result<u64> {
        let body = serde_json::to_string(index)?;
        let whole = format!("{MAGIC}{}\n{body}\n", record::hash(body.as_bytes()));
        sync_directory(&self.objects())?;
        write_whole(&self.file(index.revision.revision), whole.as_bytes(), 0o600)?;
        sync_directory(&self.0)?;
        Ok(whole.len() as u64)
    }

    pub(super) fn remove(&self, revision: u64) -> io::Result<()> {
        fs::remove_file(self.file(revision))
    }

    pub(super) fn remove_text(&self, hash: &str) -> io::Result<()> {
        fs::remove_file(self.objects().join(hash))
    }

    pub(super) fn index(&self, revision: u64) -> Result<Index, HistoryError> {
        let path = self.file(revision);
        if !path.exists() {
            return Err(HistoryError::Unknown(revision));
        }
        let (index, _) = read_index(&path).map_err(|reason| HistoryError::Broken { revision, reason })?;
        match index.revision.hash.is_empty() {
            true => Err(HistoryError::Refused(revision)),
            false => Ok(index),
        }
    }

    pub(super) fn text(&self, hash: &str) -> Result<String, String> {
        if hash.len() != 32 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("it names a text that cannot be".to_owned());
        }
        let text = read_file(&self.objects().join(hash))?;
        match record::hash(text.as_bytes()) == hash {
            true => Ok(text),
            false => Err(format!("the checksum of {hash} does not fit")),
        }
    }

    /// Reads a revision with everything in it. Waits for the disk.
    pub fn read(&self, revision: u64) -> Result<Kept, HistoryError> {
        let index = self.index(revision)?;
        let broken = |reason| HistoryError::Broken { revision, reason };
        let portion = self.text(&index.settings).map_err(broken)?;
        let file: Arc<str> = format!("edge.toml of revision {revision}").into();
        let settings = edge_toml::decode(&file, &portion)
            .map_err(|faults| broken(faults.first().map(ToString::to_string).unwrap_or_default()))?;
        let (mut objects, mut lost) = (BTreeMap::new(), 0);
        for (place, bucket) in &index.buckets {
            let Some(kind) = kind_of(place).filter(|kind| record::is_configuration(*kind)) else {
                lost += 1;
                continue;
            };
            let text = self.text(bucket).map_err(broken)?;
            let (found, gone) = record::objects(kind, &text);
            lost += gone;
            let lines: BTreeMap<ObjectRef, &str> =
                text.lines().filter_map(|line| Some((record::name(kind, line)?, line))).collect();
            for object in found {
                let reference = object.reference();
                let essence = lines.get(&reference).map(|line| record::essence(line)).unwrap_or_default();
                objects.insert(reference, (object, essence));
            }
        }
        let assigned = index.assigned.iter();
        Ok(Kept {
            revision: index.revision,
            portion: portion.into(),
            past: Past::new(revision, Arc::new(settings), objects),
            assigned: assigned.filter_map(|(key, list)| Some((ObjectRef::parse(key)?, list.clone()))).collect(),
            lost,
        })
    }

    /// What differs; `texts` are those of `after` that are not on the disk yet.
    pub(super) fn changes(&self, before: &Index, after: &Index, texts: &BTreeMap<String, String>) -> Changes {
        let mut changes = Changes::default();
        let text = |hash: &String| texts.get(hash).cloned().or_else(|| self.text(hash).ok()).unwrap_or_default();
        if before.settings != after.settings {
            for path in edge_toml::differences(&text(&before.settings), &text(&after.settings)) {
                changes.add(How::Changed, || format!("edge.toml: {path}"));
            }
        }
        let mut places: Vec<&String> = before.buckets.keys().chain(after.buckets.keys()).collect();
        places.sort();
        places.dedup();
        let mut found = Vec::new();
        for place in places {
            let (old, new) = (before.buckets.get(place), after.buckets.get(place));
            let Some(kind) = kind_of(place).filter(|_| old != new) else { continue };
            let lines = |bucket: Option<&String>| -> BTreeMap<ObjectRef, String> {
                let text = bucket.map(text).unwrap_or_default();
                text.lines().filter_map(|line| Some((record::name(kind, line)?, line.to_owned()))).collect()
            };
            let (old, new) = (lines(old), lines(new));
            for object in old.keys().filter(|object| !new.contains_key(*object)) {
                found.push((object.clone(), How::Removed));
            }
            for (object, line) in &new {
                match old.get(object) {
                    None => found.push((object.clone(), How::Added)),
                    Some(before) if before != line => found.push((object.clone(), How::Changed)),
                    Some(_) => {}
                }
            }
        }
        found.sort();
        for (object, how) in found {
            changes.add(how, || object.to_string());
        }
        changes
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    // A FIFO or a device in place of a file must not hold anything up.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path);
    let file = opened.map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > MOST_OF_A_FILE {
        return Err("not a regular file, or larger than 1 GiB".to_owned());
    }
    let mut text = String::new();
    file.take(MOST_OF_A_FILE).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

fn read_index(path: &Path) -> Result<(Index, u64), String> {
    let text = read_file(path)?;
    let (head, body) = text.split_once('\n').ok_or("has no first line")?;
    let sum = head.strip_prefix(MAGIC).ok_or("its first line is not that of this version")?;
    let body = body.trim_end_matches('\n');
    if sum != record::hash(body.as_bytes()) {
        return Err("its checksum does not fit".to_owned());
    }
    let index = serde_json::from_str(body).map_err(|error| error.to_string())?;
    Ok((index, text.len() as u64))
}
