//! What Edge remembers: certificates with their keys, the internal CA, VIP assignments, addresses it added, the session
//! secret, ACME accounts and orders with their keys, and whether it was told to drain.
//!
//! In: typed values. Out: the same values after any crash; errors are values and never stop traffic. Everything is held
//! in memory for reading; every record is written twice, to sled (`state/`) and as a plain file (`copies/`), and a
//! write is acknowledged when the plain file is on the disk (fsynced); a database that fails meanwhile is reported and
//! rebuilt at the next open, when the newer whole version of each record wins and repairs the other side. Without a usable directory the store works in memory and says so.
//!
//! All methods that write wait for the disk: call them from a control thread, never from a proxy worker.

pub mod backup;
mod content;
mod copies;
mod database;
mod disk;
mod opening;
mod record;
mod seal;
#[cfg(test)]
mod tests;
mod unseal;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use edge_config::issuer::IssuerId;
use edge_config::names::{CertId, ObjectKey, ObjectRef};
use zeroize::Zeroizing;

use crate::control::holds::Holds;
use crate::control::maintenance::Closures;
use crate::history::Pin;

pub use content::{SessionSecret, StoredCertificate};
use content::{decode_addresses, decode_assignments, decode_drain, encode_addresses, encode_assignments, encode_drain};
pub(crate) use copies::{private_directory, sync_directory, write_whole};
use disk::Disk;
use opening::{LOCK_PATIENCE, open_directory, open_disk, read_beside};
use record::Keyspace;
pub use seal::Sealing;

/// How long a directory is waited for that another process is letting go of.
const TAKE_PATIENCE: Duration = Duration::from_secs(10);
/// The key of keyspaces that hold one record.
const ONLY: &str = "all";

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
    /// Opens or creates the store in `directory`, with keys as they are. Blocks on the disk.
    pub fn open(directory: &Path) -> StoreOpened {
        Self::open_sealed(directory, Sealing::Clear)
    }

    /// The same, with keys sealed.
    pub fn open_sealed(directory: &Path, sealing: Sealing) -> StoreOpened {
        let mut notices = Vec::new();
        if let Sealing::Unusable(reason) = &sealing {
            notices.push(format!("{reason}; keys are kept in memory only, and sealed records stay as they are"));
        }
        let (disk, memory) = match open_directory(directory, LOCK_PATIENCE) {
            Ok(lock) => open_disk(directory, lock, sealing, &mut notices),
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

    /// What another process's store says now, read from its plain copies; nothing is written before
    /// [`take`](Self::take).
    pub fn beside(directory: &Path, sealing: Sealing) -> StoreOpened {
        let mut notices = Vec::new();
        let (disk, memory) = read_beside(directory, sealing, &mut notices);
        let store = Self(Arc::new(Shared { memory: RwLock::new(memory), disk: Mutex::new(disk) }));
        StoreOpened { store, notices }
    }

    /// Opens the directory that another process has let go of. What was written here in the meantime is written now,
    /// over what the other wrote under the same names; the rest is as the other left it. Returns what is to be said of it.
    pub fn take(&self, directory: &Path, sealing: Sealing) -> Vec<String> {
        let mut notices = Vec::new();
        let mut disk = self.disk();
        let Some(apart) = disk.apart.take() else { return notices };
        let (opened, mut found) = match open_directory(directory, TAKE_PATIENCE) {
            Ok(lock) => open_disk(directory, lock, sealing, &mut notices),
            Err(reason) => {
                notices.push(format!(
                    "state directory {}: {reason}; certificates, keys and assignments are kept in memory only and \
                     are lost at the next stop",
                    directory.display()
                ));
                disk.degraded = Some(reason);
                return notices;
            }
        };
        *disk = opened;
        let mut memory = self.0.memory.write().unwrap_or_else(PoisonError::into_inner);
        // Nothing was ordered or bound here: of that the other knows more.
        let is_of_other = |keyspace| {
            matches!(keyspace, Keyspace::AcmeMemory | Keyspace::Orders | Keyspace::Accounts | Keyspace::BoundAddresses)
        };
        for (keyspace, key) in apart.into_iter().filter(|(keyspace, _)| !is_of_other(*keyspace)) {
            let name = (keyspace, key);
            let written = match memory.records.get(&name) {
                Some(payload) => {
                    let encoded = disk.encode(keyspace, &name.1, payload);
                    encoded.and_then(|bytes| disk.put(keyspace, &[(&name.1, &bytes)]))
                }
                None => disk.remove(keyspace, &[&name.1]),
            };
            if let Err(reason) = written {
                notices.push(format!("{} {}: {reason}", keyspace.name(), name.1));
            }
            match memory.records.remove(&name) {
                Some(payload) => drop(found.records.insert(name, payload)),
                None => drop(found.records.remove(&name)),
            }
        }
        *memory = found;
        notices
    }

    /// Closes the directory for another process. What is read stays; what is written from now on is in memory only, as
    /// this process ends.
    pub fn close(&self) {
        let mut disk = self.disk();
        *disk = Disk { apart: Some(BTreeSet::new()), ..Disk::default() };
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

    /// Since when this edge is told to stay away from the network, over restarts; `None`: it is not.
    pub fn drained_since(&self) -> Option<SystemTime> {
        decode_drain(&self.only(Keyspace::Drain)?)
    }

    pub fn put_drained_since(&self, since: Option<SystemTime>) -> Result<(), StoreError> {
        self.put_only(Keyspace::Drain, encode_drain(since))
    }

    /// What an operator says of endpoints, over restarts.
    pub fn holds(&self) -> Holds {
        self.only(Keyspace::Holds).and_then(|payload| serde_json::from_slice(&payload).ok()).unwrap_or_default()
    }

    pub fn put_holds(&self, holds: &Holds) -> Result<(), StoreError> {
        // Addresses, words and times, for which this cannot fail.
        self.put_only(Keyspace::Holds, Zeroizing::new(serde_json::to_vec(holds).unwrap_or_default()))
    }

    /// Hosts that an operator has closed, over restarts.
    pub fn closures(&self) -> Closures {
        self.only(Keyspace::Maintenance).and_then(|payload| serde_json::from_slice(&payload).ok()).unwrap_or_default()
    }

    pub fn put_closures(&self, closures: &Closures) -> Result<(), StoreError> {
        // Texts, numbers and times, for which this cannot fail.
        self.put_only(Keyspace::Maintenance, Zeroizing::new(serde_json::to_vec(closures).unwrap_or_default()))
    }

    /// At which revision an operator holds the configuration, over restarts; `None`: at none.
    pub fn pin(&self) -> Option<Pin> {
        self.only(Keyspace::Pin).and_then(|payload| serde_json::from_slice(&payload).ok()).flatten()
    }

    pub fn put_pin(&self, pin: Option<&Pin>) -> Result<(), StoreError> {
        // Texts, numbers and times, for which this cannot fail.
        self.put_only(Keyspace::Pin, Zeroizing::new(serde_json::to_vec(&pin).unwrap_or_default()))
    }

    /// The keys of TLS session tickets, as whoever makes them wrote them.
    pub fn ticket_keys(&self) -> Option<Arc<Zeroizing<Vec<u8>>>> {
        self.only(Keyspace::TicketKeys)
    }

    pub fn put_ticket_keys(&self, keys: Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        self.put_only(Keyspace::TicketKeys, keys)
    }

    /// Accounts at ACME CAs, by the name of the issuer; what they say is the certificate side's.
    pub fn accounts(&self) -> Vec<(String, Arc<Zeroizing<Vec<u8>>>)> {
        self.all(Keyspace::Accounts)
    }

    pub fn put_account(&self, issuer: &IssuerId, record: Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        self.put(Keyspace::Accounts, vec![(issuer.to_string(), record)])
    }

    /// Orders under way, each with its key.
    pub fn orders(&self) -> Vec<(CertId, Arc<Zeroizing<Vec<u8>>>)> {
        let orders = self.all(Keyspace::Orders).into_iter();
        orders.map(|(key, record)| (CertId(ObjectKey::parse(&key)), record)).collect()
    }

    pub fn put_order(&self, id: &CertId, record: Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        self.put(Keyspace::Orders, vec![(id.to_string(), record)])
    }

    pub fn remove_order(&self, id: &CertId) -> Result<(), StoreError> {
        self.remove(Keyspace::Orders, vec![id.to_string()])
    }

    /// What CAs were asked and have said, as planning encodes it.
    pub fn acme_memory(&self) -> Option<Arc<Zeroizing<Vec<u8>>>> {
        self.only(Keyspace::AcmeMemory)
    }

    /// What was added to it since it was written whole, in order.
    pub fn acme_memory_since(&self) -> Vec<(u64, Arc<Zeroizing<Vec<u8>>>)> {
        let all = self.all(Keyspace::AcmeMemory).into_iter();
        let mut since: Vec<_> = all.filter_map(|(key, bytes)| Some((key.parse().ok()?, bytes))).collect();
        since.sort_by_key(|(number, _)| *number);
        since
    }

    /// Writes a small part, so that not all is written again each time. Numbers grow.
    pub fn put_acme_memory_since(&self, number: u64, part: Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        self.put(Keyspace::AcmeMemory, vec![(number.to_string(), part)])
    }

    /// Writes the whole, in which all parts up to a number are.
    pub fn put_acme_memory(&self, memory: Zeroizing<Vec<u8>>, up_to: u64) -> Result<(), StoreError> {
        self.put_only(Keyspace::AcmeMemory, memory)?;
        let since = self.acme_memory_since().into_iter().map(|(number, _)| number);
        let old: Vec<String> = since.filter(|number| *number <= up_to).map(|number| number.to_string()).collect();
        if old.is_empty() { Ok(()) } else { self.remove(Keyspace::AcmeMemory, old) }
    }

    /// Texts of Secrets that issuers need, as their reader encodes them.
    pub fn secret_texts(&self) -> Option<Arc<Zeroizing<Vec<u8>>>> {
        self.only(Keyspace::SecretTexts)
    }

    pub fn put_secret_texts(&self, texts: Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        self.put_only(Keyspace::SecretTexts, texts)
    }

    /// Whether this edge held the Lease of its group last, as its reader encodes it.
    pub fn tenure(&self) -> Option<Arc<Zeroizing<Vec<u8>>>> {
        self.only(Keyspace::Tenure)
    }

    pub fn put_tenure(&self, tenure: Vec<u8>) -> Result<(), StoreError> {
        self.put_only(Keyspace::Tenure, Zeroizing::new(tenure))
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
        if disk.apart.is_some() {
            return Err(not_durable("the directory is another process's".into()));
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
        if let Some(apart) = &mut disk.apart {
            let mut memory = self.0.memory.write().unwrap_or_else(PoisonError::into_inner);
            for (key, payload) in records {
                apart.insert((keyspace, key.clone()));
                memory.records.insert((keyspace, key), Arc::new(payload));
            }
            // It is written when the directory is taken over.
            return Ok(());
        }
        let mut encoded = Vec::with_capacity(records.len());
        let mut refused = None;
        for (key, payload) in &records {
            match disk.encode(keyspace, key, payload) {
                Ok(bytes) => encoded.push((key.as_str(), bytes)),
                Err(reason) => refused = Some(reason),
            }
        }
        let bytes: Vec<(&str, &[u8])> = encoded.iter().map(|(key, bytes)| (*key, bytes.as_slice())).collect();
        let written = if bytes.is_empty() { Ok(()) } else { disk.put(keyspace, &bytes) };
        let result = refused.map_or(written, Err);
        drop(bytes);
        drop(encoded);
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
        if let Some(apart) = &mut disk.apart {
            let mut memory = self.0.memory.write().unwrap_or_else(PoisonError::into_inner);
            for key in keys {
                memory.records.remove(&(keyspace, key.clone()));
                apart.insert((keyspace, key));
            }
            return Ok(());
        }
        let is_open = |key: &&str| !disk.locked.contains(&(keyspace, (*key).to_owned()));
        let names: Vec<&str> = keys.iter().map(String::as_str).filter(is_open).collect();
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
