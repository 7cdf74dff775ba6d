//! The only file that knows sled 0.34.
//!
//! In: keyspaces, keys and whole records. Out: errors as values, never a panic and never "done" before the bytes are on
//! the disk. Two faults of sled 0.34 are repaired here: `flush` leaves the data to the kernel (it calls
//! `sync_file_range` only), so the database file is fsynced after it; and recovery as well as reading can panic on a
//! damaged file, so every call runs under `catch_unwind`, and a database that panicked once is not asked again.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::copies::sync_directory;
use super::record::Keyspace;

/// What sled may keep of the file in memory. Everything is read once, at open.
const CACHE: u64 = 8 << 20;

pub(super) struct Database {
    /// `None` only while dropping, and after a panic inside sled.
    open: Option<Open>,
}

struct Open {
    database: sled::Db,
    trees: Vec<(Keyspace, sled::Tree)>,
    /// fsync is per file, not per descriptor: an own descriptor of sled's file does.
    file: File,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum DatabaseError {
    #[error("{0}")]
    Sled(#[from] sled::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    /// sled holds an exclusive lock on its file for as long as a database is open.
    #[error("another process has it open")]
    InUse,
    #[error("sled panicked: {0}")]
    Panic(String),
    #[error("switched off after an earlier panic")]
    Off,
}

impl DatabaseError {
    /// sled reports a lock that it did not get as an error of kind `Other`, with the cause in the text only.
    fn of_open(error: sled::Error) -> Self {
        match &error {
            sled::Error::Io(io) if io.to_string().starts_with("could not acquire lock") => Self::InUse,
            _ => Self::Sled(error),
        }
    }

    /// Whether the files themselves are at fault, so that a fresh database in their place would do better.
    pub(super) fn blames_files(&self) -> bool {
        let io = match self {
            Self::Sled(sled::Error::Io(error)) | Self::Io(error) => error,
            Self::Sled(_) | Self::Panic(_) => return true,
            // Somebody's live database is the last thing to move.
            Self::InUse | Self::Off => return false,
        };
        !matches!(
            io.kind(),
            io::ErrorKind::PermissionDenied
                | io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::OutOfMemory
                | io::ErrorKind::WouldBlock
        ) && !matches!(io.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::EIO))
    }
}

/// A raw record as found: keyspace, key, bytes.
pub(super) type Found = (Keyspace, Vec<u8>, Vec<u8>);

impl Database {
    /// Opens or creates, reads everything, and makes the files themselves durable.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Found>), DatabaseError> {
        let path: PathBuf = path.to_owned();
        guarded(move || {
            let database = sled::Config::new()
                .path(&path)
                .cache_capacity(CACHE)
                // Flushes are explicit; nothing is written behind our back.
                .flush_every_ms(None)
                .open()
                .map_err(DatabaseError::of_open)?;
            let mut trees = Vec::new();
            let mut found = Vec::new();
            for keyspace in Keyspace::ALL {
                let tree = database.open_tree(keyspace.name())?;
                for entry in &tree {
                    let (key, value) = entry?;
                    found.push((keyspace, key.to_vec(), value.to_vec()));
                }
                trees.push((keyspace, tree));
            }
            let file = File::open(path.join("db"))?;
            let open = Open { database, trees, file };
            open.flush()?;
            File::open(path.join("conf"))?.sync_all()?;
            sync_directory(&path)?;
            if let Some(parent) = path.parent() {
                sync_directory(parent)?;
            }
            Ok((Self { open: Some(open) }, found))
        })
    }

    /// Writes records; when this returns, they survive a power loss.
    pub(super) fn put(&mut self, keyspace: Keyspace, records: &[(&str, &[u8])]) -> Result<(), DatabaseError> {
        self.with(|open| {
            let tree = open.tree(keyspace)?;
            for (key, bytes) in records {
                tree.insert(key.as_bytes(), *bytes)?;
            }
            open.flush()
        })
    }

    pub(super) fn remove(&mut self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<(), DatabaseError> {
        self.with(|open| {
            let tree = open.tree(keyspace)?;
            for key in keys {
                tree.remove(key)?;
            }
            open.flush()
        })
    }

    fn with(&mut self, work: impl FnOnce(&Open) -> Result<(), DatabaseError>) -> Result<(), DatabaseError> {
        let open = self.open.as_ref().ok_or(DatabaseError::Off)?;
        let result = guarded(|| work(open));
        if matches!(result, Err(DatabaseError::Panic(_))) {
            self.close();
        }
        result
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            // sled flushes when dropped, and unwraps the result.
            let _ = guarded(move || {
                drop(open);
                Ok(())
            });
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.close();
    }
}

impl Open {
    fn tree(&self, keyspace: Keyspace) -> Result<&sled::Tree, DatabaseError> {
        let found = self.trees.iter().find(|(of, _)| *of == keyspace);
        found.map(|(_, tree)| tree).ok_or_else(|| io::Error::other("keyspace has no tree").into())
    }

    fn flush(&self) -> Result<(), DatabaseError> {
        self.database.flush()?;
        Ok(self.file.sync_data()?)
    }
}

fn guarded<T>(work: impl FnOnce() -> Result<T, DatabaseError>) -> Result<T, DatabaseError> {
    // Unwind safety: after a panic the database is dropped and never used again.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("without a message");
        Err(DatabaseError::Panic(text.lines().next().unwrap_or_default().chars().take(200).collect()))
    })
}
