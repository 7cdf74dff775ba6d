//! `/v1/certificates…` and `/v1/backup`: views of certificates, and what people ask to be done to them.

use std::time::{Duration, SystemTime};

use edge_config::names::CertId;
use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::Api;
use super::pages::{Access, Answer, bounded, busy, error, forbidden, json, patiently, respond};
use crate::certs::command::{Answer as Reply, CertCommand, Material, RevocationReason};
use crate::control::certificates::{self, find};
use crate::control::world::Command;

/// The certificate thread may be at an RSA key for so long.
const READ: Duration = Duration::from_secs(5);

/// The body of every POST here, but for `/v1/backup`.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// A host name, or `namespace/name` of a Secret. Only `import` does without.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Of `revoke`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<RevocationReason>,
    /// Of `export`: with the private key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub with_key: bool,
    /// Of `import`: PEM, leaf first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// Of `import`: PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Zeroizing<String>>,
}

/// What was done, or began.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    pub certificate: String,
    pub done: String,
}

/// The answer to `export`.
#[derive(Serialize, Deserialize)]
pub struct Exported {
    pub certificate: String,
    /// PEM, leaf first.
    pub chain: String,
    /// PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Zeroizing<String>>,
}

/// The method that a path takes; `None`: it is not here.
pub(super) fn method(path: &str) -> Option<Method> {
    match path {
        "/v1/certificates" | "/v1/certificates/budget" => Some(Method::GET),
        "/v1/certificates/show"
        | "/v1/certificates/why"
        | "/v1/certificates/renew"
        | "/v1/certificates/revoke"
        | "/v1/certificates/import"
        | "/v1/certificates/export"
        | "/v1/backup" => Some(Method::POST),
        _ => None,
    }
}

pub(super) async fn answer(api: &Api, access: Access, path: &str, body: Incoming) -> Answer {
    let (world, now) = (api.handle.now(), SystemTime::now());
    match path {
        "/v1/certificates" => return json(&certificates::list(&world, now)),
        "/v1/certificates/budget" => return json(&certificates::budget(&world)),
        _ => {}
    }
    let reads = matches!(path, "/v1/certificates/show" | "/v1/certificates/why");
    if !reads && access != Access::Change {
        return forbidden();
    }
    if path == "/v1/backup" {
        return backup(api).await;
    }
    let ask: Ask = match bounded(body).await {
        Ok(body) => match serde_json::from_slice(&body) {
            Ok(ask) => ask,
            Err(fault) => return error(StatusCode::BAD_REQUEST, &format!("body: {fault}")),
        },
        Err(answer) => return answer,
    };
    let found = if path == "/v1/certificates/import" && ask.name.is_empty() {
        ask.chain
            .as_deref()
            .ok_or_else(|| "chain is missing".to_owned())
            .and_then(|pem| certificates::place_for(&world, pem))
    } else {
        find(&world, &ask.name)
    };
    let id = match found {
        Ok(id) => id,
        Err(reason) => return error(StatusCode::NOT_FOUND, &reason),
    };
    match path {
        "/v1/certificates/show" => {
            let read = read(api, &id, false).await;
            match certificates::shown(&world, &id, read.as_ref().map_err(String::as_str), now) {
                Some(shown) => json(&shown),
                None => gone(&id),
            }
        }
        "/v1/certificates/why" => certificates::why(&world, &id, now).map_or_else(|| gone(&id), |why| json(&why)),
        "/v1/certificates/export" => match read(api, &id, ask.with_key).await {
            Ok(found) => json(&Exported { certificate: id.to_string(), chain: found.chain_pem, key: found.key_pem }),
            Err(reason) => error(StatusCode::CONFLICT, &reason),
        },
        "/v1/certificates/renew" => told(api, &id, |id, reply| CertCommand::Renew { id, reply }).await,
        "/v1/certificates/revoke" => {
            let reason = ask.reason.unwrap_or_default();
            told(api, &id, |id, reply| CertCommand::Revoke { id, reason, reply }).await
        }
        _ => match (ask.chain, ask.key) {
            (Some(chain_pem), Some(key_pem)) => {
                told(api, &id, |id, reply| CertCommand::Import { id, chain_pem, key_pem, reply }).await
            }
            _ => error(StatusCode::BAD_REQUEST, "import takes chain and key"),
        },
    }
}

/// Between the look for it and the look at it.
fn gone(id: &CertId) -> Answer {
    error(StatusCode::NOT_FOUND, &format!("{id} is not wanted or served any more"))
}

async fn told(api: &Api, id: &CertId, command: impl FnOnce(CertId, Reply) -> CertCommand) -> Answer {
    let (reply, answer) = oneshot::channel();
    let command = command(id.clone(), reply);
    if api.handle.commands.try_send(Command::Certificate(command)).is_err() {
        return busy();
    }
    let outcome = patiently(answer).await;
    outcome.map_or_else(|answer| answer, |done| json(&Done { certificate: id.to_string(), done }))
}

async fn read(api: &Api, id: &CertId, with_key: bool) -> Result<Material, String> {
    let (reply, answer) = oneshot::channel();
    let command = CertCommand::Read { id: id.clone(), with_key, reply };
    let sent = api.handle.commands.try_send(Command::Certificate(command));
    sent.map_err(|_| "the supervisor does not take commands: it is busy or stopping".to_owned())?;
    match tokio::time::timeout(READ, answer).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => Err("edged is stopping".to_owned()),
        Err(_) => Err(format!("the certificate thread does not answer within {READ:?}")),
    }
}

async fn backup(api: &Api) -> Answer {
    let (reply, answer) = oneshot::channel();
    if api.handle.commands.try_send(Command::Certificate(CertCommand::Backup { reply })).is_err() {
        return busy();
    }
    let outcome = patiently(answer).await;
    outcome.map_or_else(|answer| answer, |file| respond(StatusCode::OK, "application/octet-stream", file))
}
