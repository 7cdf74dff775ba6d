//! Status of cert-manager's Certificates and Issuers, and what listeners say of their certificates. Pure.
//!
//! In: what compile reported of an object, and the world with what is seen of certificates and CAs. Out: the status as
//! cert-manager would write it, so that `kubectl wait --for=condition=Ready` and those who watch Certificates work; for
//! listeners how long their certificates last. Only for objects that Edge acts on: while cert-manager is alive it writes its own.
//!
//! Standards: cert-manager.io/v1 CertificateStatus and IssuerStatus with their reasons.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use edge_config::certmanager::IssuerSpec;
use edge_config::issuer::IssuerId;
use edge_config::names::{CertId, Kind, ObjectKey, ObjectRef};
use edge_config::report::{CERTIFICATE_READY, ObjectReport};
use edge_config::settings::CertificateMode;
use edge_config::snapshot::{Listener, ListenerServe, WantedCertificate};
use serde_json::{Map, Value, json};

use super::faults::Fault;
use super::seconds;
use crate::certs::observed::{AcmeState, AcmeStep};
use crate::control::observed::{CertificateSource, CertificateState};
use crate::control::world::World;

/// Longer messages are cut: a listener may have a hundred certificates.
const MOST_TOLD: usize = 5;

pub fn is_one(kind: Kind) -> bool {
    matches!(kind, Kind::Certificate | Kind::Issuer | Kind::ClusterIssuer)
}

/// The wanted status of a Certificate or an Issuer; nothing where it is not for Edge to write one.
pub fn status(object: &ObjectRef, report: &ObjectReport, seen: &Value, world: &World) -> Option<Value> {
    if !acts(world) {
        return None;
    }
    match object.kind {
        Kind::Certificate => certificate(&object.key, report, seen, world),
        Kind::Issuer => {
            let spec = &world.inputs.issuers.get(&object.key)?.spec;
            issuer(&format!("Issuer {}", object.key), (spec, seen), report, world)
        }
        Kind::ClusterIssuer => {
            let spec = &world.inputs.cluster_issuers.get(&object.key)?.spec;
            issuer(&format!("ClusterIssuer {}", object.key.name), (spec, seen), report, world)
        }
        _ => None,
    }
}

/// The status of one that cannot be read and never could; nothing where it is not for Edge to write one.
pub fn unusable(kind: Kind, why: &str, generation: i64, world: &World) -> Option<Value> {
    let is_ours = is_one(kind) && acts(world);
    is_ours.then(|| json!({"conditions": [condition("Ready", false, "ConfigError", why, generation)]}))
}

/// Whether Edge does what cert-manager would do.
pub fn acts(world: &World) -> bool {
    match world.inputs.settings.certificates.mode {
        CertificateMode::Own => true,
        CertificateMode::Defer => false,
        CertificateMode::Auto => world.inputs.cert_manager.is_none(),
    }
}

fn condition(kind: &str, status: bool, reason: &str, message: &str, generation: i64) -> Value {
    let status = if status { "True" } else { "False" };
    json!({"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": generation})
}

/// How one certificate stands, in cert-manager's words.
struct Standing {
    is_ready: bool,
    reason: &'static str,
    message: String,
    /// Something is being done, or was and failed.
    issuing: Option<(bool, &'static str, String)>,
}

fn standing(id: &CertId, world: &World, now: SystemTime) -> Standing {
    let state = world.observed.certificates.get(id);
    let acme = world.observed.acme.certificates.get(id);
    let wish = world.compiled.snapshot.certificates.iter().find(|wish| wish.id == *id);
    let held = state.filter(|state| state.source != CertificateSource::Placeholder && state.not_after.is_some());
    let error = state.and_then(|state| state.error.clone());
    let (is_ready, reason, message) = match held {
        None => (
            false,
            "DoesNotExist",
            error.clone().unwrap_or_else(|| format!("there is no certificate for Secret {id} yet")),
        ),
        Some(held) if held.not_after.is_some_and(|end| end <= now) => {
            (false, "Expired", "the certificate has ended".to_owned())
        }
        Some(held) if !is_in_secret(id, wish, held, world) => {
            (false, "DoesNotExist", format!("Secret {id} is not written yet; Edge serves the certificate already"))
        }
        Some(_) => (true, "Ready", "Certificate is up to date and has not expired".to_owned()),
    };
    Standing { is_ready, reason, message, issuing: acme.and_then(|acme| issuing(acme, held.is_some())) }
}

fn issuing(acme: &AcmeState, is_held: bool) -> Option<(bool, &'static str, String)> {
    let failed = acme.last_error.as_ref().filter(|_| acme.failures > 0).map(|error| error.text.clone());
    let why = if is_held { "Renewing" } else { "DoesNotExist" };
    match (&acme.step, failed) {
        (AcmeStep::Ordering { issuer, .. }, _) => Some((true, why, format!("ordered from {issuer}"))),
        (AcmeStep::Waiting { .. }, Some(failed)) => Some((false, "Failed", failed)),
        (AcmeStep::Waiting { why: waits, .. }, None) => Some((true, why, waits.clone())),
        (AcmeStep::Elsewhere { edge }, None) => {
            Some((true, why, format!("edge {edge} orders it"))).filter(|_| !is_held)
        }
        (AcmeStep::Elsewhere { .. }, Some(failed)) => Some((false, "Failed", failed)),
        (AcmeStep::Held { .. }, _) => None,
    }
}

/// Whether who reads the Secret gets what Edge serves.
fn is_in_secret(id: &CertId, wish: Option<&WantedCertificate>, held: &CertificateState, world: &World) -> bool {
    let Some(write) = wish.and_then(|wish| wish.write_back.as_ref()) else {
        return held.source == CertificateSource::Secret || wish.is_some();
    };
    let facts = world.inputs.secrets.get(&write.secret.0).and_then(|secret| secret.spec.certificate().ok());
    facts.is_some_and(|facts| {
        let is = |at: Option<SystemTime>, seconds: i64| at.map(unix) == Some(seconds);
        is(held.not_before, facts.not_before) && is(held.not_after, facts.not_after)
    }) && write.secret == *id
}

fn unix(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(since).unwrap_or(i64::MAX)
}

fn certificate(key: &ObjectKey, report: &ObjectReport, seen: &Value, world: &World) -> Option<Value> {
    let spec = &world.inputs.certificates.get(key)?.spec;
    let id = CertId(ObjectKey::new(&*key.namespace, spec.secret_name.as_str()));
    let generation = report.generation;
    let fault = report.conditions.iter().find(|condition| condition.kind == "Ready" && !condition.status);
    if let Some(fault) = fault {
        // Its issuer is of a kind that Edge leaves to others.
        if fault.reason == "NotActedOn" {
            return None;
        }
        let conditions = [condition("Ready", false, fault.reason, &fault.message, generation)];
        return Some(json!({ "conditions": conditions }));
    }
    let now = SystemTime::now();
    let Standing { is_ready, reason, message, issuing } = standing(&id, world, now);
    let mut conditions = vec![condition("Ready", is_ready, reason, &message, generation)];
    if let Some((status, reason, message)) = issuing {
        conditions.push(condition("Issuing", status, reason, &message, generation));
    }
    let mut wanted = json!({ "conditions": conditions });
    let state = world.observed.certificates.get(&id).filter(|state| state.source != CertificateSource::Placeholder);
    if let Some(state) = state {
        let renews = renewal(&id, state, world);
        for (name, at) in [("notBefore", state.not_before), ("notAfter", state.not_after), ("renewalTime", renews)] {
            wanted[name] = at.map_or(Value::Null, |at| seconds(at).into());
        }
    }
    if is_ready {
        let known = seen["revision"].as_i64().filter(|revision| *revision > 0);
        let is_another = seen["notBefore"].is_string() && seen["notBefore"] != wanted["notBefore"];
        wanted["revision"] = known.map_or(1, |revision| revision.saturating_add(i64::from(is_another))).into();
    }
    Some(wanted)
}

fn issuer(id: &str, (spec, seen): (&IssuerSpec, &Value), report: &ObjectReport, world: &World) -> Option<Value> {
    let generation = report.generation;
    let ready = |status, reason: &str, message: &str| json!([condition("Ready", status, reason, message, generation)]);
    let fault = report.conditions.iter().find(|condition| condition.kind == "Ready" && !condition.status);
    if let Some(fault) = fault {
        return (fault.reason != "NotActedOn")
            .then(|| json!({"conditions": ready(false, fault.reason, &fault.message)}));
    }
    if spec.self_signed.is_some() {
        return Some(json!({"conditions": ready(true, "IsReady", "")}));
    }
    if spec.ca.is_some() {
        return Some(json!({"conditions": ready(true, "KeyPairVerified", "Signing CA verified")}));
    }
    spec.acme.as_ref()?;
    let state = world.observed.acme.issuers.get(&IssuerId(id.into()));
    // An account that was there is looked for again after a start without a store: that is no news.
    let known = seen["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == "Ready");
    let was_ready = known.is_some_and(|known| known["status"] == "True" && known["observedGeneration"] == generation);
    if was_ready && state.is_none_or(|state| state.account.is_none() && (state.error.is_none() || state.awaits_secrets))
    {
        return None;
    }
    let Some(state) = state else {
        return Some(json!({"conditions": ready(false, "Pending", "nothing was asked of the CA yet")}));
    };
    Some(match (&state.account, &state.error) {
        (Some(account), _) => json!({
            "conditions": ready(true, "ACMEAccountRegistered", "The ACME account was registered with the ACME server"),
            "acme": {"uri": account, "lastRegisteredEmail": state.contact.as_deref().unwrap_or_default()},
        }),
        (None, Some(error)) => json!({"conditions": ready(false, "ErrRegisterACMEAccount", error)}),
        (None, None) => json!({"conditions": ready(false, "Pending", "the account is not registered yet")}),
    })
}

/// What is new in a status and worth an Event, in cert-manager's reasons.
pub fn told(kind: Kind, before: &Value, changed: &Map<String, Value>) -> Vec<Fault> {
    let Some(now) = changed.get("conditions") else { return Vec::new() };
    let of = |conditions: &Value, kind: &str| -> Option<(String, String, String)> {
        let all = conditions.as_array()?;
        let found = all.iter().find(|condition| condition["type"] == kind)?;
        let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        Some((text("status"), text("reason"), text("message")))
    };
    let mut told = Vec::new();
    let mut tell = |reason: &str, note: String, is_notice| {
        told.push(Fault { reason: reason.to_owned(), note, is_notice });
    };
    let (was_ready, ready) = (of(&before["conditions"], "Ready"), of(now, "Ready"));
    let (was_issuing, issuing) = (of(&before["conditions"], "Issuing"), of(now, "Issuing"));
    match (kind, ready) {
        (Kind::Certificate, Some((status, ..))) if status == "True" => {
            let is_new = was_ready.is_none_or(|(status, ..)| status != "True") || changed.contains_key("notBefore");
            if is_new {
                tell("Issuing", "The certificate has been successfully issued".to_owned(), true);
            }
        }
        (Kind::Certificate, Some((_, reason, message))) if reason != "DoesNotExist" => {
            let is_same = was_ready.is_some_and(|(_, was, text)| was == reason && text == message);
            if !is_same {
                tell(&reason, message, false);
            }
        }
        (Kind::Issuer | Kind::ClusterIssuer, Some((status, reason, message))) => {
            let is_same = was_ready.is_some_and(|(_, was, text)| was == reason && text == message);
            if !is_same && reason != "Pending" && (status != "True" || reason == "ACMEAccountRegistered") {
                tell(&reason, message, status == "True");
            }
        }
        _ => {}
    }
    if let Some((status, reason, message)) = issuing {
        let is_same = was_issuing.is_some_and(|(was, _, text)| was == status && (text == message || status == "True"));
        match (is_same, status == "True") {
            (true, _) => {}
            (false, true) => {
                let note = match &*reason {
                    "Renewing" => format!("Renewing certificate: {message}"),
                    _ => format!("Issuing certificate as Secret does not exist: {message}"),
                };
                tell("Issuing", note, true);
            }
            (false, false) => tell("OrderFailed", message, false),
        }
    }
    told
}

/// Says to the listeners of a Gateway or ListenerSet whose certificates are there how long they last, and when they are
/// renewed; what is missing they say already.
pub fn add_to_listeners(object: &ObjectRef, wanted: &mut Value, world: &World) {
    let snapshot = &world.compiled.snapshot;
    if snapshot.certificates.is_empty() {
        return;
    }
    let issued: BTreeSet<&CertId> = snapshot.certificates.iter().map(|wish| &wish.id).collect();
    for entry in wanted["listeners"].as_array_mut().into_iter().flatten() {
        let name = entry["name"].as_str().unwrap_or_default();
        let is_it = |listener: &&Listener| *listener.name == *name && listener.parent == *object;
        let Some(listener) = snapshot.listeners.iter().find(is_it) else { continue };
        let (ListenerServe::Https { tls, .. } | ListenerServe::TlsTerminate { tls, .. }) = &listener.serve else {
            continue;
        };
        let ids: Vec<&CertId> = tls.certificates.iter().filter(|id| issued.contains(id)).collect();
        let conditions = entry["conditions"].as_array_mut();
        let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == CERTIFICATE_READY);
        if let Some(ready) = ready.filter(|ready| ready["status"] == "True") {
            ready["message"] = lasts(&ids, world).into();
        }
    }
}

/// `a.example: until 2026-01-01T00:00:00Z, renewal at …; …`
fn lasts(ids: &[&CertId], world: &World) -> String {
    let text = |id: &&&CertId| {
        let state = world.observed.certificates.get(**id)?;
        let end = state.not_after?;
        let renews = renewal(id, state, world).map(|at| format!(", renewal at {}", seconds(at))).unwrap_or_default();
        let acme = world.observed.acme.certificates.get(**id);
        let error = acme.and_then(|acme| acme.last_error.as_ref().filter(|_| acme.failures > 0));
        let error = error.map(|error| format!(" ({})", error.text)).unwrap_or_default();
        Some(format!("{}: until {}{renews}{error}", state.names.join(" "), seconds(end)))
    };
    let mut texts: Vec<String> = ids.iter().filter_map(|id| text(&id)).collect();
    let rest = texts.len().saturating_sub(MOST_TOLD);
    texts.truncate(MOST_TOLD);
    if rest > 0 {
        texts.push(format!("and {rest} more"));
    }
    texts.join("; ")
}

fn renewal(id: &CertId, state: &CertificateState, world: &World) -> Option<SystemTime> {
    state.renews_at.or_else(|| match &world.observed.acme.certificates.get(id)?.step {
        AcmeStep::Held { renews_at } => *renews_at,
        _ => None,
    })
}

#[cfg(test)]
pub(super) mod tests;
