//! BackendTLSPolicy: which one holds for a Service port, what it resolves to, and its status.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::context::{Context, Fault, by_age, condition, fingerprint};
use super::gateways::GatewayState;
use super::policies::ancestor;
use super::tls::{CaReasons, FoundCas, find_cas};
use crate::gateway::{BackendTlsPolicySpec, SubjectAltNameType, WellKnownCa};
use crate::inputs::Object;
use crate::names::{Hostname, Kind, ObjectKey, ObjectRef};
use crate::problem::Severity;
use crate::report::{ObjectReport, ParentReport};
use crate::snapshot::SubjectAltName;

/// At most so many ancestors are in a policy's status (PolicyStatus.ancestors).
pub(super) const MOST_ANCESTORS: usize = 16;

pub(super) struct TlsPolicies<'a> {
    pub list: Vec<TlsPolicy<'a>>,
    /// By target and section, oldest first.
    by_target: HashMap<(Kind, &'a str, &'a str, Option<&'a str>), Vec<usize>>,
    /// Gateways that route to a target of each policy.
    ancestors: RefCell<Vec<BTreeSet<usize>>>,
}

pub(super) struct TlsPolicy<'a> {
    object: &'a Object<BackendTlsPolicySpec>,
    pub hostname: Box<str>,
    pub names: Vec<SubjectAltName>,
    /// `None`: the system's.
    pub cas: Option<FoundCas>,
    /// Tells versions of the policy apart, so that a connection made under one is not used under another.
    pub print: u64,
    /// Accepted.
    pub fault: Option<Fault>,
    refs_fault: Option<Fault>,
}

impl<'a> TlsPolicies<'a> {
    pub fn new(context: &Context<'a>) -> Self {
        let mut objects: Vec<&'a Object<BackendTlsPolicySpec>> =
            context.inputs.backend_tls_policies.values().map(|object| &**object).collect();
        objects.sort_by(|a, b| by_age(&a.meta, &b.meta));
        let mut by_target: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, object) in objects.iter().enumerate() {
            for target in &object.spec.target_refs {
                let home = &*object.meta.key.namespace;
                let kind = Kind::of(&target.group, &target.kind);
                let Some(kind) = kind.filter(|kind| matches!(kind, Kind::Service | Kind::Backend)) else {
                    let message = format!("targetRefs: {} of group {:?} cannot be a target", target.kind, target.group);
                    context.problem(Severity::Warning, Kind::BackendTLSPolicy, &object.meta, message);
                    continue;
                };
                let key = ObjectKey::new(home, target.name.as_str());
                if context.inputs.meta(&ObjectRef::new(kind, key.clone())).is_none() {
                    let message = format!("targetRefs: {}", context.missing(kind, &key));
                    context.problem(Severity::Warning, Kind::BackendTLSPolicy, &object.meta, message);
                }
                let section = target.section_name.as_deref().filter(|name| !name.is_empty());
                let list: &mut Vec<usize> = by_target.entry((kind, home, target.name.as_str(), section)).or_default();
                if list.last() != Some(&index) {
                    list.push(index);
                }
            }
        }
        let ancestors = RefCell::new(vec![BTreeSet::new(); objects.len()]);
        let list = objects.into_iter().map(|object| resolve(context, object)).collect();
        Self { list, by_target, ancestors }
    }

    /// The policy for a port: one whose `sectionName` is the port's name before one for the whole object; of several
    /// the oldest. Every policy that was in question gets the Gateways as ancestors.
    pub fn of(
        &self,
        kind: Kind,
        key: &'a ObjectKey,
        port: Option<&'a str>,
        gateways: &[usize],
    ) -> Option<(usize, &TlsPolicy<'a>)> {
        if self.list.is_empty() {
            return None;
        }
        let look = |section| self.by_target.get(&(kind, &*key.namespace, &*key.name, section));
        let named = port.and_then(|port| look(Some(port)));
        let found = named.or_else(|| look(None))?;
        for index in found {
            if let Some(set) = self.ancestors.borrow_mut().get_mut(*index) {
                set.extend(gateways);
            }
        }
        let winner = *found.first()?;
        Some((winner, self.list.get(winner)?))
    }

    /// Whether an older policy has every target of this one.
    fn conflict(&self, index: usize) -> Option<Fault> {
        let mut rival = None;
        for sharing in self.by_target.values().filter(|sharing| sharing.contains(&index)) {
            match sharing.first() {
                Some(first) if *first != index => rival = rival.min(Some(*first)).or(Some(*first)),
                _ => return None,
            }
        }
        let rival = self.list.get(rival?)?;
        let message = format!("BackendTLSPolicy {} has the same target and goes first", rival.object.meta.key);
        Some(Fault::new("Conflicted", message))
    }

    pub fn report(&self, gateways: &[GatewayState<'_>], out: &mut Vec<(ObjectRef, ObjectReport)>) {
        let ancestors = self.ancestors.borrow();
        for (index, policy) in self.list.iter().enumerate() {
            let conflict = self.conflict(index);
            let fault = conflict.as_ref().or(policy.fault.as_ref());
            let conditions: Arc<[_]> = Arc::new([
                condition("Accepted", "Accepted", fault),
                condition("ResolvedRefs", "ResolvedRefs", policy.refs_fault.as_ref()),
            ]);
            let parents = ancestors.get(index).into_iter().flatten().filter_map(|gateway| gateways.get(*gateway));
            let parents = parents.take(MOST_ANCESTORS).map(|gateway| ParentReport {
                parent: Arc::new(ancestor(gateway.key(), None)),
                controller: gateway.controller.clone(),
                conditions: Arc::clone(&conditions),
            });
            out.push((
                ObjectRef::new(Kind::BackendTLSPolicy, policy.object.meta.key.clone()),
                ObjectReport {
                    generation: policy.object.meta.generation,
                    parents: parents.collect(),
                    ..ObjectReport::default()
                },
            ));
        }
    }
}

fn resolve<'a>(context: &Context<'a>, object: &'a Object<BackendTlsPolicySpec>) -> TlsPolicy<'a> {
    let validation = &object.spec.validation;
    let invalid = |message: String| Some(Fault::new("Invalid", message));
    let home = &*object.meta.key.namespace;
    let mut fault = None;
    let mut refs_fault = None;
    let mut names = Vec::new();
    for name in &validation.subject_alt_names {
        match (&name.kind, &name.hostname, &name.uri) {
            (SubjectAltNameType::Hostname, Some(hostname), _) => {
                names.push(SubjectAltName::Dns(hostname.as_str().into()))
            }
            (SubjectAltNameType::Uri, _, Some(uri)) => names.push(SubjectAltName::Uri(uri.as_str().into())),
            (kind, ..) => fault = invalid(format!("subjectAltNames: an entry of type {kind} has no such value")),
        }
    }
    if let Err(error) = Hostname::parse(&validation.hostname) {
        fault = invalid(format!("validation.hostname {:?} {error}", validation.hostname));
    }
    let cas = match (&validation.well_known_ca_certificates, validation.ca_certificate_refs.is_empty()) {
        (Some(WellKnownCa::System), true) => None,
        (Some(other), true) => {
            fault = invalid(format!("wellKnownCACertificates {:?} is not supported", other.as_str()));
            None
        }
        (_, false) => {
            let reasons = CaReasons { kind: "InvalidKind", reference: "InvalidCACertificateRef" };
            let references = validation.ca_certificate_refs.iter();
            let references = references.map(|r| (r.group.as_str(), r.kind.as_str(), home, r.name.as_str()));
            let (found, wrong) = find_cas(context, (Kind::BackendTLSPolicy, home), references, &reasons);
            if found.certificates.is_empty() {
                let why = wrong.as_ref().map_or_else(String::new, |wrong| wrong.message.clone());
                fault = Some(Fault::new("NoValidCACertificate", why));
            }
            refs_fault = wrong;
            Some(found)
        }
        (None, true) => {
            fault = Some(Fault::new("NoValidCACertificate", "neither caCertificateRefs nor wellKnownCACertificates"));
            None
        }
    };
    let mut parts: Vec<&[u8]> = vec![validation.hostname.as_bytes()];
    parts.extend(names.iter().flat_map(|name| match name {
        SubjectAltName::Dns(name) => [&b"dns"[..], name.as_bytes()],
        SubjectAltName::Uri(name) => [&b"uri"[..], name.as_bytes()],
    }));
    parts.extend(cas.iter().flat_map(|cas| cas.certificates.iter().map(|certificate| &**certificate)));
    let print = fingerprint(parts);
    TlsPolicy { object, hostname: validation.hostname.as_str().into(), names, cas, print, fault, refs_fault }
}

impl TlsPolicy<'_> {
    pub fn key(&self) -> &ObjectKey {
        &self.object.meta.key
    }
}
