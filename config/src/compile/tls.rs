//! TLS of listeners: certificate references, validation of client certificates, and the client certificate of a
//! Gateway. A reference that may not be followed, or leads nowhere, costs its listener only.

use std::sync::Arc;

use foldhash::HashMap;

use super::certificates::{Asked, Asker, Certificates, Place, Supply};
use super::context::{Context, Fault};
use super::gateways::GatewayState;
use super::listeners::ListenerState;
use crate::core::CaBundle;
use crate::gateway::{FrontendTlsValidation, FrontendValidationMode, Protocol, SecretRef};
use crate::names::{CertId, HostPattern, Kind, ObjectKey, ObjectRef};
use crate::snapshot::{ClientValidation, Terminate, Trust, TrustId};

/// What serves where nobody issues: compile knows nothing of what is held.
const LAST_GOOD: &str = "what was issued before serves until it ends";

/// Sets of CA certificates, each once.
#[derive(Default)]
pub(super) struct TrustStore {
    pub list: Vec<Trust>,
    ids: HashMap<String, TrustId>,
}

impl TrustStore {
    pub fn intern(&mut self, found: FoundCas) -> TrustId {
        let next = TrustId(u32::try_from(self.list.len()).unwrap_or(u32::MAX));
        let Self { list, ids } = self;
        *ids.entry(found.source.clone()).or_insert_with(|| {
            list.push(Trust { source: found.source, certificates: found.certificates });
            next
        })
    }
}

/// CA certificates that references led to; empty where none did.
#[derive(Debug, Default, Clone)]
pub(super) struct FoundCas {
    pub source: String,
    pub certificates: Vec<Arc<[u8]>>,
}

/// The words for a reference to a CA that is no good; listeners and policies have different ones.
pub(super) struct CaReasons {
    pub kind: &'static str,
    pub reference: &'static str,
}

/// Follows references to CA certificates (`ca.crt` of ConfigMaps, as the specification has it, and of Secrets). What
/// is good among them is found, whatever is wrong with the others; the first fault is returned beside it.
pub(super) fn find_cas<'r>(
    context: &Context<'_>,
    (from, home): (Kind, &str),
    references: impl Iterator<Item = (&'r str, &'r str, &'r str, &'r str)>,
    reasons: &CaReasons,
) -> (FoundCas, Option<Fault>) {
    let mut found = FoundCas::default();
    let mut first = None;
    for (group, kind, namespace, name) in references {
        match find_ca(context, (from, home), (group, kind, namespace, name), reasons) {
            Ok((object, certificates)) => {
                if !found.source.is_empty() {
                    found.source.push_str(", ");
                }
                found.source.push_str(&object.to_string());
                found.certificates.extend_from_slice(certificates);
            }
            Err(fault) => {
                first.get_or_insert(fault);
            }
        }
    }
    (found, first)
}

/// DER certificates of one object.
type Ders<'a> = &'a [Arc<[u8]>];

/// The ConfigMap or Secret that a reference leads to, if it may be followed.
pub(super) fn holder(
    context: &Context<'_>,
    (from, home): (Kind, &str),
    (what, group, kind, namespace, name): (&str, &str, &str, &str, &str),
    wrong_kind: &'static str,
) -> Result<ObjectRef, Fault> {
    let kind = match Kind::of(group, kind) {
        Some(kind @ (Kind::ConfigMap | Kind::Secret)) => kind,
        _ => {
            let message = format!("{what} {kind} {name} of group {group:?}: expected a ConfigMap or a Secret");
            return Err(Fault::new(wrong_kind, message));
        }
    };
    let object = ObjectRef::new(kind, ObjectKey::new(namespace, name));
    if !context.grants.permit(from, home, kind, namespace, name) {
        return Err(Fault::new("RefNotPermitted", format!("{object}: no ReferenceGrant in {namespace} permits it")));
    }
    Ok(object)
}

fn find_ca<'a>(
    context: &Context<'a>,
    from: (Kind, &str),
    (group, kind, namespace, name): (&str, &str, &str, &str),
    reasons: &CaReasons,
) -> Result<(ObjectRef, Ders<'a>), Fault> {
    let object = holder(context, from, ("CA certificate", group, kind, namespace, name), reasons.kind)?;
    let bundle: Option<Option<&'a CaBundle>> = match object.kind {
        Kind::ConfigMap => context.inputs.config_maps.get(&object.key).map(|found| found.spec.ca.as_ref()),
        _ => context.inputs.secrets.get(&object.key).map(|found| found.spec.ca()),
    };
    let wrong = |message: String| Fault::new(reasons.reference, message);
    match bundle {
        None => Err(wrong(context.missing(object.kind, &object.key))),
        Some(None) => Err(wrong(format!("{object} has no ca.crt"))),
        Some(Some(CaBundle(Err(why)))) => Err(wrong(format!("{object}: {why}"))),
        Some(Some(CaBundle(Ok(certificates)))) if certificates.is_empty() => {
            Err(wrong(format!("{object}: ca.crt holds no certificate")))
        }
        Some(Some(CaBundle(Ok(certificates)))) => Ok((object, certificates)),
    }
}

/// The key of the Secret that a reference leads to, if it may be followed.
pub(super) fn secret_of(
    context: &Context<'_>,
    (from, home): (Kind, &str),
    reference: &SecretRef,
    invalid: &'static str,
) -> Result<ObjectKey, Fault> {
    if Kind::of(&reference.group, &reference.kind) != Some(Kind::Secret) {
        let message = format!(
            "certificate {} {} of group {:?}: expected a Secret",
            reference.kind, reference.name, reference.group
        );
        return Err(Fault::new(invalid, message));
    }
    let namespace = reference.namespace.as_deref().unwrap_or(home);
    if !context.grants.permit(from, home, Kind::Secret, namespace, &reference.name) {
        let message = format!("Secret {namespace}/{}: no ReferenceGrant in {namespace} permits it", reference.name);
        return Err(Fault::new("RefNotPermitted", message));
    }
    Ok(ObjectKey::new(namespace, reference.name.as_str()))
}

/// Resolves everything about TLS of all listeners.
pub(super) fn tls<'a>(
    context: &Context<'a>,
    gateways: &mut [GatewayState<'_>],
    certificates: &mut Certificates<'a>,
    trust: &mut TrustStore,
) {
    for (index, gateway) in gateways.iter_mut().enumerate() {
        client_certificate(context, gateway);
        let frontend = gateway.object.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
        let key = &gateway.object.meta.key;
        let listeners = gateway.listeners.iter_mut().enumerate().filter(|(_, listener)| listener.terminates());
        for (place, listener) in listeners {
            let own = match listener.set.and_then(|set| gateway.sets.get(set)) {
                Some(set) => &set.object.meta,
                None => &gateway.object.meta,
            };
            let asker = Asker { kind: listener.kind(), own, gateway: &gateway.object.meta };
            let held = listener_certificates(context, listener, ((index, place), asker), certificates);
            // "perPort overrides default entirely"; validation is for HTTPS only.
            let validation = frontend.filter(|_| listener.spec.protocol == Protocol::Https).and_then(|frontend| {
                let port = frontend.per_port.iter().find(|entry| entry.port == listener.spec.port);
                port.map_or(&frontend.default, |entry| &entry.tls).validation.as_ref()
            });
            let client_validation = match validation {
                None => ClientValidation::Off,
                Some(validation) => {
                    let insecure = validation.mode == FrontendValidationMode::AllowInsecureFallback;
                    gateway.insecure_validation |= insecure;
                    match client_validation(context, key, listener, validation, trust) {
                        None => continue,
                        Some(trust) if insecure => ClientValidation::Requested { trust },
                        Some(trust) => ClientValidation::Required { trust },
                    }
                }
            };
            if !held.is_empty() {
                let (demands, parameters) = (None, None);
                listener.terminate = Some(Terminate { certificates: held, client_validation, demands, parameters });
            }
        }
    }
}

/// The certificates that a listener can show, in the order of its references. The first fault among them is ResolvedRefs'.
fn listener_certificates<'a>(
    context: &Context<'a>,
    listener: &mut ListenerState<'_>,
    (place, asker): (Place, Asker<'_>),
    certificates: &mut Certificates<'a>,
) -> Vec<CertId> {
    const INVALID: &str = "InvalidCertificateRef";
    let (kind, home) = (listener.kind(), &*listener.parent.namespace);
    let references = listener.spec.tls.as_ref().map_or(&[][..], |tls| &tls.certificate_refs);
    let mut held = Vec::new();
    let mut proper = false;
    let mut first = None;
    if references.is_empty() {
        first = Some(Fault::new(INVALID, "tls.certificateRefs is empty, expected a Secret"));
    }
    for reference in references {
        let key = match secret_of(context, (kind, home), reference, INVALID) {
            Ok(key) => key,
            Err(fault) => {
                first.get_or_insert(fault);
                continue;
            }
        };
        let id = CertId(key.clone());
        let why = match context.inputs.secrets.get(&key) {
            Some(secret) => secret.spec.certificate().err().map(|why| format!("Secret {key}: {why}")),
            None => Some(context.missing(Kind::Secret, &key)),
        };
        if why.is_none()
            && let Some(outdated) = context.inputs.outdated.get(&ObjectRef::new(Kind::Secret, key.clone()))
        {
            listener.outdated.get_or_insert_with(|| format!("Secret {key}: {outdated}"));
        }
        let asked = Asked { listener, place, asker, id: &id, why: why.as_deref() };
        let supply = certificates.supply(context, &asked);
        let why = why.unwrap_or_default();
        match supply {
            Supply::Held | Supply::Issued | Supply::Deferred => {
                proper = true;
                held.push(id);
            }
            Supply::Placeholder(instead) => {
                held.push(id);
                let message = match instead {
                    Some(issuer) => format!("{why}; {issuer}; {LAST_GOOD}, or else a placeholder of the internal CA"),
                    None => format!("{why}; a placeholder of the internal CA is served"),
                };
                first.get_or_insert(Fault::new(INVALID, message));
            }
            Supply::LastGood(issuer) => {
                held.push(id);
                first.get_or_insert(Fault::new(INVALID, format!("{why}; {issuer}; {LAST_GOOD}, if there is one")));
            }
            Supply::Nothing(instead) => {
                let message = instead.map_or_else(|| why.clone(), |issuer| format!("{why}; {issuer}"));
                first.get_or_insert(Fault::new(INVALID, message));
            }
        }
    }
    held.dedup();
    // Only these need to know what routes say.
    listener.collects_hosts =
        !held.is_empty() && (listener.hostname == HostPattern::Any || certificates.is_pending(place));
    if let Some(fault) = first {
        if !proper {
            listener.programmed_fault = Some(Fault::new("Invalid", fault.message.clone()));
        }
        // A certificate that is no good matters more than a route kind that is not served.
        listener.refs_fault = Some(fault);
    }
    held
}

/// The CA certificates for a listener's clients, or `None` if there is none, which makes the listener invalid: it must
/// not let in clients that nobody validated.
fn client_validation(
    context: &Context<'_>,
    gateway: &ObjectKey,
    listener: &mut ListenerState<'_>,
    validation: &FrontendTlsValidation,
    trust: &mut TrustStore,
) -> Option<TrustId> {
    if let FrontendValidationMode::Other(mode) = &validation.mode {
        let message = format!("client validation mode {mode:?} is not supported");
        listener.fault.get_or_insert(Fault::new("UnsupportedValue", message));
        return None;
    }
    let home = &*gateway.namespace;
    let references = validation.ca_certificate_refs.iter().map(|reference| {
        let namespace = reference.namespace.as_deref().unwrap_or(home);
        (reference.group.as_str(), reference.kind.as_str(), namespace, reference.name.as_str())
    });
    let reasons = CaReasons { kind: "InvalidCACertificateKind", reference: "InvalidCACertificateRef" };
    let (found, fault) = find_cas(context, (Kind::Gateway, home), references, &reasons);
    if found.certificates.is_empty() {
        let why = fault.as_ref().map_or("no CA certificate is named", |fault| &fault.message).to_owned();
        listener.fault.get_or_insert(Fault::new("NoValidCACertificate", why));
    }
    if let Some(fault) = fault {
        listener.refs_fault = Some(fault);
    }
    (!found.certificates.is_empty()).then(|| trust.intern(found))
}

/// Gateway `spec.tls.backend.clientCertificateRef`.
fn client_certificate(context: &Context<'_>, gateway: &mut GatewayState<'_>) {
    let tls = gateway.object.spec.tls.as_ref();
    let Some(reference) = tls.and_then(|tls| tls.backend.as_ref()?.client_certificate_ref.as_ref()) else { return };
    const INVALID: &str = "InvalidClientCertificateRef";
    let home = &*gateway.object.meta.key.namespace;
    let found = secret_of(context, (Kind::Gateway, home), reference, INVALID).and_then(|key| {
        let secret = context.inputs.secrets.get(&key);
        let secret = secret.ok_or_else(|| Fault::new(INVALID, context.missing(Kind::Secret, &key)))?;
        let usable = secret.spec.certificate().map(|_| ());
        usable.map_err(|why| Fault::new(INVALID, format!("Secret {key}: {why}")))?;
        Ok(key)
    });
    match found {
        Ok(key) => {
            gateway.client_certificate = Some(CertId(key.clone()));
            gateway.profile.client_certificate = Some(CertId(key));
        }
        Err(fault) => gateway.refs_fault = Some(fault),
    }
}
