//! The store as one file, and back: everything that cannot be made again.
//!
//! In: the records of an open store, or a file. Out: a file, or records in the directory of a store that is empty. Records
//! are those of the disk, each with its checksum; what is sealed there stays sealed, and neither side needs the key.
//! What only says how this machine stood (addresses that it bound, whether it was drained) is not in it.
//!
//! ```text
//! edge-backup 1 <records> <unix seconds> <SHA-256 of the two and of what follows this line>
//! <bytes of the record>
//! …record…
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;

use super::copies::{Copies, private_directory};
use super::record::{self, Keyspace, Record};
use super::{Disk, LOCK_PATIENCE, Store, open_directory};

const MAGIC: &str = "edge-backup 1 ";
/// More than any store holds: some 100,000 certificates.
pub const MOST_BYTES: u64 = 2 << 30;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    pub made: SystemTime,
    pub kinds: Vec<Kind>,
}

/// Records of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// `certificates`, `accounts`, …
    pub name: &'static str,
    pub records: usize,
    /// Of them, those that only the key of their store opens.
    pub sealed: usize,
    /// Whether they hold keys.
    pub is_secret: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("not a backup of Edge: {0}")]
    Malformed(&'static str),
    #[error("damaged: its checksum does not match")]
    Checksum,
    #[error("record {place}: {reason}")]
    Record { place: usize, reason: String },
    #[error("state directory {}: {reason}", directory.display())]
    Directory { directory: PathBuf, reason: String },
    #[error("state directory {} is not empty ({what}): move it away first", directory.display())]
    NotEmpty { directory: PathBuf, what: String },
}

/// Whether records of a kind belong into a backup.
fn is_kept(keyspace: Keyspace) -> bool {
    match keyspace {
        Keyspace::Certificates
        | Keyspace::InternalCa
        | Keyspace::Assignments
        | Keyspace::SessionSecret
        | Keyspace::TicketKeys
        | Keyspace::Accounts
        | Keyspace::Orders
        | Keyspace::AcmeMemory => true,
        // Of this machine, or read again from the API server.
        Keyspace::BoundAddresses
        | Keyspace::Drain
        | Keyspace::Holds
        | Keyspace::Maintenance
        | Keyspace::Pin
        | Keyspace::SecretTexts
        | Keyspace::Tenure => false,
    }
}

impl Store {
    /// All of it at one moment, in the order of kinds and names. Waits for the disk.
    pub fn backup(&self) -> Result<Vec<u8>, String> {
        // With the lock nothing is written meanwhile; what is in memory only is sealed as it would be on the disk.
        let mut disk = self.disk();
        let mut records: BTreeMap<(Keyspace, String), Vec<u8>> = BTreeMap::new();
        for (keyspace, bytes) in disk.locked_records() {
            if let Ok(found) = record::decode(&bytes) {
                records.insert((keyspace, found.key.to_owned()), bytes);
            }
        }
        for keyspace in Keyspace::ALL.into_iter().filter(|keyspace| is_kept(*keyspace)) {
            for (key, payload) in self.all(keyspace) {
                if !records.contains_key(&(keyspace, key.clone())) {
                    let bytes = disk.encode(keyspace, &key, &payload)?.to_vec();
                    records.insert((keyspace, key), bytes);
                }
            }
        }
        drop(disk);
        let mut body = Vec::with_capacity(records.values().map(|record| record.len() + 12).sum());
        for bytes in records.values() {
            body.extend_from_slice(format!("{}\n", bytes.len()).as_bytes());
            body.extend_from_slice(bytes);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let head = format!("{} {now}", records.len());
        let mut file = format!("{MAGIC}{head} {}\n", sum(&head, &body)).into_bytes();
        file.append(&mut body);
        Ok(file)
    }
}

impl Disk {
    /// Records whose key is not here, as they are.
    fn locked_records(&self) -> Vec<(Keyspace, Vec<u8>)> {
        let kinds: BTreeSet<Keyspace> = self.locked.iter().map(|(keyspace, _)| *keyspace).collect();
        let read = |keyspace: Keyspace| {
            let copies = self.copies.iter().flat_map(move |copies| copies.read(keyspace, &mut Vec::new()));
            copies.map(move |bytes| (keyspace, bytes))
        };
        let is_locked = |(keyspace, bytes): &(Keyspace, Vec<u8>)| {
            record::decode(bytes).is_ok_and(|found| self.locked.contains(&(*keyspace, found.key.to_owned())))
        };
        kinds.into_iter().filter(|keyspace| is_kept(*keyspace)).flat_map(read).filter(is_locked).collect()
    }
}

/// What a backup holds; every byte of it is looked at.
pub fn contents(file: &[u8]) -> Result<Contents, BackupError> {
    let (made, records) = parse(file)?;
    let mut kinds: BTreeMap<Keyspace, Kind> = BTreeMap::new();
    for (record, _) in records {
        let keyspace = record.keyspace;
        let new = || Kind { name: keyspace.name(), records: 0, sealed: 0, is_secret: keyspace.is_secret() };
        let kind = kinds.entry(keyspace).or_insert_with(new);
        kind.records += 1;
        kind.sealed += usize::from(super::seal::is_sealed(record.payload));
    }
    Ok(Contents { made, kinds: kinds.into_values().collect() })
}

/// Puts a backup into the directory of a store that no edged uses and that holds nothing. What it is owned by owns the
/// files.
pub fn restore(directory: &Path, file: &[u8]) -> Result<Contents, BackupError> {
    let contents = contents(file)?;
    let (_, records) = parse(file)?;
    let failed = |reason: String| BackupError::Directory { directory: directory.to_owned(), reason };
    let lock = open_directory(directory, LOCK_PATIENCE).map_err(failed)?;
    if let Some(what) = occupied(directory).map_err(|error| failed(error.to_string()))? {
        return Err(BackupError::NotEmpty { directory: directory.to_owned(), what });
    }
    let mut notices = Vec::new();
    let root = directory.join("copies");
    let copies = Copies::open(root.clone(), &mut notices).map_err(|error| failed(error.to_string()))?;
    let mut by_kind: BTreeMap<Keyspace, Vec<(&str, &[u8])>> = BTreeMap::new();
    for (record, bytes) in &records {
        by_kind.entry(record.keyspace).or_default().push((record.key, bytes));
    }
    for (keyspace, records) in &by_kind {
        copies.put(*keyspace, records).map_err(|error| failed(format!("{}: {error}", keyspace.name())))?;
    }
    give_to_owner(directory, &root).map_err(|error| failed(error.to_string()))?;
    drop(lock);
    Ok(contents)
}

type Parsed<'a> = (SystemTime, Vec<(Record<'a>, &'a [u8])>);

fn parse(file: &[u8]) -> Result<Parsed<'_>, BackupError> {
    let malformed = BackupError::Malformed;
    let end = file.iter().take(256).position(|byte| *byte == b'\n').ok_or(malformed("no header"))?;
    let header = std::str::from_utf8(&file[..end]).map_err(|_| malformed("no header"))?;
    let fields = header.strip_prefix(MAGIC).ok_or(malformed("no header of version 1"))?;
    let (head, expected) = fields.rsplit_once(' ').ok_or(malformed("a field of the header is missing"))?;
    let (count, made) = head.split_once(' ').ok_or(malformed("a field of the header is missing"))?;
    let count: usize = count.parse().map_err(|_| malformed("its number of records is no number"))?;
    let made: u64 = made.parse().map_err(|_| malformed("its time is no number"))?;
    let mut rest = &file[end + 1..];
    if sum(head, rest) != expected {
        return Err(BackupError::Checksum);
    }
    let mut records = Vec::new();
    while !rest.is_empty() {
        let wrong = |reason: &str| BackupError::Record { place: records.len() + 1, reason: reason.into() };
        let end = rest.iter().take(20).position(|byte| *byte == b'\n').ok_or_else(|| wrong("no length"))?;
        let length = std::str::from_utf8(&rest[..end]).ok().and_then(|text| text.parse::<usize>().ok());
        let length = length.ok_or_else(|| wrong("no length"))?;
        let bytes = rest[end + 1..].get(..length).ok_or_else(|| wrong("shorter than it says"))?;
        let record = record::decode(bytes).map_err(|error| wrong(&error.to_string()))?;
        if !is_kept(record.keyspace) {
            return Err(wrong("of a kind that is in no backup"));
        }
        rest = &rest[end + 1 + length..];
        records.push((record, bytes));
    }
    if records.len() != count {
        return Err(malformed("its number of records is another"));
    }
    let made = UNIX_EPOCH.checked_add(Duration::from_secs(made)).ok_or(malformed("its time is out of range"))?;
    Ok((made, records))
}

/// What is in a state directory that a restore would mix with.
fn occupied(directory: &Path) -> std::io::Result<Option<String>> {
    if directory.join("state").exists() {
        return Ok(Some("state/".into()));
    }
    let root = directory.join("copies");
    for keyspace in Keyspace::ALL {
        let folder = root.join(keyspace.name());
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let count = entries.count();
        if count > 0 {
            return Ok(Some(format!("{count} of {}", keyspace.name())));
        }
    }
    Ok(None)
}

/// A restore is root's work, and edged runs as somebody else.
fn give_to_owner(directory: &Path, root: &Path) -> std::io::Result<()> {
    let owner = fs::metadata(directory)?;
    let give = |path: &Path| {
        let has = fs::symlink_metadata(path)?;
        if (has.uid(), has.gid()) == (owner.uid(), owner.gid()) {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(owner.uid()), Some(owner.gid()))
    };
    give(&directory.join("lock"))?;
    give(root)?;
    for folder in fs::read_dir(root)? {
        let folder = folder?.path();
        give(&folder)?;
        for file in fs::read_dir(&folder)? {
            give(&file?.path())?;
        }
    }
    private_directory(root, &mut Vec::new())
}

fn sum(head: &str, body: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(head.as_bytes());
    context.update(b"\n");
    context.update(body);
    record::hex(context.finish().as_ref())
}

#[cfg(test)]
mod tests;
