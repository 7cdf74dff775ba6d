//! Certificates that Edge must have itself: Secrets that listeners name and nobody supplies, and cert-manager
//! Certificates. Says who is to issue each: SelfSigned and CA issuers act; for every other one the internal CA stands in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};

use super::context::{Context, Fault, by_age, condition};
use super::listeners::ListenerState;
use crate::certmanager::{
    CLUSTER_ISSUER_ANNOTATION, CertificateSpec, INTERNAL_ISSUER_GROUP, ISSUER_ANNOTATION, IssuerRef, IssuerSpec,
    PrivateKeyAlgorithm, RotationPolicy,
};
use crate::inputs::{Meta, Object};
use crate::names::{CertId, HostPattern, Kind, ObjectKey, ObjectRef};
use crate::problem::Severity;
use crate::report::{Condition, ObjectReport};
use crate::snapshot::{KeyAlgorithm, WantedCertificate, WantedIssuer};
use crate::wire::GoDuration;

/// cert-manager's `--cluster-resource-namespace`: where the Secrets of ClusterIssuers are.
const CLUSTER_RESOURCES: &str = "cert-manager";
/// cert-manager's default lifetime, and its least.
const DURATION: Duration = Duration::from_secs(90 * 24 * 3600);
const LEAST_DURATION: Duration = Duration::from_secs(3600);
/// Issuers that sign each other's CA certificate: longer chains are refused, which also ends circles.
const LONGEST_CHAIN: usize = 8;

pub(super) struct Certificates<'a> {
    by_secret: HashMap<&'a str, Vec<&'a Object<CertificateSpec>>>,
    wanted: BTreeMap<CertId, Wanted>,
}

struct Wanted {
    certificate: WantedCertificate,
    names: BTreeSet<Box<str>>,
    by: BTreeSet<String>,
}

/// Where a listener's certificate will come from.
pub(super) enum Supply {
    /// An issuer that was asked for will issue it.
    Issued,
    /// The internal CA stands in for this reason.
    Placeholder(Option<String>),
    /// Nobody may.
    Nothing(Option<String>),
}

impl<'a> Certificates<'a> {
    pub fn new(context: &Context<'a>) -> Self {
        let mut by_secret: HashMap<&str, Vec<_>> = HashMap::new();
        for certificate in context.inputs.certificates.values() {
            let certificate: &'a Object<CertificateSpec> = certificate;
            by_secret.entry(&certificate.spec.secret_name).or_default().push(certificate);
        }
        for sharing in by_secret.values_mut() {
            sharing.sort_by(|a, b| by_age(&a.meta, &b.meta));
        }
        Self { by_secret, wanted: BTreeMap::new() }
    }

    /// The oldest Certificate that writes to a Secret.
    fn writer(&self, secret: &ObjectKey) -> Option<&'a Object<CertificateSpec>> {
        let sharing = self.by_secret.get(&*secret.name)?;
        sharing.iter().copied().find(|certificate| certificate.meta.key.namespace == secret.namespace)
    }

    /// Every Certificate wants its Secret, whether or not a listener uses it; and what its status and that of issuers is.
    pub fn objects(&mut self, context: &Context<'a>, out: &mut Vec<(ObjectRef, ObjectReport)>) {
        for certificate in context.inputs.certificates.values() {
            let certificate: &'a Object<CertificateSpec> = certificate;
            let ready = self.certificate(context, certificate);
            out.push(report(Kind::Certificate, &certificate.meta, ready));
        }
        let inputs = context.inputs;
        for (kind, issuers) in [(Kind::Issuer, &inputs.issuers), (Kind::ClusterIssuer, &inputs.cluster_issuers)] {
            for (key, issuer) in issuers {
                let fault = self.resolve(context, kind, key, &issuer.spec, 0).err();
                let fault =
                    fault.map(|why| Fault::new(if why.unsupported { "NotActedOn" } else { "NotReady" }, why.text));
                out.push(report(kind, &issuer.meta, condition("Ready", "Ready", fault.as_ref())));
            }
        }
    }

    fn certificate(&mut self, context: &Context<'a>, object: &'a Object<CertificateSpec>) -> Condition {
        let spec = &object.spec;
        let home = &*object.meta.key.namespace;
        let id = CertId(ObjectKey::new(home, spec.secret_name.as_str()));
        let name = ObjectRef::new(Kind::Certificate, object.meta.key.clone());
        if let Some(writer) = self.writer(&id.0).filter(|writer| writer.meta.key != object.meta.key) {
            let message = format!("Certificate {} writes to the same Secret {id}", writer.meta.key);
            return condition("Ready", "Ready", Some(&Fault::new("IncorrectCertificate", message)));
        }
        if context.inputs.secrets.get(&id.0).is_some_and(|secret| secret.spec.certificate().is_ok()) {
            return condition("Ready", "Ready", None);
        }
        let resolved = self.issuer(context, home, &spec.issuer_ref, 0);
        let fault = resolved.as_ref().err().map(|why| Fault::new("IssuerNotReady", why.text.clone()));
        let issuer = match resolved {
            Ok(issuer) => issuer,
            // The internal CA stands in for leaf certificates only: it hands out no CA power.
            Err(_) if spec.is_ca || !context.inputs.settings.certificates.placeholder => {
                return condition("Ready", "Ready", fault.as_ref());
            }
            Err(why) => WantedIssuer::Internal { instead_of: Some(why.text) },
        };
        let duration = spec.duration.map_or(DURATION, |duration| duration.0);
        let (duration, renew_before) =
            self.lifetime(context, Kind::Certificate, &object.meta, duration, spec.renew_before);
        let private = spec.private_key.clone().unwrap_or_default();
        let key = key_algorithm(context, (Kind::Certificate, &object.meta), &private.algorithm, private.size);
        let wanted = self.want(&id, issuer);
        wanted.certificate.common_name = spec.common_name.as_deref().map(Into::into);
        wanted.certificate.is_ca = spec.is_ca;
        wanted.certificate.key = key;
        wanted.certificate.rotate_key = private.rotation_policy != Some(RotationPolicy::Never);
        wanted.certificate.duration = duration;
        wanted.certificate.renew_before = renew_before;
        wanted.by.insert(name.to_string());
        for dns_name in &spec.dns_names {
            match HostPattern::parse(Some(dns_name)) {
                Ok(HostPattern::Any) | Err(_) => {
                    let message = format!("dnsNames: {dns_name:?} is no DNS name and is left out");
                    context.problem(Severity::Error, Kind::Certificate, &object.meta, message);
                }
                Ok(pattern) => {
                    wanted.names.insert(pattern.to_string().into());
                }
            }
        }
        condition("Ready", "Ready", fault.as_ref())
    }

    /// Decides where the certificate of a listener comes from that its Secret does not supply, and wants it.
    pub fn supply(
        &mut self,
        context: &Context<'a>,
        listener: &ListenerState<'_>,
        [own, gateway]: [&BTreeMap<String, String>; 2],
        id: &CertId,
        why: &str,
    ) -> Supply {
        let home = &*listener.parent.namespace;
        let resolved = if let Some(certificate) = self.writer(&id.0) {
            Some(self.issuer(context, &certificate.meta.key.namespace, &certificate.spec.issuer_ref, 0))
        } else {
            // cert-manager acts on Secrets of the Gateway's own namespace only.
            let reference = (*id.0.namespace == *home).then(|| annotated_issuer(own, gateway)).flatten();
            reference.map(|reference| self.issuer(context, home, &reference, 0))
        };
        let from_certificate = self.writer(&id.0).is_some();
        let (issuer, supply) = match resolved {
            Some(Ok(issuer)) => (issuer, Supply::Issued),
            other => {
                let instead = other.and_then(Result::err).map(|why| why.text);
                if !context.inputs.settings.certificates.placeholder {
                    if let Some(wanted) = self.wanted.get(id)
                        && !matches!(wanted.certificate.issuer, WantedIssuer::Internal { .. })
                    {
                        return Supply::Issued;
                    }
                    return Supply::Nothing(instead);
                }
                // A Secret that is there but of no use is something that the internal CA stands in for, too.
                let instead_of =
                    instead.clone().or_else(|| context.inputs.secrets.contains_key(&id.0).then(|| why.to_owned()));
                (WantedIssuer::Internal { instead_of }, Supply::Placeholder(instead))
            }
        };
        let annotated = !from_certificate && matches!(supply, Supply::Issued);
        // cert-manager's default key is RSA; Edge's own CA, which it does not know, has a better one.
        let algorithm = match issuer {
            WantedIssuer::Internal { .. } => PrivateKeyAlgorithm::Ecdsa,
            WantedIssuer::SelfSigned | WantedIssuer::Ca(_) => PrivateKeyAlgorithm::Rsa,
        };
        let shape = annotated.then(|| self.annotated_shape(context, listener, own, algorithm));
        let wanted = self.want(id, issuer);
        if let Some(shape) = shape {
            shape(&mut wanted.certificate);
        }
        wanted.by.insert(listener.describe());
        if listener.hostname != HostPattern::Any {
            wanted.names.insert(listener.hostname.to_string().into());
        }
        supply
    }

    /// cert-manager's annotations of a Gateway that shape its certificates.
    fn annotated_shape(
        &self,
        context: &Context<'a>,
        listener: &ListenerState<'_>,
        annotations: &BTreeMap<String, String>,
        usual: PrivateKeyAlgorithm,
    ) -> impl FnOnce(&mut WantedCertificate) + use<> {
        let text = |name: &str| annotations.get(&format!("cert-manager.io/{name}")).map(String::as_str);
        let kind = listener.kind();
        let meta = context.inputs.meta(&listener.parent_ref());
        let wrong = |name: &str, value: &str, expected: &str| {
            if let Some(meta) = meta {
                let message = format!("annotation cert-manager.io/{name} {value:?}: expected {expected}");
                context.problem(Severity::Error, kind, meta, message);
            }
        };
        let duration = |name: &str| {
            let value = text(name)?;
            let parsed = GoDuration::parse(value);
            if parsed.is_none() {
                wrong(name, value, "a duration such as \"2160h\"");
            }
            parsed
        };
        let lifetime = duration("duration").map_or(DURATION, |duration| duration.0);
        let renew_before = duration("renew-before");
        let (lifetime, renew_before) = match meta {
            Some(meta) => self.lifetime(context, kind, meta, lifetime, renew_before),
            None => (lifetime, lifetime / 3),
        };
        let size = text("private-key-size").and_then(|value| {
            let parsed = value.parse::<u32>();
            if parsed.is_err() {
                wrong("private-key-size", value, "a number of bits");
            }
            parsed.ok()
        });
        let algorithm = text("private-key-algorithm").map_or(usual, PrivateKeyAlgorithm::parse);
        let key = match meta {
            Some(meta) => key_algorithm(context, (kind, meta), &algorithm, size),
            None => KeyAlgorithm::EcdsaP256,
        };
        let rotate_key = text("private-key-rotation-policy") != Some("Never");
        let common_name: Option<Box<str>> = text("common-name").map(Into::into);
        move |certificate| {
            certificate.common_name = common_name;
            certificate.duration = lifetime;
            certificate.renew_before = renew_before;
            certificate.key = key;
            certificate.rotate_key = rotate_key;
        }
    }

    fn lifetime(
        &self,
        context: &Context<'a>,
        kind: Kind,
        meta: &Meta,
        duration: Duration,
        renew_before: Option<GoDuration>,
    ) -> (Duration, Duration) {
        let lifetime = duration.max(LEAST_DURATION);
        if lifetime != duration {
            let message = format!("certificate duration {}s is raised to one hour", duration.as_secs());
            context.problem(Severity::Warning, kind, meta, message);
        }
        let renew_before = renew_before.map(|before| before.0).filter(|before| {
            let sensible = *before < lifetime && !before.is_zero();
            if !sensible {
                let message = format!(
                    "certificate renewal {}s before the end of a lifetime of {}s: a third of it is used",
                    before.as_secs(),
                    lifetime.as_secs()
                );
                context.problem(Severity::Warning, kind, meta, message);
            }
            sensible
        });
        (lifetime, renew_before.unwrap_or(lifetime / 3))
    }

    fn want(&mut self, id: &CertId, issuer: WantedIssuer) -> &mut Wanted {
        let wanted = self.wanted.entry(id.clone()).or_insert_with(|| Wanted {
            certificate: WantedCertificate {
                id: id.clone(),
                issuer: issuer.clone(),
                dns_names: Vec::new(),
                common_name: None,
                is_ca: false,
                key: KeyAlgorithm::EcdsaP256,
                rotate_key: true,
                duration: DURATION,
                renew_before: DURATION / 3,
                wanted_by: Vec::new(),
            },
            names: BTreeSet::new(),
            by: BTreeSet::new(),
        });
        // Of several that ask for one Secret, an issuer that acts goes before the internal CA.
        if matches!(wanted.certificate.issuer, WantedIssuer::Internal { .. }) {
            wanted.certificate.issuer = issuer;
        }
        wanted
    }

    /// Hosts that only routes name, for a listener that takes every host.
    pub fn add_names<'h>(&mut self, id: &CertId, hosts: impl Iterator<Item = &'h HostPattern>) {
        if let Some(wanted) = self.wanted.get_mut(id) {
            let hosts = hosts.filter(|host| **host != HostPattern::Any);
            wanted.names.extend(hosts.map(|host| Box::<str>::from(host.to_string())));
        }
    }

    pub fn into_wanted(self) -> Vec<WantedCertificate> {
        self.wanted
            .into_values()
            .map(|Wanted { mut certificate, names, by }| {
                certificate.dns_names = names.into_iter().collect();
                certificate.wanted_by = by.into_iter().collect();
                if certificate.dns_names.is_empty() && certificate.common_name.is_none() {
                    certificate.common_name = Some((*certificate.id.0.name).into());
                }
                certificate
            })
            .collect()
    }

    fn issuer(
        &self,
        context: &Context<'a>,
        home: &str,
        reference: &IssuerRef,
        depth: usize,
    ) -> Result<WantedIssuer, NoIssuer> {
        if reference.group == INTERNAL_ISSUER_GROUP {
            return Ok(WantedIssuer::Internal { instead_of: None });
        }
        let found = match Kind::of(&reference.group, &reference.kind) {
            Some(kind @ Kind::Issuer) => {
                Some((kind, ObjectKey::new(home, reference.name.as_str()), &context.inputs.issuers))
            }
            Some(kind @ Kind::ClusterIssuer) => {
                Some((kind, ObjectKey::new("", reference.name.as_str()), &context.inputs.cluster_issuers))
            }
            _ => None,
        };
        let Some((kind, key, issuers)) = found else {
            let text =
                format!("issuer {} {} of group {:?} is not supported", reference.kind, reference.name, reference.group);
            return Err(NoIssuer { text, unsupported: true });
        };
        let issuer = issuers.get(&key).ok_or_else(|| NoIssuer::not_ready(context.missing(kind, &key)))?;
        self.resolve(context, kind, &key, &issuer.spec, depth)
    }

    fn resolve(
        &self,
        context: &Context<'a>,
        kind: Kind,
        key: &ObjectKey,
        issuer: &IssuerSpec,
        depth: usize,
    ) -> Result<WantedIssuer, NoIssuer> {
        if issuer.self_signed.is_some() {
            return Ok(WantedIssuer::SelfSigned);
        }
        let Some(ca) = &issuer.ca else {
            let what = if issuer.acme.is_some() { "ACME" } else { "its type" };
            let text = format!("{kind} {key}: {what} is not acted on by this version");
            return Err(NoIssuer { text, unsupported: true });
        };
        let namespace = if kind == Kind::ClusterIssuer { CLUSTER_RESOURCES } else { &key.namespace };
        let secret = ObjectKey::new(namespace, ca.secret_name.as_str());
        if let Some(found) = context.inputs.secrets.get(&secret) {
            match found.spec.certificate() {
                Ok(facts) if facts.is_ca => return Ok(WantedIssuer::Ca(CertId(secret))),
                Ok(_) => {
                    let text = format!("{kind} {key}: the certificate in Secret {secret} is no CA");
                    return Err(NoIssuer::not_ready(text));
                }
                // A Certificate may replace it.
                Err(why) if self.writer(&secret).is_none() => {
                    return Err(NoIssuer::not_ready(format!("{kind} {key}: Secret {secret}: {why}")));
                }
                Err(_) => {}
            }
        }
        let Some(writer) = self.writer(&secret) else {
            return Err(NoIssuer::not_ready(format!("{kind} {key}: {}", context.missing(Kind::Secret, &secret))));
        };
        if !writer.spec.is_ca {
            let text = format!("{kind} {key}: Certificate {} is no CA certificate", writer.meta.key);
            return Err(NoIssuer::not_ready(text));
        }
        if depth >= LONGEST_CHAIN {
            return Err(NoIssuer::not_ready(format!("{kind} {key}: its CA certificate is issued in a circle")));
        }
        self.issuer(context, &writer.meta.key.namespace, &writer.spec.issuer_ref, depth + 1)?;
        Ok(WantedIssuer::Ca(CertId(secret)))
    }
}

/// Why an issuer cannot issue.
struct NoIssuer {
    text: String,
    /// It is not acted on, rather than not ready.
    unsupported: bool,
}

impl NoIssuer {
    fn not_ready(text: String) -> Self {
        Self { text, unsupported: false }
    }
}

/// The issuer that annotations name: a listener's own object first; a ListenerSet also uses its Gateway's ClusterIssuer.
fn annotated_issuer(own: &BTreeMap<String, String>, gateway: &BTreeMap<String, String>) -> Option<IssuerRef> {
    let group = |annotations: &BTreeMap<String, String>| {
        annotations.get("cert-manager.io/issuer-group").map_or("cert-manager.io", String::as_str).to_owned()
    };
    let cluster = |annotations: &BTreeMap<String, String>| {
        let name = annotations.get(CLUSTER_ISSUER_ANNOTATION)?;
        Some(IssuerRef { name: name.clone(), kind: "ClusterIssuer".to_owned(), group: group(annotations) })
    };
    let issuer = own.get(ISSUER_ANNOTATION).map(|name| IssuerRef {
        name: name.clone(),
        kind: own.get("cert-manager.io/issuer-kind").map_or("Issuer", String::as_str).to_owned(),
        group: group(own),
    });
    issuer.or_else(|| cluster(own)).or_else(|| cluster(gateway))
}

/// cert-manager's defaults: RSA of 2048 bits, ECDSA on P-256.
fn key_algorithm(
    context: &Context<'_>,
    (kind, meta): (Kind, &Meta),
    algorithm: &PrivateKeyAlgorithm,
    size: Option<u32>,
) -> KeyAlgorithm {
    let (key, exact) = match (algorithm, size) {
        (PrivateKeyAlgorithm::Rsa, None | Some(2048)) => (KeyAlgorithm::Rsa(2048), true),
        (PrivateKeyAlgorithm::Rsa, Some(3072)) => (KeyAlgorithm::Rsa(3072), true),
        (PrivateKeyAlgorithm::Rsa, Some(bits)) => (KeyAlgorithm::Rsa(4096), bits == 4096),
        (PrivateKeyAlgorithm::Ecdsa, None | Some(256)) => (KeyAlgorithm::EcdsaP256, true),
        (PrivateKeyAlgorithm::Ecdsa, Some(bits)) => (KeyAlgorithm::EcdsaP384, bits == 384),
        (PrivateKeyAlgorithm::Ed25519, _) => (KeyAlgorithm::Ed25519, true),
        (PrivateKeyAlgorithm::Other(_), _) => (KeyAlgorithm::EcdsaP256, false),
    };
    if !exact {
        let asked = size.map(|size| format!(" of {size} bits")).unwrap_or_default();
        let message = format!("private key {algorithm}{asked} is not supported, {key:?} is used");
        context.problem(Severity::Warning, kind, meta, message);
    }
    key
}

fn report(kind: Kind, meta: &Meta, condition: Condition) -> (ObjectRef, ObjectReport) {
    let report = ObjectReport { generation: meta.generation, conditions: vec![condition], ..ObjectReport::default() };
    (ObjectRef::new(kind, meta.key.clone()), report)
}
