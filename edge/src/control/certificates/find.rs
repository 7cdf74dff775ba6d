//! From what a person types to the certificate that is meant.

use std::collections::BTreeSet;

use edge_config::names::{CertId, HostPattern, ObjectKey};
use edge_config::report::Condition;
use edge_config::snapshot::WantedCertificate;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::subject::Subjects;
use crate::certs::choice::covers;
use crate::certs::table::CertFacts;
use crate::control::status::certificates_of;
use crate::control::world::World;

/// `NAMESPACE/NAME` of a Secret, a host name as it stands in a certificate, or one that a listener serves. The error says
/// what there is instead.
pub fn find(world: &World, name: &str) -> Result<CertId, String> {
    let name = name.trim().trim_end_matches('.').to_ascii_lowercase();
    if name.is_empty() {
        return Err("a host name or NAMESPACE/NAME is missing".to_owned());
    }
    let subjects = Subjects::new(world, world.since);
    let all = subjects.all();
    let by_id = CertId(ObjectKey::parse(&name));
    if let Some(found) = all.iter().find(|subject| *subject.id == by_id) {
        return Ok(found.id.clone());
    }
    let bears = |wanted: &str| -> BTreeSet<&CertId> {
        all.iter().filter(|subject| subject.names().iter().any(|held| held == wanted)).map(|one| one.id).collect()
    };
    let by_listener = || -> BTreeSet<&CertId> {
        let listeners = world.compiled.snapshot.listeners.iter();
        let listeners =
            listeners.filter(|one| matches!(&one.hostname, HostPattern::Exact(host) if host.as_str() == name));
        listeners.flat_map(certificates_of).collect()
    };
    let by_wildcard = || name.split_once('.').map(|(_, above)| bears(&format!("*.{above}"))).unwrap_or_default();
    let found = [bears(&name), by_listener(), by_wildcard()].into_iter().find(|found| !found.is_empty());
    let found: Vec<&CertId> = found.unwrap_or_default().into_iter().collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(absent(world, &name)),
        several => {
            let several: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(format!("{name} is in {}: name one of them", several.join(" and ")))
        }
    }
}

/// The one wish that a certificate in PEM would fulfil.
pub fn place_for(world: &World, chain_pem: &str) -> Result<CertId, String> {
    let der =
        CertificateDer::from_pem_slice(chain_pem.as_bytes()).map_err(|_| "no PEM block CERTIFICATE".to_owned())?;
    let facts = CertFacts::of(&der).map_err(|error| error.to_string())?;
    let wishes = world.compiled.snapshot.certificates.iter();
    let fits =
        |wish: &&WantedCertificate| covers(&facts, wish) && !(wish.dns_names.is_empty() && wish.addresses.is_empty());
    let found: Vec<&CertId> = wishes.filter(fits).map(|wish| &wish.id).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let names: Vec<&str> = facts.dns_names.iter().map(|name| &**name).collect();
            Err(format!(
                "nobody wants a certificate of Edge all of whose names are among {}: a Secret ([[secret]] in edge.toml) \
                 can supply it",
                names.join(", ")
            ))
        }
        several => {
            let several: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(format!("it fits {}: name one of them (--name)", several.join(" and ")))
        }
    }
}

/// Why there is none: a listener without certificates may say.
fn absent(world: &World, name: &str) -> String {
    let bad = |one: &&Condition| !one.status && matches!(one.kind, "ResolvedRefs" | "Accepted" | "CertificateReady");
    for (object, report) in &world.compiled.report.objects {
        for listener in report.listeners.iter().filter(|one| one.hostname.as_deref() == Some(name)) {
            if let Some(condition) = listener.conditions.iter().find(bad) {
                return format!("listener {} of {object} has no certificate: {}", listener.name, condition.message);
            }
        }
    }
    format!("no certificate is wanted or served for {name}: no HTTPS listener and no attached route has that name")
}
