//! Envoy Gateway's Backend beyond its addresses: why one cannot be used, how it is spoken to in TLS, and its status.
//!
//! Its `tls` adds to a BackendTLSPolicy, which goes first wherever both say something: name, CAs, and that certificates are
//! verified at all.

use std::sync::Arc;

use super::backend_tls::TlsPolicy;
use super::client_traffic::tls_parameters;
use super::context::{Context, Fault, condition, fingerprint};
use super::tls::{CaReasons, FoundCas, find_cas, secret_of};
use super::traffic::unacted;
use crate::envoy::{BackendSpec, BackendTls, BackendType};
use crate::gateway::WellKnownCa;
use crate::inputs::Object;
use crate::names::{CertId, Kind, ObjectKey, ObjectRef};
use crate::problem::Severity;
use crate::report::{Condition, ObjectReport};
use crate::snapshot::{SubjectAltName, TlsParameters};

/// How an upstream is spoken to in TLS, whoever says so.
pub(super) struct SpokenTls {
    pub hostname: Box<str>,
    pub names: Vec<SubjectAltName>,
    /// `None`: the system's.
    pub cas: Option<FoundCas>,
    pub is_verified: bool,
    pub client_certificate: Option<CertId>,
    pub parameters: Option<Arc<TlsParameters>>,
    /// Tells versions of it apart, so that a connection made under one is not used under another.
    pub print: u64,
}

impl SpokenTls {
    pub fn of_policy(policy: &TlsPolicy<'_>, client_certificate: Option<CertId>) -> Self {
        Self {
            hostname: policy.hostname.clone(),
            names: policy.names.clone(),
            cas: policy.cas.clone(),
            is_verified: true,
            client_certificate,
            parameters: None,
            print: policy.print,
        }
    }

    /// What a Backend says of itself, under a policy for it.
    pub fn of_backend(
        context: &Context<'_>,
        object: &Object<BackendSpec>,
        tls: &BackendTls,
        policy: Option<&TlsPolicy<'_>>,
        of_gateway: Option<CertId>,
    ) -> Result<Self, Fault> {
        let key = &object.meta.key;
        let own = own_certificate(context, key, tls)?;
        let client_certificate = own.or(of_gateway);
        let parameters = parameters(tls).map_err(|why| fault(key, &why))?;
        let mut spoken = match policy {
            Some(policy) => Self::of_policy(policy, client_certificate),
            None => {
                let cas = authorities(context, key, tls)?;
                let hostname = name(&object.spec, tls).ok_or_else(|| {
                    let why = "tls has no name to ask for and to verify: set sni, or hostname of the endpoints";
                    fault(key, why)
                })?;
                let is_verified = !tls.insecure_skip_verify;
                let (names, print) = (Vec::new(), 0);
                Self { hostname, names, cas, is_verified, client_certificate, parameters: None, print }
            }
        };
        spoken.parameters = parameters;
        spoken.print = spoken.fingerprint();
        Ok(spoken)
    }

    fn fingerprint(&self) -> u64 {
        let before = self.print.to_be_bytes();
        let verified = [u8::from(self.is_verified)];
        // A plain struct of flags and names, for which this cannot fail.
        let parameters = serde_json::to_vec(&self.parameters).unwrap_or_default();
        let mut parts: Vec<&[u8]> = vec![&before, self.hostname.as_bytes(), &verified, &parameters];
        parts.extend(self.cas.iter().flat_map(|cas| cas.certificates.iter().map(|certificate| &**certificate)));
        fingerprint(parts)
    }
}

fn fault(key: &ObjectKey, why: &str) -> Fault {
    Fault::new("Invalid", format!("Backend {key}: {why}"))
}

fn own_certificate(context: &Context<'_>, key: &ObjectKey, tls: &BackendTls) -> Result<Option<CertId>, Fault> {
    let Some(reference) = &tls.client_certificate_ref else { return Ok(None) };
    let secret = secret_of(context, (Kind::Backend, &key.namespace), reference, "Invalid")
        .map_err(|wrong| fault(key, &format!("tls.clientCertificateRef: {}", wrong.message)))?;
    let found = context.inputs.secrets.get(&secret);
    let found = found.ok_or_else(|| fault(key, &context.missing(Kind::Secret, &secret)))?;
    let usable = found.spec.certificate();
    usable.map_err(|why| fault(key, &format!("tls.clientCertificateRef: Secret {secret}: {why}")))?;
    Ok(Some(CertId(secret)))
}

/// `None`: the system's.
fn authorities(context: &Context<'_>, key: &ObjectKey, tls: &BackendTls) -> Result<Option<FoundCas>, Fault> {
    if tls.insecure_skip_verify {
        return Ok(None);
    }
    if tls.ca_certificate_refs.is_empty() {
        return match &tls.well_known_ca_certificates {
            Some(WellKnownCa::System) => Ok(None),
            Some(WellKnownCa::Other(set)) if !set.is_empty() => {
                Err(fault(key, &format!("tls.wellKnownCACertificates {set:?} is not supported")))
            }
            _ => {
                Err(fault(key, "tls has neither caCertificateRefs nor wellKnownCACertificates nor insecureSkipVerify"))
            }
        };
    }
    let reasons = CaReasons { kind: "Invalid", reference: "Invalid" };
    let home = &*key.namespace;
    let references = tls.ca_certificate_refs.iter();
    let references = references.map(|r| (r.group.as_str(), r.kind.as_str(), home, r.name.as_str()));
    let (found, wrong) = find_cas(context, (Kind::Backend, home), references, &reasons);
    match wrong {
        Some(wrong) if found.certificates.is_empty() => Err(fault(key, &wrong.message)),
        _ => Ok(Some(found)),
    }
}

/// The name that is asked for and verified: what is said, or what the endpoints are called, as long as it is one name.
/// Where nothing is verified, the first address will do.
fn name(spec: &BackendSpec, tls: &BackendTls) -> Option<Box<str>> {
    if let Some(sni) = &tls.sni {
        return Some(sni.as_str().into());
    }
    let mut names = spec.endpoints.iter().map(|endpoint| {
        let of_address = endpoint.fqdn.as_ref().map(|fqdn| fqdn.hostname.trim_end_matches('.'));
        endpoint.hostname.as_deref().or(of_address)
    });
    let first = names.next().flatten();
    if let Some(first) = first.filter(|first| names.all(|name| name == Some(first))) {
        return Some(first.to_ascii_lowercase().into());
    }
    let address = spec.endpoints.first().and_then(|endpoint| endpoint.ip.as_ref());
    address.filter(|_| tls.insecure_skip_verify).map(|ip| ip.address.as_str().into())
}

fn parameters(tls: &BackendTls) -> Result<Option<Arc<TlsParameters>>, String> {
    let versions = (&tls.min_version, &tls.max_version);
    // ALPN follows from what is spoken to the endpoints.
    let found = tls_parameters(versions, &tls.ciphers, &tls.ecdh_curves, None)?;
    Ok(Some(found).filter(|found| *found != TlsParameters::default()).map(Arc::new))
}

/// Why a Backend cannot be used, if so.
pub(super) fn backend_fault(spec: &BackendSpec) -> Option<String> {
    if spec.kind != BackendType::Endpoints {
        return Some(format!("type {} is not supported", spec.kind));
    }
    let names = spec.endpoints.iter().filter(|endpoint| endpoint.fqdn.is_some()).count();
    if spec.endpoints.iter().any(|endpoint| endpoint.unix.is_some()) {
        Some("unix sockets are not supported".to_owned())
    } else if names > 0 && spec.endpoints.len() > 1 {
        Some("an endpoint by name must be the only one".to_owned())
    } else if let Some(ip) = spec
        .endpoints
        .iter()
        .filter_map(|endpoint| endpoint.ip.as_ref())
        .find(|ip| ip.address.parse::<std::net::IpAddr>().is_err())
    {
        Some(format!("{:?} is no IP address", ip.address))
    } else if spec.endpoints.is_empty() {
        Some("it has no endpoints".to_owned())
    } else {
        None
    }
}

/// Backends say whether they can be used, and what is daring about them.
pub(super) fn report(context: &Context<'_>, out: &mut Vec<(ObjectRef, ObjectReport)>) {
    for (key, backend) in &context.inputs.backends {
        let wrong = backend_fault(&backend.spec).map(|why| Fault::new("Invalid", why));
        // A policy may make good for what is missing here, so only what it cannot is told.
        let wrong = wrong.or_else(|| {
            let tls = backend.spec.tls.as_ref()?;
            let own = own_certificate(context, key, tls).err();
            own.or_else(|| parameters(tls).err().map(|why| Fault::new("Invalid", why)))
        });
        // Routes are told of it with its name, itself without.
        let name = format!("Backend {key}: ");
        let wrong = wrong.map(|wrong| match wrong.message.strip_prefix(&name) {
            Some(message) => Fault::new(wrong.reason, message),
            None => wrong,
        });
        if let Some(wrong) = wrong.as_ref().filter(|_| backend.spec.tls.is_some()) {
            context.problem(Severity::Error, Kind::Backend, &backend.meta, wrong.message.clone());
        }
        let mut conditions = vec![condition("Accepted", "Accepted", wrong.as_ref())];
        if backend.spec.tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify) {
            let message = "tls.insecureSkipVerify: whoever answers at its addresses is believed";
            context.problem(Severity::Warning, Kind::Backend, &backend.meta, message);
            let message = message.to_owned();
            conditions.push(Condition { kind: "Warning", status: true, reason: "InsecureTLS", message });
        } else {
            conditions.extend(unacted("spec", &crate::manifest::unacted(Kind::Backend, &backend.spec)));
        }
        let report = ObjectReport { generation: backend.meta.generation, conditions, ..ObjectReport::default() };
        out.push((ObjectRef::new(Kind::Backend, key.clone()), report));
    }
}
