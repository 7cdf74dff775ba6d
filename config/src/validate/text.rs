//! Patterns of names, hosts, paths and header fields. All of them are loops over ASCII: no backtracking, no state.

use super::Faults;
use crate::names::Kind;
use crate::yaml::Quoted;

/// RFC 1123 label: at most 63 lower-case letters, digits and inner hyphens.
pub fn is_label(text: &str) -> bool {
    !text.is_empty() && text.len() <= 63 && is_dashed(text)
}

/// RFC 1123 subdomain as Kubernetes has it: labels between dots, 253 characters in all.
pub(super) fn is_subdomain(text: &str) -> bool {
    !text.is_empty() && text.len() <= 253 && text.split('.').all(is_dashed)
}

fn is_dashed(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    edge(text.as_bytes().first())
        && edge(text.as_bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Whether an API server would take the name for an object of the kind.
pub fn is_object_name(kind: Kind, name: &str) -> bool {
    match kind {
        Kind::Namespace => is_label(name),
        // DNS-1035: a Service's name does not begin with a digit.
        Kind::Service => is_label(name) && !name.starts_with(|first: char| first.is_ascii_digit()),
        _ => is_subdomain(name),
    }
}

/// For messages.
pub fn object_name_rule(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "lower-case letters, digits and '-', at most 63",
        Kind::Service => "lower-case letters, digits and '-', beginning with a letter, at most 63",
        _ => "lower-case letters, digits, '-' and '.', at most 253",
    }
}

/// `^(\*\.)?` and a subdomain.
pub(super) fn is_hostname(text: &str, wildcard: bool) -> bool {
    text.len() <= 253 && is_subdomain(if wildcard { text.strip_prefix("*.").unwrap_or(text) } else { text })
}

pub(super) fn hostname(faults: &mut Faults, path: impl std::fmt::Display, text: &str, wildcard: bool) {
    if !is_hostname(text, wildcard) {
        let expected = if wildcard {
            "a lower-case DNS name, or one with \"*.\" before it"
        } else {
            "a lower-case DNS name without a wildcard"
        };
        faults.error(path, format!("{} is no host name, expected {expected}", Quoted(text)));
    } else if text.parse::<std::net::Ipv4Addr>().is_ok() {
        // The pattern cannot tell; the documentation of Hostname rules addresses out.
        faults.error(path, format!("{} is an IP address, expected a DNS name", Quoted(text)));
    }
}

pub(super) fn section_name(faults: &mut Faults, path: impl std::fmt::Display, text: &str) {
    if !is_subdomain(text) {
        let expected = "lower-case letters, digits, '-' and '.', at most 253";
        faults.error(path, format!("{} is no name, expected {expected}", Quoted(text)));
    }
}

/// RFC 9110 token, 1 to 256 characters.
pub(super) fn is_field_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 256
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

pub(super) fn field_name(faults: &mut Faults, path: impl std::fmt::Display, text: &str) {
    if !is_field_name(text) {
        faults.error(path, format!("{} is no header name", Quoted(text)));
    }
}

/// `^[!-~]+([\t ]?[!-~]+)*$`, 1 to 4096 characters.
pub(super) fn is_field_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    let visible = |byte: &u8| (b'!'..=b'~').contains(byte);
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    (1..=4096).contains(&bytes.len())
        && bytes.first().is_some_and(visible)
        && bytes.last().is_some_and(visible)
        && bytes.iter().all(|byte| visible(byte) || blank(byte))
        && !bytes.windows(2).any(|pair| blank(&pair[0]) && blank(&pair[1]))
}

pub(super) fn field_value(faults: &mut Faults, path: impl std::fmt::Display, text: &str) {
    if !is_field_value(text) {
        let expected = "1 to 4096 visible ASCII characters with single blanks between them";
        faults.error(path, format!("{} is no header value, expected {expected}", Quoted(text)));
    }
}

/// `^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$`
pub(super) fn is_path_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let hex = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_hexdigit);
            if !hex(at + 1) || !hex(at + 2) {
                return false;
            }
            at += 3;
        } else if byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte) {
            at += 1;
        } else {
            return false;
        }
    }
    !bytes.is_empty()
}

/// The rules for the value of an Exact or PathPrefix match.
pub(super) fn path_fault(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return Some("does not begin with \"/\"".to_owned());
    }
    for part in ["//", "/./", "/../", "%2f", "%2F", "#"] {
        if path.contains(part) {
            return Some(format!("contains {part:?}"));
        }
    }
    for end in ["/..", "/."] {
        if path.ends_with(end) {
            return Some(format!("ends with {end:?}"));
        }
    }
    (!is_path_text(path)).then(|| "has a character that no path has".to_owned())
}

/// Label and annotation keys: an optional DNS prefix, a slash, and a name of at most 63 characters.
pub fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(|prefix| is_subdomain(prefix) && prefix.len() < 253) && !name.is_empty() && is_label_text(name)
}

/// Label values: at most 63 letters, digits, `-`, `_`, `.`, with a letter or digit at both ends.
pub fn is_label_text(text: &str) -> bool {
    text.len() <= 63
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && [text.bytes().next(), text.bytes().last()].into_iter().flatten().all(|byte| byte.is_ascii_alphanumeric())
}
