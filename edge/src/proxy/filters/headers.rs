//! Header modifiers: set, add, remove. Fields that frame a message or belong to one connection are out of reach, since an
//! edit there would be a request-smuggling tool; `Host` is the authority, which is kept apart from the fields.

use edge_config::policy::FieldEdits;
use edge_config::snapshot::HeaderEdits;

use crate::proxy::message::{Fields, RequestHead};

/// Edits the fields of a message. `Host` has no meaning here and is left out.
pub fn apply(edits: &HeaderEdits, fields: &mut Fields) {
    for (name, value) in &edits.set {
        if is_editable(name) {
            fields.set(name.as_bytes(), value.as_bytes());
        }
    }
    for (name, value) in &edits.add {
        if is_editable(name) {
            fields.add(name.as_bytes(), value.as_bytes());
        }
    }
    for name in &edits.remove {
        if is_editable(name) {
            fields.remove(name.as_bytes());
        }
    }
}

/// The edits of a listener.
pub fn apply_all(edits: &FieldEdits, fields: &mut Fields) {
    apply(&edits.edits, fields);
    for (name, value) in edits.absent.iter().filter(|(name, _)| is_editable(name)) {
        if fields.first(name.as_bytes()).is_none() {
            fields.add(name.as_bytes(), value.as_bytes());
        }
    }
    if !edits.remove_named.is_empty() {
        fields.remove_if(|name| {
            std::str::from_utf8(name).is_ok_and(is_editable) && edits.remove_named.iter().any(|one| one.matches(name))
        });
    }
}

/// The last edits of a response. A policy of transport security is for responses that came inside TLS: others "MUST NOT
/// include" it (RFC 6797 §7.2), and a listener's headers may be said of ports with and without.
pub fn apply_late(edits: &FieldEdits, secure: bool, fields: &mut Fields) {
    const POLICY: &[u8] = b"strict-transport-security";
    let had = !secure && fields.first(POLICY).is_some();
    apply_all(edits, fields);
    if !secure && !had {
        fields.remove(POLICY);
    }
}

/// Edits a request. A value for `Host` becomes the authority; a second one, none, or one that is no authority changes
/// nothing, because a request has exactly one (RFC 9112 §3.2).
pub fn apply_to_request(edits: &HeaderEdits, head: &mut RequestHead) {
    apply(edits, &mut head.fields);
    if let Some((_, value)) = edits.set.iter().find(|(name, value)| **name == *"host" && is_authority(value)) {
        head.set_authority(value);
    }
}

/// Whether a modifier may touch this (lower-case) field. The others are the connection-level fields of RFC 9110 §7.6.1
/// and those that frame the message (RFC 9112 §6) or steer its exchange; Edge writes them from the canonical head.
pub fn is_editable(name: &str) -> bool {
    !matches!(
        name,
        "connection"
            | "content-length"
            | "expect"
            | "host"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    ) && !name.starts_with(':')
}

/// `host [ ":" port ]` without user information (RFC 9110 §4.2.4 forbids it), in a form that cannot leave the field.
pub fn is_authority(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255 + 6
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~[]:%!$&'()*+,;=".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderEdits {
        let owned =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        HeaderEdits { set: owned(set), add: owned(add), remove: remove.iter().map(|name| (*name).into()).collect() }
    }

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in pairs {
            fields.add(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn listed(fields: &Fields) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        fields.iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    type Pairs = &'static [(&'static str, &'static str)];

    #[test]
    fn edits_of_fields() {
        let table: &[(Pairs, Pairs, Pairs, &[&str], Pairs)] = &[
            // before, set, add, remove, after
            (&[], &[("x", "1")], &[], &[], &[("x", "1")]),
            (&[("x", "0"), ("y", "2"), ("x", "3")], &[("x", "1")], &[], &[], &[("x", "1"), ("y", "2")]),
            (&[("x", "0")], &[("x", "")], &[], &[], &[("x", "")]),
            (&[], &[], &[("x", "1")], &[], &[("x", "1")]),
            (&[("x", "0")], &[], &[("x", "1")], &[], &[("x", "0"), ("x", "1")]),
            (&[("x", "0"), ("y", "1"), ("x", "2")], &[], &[], &["x"], &[("y", "1")]),
            (&[], &[], &[], &["x"], &[]),
            // set, then add, then remove
            (&[("a", "0")], &[("x", "1")], &[("x", "2")], &["a"], &[("x", "1"), ("x", "2")]),
            (&[], &[("x", "1")], &[], &["x"], &[]),
            // what frames the message stays
            (&[], &[("content-length", "5"), ("transfer-encoding", "chunked")], &[("connection", "x")], &[], &[]),
            (&[("te", "trailers")], &[("te", "x")], &[], &["te"], &[("te", "trailers")]),
            (&[], &[("upgrade", "h2c"), (":path", "/x")], &[("host", "a")], &["host"], &[]),
        ];
        for (before, set, add, remove, after) in table {
            let mut subject = fields(before);
            apply(&edits(set, add, remove), &mut subject);
            let after: Vec<_> = after.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(listed(&subject), after, "{before:?} set {set:?} add {add:?} remove {remove:?}");
        }
    }

    #[test]
    fn a_host_is_the_authority() {
        for (set, remove, expected) in [
            (Some("b.example"), None, "b.example"),
            (Some("b.example:8080"), None, "b.example:8080"),
            (Some("[2001:db8::1]:80"), None, "[2001:db8::1]:80"),
            (Some(""), None, "a.example"),
            (Some("user@b.example"), None, "a.example"),
            (Some("b.example/x"), None, "a.example"),
            (Some("b example"), None, "a.example"),
            (None, Some("host"), "a.example"),
        ] {
            let mut head = RequestHead::default();
            head.set_authority("a.example");
            let set: Vec<_> = set.iter().map(|value| ("host", *value)).collect();
            let remove: Vec<_> = remove.into_iter().collect();
            apply_to_request(&edits(&set, &[], &remove), &mut head);
            assert_eq!(head.authority(), expected, "{set:?} {remove:?}");
            assert!(head.fields.is_empty());
        }
    }
}
