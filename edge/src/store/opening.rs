//! Opening a state directory, whatever state it is in: what is broken is moved aside, and of each record the newest whole
//! version is taken and written to the side that lacks it.
//!
//! In: a directory. Out: a disk that can be written, what it holds, and a line for each thing that was not as it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::Memory;
use super::copies::{self, Copies, sync_directory};
use super::database::{self, Database, DatabaseError};
use super::disk::Disk;
use super::record::{self, Keyspace};
use super::seal::Sealing;
use super::unseal::unseal;

/// How long the directory or the database may be somebody else's before it counts as in use.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Directories of broken databases that are kept for a look; older ones are removed.
const BROKEN_KEPT: u32 = 5;

/// Creates the directory where needed, proves that it can be written, and locks it.
pub(super) fn open_directory(directory: &Path, patience: Duration) -> Result<File, String> {
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
    let deadline = Instant::now() + patience;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(fs::TryLockError::WouldBlock) => return Err("is in use by another edged".into()),
            Err(fs::TryLockError::Error(error)) => return Err(format!("cannot be locked: {error}")),
        }
    }
}

pub(super) fn open_disk(directory: &Path, lock: File, sealing: Sealing, notices: &mut Vec<String>) -> (Disk, Memory) {
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
    let mut disk = Disk {
        directory: Some(directory.into()),
        _lock: Some(lock),
        database,
        copies,
        sequence,
        degraded: None,
        sealing,
        locked: BTreeSet::new(),
        apart: None,
    };
    if disk.database.is_none() {
        disk.degraded = Some("no database".into());
    } else if disk.copies.is_none() {
        disk.degraded = Some("no directory of copies".into());
    }
    repair(&mut disk, &newest, notices);
    let memory = unseal(&mut disk, newest, notices);
    (disk, memory)
}

/// What the plain copies say, while the directory is another process's: nothing is locked, repaired or written.
pub(super) fn read_beside(directory: &Path, sealing: Sealing, notices: &mut Vec<String>) -> (Disk, Memory) {
    let mut newest = BTreeMap::new();
    let copies = Copies::beside(directory.join("copies"));
    for keyspace in Keyspace::ALL {
        for bytes in copies.read(keyspace, notices) {
            let Ok(record) = record::decode(&bytes) else { continue };
            let key = (keyspace, record.key.to_owned());
            newest.insert(key, Newest::new(record.sequence, bytes, Side::Copy));
        }
    }
    let apart = Some(BTreeSet::new());
    let mut disk = Disk { directory: Some(directory.into()), sealing, apart, ..Disk::default() };
    let memory = unseal(&mut disk, newest, notices);
    (disk, memory)
}

/// The newest whole version of a record and where it was found.
pub(super) struct Newest {
    sequence: u64,
    pub(super) bytes: Zeroizing<Vec<u8>>,
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

/// Opens the database. One whose files are broken is moved aside for a fresh one; one that another process has open is
/// waited for and then left alone, as is one that cannot be read for want of rights or room: only plain copies are kept then.
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
