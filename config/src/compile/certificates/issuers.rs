//! Who issues: references to issuers, from whatever place, to [`WantedIssuer`].
//!
//! An issuer is looked for among the objects (of the API server and of files), then in edge.toml. In a list, several that
//! speak ACME stand in for each other.

use std::collections::BTreeMap;

use foldhash::{HashMap, HashMapExt};

use super::super::context::{Context, by_age};
use super::super::gateways::GatewayState;
use super::acme;
use crate::certmanager::{CertificateSpec, INTERNAL_ISSUER_GROUP, IssuerRef, IssuerSpec};
use crate::gateway::ParentReference;
use crate::inputs::{Meta, Object};
use crate::issuer::{AcmeIssuer, IssuerId};
use crate::names::{CertId, Kind, ObjectKey};
use crate::problem::Severity;
use crate::settings::{CertificateWish, IssuerName};
use crate::snapshot::WantedIssuer;

/// Issuers that sign each other's CA certificate: longer chains are refused, which also ends circles.
const LONGEST_CHAIN: usize = 8;
const GROUP: &str = "cert-manager.io";

pub(super) struct Issuers<'a> {
    by_secret: HashMap<&'a str, Vec<&'a Object<CertificateSpec>>>,
    /// Those that can be asked; of the others, why not.
    acme: BTreeMap<IssuerId, AcmeIssuer>,
    faults: BTreeMap<IssuerId, String>,
}

/// Who issues, and by which names it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    pub issuer: WantedIssuer,
    /// In the words of cert-manager's annotations; never empty but for Edge's own CA.
    pub named: Vec<IssuerRef>,
}

/// Why an issuer cannot issue.
#[derive(Debug)]
pub(super) struct NoIssuer {
    pub text: String,
    /// It is not acted on, rather than not ready.
    pub unsupported: bool,
}

impl NoIssuer {
    fn not_ready(text: String) -> Self {
        Self { text, unsupported: false }
    }
}

impl<'a> Issuers<'a> {
    pub fn new(context: &Context<'a>, gateways: &[GatewayState<'_>]) -> Self {
        let inputs = context.inputs;
        let mut by_secret: HashMap<&str, Vec<_>> = HashMap::new();
        for certificate in inputs.certificates.values() {
            let certificate: &'a Object<CertificateSpec> = certificate;
            by_secret.entry(&certificate.spec.secret_name).or_default().push(certificate);
        }
        for sharing in by_secret.values_mut() {
            sharing.sort_by(|a, b| by_age(&a.meta, &b.meta));
        }
        let mut issuers = Self { by_secret, acme: BTreeMap::new(), faults: BTreeMap::new() };
        for (kind, objects) in [(Kind::Issuer, &inputs.issuers), (Kind::ClusterIssuer, &inputs.cluster_issuers)] {
            for (key, object) in objects {
                let Some(read) = acme::read(kind, key, &object.spec, &inputs.settings) else { continue };
                for remark in read.remarks {
                    context.problem(Severity::Error, kind, &object.meta, remark);
                }
                parents(context, kind, object, gateways);
                match read.issuer {
                    Ok(issuer) => drop(issuers.acme.insert(issuer.id.clone(), issuer)),
                    Err(why) => drop(issuers.faults.insert(acme::id(kind, key), why)),
                }
            }
        }
        for issuer in inputs.settings.issuers.acme.values() {
            issuers.acme.insert(issuer.id.clone(), issuer.clone());
        }
        issuers
    }

    /// The oldest Certificate that writes to a Secret.
    pub fn writer(&self, secret: &ObjectKey) -> Option<&'a Object<CertificateSpec>> {
        let sharing = self.by_secret.get(&*secret.name)?;
        sharing.iter().copied().find(|certificate| certificate.meta.key.namespace == secret.namespace)
    }

    /// What edge.toml wants in a Secret.
    pub fn wish(context: &Context<'a>, secret: &ObjectKey) -> Option<&'a CertificateWish> {
        context.inputs.settings.issuers.certificates.iter().find(|wish| wish.id.0 == *secret)
    }

    pub fn acme<'s>(&'s self, ids: &'s [IssuerId]) -> impl Iterator<Item = &'s AcmeIssuer> {
        ids.iter().filter_map(|id| self.acme.get(id))
    }

    pub fn into_acme(self) -> Vec<AcmeIssuer> {
        self.acme.into_values().collect()
    }

    /// One issuer, as cert-manager's objects and annotations name it, for who is in the namespace `home`.
    pub fn by_reference(&self, context: &Context<'a>, home: &str, reference: &IssuerRef) -> Result<Chosen, NoIssuer> {
        let issuer = self.reference(context, home, reference, 0)?;
        Ok(Chosen { issuer, named: vec![reference.clone()] })
    }

    /// A list of issuers; what is wrong with some of them goes to `remark`.
    pub fn by_names(
        &self,
        context: &Context<'a>,
        home: &str,
        names: &[IssuerName],
        mut remark: impl FnMut(String),
    ) -> Result<Chosen, NoIssuer> {
        let mut ids: Vec<IssuerId> = Vec::new();
        let mut named = Vec::new();
        let mut faults: Vec<NoIssuer> = Vec::new();
        for name in names {
            let reference = reference_to(name);
            match self.name(context, home, name) {
                Ok(WantedIssuer::Acme(found)) => {
                    named.push(reference);
                    ids.extend(found.into_iter().filter(|id| !ids.contains(id)).collect::<Vec<_>>());
                }
                Ok(issuer) if ids.is_empty() && faults.is_empty() => {
                    return Ok(Chosen { issuer, named: vec![reference] });
                }
                Ok(_) => remark(format!("issuer {name}: only an issuer that speaks ACME can stand in for another")),
                Err(why) => faults.push(why),
            }
        }
        if ids.is_empty() {
            let unsupported = faults.iter().all(|fault| fault.unsupported);
            let texts: Vec<String> = faults.into_iter().map(|fault| fault.text).collect();
            let text = if texts.is_empty() { "no issuer is named".to_owned() } else { texts.join("; ") };
            return Err(NoIssuer { text, unsupported });
        }
        faults.into_iter().for_each(|fault| remark(format!("{}; another issuer stands in", fault.text)));
        Ok(Chosen { issuer: WantedIssuer::Acme(ids), named })
    }

    fn name(&self, context: &Context<'a>, home: &str, name: &IssuerName) -> Result<WantedIssuer, NoIssuer> {
        match name {
            IssuerName::Toml(name) => self
                .in_settings(name)
                .ok_or_else(|| NoIssuer::not_ready(format!("there is no [issuers.{name}] in edge.toml"))),
            IssuerName::Any(_) | IssuerName::ClusterIssuer(_) | IssuerName::Issuer(_) => {
                self.reference(context, home, &reference_to(name), 0)
            }
        }
    }

    fn in_settings(&self, name: &str) -> Option<WantedIssuer> {
        let id = IssuerId(format!("issuers.{name}").into());
        self.acme.contains_key(&id).then(|| WantedIssuer::Acme(vec![id]))
    }

    fn reference(
        &self,
        context: &Context<'a>,
        home: &str,
        reference: &IssuerRef,
        depth: usize,
    ) -> Result<WantedIssuer, NoIssuer> {
        if reference.group == INTERNAL_ISSUER_GROUP {
            return Ok(WantedIssuer::Internal { instead_of: None });
        }
        // An empty group is cert-manager's, too.
        let group = if reference.group.is_empty() { GROUP } else { &reference.group };
        let found = match Kind::of(group, &reference.kind) {
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
        match issuers.get(&key) {
            Some(issuer) => self.resolve(context, kind, &key, &issuer.spec, depth),
            None => self.in_settings(&reference.name).ok_or_else(|| {
                let missing = context.missing(kind, &key);
                NoIssuer::not_ready(format!("{missing}, and there is no [issuers.{}] in edge.toml", reference.name))
            }),
        }
    }

    /// What an issuer object can do.
    pub fn resolve(
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
        if issuer.acme.is_some() {
            let id = acme::id(kind, key);
            return match self.faults.get(&id) {
                Some(why) => Err(NoIssuer::not_ready(why.clone())),
                None => Ok(WantedIssuer::Acme(vec![id])),
            };
        }
        let Some(ca) = &issuer.ca else {
            let text = format!("{kind} {key}: its type is not acted on by this version");
            return Err(NoIssuer { text, unsupported: true });
        };
        let cluster = &context.inputs.settings.certificates.cluster_resource_namespace;
        let namespace = if kind == Kind::ClusterIssuer { cluster.as_str() } else { &key.namespace };
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
        match self.reference(context, &writer.meta.key.namespace, &writer.spec.issuer_ref, depth + 1)? {
            WantedIssuer::Acme(_) => {
                let text = format!("{kind} {key}: Certificate {}: ACME gives no CA certificates", writer.meta.key);
                Err(NoIssuer::not_ready(text))
            }
            _ => Ok(WantedIssuer::Ca(CertId(secret))),
        }
    }
}

/// The words that cert-manager has for it.
fn reference_to(name: &IssuerName) -> IssuerRef {
    let (name, kind, group) = match name {
        IssuerName::Any(name) | IssuerName::ClusterIssuer(name) => (name, "ClusterIssuer", GROUP),
        IssuerName::Issuer(name) => (name, "Issuer", GROUP),
        IssuerName::Toml(name) => (name, "issuers", INTERNAL_ISSUER_GROUP),
    };
    IssuerRef { name: name.clone(), kind: kind.to_owned(), group: group.to_owned() }
}

/// Solvers say at which Gateways cert-manager would attach its routes. Edge needs none, but one that is not there is
/// most likely a mistake.
fn parents(context: &Context<'_>, kind: Kind, issuer: &Object<IssuerSpec>, gateways: &[GatewayState<'_>]) {
    let solvers = issuer.spec.acme.iter().flat_map(|acme| &acme.solvers).enumerate();
    for (index, solver) in solvers {
        let parents = solver.http01.as_ref().and_then(|http| http.gateway_http_route.as_ref());
        for parent in parents.iter().flat_map(|solver| &solver.parent_refs) {
            if let Some(why) = lost(context, &issuer.meta, parent, gateways) {
                let message = format!("acme.solvers[{index}].http01.gatewayHTTPRoute.parentRefs: {why}");
                context.problem(Severity::Warning, kind, &issuer.meta, message);
            }
        }
    }
}

fn lost(
    context: &Context<'_>,
    issuer: &Meta,
    parent: &ParentReference,
    gateways: &[GatewayState<'_>],
) -> Option<String> {
    let inputs = context.inputs;
    match Kind::of(&parent.group, &parent.kind) {
        Some(Kind::Gateway) => {
            // Of a ClusterIssuer it is the namespace of whoever asks, so there may be several.
            let home = parent.namespace.as_deref().or(Some(&*issuer.key.namespace).filter(|home| !home.is_empty()));
            let is_it = |key: &ObjectKey| *key.name == *parent.name && home.is_none_or(|home| *key.namespace == *home);
            if gateways.iter().any(|gateway| is_it(gateway.key())) {
                return None;
            }
            let name = home.map_or_else(|| parent.name.clone(), |home| format!("{home}/{}", parent.name));
            let is_there = inputs.gateways.keys().any(is_it);
            Some(format!("Gateway {name} {}", if is_there { "is not served by Edge" } else { "not found" }))
        }
        Some(Kind::ListenerSet) => None,
        _ => Some(format!("{} of group {:?} cannot be a parent", parent.kind, parent.group)),
    }
}
