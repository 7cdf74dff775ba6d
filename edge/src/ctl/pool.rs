//! `edgectl pool`: how full pools are, and what an edit of them would do, asked of a running edge or of files.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::Client;
use super::offline::Offline;
use super::run::RunError;
use crate::control::pools::{Edit, PoolChange, Pools, change, pools};

/// A compile of very many objects on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the API takes, without what JSON adds to it.
const MAX_EDIT: u64 = 48 << 10;

#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("{}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{}: has more than {MAX_EDIT} bytes; compare files with --against", .0.display())]
    Large(PathBuf),
}

/// Usage, from files where `config` names them.
pub fn usage(client: &Client, config: Option<&Path>) -> Result<Pools, RunError> {
    let Some(path) = config else { return Ok(client.get("/v1/pools")?) };
    let world = Offline::load(path)?.compile();
    let scene = world.scene();
    Ok(pools(scene.inputs, scene.report, world.assigned()))
}

/// What would happen with the pools of `path`.
pub fn dry_run(client: &Client, path: &Path, against: Option<&Path>) -> Result<PoolChange, RunError> {
    match against {
        Some(against) => {
            let before = Offline::load(against)?.compile();
            let after = Offline::load(path)?.keeping(before.assigned().clone()).compile();
            Ok(change(before.both(), after.both()))
        }
        None => {
            let edit = Edit { file: path.display().to_string(), text: read(path)? };
            let body = serde_json::to_vec(&edit).unwrap_or_default();
            Ok(client.post("/v1/pools/check", body, PATIENCE)?)
        }
    }
}

fn read(path: &Path) -> Result<String, PoolError> {
    let failed = |error| PoolError::Read(path.to_owned(), error);
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_EDIT + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_EDIT { Err(PoolError::Large(path.to_owned())) } else { Ok(text) }
}
