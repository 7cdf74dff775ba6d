//! What Events tell of certificates that no condition holds: a configuration that is of no use, renewals that do not come.
//! Pure.
//!
//! In: the world. Out: faults of one object, the same as long as it stands the same: no text here changes with the time,
//! or each look would be another Event. cert-manager's reasons where it has one.

use std::collections::BTreeSet;
use std::time::SystemTime;

use edge_config::names::{CertId, Kind, ObjectKey, ObjectRef};
use edge_config::problem::Severity;
use edge_config::snapshot::ListenerServe;
use serde_json::{Map, Value};

use super::certificates::{acts, is_one};
use super::faults::Fault;
use super::seconds;
use crate::certs::observed::Alarm;
use crate::control::certificates;
use crate::control::observed::CertificateSource;
use crate::control::world::World;

/// What an annotation or an issuer asks for and cannot have, as cert-manager calls it.
const BAD_CONFIG: &str = "BadConfig";
/// A certificate that a listener asked for is there, as cert-manager calls it.
const CREATED: &str = "CreateCertificate";
/// Of one object, at most: a Gateway may have a hundred certificates, and all wait for the same CA.
const MOST: usize = 5;

/// What is to be told of an object now.
pub fn faults(object: &ObjectRef, world: &World) -> Vec<Fault> {
    let is_gateway = matches!(object.kind, Kind::Gateway | Kind::ListenerSet);
    if !(is_gateway || is_one(object.kind)) || !acts(world) {
        return Vec::new();
    }
    let problems = world.compiled.report.problems.iter();
    let own = problems.filter(|one| one.severity == Severity::Error && one.object.as_ref() == Some(object));
    let bad = own.map(|one| Fault { reason: BAD_CONFIG.to_owned(), note: one.message.clone(), is_notice: false });
    let late = certificates_of(object, world).into_iter().filter_map(|id| overdue(&id, world, SystemTime::now()));
    bad.take(MOST).chain(late.take(MOST)).collect()
}

/// The certificates that an object wants or serves.
fn certificates_of(object: &ObjectRef, world: &World) -> BTreeSet<CertId> {
    if object.kind == Kind::Certificate {
        let spec = world.inputs.certificates.get(&object.key).map(|certificate| &certificate.spec);
        let id = |name: &str| CertId(ObjectKey::new(&*object.key.namespace, name));
        return spec.map(|spec| id(&spec.secret_name)).into_iter().collect();
    }
    let listeners = world.compiled.snapshot.listeners.iter().filter(|listener| listener.parent == *object);
    let served = listeners.filter_map(|listener| match &listener.serve {
        ListenerServe::Https { tls, .. } | ListenerServe::TlsTerminate { tls, .. } => Some(&tls.certificates),
        _ => None,
    });
    served.flatten().cloned().collect()
}

/// A certificate that is held, and whose renewal does not come. One that is not there yet has a condition that says so.
fn overdue(id: &CertId, world: &World, now: SystemTime) -> Option<Fault> {
    let acme = world.observed.acme.certificates.get(id);
    let held = world.observed.certificates.get(id).filter(|held| held.source != CertificateSource::Placeholder)?;
    let end = held.not_after?;
    let alarm = match (acme, &held.source) {
        (Some(acme), _) => acme.alarm,
        (None, CertificateSource::Kept(_)) => Alarm::of(certificates::level(Some(held), now)),
        (None, _) => return None,
    };
    let reason = match alarm {
        _ if end <= now => "CertificateExpired",
        Alarm::None => return None,
        Alarm::Notice => "RenewalLate",
        Alarm::Warning => "RenewalOverdue",
        Alarm::Critical => "CertificateExpiring",
    };
    let failed = acme.filter(|acme| acme.failures > 0).and_then(|acme| acme.last_error.as_ref());
    let why = failed.map(|error| error.text.as_str()).or(held.error.as_deref().filter(|_| acme.is_none()));
    let why = why.map(|why| format!(": {why}"));
    let note = format!("{id} ends at {} and is not renewed yet{}", seconds(end), why.unwrap_or_default());
    Some(Fault { reason: reason.to_owned(), note, is_notice: false })
}

/// Listeners whose certificates were not there before and are now.
pub fn created(before: &Value, changed: &Map<String, Value>) -> Vec<Fault> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let ready = |listener: &Value| list(&listener["conditions"]).into_iter().find(|one| one["type"] == READY);
    let known = list(&before["listeners"]);
    let now = changed.get("listeners").map(list).unwrap_or_default();
    let told = now.iter().filter_map(|listener| {
        let is_it = |one: &&Value| one["name"] == listener["name"];
        let was_ready = known.iter().find(is_it).and_then(ready).is_some_and(|was| was["status"] == "True");
        let ready = ready(listener).filter(|now| now["status"] == "True" && !was_ready)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        // "Deferred", "NoHosts": nothing was made.
        (ready["reason"] == "Issued").then(|| Fault {
            reason: CREATED.to_owned(),
            note: format!("listener {}: {}", text(&listener["name"]), text(&ready["message"])),
            is_notice: true,
        })
    });
    told.take(MOST).collect()
}

const READY: &str = edge_config::report::CERTIFICATE_READY;

#[cfg(test)]
mod tests;
