//! The minimal definitions of cert-manager's kinds, and putting them into a cluster that has none.
//!
//! In: credentials. Out: what was done, or why not. cert-manager's own definitions are never touched: they are known by not
//! bearing Edge's label. Objects are never deleted by the way: with a definition go all objects of its kind, so a
//! definition with objects stays unless that is asked for.
//!
//! Standards: apiextensions.k8s.io/v1.

use std::future::Future;
use std::time::Duration;

use edge_config::settings::{Credentials, KubernetesSettings};
use edge_config::yaml;
use serde_json::Value;

use super::calls::{self, CallError, Place};
use super::client::{self, Api};

/// The manifests, to be printed as they are.
pub const MANIFESTS: &str = include_str!("../../../manifests/cert-manager-crds.yaml");

const API: &str = "apis/apiextensions.k8s.io/v1";
const PLURAL: &str = "customresourcedefinitions";
/// How long the API server may take to serve a new kind.
const ESTABLISHED: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(100);
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum CrdsError {
    #[error("{0}: cert-manager's own definition is there, so cert-manager is, or was; nothing was changed")]
    Foreign(String),
    #[error(
        "{name}: {count} objects of this kind exist and would go with it; nothing was changed (--force deletes them)"
    )]
    InUse { name: String, count: usize },
    #[error("{name}")]
    Call { name: String, source: CallError },
    #[error("{0}: the API server does not serve it after {ESTABLISHED:?}")]
    NotServed(String),
    #[error("the API server did not answer in {PATIENCE:?}{0}")]
    Late(String),
    #[error("runtime")]
    Runtime(#[source] std::io::Error),
}

/// What became of one definition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Done {
    pub name: String,
    /// `installed`, `updated`, `unchanged`, `removed`, `absent`
    pub outcome: &'static str,
}

/// Installs or updates the definitions; blocks until the API server serves them.
pub fn install(credentials: Credentials) -> Result<Vec<Done>, CrdsError> {
    with(credentials, |api| async move {
        let wanted = definitions();
        let mut known = Vec::new();
        for definition in &wanted {
            let name = name(definition);
            let found = found(&api, &name).await?;
            if found.as_ref().is_some_and(|found| !is_own(found)) {
                return Err(CrdsError::Foreign(name));
            }
            known.push(found);
        }
        let mut done = Vec::new();
        for (definition, known) in wanted.iter().zip(known) {
            let name = name(definition);
            let place = Place::new(API, PLURAL, "", &name);
            let answer = calls::apply(&api, &place, definition).await;
            let answer = answer.map_err(|source| CrdsError::Call { name: name.clone(), source })?;
            let outcome = match known {
                None => "installed",
                Some(known) if known["metadata"]["generation"] == answer["metadata"]["generation"] => "unchanged",
                Some(_) => "updated",
            };
            done.push(Done { name, outcome });
        }
        let deadline = tokio::time::Instant::now() + ESTABLISHED;
        for Done { name, .. } in &done {
            while !found(&api, name).await?.is_some_and(|definition| is_established(&definition)) {
                if tokio::time::Instant::now() >= deadline {
                    return Err(CrdsError::NotServed(name.clone()));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(done)
    })
}

/// Removes the definitions that [`install`] made; with objects only where `force` says so.
pub fn remove(credentials: Credentials, force: bool) -> Result<Vec<Done>, CrdsError> {
    with(credentials, move |api| async move {
        let mut present = Vec::new();
        for definition in definitions() {
            let name = name(&definition);
            let Some(found) = found(&api, &name).await? else {
                present.push((name, false));
                continue;
            };
            if !is_own(&found) {
                return Err(CrdsError::Foreign(name));
            }
            let plural = found["spec"]["names"]["plural"].as_str().unwrap_or_default().to_owned();
            let objects = calls::list_now(&api, &Place::new("apis/cert-manager.io/v1", &plural, "", "")).await;
            let count = match objects {
                Ok(objects) => objects.len(),
                Err(CallError::NotFound) => 0,
                Err(source) => return Err(CrdsError::Call { name, source }),
            };
            if count > 0 && !force {
                return Err(CrdsError::InUse { name, count });
            }
            present.push((name, true));
        }
        let mut done = Vec::new();
        for (name, is_there) in present {
            if is_there {
                let place = Place::new(API, PLURAL, "", &name);
                calls::delete(&api, &place).await.map_err(|source| CrdsError::Call { name: name.clone(), source })?;
            }
            done.push(Done { name, outcome: if is_there { "removed" } else { "absent" } });
        }
        Ok(done)
    })
}

async fn found(api: &Api, name: &str) -> Result<Option<Value>, CrdsError> {
    match calls::get(api, &Place::new(API, PLURAL, "", name)).await {
        Ok(found) => Ok(Some(found)),
        Err(CallError::NotFound) => Ok(None),
        Err(source) => Err(CrdsError::Call { name: name.to_owned(), source }),
    }
}

fn is_own(definition: &Value) -> bool {
    definition["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "edge"
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Established" && one["status"] == "True"))
}

fn name(definition: &Value) -> String {
    definition["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// The manifests as JSON.
fn definitions() -> Vec<Value> {
    let documents = yaml::split(MANIFESTS);
    let nodes = documents.iter().filter_map(|document| yaml::parse(document.text).ok().flatten());
    nodes.filter_map(|node| yaml::decode::<Value>(&node, "", &[]).0.ok()).collect()
}

/// Runs calls with a client of their own.
fn with<T, F>(credentials: Credentials, work: impl FnOnce(Api) -> F) -> Result<T, CrdsError>
where
    F: Future<Output = Result<T, CrdsError>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CrdsError::Runtime)?;
    let settings = KubernetesSettings { credentials, ..KubernetesSettings::default() };
    let (api, keep) = client::keep(&settings);
    let trouble = api.clone();
    runtime.block_on(async move {
        tokio::select! {
            done = work(api) => done,
            () = keep => Err(CrdsError::Late(String::new())),
            () = tokio::time::sleep(PATIENCE) => {
                Err(CrdsError::Late(trouble.trouble().map(|why| format!(": {why}")).unwrap_or_default()))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_are_whole() {
        let definitions = definitions();
        let names: Vec<String> = definitions.iter().map(name).collect();
        assert_eq!(
            names,
            ["certificates.cert-manager.io", "issuers.cert-manager.io", "clusterissuers.cert-manager.io"]
        );
        for definition in &definitions {
            assert!(is_own(definition));
            let version = &definition["spec"]["versions"][0];
            assert_eq!((&version["name"], &version["served"]), (&"v1".into(), &true.into()));
            assert!(version["subresources"]["status"].is_object());
            let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
            assert_eq!(spec["x-kubernetes-preserve-unknown-fields"], true);
            let plural = definition["spec"]["names"]["plural"].as_str().unwrap();
            assert_eq!(name(definition), format!("{plural}.cert-manager.io"));
        }
    }
}
