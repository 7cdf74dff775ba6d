//! Wanted certificates while they are put together, and what becomes of them in the end: adoption of what a Secret
//! supplies, and what is written back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::context::{Context, fingerprint};
use super::annotations::{DURATION, Shape};
use super::names::is_covered;
use crate::certmanager::{IssuerRef, SecretTemplate};
use crate::core::{CertificateFacts, Secret};
use crate::inputs::Object;
use crate::issuer::WriteBack;
use crate::names::{CertId, ObjectKey};
use crate::snapshot::{Adopt, KeyAlgorithm, WantedCertificate, WantedIssuer};

pub(super) struct Wanted {
    pub certificate: WantedCertificate,
    pub names: BTreeSet<Box<str>>,
    pub addresses: BTreeSet<IpAddr>,
    pub by: BTreeSet<String>,
    /// The issuers in the words of cert-manager's annotations.
    pub named: Vec<IssuerRef>,
    /// Who asked is at an API server, so the certificate can be written to it.
    pub written: Option<Written>,
    /// The Secret from whose name that of this one is made.
    pub derived_from: Option<CertId>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Written {
    /// The Certificate object; without one, cert-manager's would be called like its Secret.
    pub certificate: Option<String>,
    pub template: SecretTemplate,
}

/// What a CA that cert-manager makes up for the time until the real certificate is there is called.
const TEMPORARY_ISSUER: &str = "cert-manager.local";

impl Wanted {
    pub fn new(id: &CertId, issuer: WantedIssuer) -> Self {
        Self {
            certificate: WantedCertificate {
                id: id.clone(),
                issuer,
                dns_names: Vec::new(),
                addresses: Vec::new(),
                common_name: None,
                is_ca: false,
                key: KeyAlgorithm::EcdsaP256,
                rotate_key: true,
                duration: DURATION,
                renew_before: DURATION / 3,
                profile: None,
                labels: Vec::new(),
                write_back: None,
                adopt: None,
                wanted_by: Vec::new(),
            },
            names: BTreeSet::new(),
            addresses: BTreeSet::new(),
            by: BTreeSet::new(),
            named: Vec::new(),
            written: None,
            derived_from: None,
        }
    }

    /// Takes the form, but for names and addresses.
    pub fn shape(&mut self, shape: &Shape) {
        let certificate = &mut self.certificate;
        certificate.common_name.clone_from(&shape.common_name);
        certificate.duration = shape.duration;
        certificate.renew_before = shape.renew_before;
        certificate.key = shape.key;
        certificate.rotate_key = shape.rotate_key;
        certificate.profile.clone_from(&shape.profile);
        self.labels(&shape.labels);
    }

    pub fn labels(&mut self, labels: &BTreeMap<String, String>) {
        let pair = |(key, value): (&String, &String)| (key.as_str().into(), value.as_str().into());
        self.certificate.labels = labels.iter().map(pair).collect();
    }

    /// `None`: a Secret supplies it, and nobody is to renew that.
    pub fn finish(self, context: &Context<'_>) -> Option<WantedCertificate> {
        let Self { mut certificate, names, addresses, by, named, written, derived_from } = self;
        certificate.dns_names = names.into_iter().collect();
        certificate.addresses = addresses.into_iter().collect();
        certificate.wanted_by = by.into_iter().collect();
        let is_nameless = certificate.dns_names.is_empty() && certificate.addresses.is_empty();
        if is_nameless && certificate.common_name.is_none() {
            certificate.common_name = Some((*certificate.id.0.name).into());
        }
        if matches!(certificate.issuer, WantedIssuer::Acme(_)) {
            // cabfBR 7.1.4.3: a common name is one of the names.
            let names = &certificate.dns_names;
            certificate.common_name.take_if(|name| name.len() > 64 || !names.contains(name));
        }
        let secret = |id: &CertId| context.inputs.secrets.get(&id.0);
        let found = secret(&certificate.id).filter(|secret| secret.spec.certificate().is_ok());
        certificate.adopt = match (found, &certificate.issuer) {
            (Some(_), issuer) if issuer.away().is_some() => return None,
            (Some(found), _) => adopt(&certificate, &named, found),
            (None, issuer) if issuer.away().is_some() => None,
            // The Secret of the listener may hold the name already, mostly by a wildcard.
            (None, _) => derived_from
                .as_ref()
                .and_then(secret)
                .and_then(|found| adopt(&certificate, &named, found))
                .filter(|adopt| adopt.unfit.is_none()),
        };
        let is_away = certificate.issuer.away().is_some();
        certificate.write_back = written
            .filter(|_| !is_away)
            .map(|written| write_back(&certificate, &named, written, derived_from.is_some()));
        Some(certificate)
    }
}

/// The name of the Secret for one host of a listener with many.
pub(super) fn derived_id(secret: &CertId, host: &str) -> CertId {
    const LONGEST: usize = 253;
    let ObjectKey { namespace, name } = &secret.0;
    let host = host.replacen("*.", "wildcard.", 1);
    let mut text = format!("{name}-{host}");
    if text.len() > LONGEST {
        let mark = format!("-{:016x}", fingerprint([name.as_bytes(), host.as_bytes()]));
        text.truncate(LONGEST - mark.len());
        text.truncate(text.trim_end_matches(['-', '.']).len());
        text.push_str(&mark);
    }
    CertId(ObjectKey::new(&**namespace, text))
}

fn adopt(wanted: &WantedCertificate, named: &[IssuerRef], secret: &Object<Secret>) -> Option<Adopt> {
    let facts = secret.spec.certificate().ok()?;
    Some(Adopt {
        secret: CertId(secret.meta.key.clone()),
        not_before: facts.not_before,
        not_after: facts.not_after,
        sha256: facts.sha256.as_str().into(),
        unfit: unfit(wanted, named, secret, facts).map(Into::into),
    })
}

/// Why what a Secret holds is not what is wanted. That its key is of another kind is no reason: it changes with the next
/// renewal, as its issuer's limits are worth more.
fn unfit(
    wanted: &WantedCertificate,
    named: &[IssuerRef],
    secret: &Object<Secret>,
    facts: &CertificateFacts,
) -> Option<String> {
    let held = || facts.dns_names.iter().map(String::as_str);
    if let Some(name) = wanted.dns_names.iter().find(|name| !is_covered(name, held())) {
        return Some(format!("Secret {} lacks {name}", secret.meta.key));
    }
    if let Some(address) = wanted.addresses.iter().find(|address| !facts.ip_addresses.contains(address)) {
        return Some(format!("Secret {} lacks {address}", secret.meta.key));
    }
    if wanted.is_ca != facts.is_ca {
        let what = if wanted.is_ca { "is no CA" } else { "is a CA" };
        return Some(format!("Secret {} {what}", secret.meta.key));
    }
    if facts.issuer == TEMPORARY_ISSUER {
        return Some(format!("Secret {} holds a temporary certificate of cert-manager", secret.meta.key));
    }
    match issuer_of(secret) {
        Some(issuer) => (!named.is_empty() && !named.iter().any(|named| is_same(named, &issuer)))
            .then(|| format!("Secret {} was issued by {} {}", secret.meta.key, issuer.kind, issuer.name)),
        // Nobody says who made it, but this one was made by nobody else.
        None => (facts.is_self_signed && matches!(wanted.issuer, WantedIssuer::Acme(_) | WantedIssuer::Ca(_)))
            .then(|| format!("Secret {} holds a self-signed certificate", secret.meta.key)),
    }
}

/// Who issued the certificate of a Secret, as cert-manager, or Edge in its place, noted on it.
pub(super) fn issuer_of(secret: &Object<Secret>) -> Option<IssuerRef> {
    let text = |name: &str| secret.meta.annotations.get(&format!("cert-manager.io/{name}")).cloned();
    let name = text("issuer-name").filter(|name| !name.is_empty())?;
    let or =
        |text: Option<String>, usual: &str| text.filter(|text| !text.is_empty()).unwrap_or_else(|| usual.to_owned());
    Some(IssuerRef {
        name,
        kind: or(text("issuer-kind"), "Issuer"),
        group: or(text("issuer-group"), "cert-manager.io"),
    })
}

pub(super) fn is_same(a: &IssuerRef, b: &IssuerRef) -> bool {
    let group = |issuer: &IssuerRef| {
        if issuer.group.is_empty() { "cert-manager.io".to_owned() } else { issuer.group.clone() }
    };
    a.name == b.name && a.kind == b.kind && group(a) == group(b)
}

/// In the form in which cert-manager writes it, so that it finds its work done where it is installed later.
fn write_back(wanted: &WantedCertificate, named: &[IssuerRef], written: Written, derived: bool) -> WriteBack {
    let join = |texts: Vec<String>| texts.join(",");
    let mut annotations: BTreeMap<String, String> = written.template.annotations;
    let certificate = written.certificate.unwrap_or_else(|| wanted.id.0.name.to_string());
    let mut own = |name: &str, value: String| annotations.insert(format!("cert-manager.io/{name}"), value);
    own("alt-names", join(wanted.dns_names.iter().map(ToString::to_string).collect()));
    own("ip-sans", join(wanted.addresses.iter().map(ToString::to_string).collect()));
    own("uri-sans", String::new());
    own("common-name", wanted.common_name.as_deref().unwrap_or_default().to_owned());
    own("certificate-name", certificate);
    if let Some(issuer) = named.first() {
        own("issuer-name", issuer.name.clone());
        own("issuer-kind", issuer.kind.clone());
        own("issuer-group", if issuer.group.is_empty() { "cert-manager.io".to_owned() } else { issuer.group.clone() });
    }
    let mut labels = written.template.labels;
    // cert-manager looks at no other Secrets.
    labels.insert("controller.cert-manager.io/fao".to_owned(), "true".to_owned());
    labels.insert("app.kubernetes.io/managed-by".to_owned(), "edge".to_owned());
    let pairs =
        |texts: BTreeMap<String, String>| texts.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    WriteBack { secret: wanted.id.clone(), annotations: pairs(annotations), labels: pairs(labels), derived }
}
