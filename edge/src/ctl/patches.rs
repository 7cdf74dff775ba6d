//! Files that are lists of patch operations in a directory that has no edge.toml to say what they are for. Findings about
//! such files flow in; one finding per directory flows out, with what to write into edge.toml.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edge_config::inputs::Inputs;
use edge_config::names::{Kind, ObjectRef};
use edge_config::problem::{Origin, Problem, Severity};
use serde_json::Value;

/// A larger file is no patch that somebody wrote.
const MAX_PATCH: u64 = 1 << 20;

/// Replaces what reading said of undeclared patches. `root` is the directory that was read.
pub fn undeclared(root: &Path, inputs: &Inputs, problems: Vec<Problem>) -> Vec<Problem> {
    let mut kept = Vec::new();
    let mut found: BTreeMap<PathBuf, (Origin, usize)> = BTreeMap::new();
    for problem in problems {
        let origin = problem.origin.clone().filter(|_| problem.object.is_none());
        match origin.filter(|origin| is_patch(Path::new(&*origin.file))) {
            Some(origin) => {
                let directory = Path::new(&*origin.file).parent().unwrap_or(root).to_owned();
                found.entry(directory).or_insert((origin, 0)).1 += 1;
            }
            None => kept.push(problem),
        }
    }
    let target = target(inputs);
    for (directory, (first, count)) in found {
        let (origin, what) = match count {
            1 => (first, "is a JSON patch".to_owned()),
            _ => {
                let file: Arc<str> = directory.display().to_string().into();
                (Origin { file, line: 1, column: 1 }, format!("{count} files are JSON patches"))
            }
        };
        let path = origin.file.clone();
        kept.push(Problem {
            severity: Severity::Warning,
            origin: Some(origin),
            object: None,
            message: format!(
                "{what} without a declared target, so nothing is patched; write into an edge.toml: [[patch]] target = \
                 {target} path = \"{path}\""
            ),
        });
    }
    kept
}

/// A non-empty list of operations (RFC 6902 §4).
fn is_patch(path: &Path) -> bool {
    let is_small = std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= MAX_PATCH);
    if !is_small || path.extension().is_none_or(|ending| ending != "json") {
        return false;
    }
    let value: Option<Value> = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(Value::Array(operations)) = value else { return false };
    !operations.is_empty() && operations.iter().all(|one| one["op"].is_string() && one["path"].is_string())
}

/// The only Gateway of the directory, which is what such patches are about; otherwise a form to fill in.
fn target(inputs: &Inputs) -> String {
    let broken = inputs.unusable.keys().filter(|object| object.kind == Kind::Gateway);
    let usable = inputs.gateways.keys().map(|key| ObjectRef::new(Kind::Gateway, key.clone()));
    let mut gateways: Vec<ObjectRef> = usable.chain(broken.cloned()).collect();
    gateways.dedup();
    match gateways.as_slice() {
        [one] => {
            format!("{{ kind = \"Gateway\", namespace = \"{}\", name = \"{}\" }}", one.key.namespace, one.key.name)
        }
        _ => "{ kind = \"Gateway\", namespace = \"…\", name = \"…\" }".to_owned(),
    }
}
