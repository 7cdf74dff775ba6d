//! The certificate that a client has shown, as far as the rest of a connection needs it: whether it is good for a listener,
//! and the element of X-Forwarded-Client-Cert that tells of it.
//!
//! In flow the listener that asked and the chain of the handshake; out flows a [`Shown`], made once for a connection. The
//! chain itself is not kept. The element is as Envoy documents it: `Hash`, then what is asked for, joined by `;`, values
//! that need it in quotes.

mod element;

use edge_config::names::ObjectRef;
use edge_config::policy::{CertificateDetails, CertificateField};
use edge_config::snapshot::{ClientSettings, ClientValidation, Listener, ListenerServe};
use rustls::pki_types::CertificateDer;

pub use element::TooLong;

/// Of a listener that asks for certificates.
#[derive(Debug, Clone)]
pub struct Shown {
    parent: ObjectRef,
    name: Box<str>,
    certificate: Option<Certificate>,
}

#[derive(Debug, Clone)]
struct Certificate {
    is_verified: bool,
    element: Option<(CertificateDetails, Box<[u8]>)>,
}

/// What a listener wanted to know before the handshake.
#[derive(Debug)]
pub struct Asked {
    shown: Shown,
    validation: ClientValidation,
    details: Option<CertificateDetails>,
}

impl Asked {
    /// `None`: it asks for no certificate.
    pub fn of(listener: &Listener, validation: ClientValidation) -> Option<Box<Self>> {
        if validation == ClientValidation::Off {
            return None;
        }
        let shown = Shown { parent: listener.parent.clone(), name: listener.name.clone(), certificate: None };
        Some(Box::new(Self { shown, validation, details: details(&listener.client) }))
    }

    /// With the client's chain, its own certificate first; without one, none was shown.
    pub fn answered(self, chain: &[CertificateDer<'_>]) -> Result<Shown, TooLong> {
        let Self { mut shown, validation, details } = self;
        if !chain.is_empty() {
            let element = details.map(|details| Ok((details, element::element(chain, details)?))).transpose()?;
            shown.certificate = Some(Certificate { is_verified: validation.verifies(), element });
        }
        Ok(shown)
    }
}

impl Shown {
    /// Whether what the client sends about certificates may be believed.
    pub fn is_verified(&self) -> bool {
        self.certificate.as_ref().is_some_and(|certificate| certificate.is_verified)
    }

    /// What endpoints are told of the certificate, where there is one and something is told.
    pub fn element(&self) -> Option<&[u8]> {
        let (_, element) = self.certificate.as_ref()?.element.as_ref()?;
        Some(element)
    }
}

/// Whether a connection meets what a listener asks of clients now. A name may have come to another listener since, or its
/// own may ask for more, or tell something else: then a new connection is in order.
pub fn meets(shown: Option<&Shown>, listener: &Listener) -> bool {
    let ListenerServe::Https { tls, .. } = &listener.serve else { return true };
    let validation = tls.client_validation;
    if validation == ClientValidation::Off {
        return true;
    }
    let own = shown.filter(|shown| shown.parent == listener.parent && shown.name == listener.name);
    let Some(certificate) = own.and_then(|shown| shown.certificate.as_ref()) else {
        // One that was shown to another listener says nothing here.
        let is_foreign = own.is_none() && shown.is_some_and(|shown| shown.certificate.is_some());
        return !validation.is_required() && !is_foreign;
    };
    let is_told = match details(&listener.client) {
        Some(wanted) => certificate.element.as_ref().is_some_and(|(details, _)| *details == wanted),
        None => true,
    };
    is_told && (certificate.is_verified || !validation.verifies())
}

fn details(client: &ClientSettings) -> Option<CertificateDetails> {
    client.rules.as_ref()?.certificate.and_then(CertificateField::details)
}

#[cfg(test)]
mod tests;
