//! The two sides of the disk, database and plain copies, written as one.
//!
//! In: payloads under keys. Out: "durable", or why not. The copy decides: see [`Disk::put`].

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use super::copies::Copies;
use super::database::Database;
use super::record::{Keyspace, Record};
use super::seal::Sealing;

#[derive(Default)]
pub(super) struct Disk {
    pub(super) directory: Option<PathBuf>,
    /// Locked for as long as the store lives: two daemons must not share a directory.
    pub(super) _lock: Option<File>,
    pub(super) database: Option<Database>,
    pub(super) copies: Option<Copies>,
    pub(super) sequence: u64,
    /// Why one of the two sides is not written any more.
    pub(super) degraded: Option<String>,
    pub(super) sealing: Sealing,
    /// Records whose key is not here: they stay on the disk as they are, whatever is written under their names.
    pub(super) locked: BTreeSet<(Keyspace, String)>,
    /// The directory is another process's: what was written or removed meanwhile.
    pub(super) apart: Option<BTreeSet<(Keyspace, String)>>,
}

impl Disk {
    /// A record as it is to be written, or why it must not be.
    pub(super) fn encode(
        &mut self,
        keyspace: Keyspace,
        key: &str,
        payload: &Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, String> {
        if self.locked.contains(&(keyspace, key.to_owned())) {
            return Err("what is stored under this name is sealed by a key that is not here, and is kept".into());
        }
        let payload = self.sealing.seal(keyspace, key, payload)?;
        let record = Record { keyspace, sequence: self.next_sequence(), key, payload: &payload };
        Ok(Zeroizing::new(record.encode()))
    }

    /// `Ok` when it is durable.
    pub(super) fn put(&mut self, keyspace: Keyspace, records: &[(&str, &[u8])]) -> Result<(), String> {
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

    pub(super) fn remove(&mut self, keyspace: Keyspace, keys: &[&str]) -> Result<(), String> {
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
    pub(super) fn next_sequence(&mut self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(since.as_micros()).unwrap_or(0);
        self.sequence = now.max(self.sequence.saturating_add(1));
        self.sequence
    }
}
