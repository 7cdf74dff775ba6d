//! One element of X-Forwarded-Client-Cert: what is told of a certificate. Everything in it comes from the client, so nothing
//! leaves that could end a value, an element or the field before its time.

use std::fmt::Write as _;

use edge_config::policy::CertificateDetails;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::proxy::tls::demands::sha256;

/// Endpoints take heads of 8 to 64 KiB; a chain of a few certificates is 10.
const LONGEST: usize = 32 << 10;

/// What would be told of a certificate is longer than endpoints take.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("what is to be told of the client's certificates has {0} bytes, expected {LONGEST} at most")]
pub struct TooLong(usize);

/// In Envoy's order: digest, certificate, chain, subject, URIs, DNS names. `chain` is not empty.
pub fn element(chain: &[CertificateDer<'_>], details: CertificateDetails) -> Result<Box<[u8]>, TooLong> {
    let mut text = String::new();
    let Some(leaf) = chain.first() else { return Ok(Box::default()) };
    let _infallible = write!(text, "Hash={}", sha256(leaf));
    if details.certificate {
        text.push_str(";Cert=\"");
        pem(leaf, &mut text);
        text.push('"');
    }
    if details.chain {
        text.push_str(";Chain=\"");
        chain.iter().for_each(|certificate| pem(certificate, &mut text));
        text.push('"');
    }
    // A certificate that nobody verified may be anything; its digest and its bytes say so.
    let parsed = X509Certificate::from_der(leaf).ok().map(|(_, parsed)| parsed);
    if details.subject {
        let subject = parsed.as_ref().map(|parsed| subject(parsed.subject())).unwrap_or_default();
        text.push_str(";Subject=");
        quoted(&subject, &mut text);
    }
    let names = parsed.as_ref().and_then(|parsed| parsed.subject_alternative_name().ok().flatten());
    let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
    if details.uri {
        let before = text.len();
        for name in names {
            if let GeneralName::URI(uri) = name {
                pair("URI", uri, &mut text);
            }
        }
        // The key is there even if the certificate has none.
        if text.len() == before {
            text.push_str(";URI=");
        }
    }
    if details.dns {
        for name in names {
            if let GeneralName::DNSName(dns) = name {
                pair("DNS", dns, &mut text);
            }
        }
    }
    if text.len() > LONGEST { Err(TooLong(text.len())) } else { Ok(text.into_bytes().into()) }
}

/// A name with a character that no such name has (RFC 5280 §4.2.1.6: IA5String; a URI and a host name have no control
/// character and no space) is not told.
fn pair(key: &str, value: &str, text: &mut String) {
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return;
    }
    text.push(';');
    text.push_str(key);
    text.push('=');
    if value.bytes().any(|byte| matches!(byte, b',' | b';' | b'=' | b'"' | b'\\')) {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
        quoted(&escaped, text);
    } else {
        text.push_str(value);
    }
}

/// `value` has no quote that is not escaped.
fn quoted(value: &str, text: &mut String) {
    text.push('"');
    text.push_str(value);
    text.push('"');
}

/// PEM (RFC 7468), percent-encoded (RFC 3986 §2.1).
fn pem(der: &[u8], text: &mut String) {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut encoded = |part: &str| {
        for byte in part.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' => text.push(char::from(byte)),
                other => {
                    let _infallible = write!(text, "%{other:02X}");
                }
            }
        }
    };
    encoded("-----BEGIN CERTIFICATE-----\n");
    for start in (0..body.len()).step_by(64) {
        encoded(&body[start..body.len().min(start + 64)]);
        encoded("\n");
    }
    encoded("-----END CERTIFICATE-----\n");
}

/// A name as RFC 2253 writes it, the last part first, in ASCII. All quotes and backslashes are escaped by its rules.
fn subject(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> =
        name.iter().map(|relative| relative.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let key = KEYS.iter().find(|(known, _)| *known == oid).map(|(_, key)| *key);
    match (key, attribute.as_str()) {
        (Some(key), Ok(value)) => format!("{key}={}", escaped(value)),
        // RFC 2253 §2.4: what has no text, or whose type is not known, is `#` and its DER encoding.
        _ => {
            let value = attribute.attr_value();
            let mut text = format!("{}=#", key.unwrap_or(&oid));
            let mut byte = |byte: u8| {
                let _infallible = write!(text, "{byte:02X}");
            };
            byte(u8::try_from(value.header.tag().0 & 0x1f).unwrap_or_default());
            let length = value.data.len();
            match u8::try_from(length) {
                Ok(short) if short < 0x80 => byte(short),
                Ok(short) => [0x81, short].into_iter().for_each(&mut byte),
                Err(_) => {
                    let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
                    [0x82, high, low].into_iter().for_each(&mut byte);
                }
            }
            value.data.iter().copied().for_each(byte);
            text
        }
    }
}

/// RFC 2253 §2.4; control characters and what is not ASCII as `\` and two digits for each byte.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (place, byte) in value.bytes().enumerate() {
        let is_edge = match byte {
            b'#' => place == 0,
            b' ' => place == 0 || place == last,
            _ => false,
        };
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            _ if is_edge => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' '..=b'~' => text.push(char::from(byte)),
            other => {
                let _infallible = write!(text, "\\{other:02X}");
            }
        }
    }
    text
}

/// Of attributes that subjects have, by OpenSSL's short names, which Envoy writes.
const KEYS: [(&str, &str); 17] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.42", "GN"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];
