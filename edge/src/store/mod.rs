//! What Edge remembers: certificates with their keys, the internal CA, VIP assignments, addresses it added, and the
//! session secret.
//!
//! In: typed values. Out: the same values after any crash; errors are values and never stop traffic. Everything is held
//! in memory for reading; every record is written twice, to sled (`state/`) and as a plain file (`copies/`), and a
//! write is acknowledged when the plain file is on the disk (fsynced); a database that fails meanwhile is reported and
//! rebuilt at the next open, when the newer whole version of each record wins and repairs the other side. Without a usable directory the store works in memory and says so.
//!
//! All methods that write wait for the disk: call them from a control thread, never from a proxy worker.

mod content;
mod copies;
mod database;
mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use edge_config::names::{CertId, ObjectKey, ObjectRef};
use zeroize::Zeroizing;

pub use content::{SessionSecret, StoredCertificate};
use content::{decode_addresses, decode_assignments, encode_addresses, encode_assignments};
use copies::Copies;
pub(crate) use copies::{private_directory, sync_directory, write_whole};
use database::{Database, DatabaseError};
use record::{Keyspace, Record};

/// How long the directory or the database may be somebody else's before it counts as in use.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// The key of keyspaces that hold one record.
const ONLY: &str = "all";
/// Directories of broken databases that are kept for a look; older ones are removed.
const BROKEN_KEPT: u32 = 5;

/// An open store and what there is to say about it. Opening cannot fail.
pub struct StoreOpened {
    pub store: Store,
    /// For the log, in order of discovery. Empty when all is well.
    pub notices: Vec<String>,
}

/// A cheap handle; clones share the store.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    /// What reading sees. Never locked while the disk is busy.
    memory: RwLock<Memory>,
    disk: Mutex<Disk>,
}

#[derive(Default)]
struct Memory {
    records: BTreeMap<(Keyspace, String), Arc<Zeroizing<Vec<u8>>>>,
}

#[derive(Default)]
struct Disk {
    directory: Option<PathBuf>,
    /// Locked for as long as the store lives: two daemons must not share a directory.
    _lock: Option<File>,
    database: Option<Database>,
    copies: Option<Copies>,
    sequence: u64,
    /// Why one of the two sides is not written any more.
    degraded: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is in memory and in use, but a restart forgets it.
    #[error("{what} is not on disk: {reason}")]
    NotDurable { what: String, reason: String },
    #[error("{what} has {size} bytes, expected at most {limit}")]
    TooLarge { what: String, size: usize, limit: usize },
    #[error("{what}: cannot be encoded: {reason}")]
    Encode { what: String, reason: String },
}

impl Store {
    /// Opens or creates the store in `directory`. Blocks on the disk.
    pub fn open(directory: &Path) -> StoreOpened {
        let mut notices = Vec::new();
        let (disk, memory) = match open_directory(directory) {
            Ok(lock) => open_disk(directory, lock, &mut notices),
            Err(reason) => {
                notices.push(format!(
                    "state directory {}: {reason}; certificates, keys and assignments are kept in memory only and \
                     are lost at the next stop",
                    directory.display()
                ));
                (Disk { degraded: Some(reason), ..Disk::default() }, Memory::default())
            }
        };
        let store = Self(Arc::new(Shared { memory: RwLock::new(memory), disk: Mutex::new(disk) }));
        StoreOpened { store, notices }
    }

    /// A store that forgets everything when it is dropped.
    pub fn in_memory() -> Self {
        Self(Arc::new(Shared { memory: RwLock::default(), disk: Mutex::default() }))
    }

    /// Whether writes reach a disk.
    pub fn is_durable(&self) -> bool {
        let disk = self.disk();
        disk.database.is_some() || disk.copies.is_some()
    }

    /// Why fewer than two copies are written, for status; `None` when all is well.
    pub fn degraded(&self) -> Option<String> {
        self.disk().degraded.clone()
    }

    /// Every certificate, and a line for each record that cannot be read.
    pub fn certificates(&self) -> (BTreeMap<CertId, StoredCertificate>, Vec<String>) {
        let mut notices = Vec::new();
        let mut certificates = BTreeMap::new();
        for (key, payload) in self.all(Keyspace::Certificates) {
            match StoredCertificate::decode(&payload) {
                Ok(certificate) => {
                    certificates.insert(CertId(ObjectKey::parse(&key)), certificate);
                }
                Err(reason) => notices.push(format!("stored certificate {key}: {reason}")),
            }
        }
        (certificates, notices)
    }

    /// Writes certificates in one go: one flush of the database for all of them.
    pub fn put_certificates(&self, certificates: &[(CertId, StoredCertificate)]) -> Result<(), StoreError> {
        let records = certificates.iter().map(|(id, certificate)| (id.to_string(), certificate.encode())).collect();
        self.put(Keyspace::Certificates, records)
    }

    pub fn put_certificate(&self, id: &CertId, certificate: &StoredCertificate) -> Result<(), StoreError> {
        self.put(Keyspace::Certificates, vec![(id.to_string(), certificate.encode())])
    }

    pub fn remove_certificates(&self, ids: &[CertId]) -> Result<(), StoreError> {
        self.remove(Keyspace::Certificates, ids.iter().map(CertId::to_string).collect())
    }

    pub fn internal_ca(&self) -> Option<StoredCertificate> {
        StoredCertificate::decode(&self.only(Keyspace::InternalCa)?).ok()
    }

    pub fn put_internal_ca(&self, ca: &StoredCertificate) -> Result<(), StoreError> {
        self.put(Keyspace::InternalCa, vec![(ONLY.into(), ca.encode())])
    }

    /// The addresses that each Gateway and Service was given; for `Inputs::assigned`.
    pub fn assignments(&self) -> BTreeMap<ObjectRef, Vec<IpAddr>> {
        self.only(Keyspace::Assignments).and_then(|payload| decode_assignments(&payload)).unwrap_or_default()
    }

    /// Replaces the whole set. A set that is already stored is not written again.
    pub fn put_assignments(&self, assignments: &BTreeMap<ObjectRef, Vec<IpAddr>>) -> Result<(), StoreError> {
        self.put_only(Keyspace::Assignments, encode_assignments(assignments))
    }

    /// Addresses that Edge itself put on an interface, so that a start after a crash knows which are its own.
    pub fn bound_addresses(&self) -> Vec<(IpAddr, String)> {
        self.only(Keyspace::BoundAddresses).and_then(|payload| decode_addresses(&payload)).unwrap_or_default()
    }

    pub fn put_bound_addresses(&self, addresses: &[(IpAddr, String)]) -> Result<(), StoreError> {
        self.put_only(Keyspace::BoundAddresses, encode_addresses(addresses))
    }

    /// The key that signs session cookies, made once. The second value is why it will not survive a restart.
    pub fn session_secret(&self) -> (SessionSecret, Option<StoreError>) {
        if let Some(secret) = self.only(Keyspace::SessionSecret).and_then(|payload| SessionSecret::decode(&payload)) {
            return (secret, None);
        }
        let secret = SessionSecret::random();
        let result = self.put_only(Keyspace::SessionSecret, secret.encode());
        (secret, result.err())
    }

    /// Writes a file that everybody may read (0644), such as the certificate of the internal CA, into the state
    /// directory. Returns its path.
    pub fn put_public_file(&self, name: &str, content: &[u8]) -> Result<PathBuf, StoreError> {
        let not_durable = |reason: String| StoreError::NotDurable { what: name.into(), reason };
        let disk = self.disk();
        let Some(directory) = &disk.directory else { return Err(not_durable("no state directory".into())) };
        let path = directory.join(name);
        if fs::read(&path).is_ok_and(|found| found == content) {
            return Ok(path);
        }
        write_whole(&path, content, 0o644)
            .and_then(|()| sync_directory(directory))
            .map_err(|error| not_durable(error.to_string()))?;
        Ok(path)
    }

    fn all(&self, keyspace: Keyspace) -> Vec<(String, Arc<Zeroizing<Vec<u8>>>)> {
        let memory = self.0.memory.read().unwrap_or_else(PoisonError::into_inner);
        let from = (keyspace, String::new());
        let records = memory.records.range(from..).take_while(|((found, _), _)| *found == keyspace);
        records.map(|((_, key), payload)| (key.clone(), payload.clone())).collect()
    }

    fn only(&self, keyspace: Keyspace) -> Option<Arc<Zeroizing<Vec<u8>>>> {
        let memory = self.0.memory.read().unwrap_or_else(PoisonError::into_inner);
        memory.records.get(&(keyspace, ONLY.to_owned())).cloned()
    }

    fn put_only(&self, keyspace: Keyspace, payload: Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        if self.only(keyspace).is_some_and(|held| **held == *payload) && self.degraded().is_none() {
            return Ok(());
        }
        self.put(keyspace, vec![(ONLY.into(), payload)])
    }

    fn put(&self, keyspace: Keyspace, records: Vec<(String, Zeroizing<Vec<u8>>)>) -> Result<(), StoreError> {
        for (key, payload) in &records {
            if payload.len() > keyspace.limit() {
                let what = format!("{} {key}", keyspace.name());
                return Err(StoreError::TooLarge { what, size: payload.len(), limit: keyspace.limit() });
            }
        }
        let mut disk = self.disk();
        let mut encoded = Vec::with_capacity(records.len());
        for (key, payload) in &records {
            let record = Record { keyspace, sequence: disk.next_sequence(), key, payload };
            encoded.push(Zeroizing::new(record.encode()));
        }
        let bytes: Vec<(&str, &[u8])> =
            records.iter().zip(&encoded).map(|((key, _), bytes)| (key.as_str(), bytes.as_slice())).collect();
        let result = disk.put(keyspace, &bytes);
        drop(bytes);
        let mut keys = records.iter().map(|(key, _)| key.as_str()).take(3).collect::<Vec<_>>().join(", ");
        if records.len() > 3 {
            keys.push_str(&format!(" and {} more", records.len() - 3));
        }
        let mut memory = self.0.memory.write().unwrap_or_else(PoisonError::into_inner);
        for (key, payload) in records {
            memory.records.insert((keyspace, key), Arc::new(payload));
        }
        result.map_err(|reason| StoreError::NotDurable { what: format!("{} {keys}", keyspace.name()), reason })
    }

    fn remove(&self, keyspace: Keyspace, keys: Vec<String>) -> Result<(), StoreError> {
        let mut disk = self.disk();
        let names: Vec<&str> = keys.iter().map(String::as_str).collect();
        let result = disk.remove(keyspace, &names);
        let mut memory = self.0.memory.write().unwrap_or_else(PoisonError::into_inner);
        let what = format!("removal of {} {}", keyspace.name(), keys.join(", "));
        for key in keys {
            memory.records.remove(&(keyspace, key));
        }
        result.map_err(|reason| StoreError::NotDurable { what, reason })
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    /// `Ok` when it is durable.
    fn put(&mut self, keyspace: Keyspace, records: &[(&str, &[u8])]) -> Result<(), String> {
        let database = match &mut self.database {
            Some(database) => database.put(keyspace, records).map_err(|error| format!("database: {error}")),
            None => Err("no database".into()),
        };
        let copies = match &self.copies {
            Some(copies) => copies.put(keyspace, records).map_err(|error| format!("plain copy: {error}")),
            None => Err("no directory of copies".into()),
        };
        self.outcome(database, copies)
    }

    fn remove(&mut self, keyspace: Keyspace, keys: &[&str]) -> Result<(), String> {
        let database = match &mut self.database {
            Some(database) => {
                let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
                database.remove(keyspace, &keys).map_err(|error| format!("database: {error}"))
            }
            None => Err("no database".into()),
        };
        let copies = match &self.copies {
            Some(copies) => copies.remove(keyspace, keys).map_err(|error| format!("plain copy: {error}")),
            None => Err("no directory of copies".into()),
        };
        self.outcome(database, copies)
    }

    fn outcome(&mut self, database: Result<(), String>, copies: Result<(), String>) -> Result<(), String> {
        let copied = copies.is_ok();
        let alone = self.copies.is_none() && database.is_ok();
        let reason = match (database, copies) {
            (Ok(()), Ok(())) => {
                self.degraded = None;
                return Ok(());
            }
            (Err(reason), Ok(())) | (Ok(()), Err(reason)) => reason,
            _ if self.directory.is_none() => "no state directory".into(),
            (Err(database), Err(copies)) => format!("{database}; {copies}"),
        };
        self.degraded = Some(reason.clone());
        // The copy decides: a full disk is enough to keep sled from opening again, but not to keep files from being read.
        if copied || alone { Ok(()) } else { Err(reason) }
    }

    /// Larger than any before, also than those of a database that could not be read this time: hence the clock.
    fn next_sequence(&mut self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(since.as_micros()).unwrap_or(0);
        self.sequence = now.max(self.sequence.saturating_add(1));
        self.sequence
    }
}

/// Creates the directory where needed, proves that it can be written, and locks it.
fn open_directory(directory: &Path) -> Result<File, String> {
    // 0755: the folders inside that hold secrets are 0700, and the internal CA's certificate is for everybody.
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(|error| format!("cannot be created: {error}"))?;
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join("lock"))
        .map_err(|error| format!("cannot be written: {error}"))?;
    // Whoever held it a moment ago may still be on its way out: a daemon that was killed, or a child between fork and
    // exec that inherited the lock.
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(fs::TryLockError::WouldBlock) => return Err("is in use by another edged".into()),
            Err(fs::TryLockError::Error(error)) => return Err(format!("cannot be locked: {error}")),
        }
    }
}

fn open_disk(directory: &Path, lock: File, notices: &mut Vec<String>) -> (Disk, Memory) {
    let copies = match Copies::open(directory.join("copies"), notices) {
        Ok(copies) => Some(copies),
        Err(error) => {
            notices.push(format!("{}: {error}; no second copies are kept", directory.join("copies").display()));
            None
        }
    };
    let (mut database, in_database) = open_database(directory, notices);
    let mut unusable = Vec::new();
    let mut newest: BTreeMap<(Keyspace, String), Newest> = BTreeMap::new();
    let mut sequence = 0;
    for (keyspace, key, bytes) in in_database {
        match record::decode(&bytes) {
            Ok(record) if record.keyspace == keyspace && record.key.as_bytes() == key => {
                sequence = sequence.max(record.sequence);
                newest.insert((keyspace, record.key.into()), Newest::new(record.sequence, bytes, Side::Database));
            }
            found => {
                let error = found.err().map_or_else(|| "a record of another key".into(), |error| error.to_string());
                let name = String::from_utf8_lossy(&key);
                notices.push(format!("database: {} {name}: removed: {error}", keyspace.name()));
                unusable.push((keyspace, key));
            }
        }
    }
    if let Some(database) = &mut database {
        for (keyspace, key) in unusable {
            if let Err(error) = database.remove(keyspace, &[&key]) {
                notices.push(format!("database: {}: {error}", keyspace.name()));
            }
        }
    }
    for keyspace in Keyspace::ALL {
        for bytes in copies.iter().flat_map(|copies| copies.read(keyspace, notices)) {
            let Ok(record) = record::decode(&bytes) else { continue };
            sequence = sequence.max(record.sequence);
            let key = (keyspace, record.key.to_owned());
            match newest.get_mut(&key) {
                Some(held) if held.sequence > record.sequence => {}
                Some(held) if held.sequence == record.sequence => held.side = Side::Both,
                _ => drop(newest.insert(key, Newest::new(record.sequence, bytes, Side::Copy))),
            }
        }
    }
    let mut disk =
        Disk { directory: Some(directory.into()), _lock: Some(lock), database, copies, sequence, degraded: None };
    if disk.database.is_none() {
        disk.degraded = Some("no database".into());
    } else if disk.copies.is_none() {
        disk.degraded = Some("no directory of copies".into());
    }
    repair(&mut disk, &newest, notices);
    let mut memory = Memory::default();
    for (key, held) in newest {
        if let Ok(record) = record::decode(&held.bytes) {
            memory.records.insert(key, Arc::new(Zeroizing::new(record.payload.to_vec())));
        }
    }
    (disk, memory)
}

/// The newest whole version of a record and where it was found.
struct Newest {
    sequence: u64,
    bytes: Zeroizing<Vec<u8>>,
    side: Side,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Database,
    Copy,
    Both,
}

impl Newest {
    fn new(sequence: u64, bytes: Vec<u8>, side: Side) -> Self {
        Self { sequence, bytes: Zeroizing::new(bytes), side }
    }
}

/// Writes each record to the side that lacks it or has an older one.
fn repair(disk: &mut Disk, newest: &BTreeMap<(Keyspace, String), Newest>, notices: &mut Vec<String>) {
    for keyspace in Keyspace::ALL {
        let lacking = |side: Side| -> Vec<(&str, &[u8])> {
            let of_keyspace = newest.iter().filter(|((of, _), held)| *of == keyspace && held.side == side);
            of_keyspace.map(|((_, key), held)| (key.as_str(), held.bytes.as_slice())).collect()
        };
        let only_copied = lacking(Side::Copy);
        if let Some(database) = disk.database.as_mut().filter(|_| !only_copied.is_empty()) {
            match database.put(keyspace, &only_copied) {
                Ok(()) => notices.push(format!(
                    "database: {} of {} restored from plain copies",
                    only_copied.len(),
                    keyspace.name()
                )),
                Err(error) => {
                    notices.push(format!("database: {} not restored: {error}", keyspace.name()));
                    disk.degraded = Some(format!("database: {error}"));
                }
            }
        }
        let only_stored = lacking(Side::Database);
        if let Some(copies) = disk.copies.as_ref().filter(|_| !only_stored.is_empty()) {
            match copies.put(keyspace, &only_stored) {
                Ok(()) => {
                    notices.push(format!("plain copies: {} of {} written again", only_stored.len(), keyspace.name()));
                }
                Err(error) => {
                    notices.push(format!("plain copies: {} not written: {error}", keyspace.name()));
                    disk.degraded = Some(format!("plain copy: {error}"));
                }
            }
        }
    }
}

/// Opens the database; one that will not open is moved aside for a fresh one.
fn open_database(directory: &Path, notices: &mut Vec<String>) -> (Option<Database>, Vec<database::Found>) {
    let path = directory.join("state");
    if let Err(error) = copies::private_directory(&path, notices)
        && error.kind() != io::ErrorKind::NotADirectory
    {
        notices.push(format!("{}: {error}; only plain copies are kept", path.display()));
        return (None, Vec::new());
    }
    let until = Instant::now() + LOCK_PATIENCE;
    let error = loop {
        match Database::open(&path) {
            Ok((database, found)) => return (Some(database), found),
            // A child between fork and exec shares our locks for that long.
            Err(DatabaseError::InUse) if Instant::now() < until => std::thread::sleep(LOCK_PAUSE),
            Err(error) => break error,
        }
    };
    if !error.blames_files() {
        notices.push(format!("{}: {error}; only plain copies are kept", path.display()));
        return (None, Vec::new());
    }
    let aside = match move_aside(directory, &path) {
        Ok(aside) => aside,
        Err(moving) => {
            notices.push(format!(
                "{}: will not open ({error}) and cannot be moved aside ({moving}); only plain copies are kept",
                path.display()
            ));
            return (None, Vec::new());
        }
    };
    notices.push(format!(
        "{}: will not open ({error}); moved to {} and rebuilt from the plain copies",
        path.display(),
        aside.display()
    ));
    let fresh = copies::private_directory(&path, notices).map_err(Into::into).and_then(|()| Database::open(&path));
    match fresh {
        Ok((database, found)) => (Some(database), found),
        Err(error) => {
            notices.push(format!(
                "{}: a fresh database cannot be made: {error}; only plain copies are kept",
                path.display()
            ));
            (None, Vec::new())
        }
    }
}

/// Renames to `state.broken-<n>`, n growing, and removes all but the newest few.
fn move_aside(directory: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut numbers: Vec<u32> = fs::read_dir(directory)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("state.broken-")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let next = numbers.last().map_or(1, |last| last.saturating_add(1));
    let aside = directory.join(format!("state.broken-{next}"));
    fs::rename(path, &aside)?;
    let surplus = (numbers.len() + 1).saturating_sub(BROKEN_KEPT as usize);
    for number in numbers.into_iter().take(surplus) {
        let old = directory.join(format!("state.broken-{number}"));
        // Best effort: a leftover costs disk space only. It is a file where somebody had put one.
        let _ = fs::remove_dir_all(&old).or_else(|_| fs::remove_file(&old));
    }
    sync_directory(directory)?;
    Ok(aside)
}
