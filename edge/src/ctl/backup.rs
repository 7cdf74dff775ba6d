//! `edgectl backup` and `edgectl restore`: the store of an edge as one file, and back into an empty state directory.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cert::write_private;
use super::client::Client;
use super::offline::{Offline, OfflineError};
use super::run::RunError;
use crate::control::span;
use crate::store::backup::{self, BackupError, Contents, MOST_BYTES};

/// Where edged has its settings unless it is told otherwise.
const CONFIG: &str = "/etc/edge/edge.toml";
const PATIENCE: Duration = Duration::from_secs(75);

#[derive(Debug, thiserror::Error)]
pub enum BackupCommandError {
    #[error("{0}")]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{0}: larger than any backup")]
    Large(PathBuf),
    #[error("{0}")]
    File(PathBuf, #[source] BackupError),
    #[error(transparent)]
    Refused(BackupError),
    #[error(transparent)]
    Offline(#[from] OfflineError),
    #[error("{0}")]
    Write(PathBuf, #[source] std::io::Error),
}

impl BackupCommandError {
    pub fn code(&self) -> u8 {
        match self {
            Self::Read(..) | Self::Large(_) | Self::File(..) | Self::Offline(_) => 2,
            Self::Refused(_) => 1,
            Self::Write(..) => 74,
        }
    }
}

/// What is in a backup, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backed {
    /// `written to FILE`, `restored into DIR`, `nothing was changed`
    pub outcome: String,
    /// When it was made; RFC 3339, UTC.
    pub made: String,
    pub kinds: Vec<KindRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindRow {
    /// `certificates`, `accounts`, `internal-ca`, …
    pub kind: String,
    pub records: usize,
    /// Of them, those that take the key of the store.
    pub sealed: usize,
    /// Whether they hold private keys.
    pub keys: bool,
}

impl Backed {
    fn new(outcome: String, contents: Contents) -> Self {
        let kinds = contents.kinds.into_iter().map(|kind| KindRow {
            kind: kind.name.to_owned(),
            records: kind.records,
            sealed: kind.sealed,
            keys: kind.is_secret,
        });
        Self { outcome, made: span::rfc3339(contents.made), kinds: kinds.collect() }
    }
}

/// Asks edged for a backup and writes it.
pub fn save(client: &Client, path: &Path) -> Result<Backed, RunError> {
    let file = client.fetch("/v1/backup", PATIENCE)?;
    let contents = backup::contents(&file).map_err(|error| BackupCommandError::File("edged".into(), error))?;
    write_private(path, &file).map_err(|error| BackupCommandError::Write(path.to_owned(), error))?;
    Ok(Backed::new(format!("written to {}", path.display()), contents))
}

/// Puts a backup back.
pub fn restore(
    path: &Path,
    config: Option<&Path>,
    state: Option<&Path>,
    dry_run: bool,
) -> Result<Backed, BackupCommandError> {
    let file = read(path)?;
    let of_file = |error| BackupCommandError::File(path.to_owned(), error);
    let contents = backup::contents(&file).map_err(of_file)?;
    if dry_run {
        return Ok(Backed::new("nothing was changed".to_owned(), contents));
    }
    let directory = match state {
        Some(state) => state.to_owned(),
        None => Offline::load(config.unwrap_or(Path::new(CONFIG)))?.settings().state_directory.clone(),
    };
    let contents = backup::restore(&directory, &file).map_err(BackupCommandError::Refused)?;
    Ok(Backed::new(format!("restored into {}", directory.display()), contents))
}

fn read(path: &Path) -> Result<Vec<u8>, BackupCommandError> {
    let failed = |error| BackupCommandError::Read(path.to_owned(), error);
    let mut file = Vec::new();
    let from = std::fs::File::open(path).map_err(failed)?;
    from.take(MOST_BYTES + 1).read_to_end(&mut file).map_err(failed)?;
    if file.len() as u64 > MOST_BYTES { Err(BackupCommandError::Large(path.to_owned())) } else { Ok(file) }
}
