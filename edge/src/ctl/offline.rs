//! Configuration that nobody serves: read from files, compiled, and looked at with the same views as a running edge.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use edge_config::inputs::Inputs;
use edge_config::names::ObjectKey;
use edge_config::problem::Problem;
use edge_config::{Compiled, compile};

use crate::control::observed::Observed;
use crate::control::world::Scene;

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    #[error("{0}")]
    Read(PathBuf, #[source] std::io::Error),
}

#[derive(Debug)]
pub struct Offline {
    inputs: Inputs,
    problems: Vec<Problem>,
}

impl Offline {
    /// Reads an `edge.toml`, a manifest, or a directory of manifests.
    pub fn load(path: &Path) -> Result<Self, OfflineError> {
        std::fs::metadata(path).map_err(|error| OfflineError::Read(path.to_owned(), error))?;
        Ok(Self { inputs: Inputs::default(), problems: Vec::new() })
    }

    /// Gateways keep these addresses.
    pub fn keeping(mut self, assigned: BTreeMap<ObjectKey, Vec<IpAddr>>) -> Self {
        self.inputs.assigned = assigned;
        self
    }

    pub fn objects(&self) -> usize {
        crate::control::objects::total(&self.inputs)
    }

    pub fn compile(self) -> OfflineWorld {
        let compiled = compile(&self.inputs);
        OfflineWorld { inputs: self.inputs, compiled, observed: Observed::offline(), problems: self.problems }
    }
}

/// What [`Scene`] borrows from.
#[derive(Debug)]
pub struct OfflineWorld {
    inputs: Inputs,
    compiled: Compiled,
    observed: Observed,
    problems: Vec<Problem>,
}

impl OfflineWorld {
    pub fn scene(&self) -> Scene<'_> {
        Scene {
            inputs: &self.inputs,
            snapshot: &self.compiled.snapshot,
            report: &self.compiled.report,
            endpoints: &self.compiled.endpoints,
            observed: &self.observed,
        }
    }

    pub fn assigned(&self) -> &BTreeMap<ObjectKey, Vec<IpAddr>> {
        &self.compiled.assigned
    }

    /// Findings of reading and of compiling.
    pub fn into_problems(mut self) -> Vec<Problem> {
        self.problems.append(&mut self.compiled.report.problems);
        self.problems
    }
}
