//! Calls to the API server, each with a deadline and a fault of one line.
//!
//! Flows in: what is needed. Flows out: objects. Keeps nothing: a Pod fetches what it refers to when it starts.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::objects::{Objects, Reference, references};
use crate::volumes::account;

/// One call; longer than a busy API server takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why a call failed, and whether the server answered at all.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("{what}: {message} (code {code})")]
    Refused { what: String, message: String, code: u16 },
    #[error("{what}: {cause}")]
    Failed { what: String, cause: String },
    #[error("{what}: no answer in {} s", DEADLINE.as_secs())]
    Silent { what: String },
}

impl Fault {
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Failed { .. } | Self::Silent { .. } => None,
        }
    }
}

/// Does one call.
pub async fn call<T>(what: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T, Fault> {
    let what = || what.to_owned();
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => {
            Err(Fault::Refused { what: what(), message: status.message.clone(), code: status.code })
        }
        Ok(Err(error)) => Err(Fault::Failed { what: what(), cause: innermost(&error) }),
        Err(_) => Err(Fault::Silent { what: what() }),
    }
}

/// The outer levels of these errors only repeat the inner ones.
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string().replace('\n', " ")
}

/// Everything a Pod refers to, as far as it exists.
pub async fn objects(client: &Client, pod: &Pod) -> Result<Objects, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut objects = Objects::default();
    for reference in references(pod) {
        match reference {
            Reference::Secret(name) => {
                let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
                let found = call(&format!("Secret {name}"), api.get_opt(&name)).await;
                if let Some(secret) = found.map_err(|fault| fault.to_string())? {
                    objects.add_secret(&name, secret);
                }
            }
            Reference::ConfigMap(name) => {
                let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
                let found = call(&format!("ConfigMap {name}"), api.get_opt(&name)).await;
                if let Some(map) = found.map_err(|fault| fault.to_string())? {
                    objects.add_config_map(&name, map);
                }
            }
            Reference::Token { audience, seconds } => {
                let token =
                    token(client, pod, audience.as_deref(), seconds).await.map_err(|fault| fault.to_string())?;
                objects.tokens.insert(audience, token);
            }
        }
    }
    Ok(objects)
}

async fn token(client: &Client, pod: &Pod, audience: Option<&str>, seconds: i64) -> Result<String, Fault> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let account = account(pod);
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        metadata: ObjectMeta::default(),
        spec: Some(TokenRequestSpec {
            audiences: audience.map(|audience| vec![audience.to_owned()]),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
            expiration_seconds: Some(seconds),
        }),
        status: None,
    };
    let what = format!("token of ServiceAccount {account}");
    let answer = call(&what, api.create_token_request(&account, &PostParams::default(), &request)).await?;
    let absent = || Fault::Failed { what, cause: "an answer without a token".to_owned() };
    answer.status.and_then(|status| status.token).ok_or_else(absent)
}
