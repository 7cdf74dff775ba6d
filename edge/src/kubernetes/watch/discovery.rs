//! Which kinds the API server has, and in which version they are read. It is asked again and again, so that a CRD that
//! appears, changes its versions or goes is noticed without a restart; no rights beyond those of every user are needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use edge_config::names::Kind;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::kinds::{is_builtin, plural, versions};
use super::reflector::Failure;
use super::wire;
use crate::kubernetes::backoff::{Backoff, chance};
use crate::kubernetes::client::Api;

/// Between two looks, plus a little chance.
const PERIOD: Duration = Duration::from_secs(15);
/// After a watch found its collection missing.
const NUDGED: Duration = Duration::from_secs(1);
const MOST_OF_A_DOCUMENT: usize = 4 << 20;

/// What is known about a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    Unknown,
    Absent,
    In(&'static str),
}

/// One end of what is known, per kind; the other ends are the watches'.
pub struct Discovery {
    kinds: BTreeMap<Kind, watch::Sender<Served>>,
}

impl Default for Discovery {
    fn default() -> Self {
        let first = |kind: Kind| match versions(kind) {
            [version, ..] if is_builtin(kind) => Served::In(version),
            _ => Served::Unknown,
        };
        Self { kinds: Kind::ALL.into_iter().map(|kind| (kind, watch::channel(first(kind)).0)).collect() }
    }
}

impl Discovery {
    pub fn of(&self, kind: Kind) -> watch::Receiver<Served> {
        match self.kinds.get(&kind) {
            Some(sender) => sender.subscribe(),
            // Every kind is in the map.
            None => watch::channel(Served::Absent).1,
        }
    }

    /// Runs for as long as the daemon does.
    pub async fn run(self, api: Api, nudge: Arc<Notify>) {
        let mut backoff = Backoff::default();
        loop {
            let wait = match self.look(&api).await {
                Ok(()) => {
                    backoff.reset();
                    PERIOD + Duration::from_millis(10 * u64::from(chance()))
                }
                Err(failure) => {
                    tracing::debug!("kubernetes: discovery: {failure}");
                    backoff.next(match failure {
                        Failure::Busy(asked) => asked,
                        _ => None,
                    })
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = nudge.notified() => sleep(NUDGED.min(wait)).await,
            }
        }
    }

    async fn look(&self, api: &Api) -> Result<(), Failure> {
        let others = || Kind::ALL.into_iter().filter(|kind| !is_builtin(*kind));
        let groups: BTreeSet<&str> = others().map(Kind::group).collect();
        for group in groups {
            let kinds: Vec<Kind> = others().filter(|kind| kind.group() == group).collect();
            let wanted: BTreeSet<&'static str> = kinds.iter().flat_map(|kind| versions(*kind)).copied().collect();
            let mut served: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
            let there = match resources::<Group>(api, &format!("/apis/{group}")).await? {
                Some(group) => group.versions.into_iter().map(|version| version.version).collect(),
                None => BTreeSet::new(),
            };
            for version in wanted.into_iter().filter(|version| there.contains(*version)) {
                let resources = resources::<Resources>(api, &format!("/apis/{group}/{version}")).await?;
                let names = resources.into_iter().flat_map(|list| list.resources).map(|resource| resource.name);
                served.insert(version, names.collect());
            }
            for kind in kinds {
                self.tell(kind, choose(kind, &served));
            }
        }
        Ok(())
    }

    fn tell(&self, kind: Kind, now: Served) {
        let Some(sender) = self.kinds.get(&kind) else { return };
        sender.send_if_modified(|known| {
            let is_new = *known != now;
            if is_new {
                match (*known, now) {
                    (Served::In(_), Served::Absent) => {
                        tracing::warn!("kubernetes: {kind} is not served any more; its last objects stay");
                    }
                    (Served::Absent, Served::In(version)) => {
                        tracing::info!("kubernetes: {kind} is served now, as {version}");
                    }
                    _ => {}
                }
                *known = now;
            }
            is_new
        });
    }
}

/// The preferred version among those that are served.
fn choose(kind: Kind, served: &BTreeMap<&'static str, BTreeSet<String>>) -> Served {
    let name = plural(kind);
    let is_served = |version: &&'static str| served.get(version).is_some_and(|names| names.contains(&name));
    match versions(kind).iter().copied().find(is_served) {
        Some(version) => Served::In(version),
        None => Served::Absent,
    }
}

/// A discovery document; `None`: there is none.
async fn resources<T: serde::de::DeserializeOwned>(api: &Api, path: &str) -> Result<Option<T>, Failure> {
    match wire::get(api, path, MOST_OF_A_DOCUMENT).await {
        Ok(bytes) => {
            let unreadable = |error| Failure::Other(format!("{path} cannot be read: {error}"));
            serde_json::from_slice(&bytes).map(Some).map_err(unreadable)
        }
        Err(Failure::Missing) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// `APIGroup`
#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    versions: Vec<GroupVersion>,
}

#[derive(Deserialize)]
struct GroupVersion {
    version: String,
}

/// `APIResourceList`
#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_version_that_is_served() {
        let served = |list: &[(&'static str, &[&str])]| -> BTreeMap<&'static str, BTreeSet<String>> {
            list.iter()
                .map(|(version, names)| (*version, names.iter().map(|name| name.to_string()).collect()))
                .collect()
        };
        for (kind, list, expected) in [
            (Kind::TLSRoute, served(&[("v1", &["tlsroutes"]), ("v1alpha2", &["tlsroutes"])]), Served::In("v1")),
            (Kind::TLSRoute, served(&[("v1", &["gateways"]), ("v1alpha2", &["tlsroutes"])]), Served::In("v1alpha2")),
            (Kind::TLSRoute, served(&[("v1", &["gateways"])]), Served::Absent),
            (Kind::ReferenceGrant, served(&[("v1beta1", &["referencegrants"])]), Served::In("v1beta1")),
            (Kind::BGPPeer, served(&[("v1beta1", &["bgppeers"]), ("v1beta2", &["bgppeers"])]), Served::In("v1beta2")),
        ] {
            assert_eq!(choose(kind, &list), expected, "{kind}");
        }
    }
}
