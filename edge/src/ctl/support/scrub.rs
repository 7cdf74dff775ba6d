//! The last look at everything that goes into a bundle. Nothing of Edge's shows a secret; but objects hold what users put
//! into them, and logs of the system what others wrote. What looks like a secret is taken out, also where that is too much.

use serde_json::Value;

use crate::proxy::tap::redaction;

pub const GONE: &str = "[removed]";

/// In names of fields, in lower case: the value is a secret unless it is a reference to one.
const NAMES: [&str; 13] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "api-key",
    "api_key",
    "authorization",
    "cookie",
    "credential",
    "privatekey",
    "hmac",
];
/// Endings of names that only say where a secret is, or how it is used.
const REFERENCES: [&str; 12] =
    ["ref", "refs", "name", "names", "namespace", "file", "files", "path", "type", "field", "header", "seconds"];

/// Takes secrets out of a value, in place.
pub fn value(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(self::value),
        Value::Object(members) => {
            // `{name: Authorization, value: …}`
            let of_header = members.get("name").and_then(Value::as_str).is_some_and(|name| {
                // Environment and labels are told like headers: too much is better than too little.
                is_secret(name) || redaction::says_secret(&name.to_ascii_lowercase())
            });
            if of_header && members.get("value").is_some_and(Value::is_string) {
                members.insert("value".to_owned(), GONE.into());
            }
            if let Some(Value::Object(annotations)) = members.get_mut("annotations") {
                annotations.retain(|key, _| key != "kubectl.kubernetes.io/last-applied-configuration");
            }
            for (key, value) in members.iter_mut() {
                match value {
                    Value::String(text) if is_secret(key) && !text.is_empty() => *value = GONE.into(),
                    other => self::value(other),
                }
            }
        }
        Value::String(content) => {
            let clean = text(content);
            if clean != *content {
                *content = clean;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_reference = REFERENCES.iter().any(|end| name.ends_with(end));
    NAMES.iter().any(|part| name.contains(part)) && !is_reference
}

/// Takes secrets out of a text: keys in PEM, what follows `Bearer` and `Basic`, JSON Web Tokens, passwords in URLs, in
/// `name=value`, `name: value` and `"name":"value"`.
pub fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        if in_key {
            in_key = !line.contains("-----END");
            continue;
        }
        if let Some((before, after)) = line.split_once("-----BEGIN ").filter(|(_, after)| after.contains("PRIVATE KEY"))
        {
            out.push_str(&words(before));
            out.push_str(GONE);
            in_key = !after.contains("-----END");
            // One in one line, as in JSON, ends with what follows it.
            if let Some((_, rest)) = after.rsplit_once("-----END") {
                out.push_str(
                    rest.split_once("-----")
                        .and_then(|(_, rest)| rest.split_once("-----"))
                        .map_or("\n", |(_, rest)| rest),
                );
            } else {
                out.push('\n');
            }
            continue;
        }
        out.push_str(&words(line));
    }
    out
}

/// Values of members in JSON that is part of a text, as in a journal.
fn members(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("\":") {
        let name = rest[..at].rsplit('"').next().unwrap_or_default();
        let (head, tail) = rest.split_at(at + 2);
        out.push_str(head);
        rest = tail;
        if let Some(value) = tail.trim_start().strip_prefix('"').filter(|_| is_secret(name)) {
            let mut is_escaped = false;
            let end = value.find(|c| {
                let is_end = c == '"' && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                is_end
            });
            // Without an end it was cut off, and with it what follows.
            let end = end.unwrap_or(value.len());
            if end > 0 {
                out.push('"');
                out.push_str(GONE);
                rest = &value[end..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn words(line: &str) -> String {
    let line = &*members(line);
    let mut out = String::with_capacity(line.len());
    let (mut after_scheme, mut of_header) = (false, false);
    for piece in line.split_inclusive([' ', '\t', '\n', '"', '\'', ',']) {
        let word = piece.trim_end_matches([' ', '\t', '\n', '"', '\'', ',']);
        let end = &piece[word.len()..];
        if word.is_empty() {
            out.push_str(end);
            continue;
        }
        // `request header set x-key: …`, `Password: …`: to the end, since a value may have any form.
        if let Some(name) = word.strip_suffix(':')
            && (is_secret(name) || of_header && redaction::says_secret(&name.to_ascii_lowercase()))
            && end != "\n"
        {
            out.push_str(&format!("{word} {GONE}"));
            out.push_str(if line.ends_with('\n') { "\n" } else { "" });
            return out;
        }
        of_header |= word == "header";
        let is_scheme =
            ["bearer", "basic", "negotiate"].iter().any(|scheme| word.to_ascii_lowercase().ends_with(scheme));
        if after_scheme && word.len() >= 8 {
            out.push_str(GONE);
        } else {
            out.push_str(&word_of(word));
        }
        after_scheme = is_scheme;
        out.push_str(end);
    }
    out
}

fn word_of(word: &str) -> String {
    // A JSON Web Token: an encoded `{"…` and two dots.
    if let Some(at) = word.find("eyJ")
        && word[at..].matches('.').count() >= 2
    {
        return format!("{}{GONE}", &word[..at]);
    }
    if let Some((scheme, rest)) = word.split_once("://")
        && let Some((user, host)) = rest.split('/').next().and_then(|authority| authority.rsplit_once('@'))
    {
        return word.replacen(&format!("{scheme}://{user}@{host}"), &format!("{scheme}://{GONE}@{host}"), 1);
    }
    for mark in ['=', ':'] {
        if let Some((name, value)) = word.split_once(mark)
            && !value.is_empty()
            && !value.starts_with(GONE)
            && is_secret(name.trim_start_matches(['-', '?', '&', '{']))
        {
            return format!("{name}{mark}{GONE}");
        }
    }
    word.to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values() {
        let mut found = json!({
            "kind": "HTTPRoute",
            "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "other": "kept"}},
            "spec": {"rules": [{"filters": [{"set": [{"name": "Authorization", "value": "Basic xyz"}, {"name": "x-env", "value": "a"}]}]}]},
            "password": "hunter2", "passwordSecret": {"name": "bgp"}, "secretRef": {"name": "kept"}, "secretName": "kept",
            "config": {"apiToken": "t0ken", "apiTokenSecretRef": {"key": "k"}, "password_file": "/etc/edge/x"},
            "list": [{"clientSecret": "s"}], "state_key_file": null,
        });
        value(&mut found);
        let expected = json!({
            "kind": "HTTPRoute",
            "metadata": {"annotations": {"other": "kept"}},
            "spec": {"rules": [{"filters": [{"set": [{"name": "Authorization", "value": GONE}, {"name": "x-env", "value": "a"}]}]}]},
            "password": GONE, "passwordSecret": {"name": "bgp"}, "secretRef": {"name": "kept"}, "secretName": "kept",
            "config": {"apiToken": GONE, "apiTokenSecretRef": {"key": "k"}, "password_file": "/etc/edge/x"},
            "list": [{"clientSecret": GONE}], "state_key_file": null,
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn texts() {
        for (dirty, clean) in [
            ("nothing here\n", "nothing here\n"),
            ("Authorization: Bearer abcdefghij, next\n", "Authorization: [removed]\n"),
            ("says Bearer abcdefghij, next", "says Bearer [removed], next"),
            ("request header set x-auth: a b, c", "request header set x-auth: [removed]"),
            ("request header set x-env: a", "request header set x-env: a"),
            ("the key: not found", "the key: not found"),
            (r#"{"token":"a\"b c","level": "info"}"#, r#"{"token":"[removed]","level": "info"}"#),
            (r#"{"secretName": "web", "password": "cut of"#, r#"{"secretName": "web", "password":"[removed]"#),
            ("got eyJhbGciOi.eyJzdWIi.c2ln back", "got [removed] back"),
            ("https://user:pass@host/x?y", "https://[removed]@host/x?y"),
            ("password=hunter2 user=x", "password=[removed] user=x"),
            ("key_file=/etc/edge/key", "key_file=/etc/edge/key"),
            ("a -----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----\nb", "a [removed]\nb"),
            (
                "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n",
                "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n",
            ),
            ("Basic auth fails", "Basic auth fails"),
        ] {
            assert_eq!(text(dirty), clean);
        }
    }
}
