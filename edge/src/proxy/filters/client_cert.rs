//! The field X-Forwarded-Client-Cert, as Envoy documents it: what passes of a client's own, and what is told of the
//! certificate of this connection. Other than Envoy, what a client says passes only if its certificate was verified.

use edge_config::policy::CertificateField;

use crate::proxy::message::Fields;
use crate::proxy::tls::shown::Shown;

pub const NAME: &[u8] = b"x-forwarded-client-cert";

/// Whether what the client sends is believed.
pub fn passes(field: Option<CertificateField>, shown: Option<&Shown>) -> bool {
    match field {
        Some(CertificateField::Always) => true,
        Some(CertificateField::Forward | CertificateField::Append(_)) => shown.is_some_and(Shown::is_verified),
        Some(CertificateField::Set(_)) | None => false,
    }
}

/// Adds what is told of the certificate behind what has passed, as one field: some endpoints read the first only.
pub fn tell(field: CertificateField, shown: Option<&Shown>, fields: &mut Fields) {
    if field.details().is_none() {
        return;
    }
    let Some(element) = shown.and_then(Shown::element) else { return };
    if fields.first(NAME).is_none() {
        return fields.add(NAME, element);
    }
    let passed: Vec<&[u8]> = fields.all(NAME).filter(|value| !value.is_empty()).chain([element]).collect();
    let whole = passed.join(&b","[..]);
    fields.set(NAME, &whole);
}

#[cfg(test)]
mod tests {
    use edge_config::names::{HostPattern, Kind, ObjectKey, ObjectRef};
    use edge_config::policy::{CertificateDetails, ClientRules};
    use edge_config::snapshot::{ClientSettings, ClientValidation, Listener, ListenerServe, TrustId};
    use rustls::pki_types::CertificateDer;

    use super::*;
    use crate::proxy::filters::forwarded::{self, Trust};
    use crate::proxy::message::RequestHead;
    use crate::proxy::tls::shown::Asked;

    /// `None`: the client showed nothing; else whether that was verified.
    fn shown(field: Option<CertificateField>, verified: Option<bool>) -> Option<Shown> {
        let rules = ClientRules { certificate: field, ..ClientRules::default() };
        let listener = Listener {
            parent: ObjectRef::new(Kind::Gateway, ObjectKey::new("default", "gateway")),
            name: "a".into(),
            port: 443,
            hostname: HostPattern::Any,
            policy: None,
            client: ClientSettings { rules: rules.or_none(), ..ClientSettings::default() },
            serve: ListenerServe::Http { routes: Default::default() },
        };
        let trust = TrustId(0);
        let validation = match verified {
            Some(false) => ClientValidation::Any { trust },
            _ => ClientValidation::IfGiven { trust },
        };
        let chain = verified.map(|_| CertificateDer::from(b"x".to_vec()));
        Asked::of(&listener, validation).map(|asked| asked.answered(chain.as_slice()).unwrap())
    }

    #[test]
    fn each_mode() {
        let details = CertificateDetails::default();
        let (append, set) = (Some(CertificateField::Append(details)), Some(CertificateField::Set(details)));
        let (forward, always) = (Some(CertificateField::Forward), Some(CertificateField::Always));
        // What the client sends, and what is told of `x`.
        const SENT: &str = "Hash=1,Hash=2";
        let own = format!("Hash={}", crate::proxy::tls::demands::sha256(b"x"));
        let both = format!("{SENT},{own}");
        let (nothing, own, both) = ("", own.as_str(), both.as_str());
        for (field, of_nobody, of_somebody, of_verified) in [
            (None, nothing, nothing, nothing),
            (forward, nothing, nothing, SENT),
            (append, nothing, own, both),
            (set, nothing, own, own),
            (always, SENT, SENT, SENT),
        ] {
            for (verified, expected) in [(None, of_nobody), (Some(false), of_somebody), (Some(true), of_verified)] {
                let shown = shown(field, verified);
                let rules = ClientRules { certificate: field, ..ClientRules::default() };
                let trust = Trust { hops: 0, rules: Some(&rules), shown: shown.as_ref() };
                let mut head = RequestHead::default();
                for value in SENT.split(',') {
                    head.fields.add(NAME, value.as_bytes());
                }
                // No endpoint may take it for the same.
                head.fields.add(b"x-forwarded_client-cert", b"Hash=3");
                forwarded::apply(&mut head, "192.0.2.9".parse().unwrap(), trust).unwrap();
                let found: Vec<_> = head.fields.all(NAME).map(String::from_utf8_lossy).collect();
                assert_eq!(found.join(","), expected, "{field:?} {verified:?}");
                assert!(field != append || found.len() <= 1, "{found:?}");
                assert_eq!(head.fields.first(b"x-forwarded_client-cert"), None);
            }
        }
    }

    #[test]
    fn without_a_connection_inside_tls_nothing_is_told() {
        let rules = ClientRules {
            certificate: Some(CertificateField::Append(CertificateDetails::default())),
            ..ClientRules::default()
        };
        let mut head = RequestHead::default();
        head.fields.add(NAME, b"Hash=1");
        let trust = Trust { hops: 0, rules: Some(&rules), shown: None };
        forwarded::apply(&mut head, "192.0.2.9".parse().unwrap(), trust).unwrap();
        assert_eq!(head.fields.first(NAME), None);
    }
}
