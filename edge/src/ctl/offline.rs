//! Configuration that nobody serves: read from files, compiled, and looked at with the same views as a running edge.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edge_config::inputs::Inputs;
use edge_config::names::ObjectRef;
use edge_config::problem::Problem;
use edge_config::settings::Settings;
use edge_config::{Compiled, compile};

use super::patches::undeclared;
use crate::control::findings::findings;
use crate::control::observed::Observed;
use crate::control::world::Scene;
use crate::source::{Cache, load, load_directory};

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
    /// Reads an `edge.toml` (by its ending), a manifest, or a directory of manifests. What cannot be opened at all is an
    /// error; whatever is wrong inside is a finding.
    pub fn load(path: &Path) -> Result<Self, OfflineError> {
        let unreadable = |error| OfflineError::Read(path.to_owned(), error);
        let is_directory = std::fs::metadata(path).map_err(unreadable)?.is_dir();
        if is_directory {
            std::fs::read_dir(path).map_err(unreadable)?;
        } else {
            std::fs::File::open(path).map_err(unreadable)?;
        }
        let mut cache = Cache::default();
        if !is_directory && path.extension().is_some_and(|ending| ending == "toml") {
            let loaded = load(path, &mut cache);
            return Ok(Self { inputs: loaded.inputs, problems: loaded.problems });
        }
        let mut loaded = load_directory(path, &mut cache);
        claim_all(&mut loaded.inputs);
        let problems = undeclared(path, &loaded.inputs, loaded.problems);
        Ok(Self { inputs: loaded.inputs, problems })
    }

    pub fn settings(&self) -> &Settings {
        &self.inputs.settings
    }

    /// Gateways keep these addresses.
    pub fn keeping(mut self, assigned: BTreeMap<ObjectRef, Vec<IpAddr>>) -> Self {
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

    pub fn both(&self) -> (&Inputs, &Compiled) {
        (&self.inputs, &self.compiled)
    }

    pub fn assigned(&self) -> &BTreeMap<ObjectRef, Vec<IpAddr>> {
        &self.compiled.assigned
    }

    /// Everything that is wrong with it.
    pub fn findings(&self) -> Vec<Problem> {
        findings(self.scene(), &self.problems)
    }
}

/// Without an edge.toml nothing says which GatewayClasses are ours; whoever asks about a directory means all of it.
fn claim_all(inputs: &mut Inputs) {
    let mut settings = Settings::clone(&inputs.settings);
    for class in inputs.gateway_classes.values() {
        if !settings.controller_names.contains(&class.spec.controller_name) {
            settings.controller_names.push(class.spec.controller_name.clone());
        }
    }
    inputs.settings = Arc::new(settings);
}
