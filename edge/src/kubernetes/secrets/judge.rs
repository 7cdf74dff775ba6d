//! One Secret: what is there, what it should hold, and so what to write. Pure.
//!
//! In: a Secret as the API has it (or that there is none), what is offered, what is wanted, the time. Out: a body to
//! create or to merge, or why nothing is written. A Secret that Edge did not make is touched only where it is empty or
//! names, by cert-manager's annotations, the issuer that Edge was asked to act for; a certificate that is newer, or that
//! somebody put there and that is good, is left alone ([`choose`]). What others keep in the Secret stays.
//!
//! Standards: Kubernetes v1 Secret (`kubernetes.io/tls`), RFC 7396, cert-manager's annotations of Secrets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_config::issuer::{SecretRef, WriteBack};
use edge_config::snapshot::WantedCertificate;
use serde_json::{Map, Value, json};
use zeroize::{Zeroize, Zeroizing};

use crate::certs::choice::{Choice, Found, choose};
use crate::certs::offer::{Offer, WRITTEN_ANNOTATION};
use crate::certs::table::{CertEntry, CertFacts, Origin};
use crate::proxy::tls::provider;

pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub const EDGE: &str = "edge";
/// By these cert-manager, and so Edge, knows whose issuer made what a Secret holds.
const ISSUER: [&str; 3] =
    ["cert-manager.io/issuer-name", "cert-manager.io/issuer-kind", "cert-manager.io/issuer-group"];

/// What to do about a Secret.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// It holds what it should.
    Same,
    /// What it holds is to be served, and nothing is written.
    Adopt,
    /// It is somebody else's; the reason, for its owner.
    NotOurs(String),
    /// The body of a merge patch.
    Write(Body),
}

/// A body with a private key in it, wiped at its end.
#[derive(PartialEq)]
pub struct Body(pub Value);

impl Drop for Body {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Overwrites all texts of a value.
pub fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(list) => list.iter_mut().for_each(wipe),
        Value::Object(map) => map.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The Secret that is not there yet.
pub fn creation(write: &WriteBack, offer: &Offer) -> Body {
    let key = &write.secret.0;
    let mut metadata = metadata(write, offer);
    metadata.insert("name".to_owned(), (&*key.name).into());
    metadata.insert("namespace".to_owned(), (&*key.namespace).into());
    let mut data = data(offer);
    data.retain(|_, value| !value.is_null());
    Body(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "data": data,
    }))
}

/// What to do about a Secret that is there.
pub fn judge(secret: &Value, wish: &WantedCertificate, write: &WriteBack, offer: &Offer, now: i64) -> Verdict {
    let metadata = &secret["metadata"];
    if metadata.get("deletionTimestamp").is_some() {
        return Verdict::NotOurs("it is being deleted".to_owned());
    }
    let chain = decoded(&secret["data"]["tls.crt"]);
    let key = decoded(&secret["data"]["tls.key"]);
    let is_empty = chain.is_empty() && key.is_empty();
    let entry = CertEntry::from_pem(&chain, &key, Origin::Supplied, provider()).ok();
    let written = metadata["annotations"][WRITTEN_ANNOTATION].as_str();
    let is_as_written = entry.as_ref().is_some_and(|entry| written == Some(&*entry.facts.fingerprint.to_string()));
    let choice = entry.as_ref().map_or(Choice::Ours, |entry| {
        choose(Found { facts: &entry.facts, is_as_written }, Some(&offer.facts), wish, now)
    });
    match choice {
        Choice::Adopt => return Verdict::Adopt,
        // It came from there, and is left as it is until it is renewed.
        Choice::Same if !is_as_written || metadata["labels"][MANAGED_BY] != EDGE => return Verdict::Adopt,
        Choice::Same | Choice::Ours => {}
    }
    if !is_empty && !is_ours(metadata, write) {
        let who = metadata["annotations"][ISSUER[0]].as_str();
        return Verdict::NotOurs(match who {
            Some(name) => format!("what it holds is of issuer {name}, and another one is asked for"),
            None => "somebody else made it: no label or annotation gives it to Edge".to_owned(),
        });
    }
    let mut wanted_metadata = self::metadata(write, offer);
    let mut wanted_data = data(offer);
    // Somebody else's CA bundle in a Secret whose issuer has none stays.
    if offer.ca_pem.is_none() && written.is_none() {
        wanted_data.remove("ca.crt");
    }
    // The same leaf was issued once, so a chain of the same length is the same chain.
    let is_same_chain =
        choice == Choice::Same && entry.is_some_and(|entry| entry.certified.cert.len() == offer.chain_length);
    if is_same_chain {
        wanted_data.remove("tls.crt");
        wanted_data.remove("tls.key");
    }
    wanted_data.retain(|name, value| secret["data"].get(name).unwrap_or(&Value::Null) != value);
    for part in ["labels", "annotations"] {
        if let Some(Value::Object(wanted)) = wanted_metadata.get_mut(part) {
            wanted.retain(|name, value| metadata[part].get(name) != Some(value));
        }
    }
    wanted_metadata.retain(|_, value| value.as_object().is_some_and(|values| !values.is_empty()));
    if wanted_data.is_empty() && wanted_metadata.is_empty() {
        return Verdict::Same;
    }
    // Computed from this very version: what is changed meanwhile is not overwritten.
    wanted_metadata.insert("resourceVersion".to_owned(), metadata["resourceVersion"].clone());
    wanted_metadata.insert("uid".to_owned(), metadata["uid"].clone());
    let mut body = Map::new();
    body.insert("metadata".to_owned(), Value::Object(wanted_metadata));
    if !wanted_data.is_empty() {
        body.insert("data".to_owned(), Value::Object(wanted_data));
    }
    Verdict::Write(Body(Value::Object(body)))
}

/// Whether Edge made it, or was asked to renew what it holds.
fn is_ours(metadata: &Value, write: &WriteBack) -> bool {
    let annotation = |name: &str| metadata["annotations"][name].as_str();
    let wanted = |name: &str| write.annotations.iter().find(|(known, _)| &**known == name).map(|(_, value)| &**value);
    // A Secret of an issuer of cert-manager may leave the group out.
    let group = |group: Option<&str>| group.unwrap_or("cert-manager.io").to_owned();
    let names_issuer = ISSUER[..2].iter().all(|name| wanted(name).is_some() && annotation(name) == wanted(name))
        && group(annotation(ISSUER[2])) == group(wanted(ISSUER[2]));
    metadata["labels"][MANAGED_BY] == EDGE || names_issuer
}

fn metadata(write: &WriteBack, offer: &Offer) -> Map<String, Value> {
    let texts = |list: &[(Box<str>, Box<str>)]| -> Map<String, Value> {
        list.iter().map(|(name, value)| (name.to_string(), Value::from(&**value))).collect()
    };
    let mut labels = texts(&write.labels);
    labels.insert(MANAGED_BY.to_owned(), EDGE.into());
    let mut annotations = texts(&write.annotations);
    annotations.insert(WRITTEN_ANNOTATION.to_owned(), offer.facts.fingerprint.to_string().into());
    Map::from_iter([
        ("labels".to_owned(), Value::Object(labels)),
        ("annotations".to_owned(), Value::Object(annotations)),
    ])
}

/// `null`: to be taken away.
fn data(offer: &Offer) -> Map<String, Value> {
    let text = |text: &str| Value::from(STANDARD.encode(text));
    Map::from_iter([
        ("tls.crt".to_owned(), text(&offer.chain_pem)),
        ("tls.key".to_owned(), text(&offer.key_pem)),
        ("ca.crt".to_owned(), offer.ca_pem.as_deref().map_or(Value::Null, text)),
    ])
}

fn decoded(value: &Value) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(value.as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default())
}

/// The Secret for the key of an account.
pub fn account_creation(reference: &SecretRef, pem: &str) -> Body {
    let SecretRef { secret, key } = reference;
    Body(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": &*secret.name, "namespace": &*secret.namespace, "labels": {MANAGED_BY: EDGE}},
        "data": {&**key: STANDARD.encode(pem)},
    }))
}

/// The key of an account, and a Secret that is there: written only where Edge made the Secret, or it has no such key.
pub fn judge_account(secret: &Value, reference: &SecretRef, pem: &str) -> Verdict {
    let SecretRef { secret: name, key } = reference;
    let known = decoded(&secret["data"][&**key]);
    if *known == pem.as_bytes() {
        return Verdict::Same;
    }
    let metadata = &secret["metadata"];
    if !known.is_empty() && metadata["labels"][MANAGED_BY] != EDGE {
        return Verdict::NotOurs(format!("{key} of Secret {name} holds something that Edge did not put there"));
    }
    Verdict::Write(Body(json!({
        "metadata": {
            "resourceVersion": metadata["resourceVersion"], "uid": metadata["uid"], "labels": {MANAGED_BY: EDGE},
        },
        "data": {&**key: STANDARD.encode(pem)},
    })))
}

/// What a Secret as it is read says of its certificate, to be compared with what is offered; nothing where it cannot be.
pub fn is_as_offered(facts: &edge_config::core::CertificateFacts, ours: &CertFacts, chain_length: usize) -> bool {
    facts.sha256 == ours.fingerprint.to_string() && facts.chain_length == chain_length
}

#[cfg(test)]
mod tests;
