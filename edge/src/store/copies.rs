//! The second, plain copies: one file per record, readable without sled and without Edge.
//!
//! In: whole records. Out: files that are either the old or the new version at any moment (write to a temporary name,
//! fsync, rename, fsync the directory). Files are 0600 in folders of 0700. A file that is no record is renamed to
//! `*.broken`, so that it is kept for a look and never read again.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::record::{self, Keyspace};

pub(super) struct Copies {
    root: PathBuf,
    /// They are another process's: nothing is set aside or tidied up.
    is_beside: bool,
}

/// More files than this in one folder are not read: no state of ours is that large.
const FILES: usize = 200_000;

impl Copies {
    /// Creates what is missing below `root`.
    pub(super) fn open(root: PathBuf, notices: &mut Vec<String>) -> io::Result<Self> {
        private_directory(&root, notices)?;
        for keyspace in Keyspace::ALL {
            private_directory(&root.join(keyspace.name()), notices)?;
        }
        sync_directory(&root)?;
        if let Some(parent) = root.parent() {
            sync_directory(parent)?;
        }
        Ok(Self { root, is_beside: false })
    }

    /// Those that another process writes, to be read only.
    pub(super) fn beside(root: PathBuf) -> Self {
        Self { root, is_beside: true }
    }

    /// Every record of a keyspace that is whole, as raw bytes.
    pub(super) fn read(&self, keyspace: Keyspace, notices: &mut Vec<String>) -> Vec<Vec<u8>> {
        let folder = self.root.join(keyspace.name());
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if self.is_beside && error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                notices.push(format!("{}: cannot be read: {error}", folder.display()));
                return Vec::new();
            }
        };
        let mut records = Vec::new();
        for entry in entries.take(FILES) {
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(error) => {
                    notices.push(format!("{}: cannot be listed: {error}", folder.display()));
                    break;
                }
            };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("rec") => match self.read_one(&path, keyspace) {
                    Ok(bytes) => records.push(bytes),
                    // Removed at this moment, or a matter for who owns it.
                    Err(_) if self.is_beside => {}
                    Err(error) => {
                        notices.push(format!("{}: set aside: {error}", path.display()));
                        let _ = fs::rename(&path, path.with_extension("broken"));
                    }
                },
                // Left by a crash before its rename, so never acknowledged.
                Some("tmp") if !self.is_beside => drop(fs::remove_file(&path)),
                _ => {}
            }
        }
        records
    }

    fn read_one(&self, path: &Path, keyspace: Keyspace) -> Result<Vec<u8>, String> {
        let limit = keyspace.limit() as u64 + 4096;
        let mut bytes = Vec::new();
        let file = OpenOptions::new()
            .read(true)
            // A FIFO or a device in place of a file must not hold up the start.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
            .open(path)
            .map_err(|error| error.to_string())?;
        if !file.metadata().map_err(|error| error.to_string())?.is_file() {
            return Err("not a regular file".into());
        }
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if bytes.len() as u64 > limit {
            return Err(format!("larger than {limit} bytes"));
        }
        let record = record::decode(&bytes).map_err(|error| error.to_string())?;
        if record.keyspace != keyspace {
            return Err(format!("a record of {}", record.keyspace.name()));
        }
        Ok(bytes)
    }

    /// Writes records; when this returns, they survive a power loss.
    pub(super) fn put(&self, keyspace: Keyspace, records: &[(&str, &[u8])]) -> io::Result<()> {
        let folder = self.root.join(keyspace.name());
        let mut first_error = None;
        for (key, bytes) in records {
            if let Err(error) = write_whole(&folder.join(record::file_name(key)), bytes, 0o600) {
                first_error.get_or_insert(error);
            }
        }
        // The records that could be written are made durable even when one could not.
        sync_directory(&folder)?;
        first_error.map_or(Ok(()), Err)
    }

    pub(super) fn remove(&self, keyspace: Keyspace, keys: &[&str]) -> io::Result<()> {
        let folder = self.root.join(keyspace.name());
        for key in keys {
            match fs::remove_file(folder.join(record::file_name(key))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        sync_directory(&folder)
    }
}

/// Replaces a file by a whole new one; the caller fsyncs the directory.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        // The mode above is cut by the umask and does not apply to a file that was left behind.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// A directory that only its owner may enter; an existing one that is open to others is closed, with a notice.
pub(crate) fn private_directory(path: &Path, notices: &mut Vec<String>) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "exists and is not a directory"));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
        notices.push(format!("{}: was open to other users (mode {mode:04o}), now 0700", path.display()));
    }
    Ok(())
}

pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
