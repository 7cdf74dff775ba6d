//! `edgectl crds`: the kinds of cert-manager in a cluster that has none.

use std::path::{Path, PathBuf};

use edge_config::settings::Credentials;
use serde::{Deserialize, Serialize};

use super::args::{Cluster, Crds};
use super::offline::{Offline, OfflineError};
use super::show::View;
use super::style::Style;
use crate::kubernetes::crds::{self, CrdsError};

/// Where edged has its settings unless it is told otherwise.
const CONFIG: &str = "/etc/edge/edge.toml";

#[derive(Debug, thiserror::Error)]
pub enum CrdsCommandError {
    #[error(transparent)]
    Offline(#[from] OfflineError),
    #[error("{0}: has no [kubernetes], so there is no cluster; or name one with --kubeconfig")]
    NoCluster(PathBuf),
    #[error(transparent)]
    Crds(#[from] CrdsError),
}

/// What became of the definitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definitions {
    pub definitions: Vec<Definition>,
    pub hint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    pub name: String,
    pub outcome: String,
}

/// Carries out what has an answer; printing is the caller's.
pub fn run(command: &Crds) -> Result<Option<Definitions>, CrdsCommandError> {
    let (done, hint) = match command {
        Crds::Print => return Ok(None),
        Crds::Install { cluster } => (
            crds::install(credentials(cluster)?)?,
            "before cert-manager itself is installed, run edgectl crds remove: its own definitions bring the schema",
        ),
        Crds::Remove { cluster, force } => (crds::remove(credentials(cluster)?, *force)?, ""),
    };
    let definitions =
        done.into_iter().map(|one| Definition { name: one.name, outcome: one.outcome.to_owned() }).collect();
    Ok(Some(Definitions { definitions, hint: hint.to_owned() }))
}

/// The manifests.
pub fn manifests() -> &'static str {
    crds::MANIFESTS
}

fn credentials(cluster: &Cluster) -> Result<Credentials, CrdsCommandError> {
    if let Some(path) = &cluster.kubeconfig {
        return Ok(Credentials::Kubeconfig { path: path.clone(), context: cluster.context.clone() });
    }
    let path = cluster.config.as_deref().unwrap_or(Path::new(CONFIG));
    let settings = Offline::load(path)?.settings().clone().anchored(path.parent().unwrap_or(Path::new("")));
    let kubernetes = settings.kubernetes.as_ref().ok_or_else(|| CrdsCommandError::NoCluster(path.to_owned()))?;
    Ok(kubernetes.credentials.clone())
}

impl View for Definitions {
    fn human(&self, _: Style, _: bool) -> String {
        let mut text: String = self.definitions.iter().map(|one| format!("{} {}\n", one.outcome, one.name)).collect();
        if !self.hint.is_empty() {
            text.push_str(&format!("{}\n", self.hint));
        }
        text
    }
}
