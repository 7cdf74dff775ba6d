//! `headers.earlyRequestHeaders` and `lateResponseHeaders` of a ClientTrafficPolicy.

use std::sync::Arc;

use super::filters::{field_name, field_value};
use super::traffic::text_match;
use crate::envoy::{ClientHeaders, HeaderEdits, StringMatch, StringMatchType};
use crate::gateway::HeaderValue;
use crate::policy::{FieldEdits, ListenerHeaders, TextMatch};

/// Envoy Gateway's bound for each list.
const MOST: usize = 64;

/// `None` where nothing is said. The error names the field that cannot be honoured.
pub(super) fn listener_headers(spec: &ClientHeaders) -> Result<Option<Arc<ListenerHeaders>>, String> {
    let edits = |field: &str, spec: Option<&HeaderEdits>| {
        spec.map(edits).transpose().map(Option::unwrap_or_default).map_err(|error| format!("headers.{field}.{error}"))
    };
    let headers = ListenerHeaders {
        early: edits("earlyRequestHeaders", spec.early_request_headers.as_ref())?,
        late: edits("lateResponseHeaders", spec.late_response_headers.as_ref())?,
    };
    Ok((!headers.is_empty()).then(|| Arc::new(headers)))
}

fn edits(spec: &HeaderEdits) -> Result<FieldEdits, String> {
    let lists = [
        ("set", spec.set.len()),
        ("add", spec.add.len()),
        ("addIfAbsent", spec.add_if_absent.len()),
        ("remove", spec.remove.len()),
        ("removeOnMatch", spec.remove_on_match.len()),
    ];
    if let Some((list, count)) = lists.iter().find(|(_, count)| *count > MOST) {
        return Err(format!("{list} has {count} items, expected {MOST} at most"));
    }
    let pairs = |list: &str, entries: &[HeaderValue]| {
        let pair = |entry: &HeaderValue| Ok((field_name(&entry.name)?, field_value(&entry.value)?));
        let pairs: Result<Vec<_>, super::context::Fault> = entries.iter().map(pair).collect();
        pairs.map_err(|fault| format!("{list}: {}", fault.message))
    };
    let mut found = FieldEdits::default();
    found.edits.set = pairs("set", &spec.set)?;
    found.edits.add = pairs("add", &spec.add)?;
    found.absent = pairs("addIfAbsent", &spec.add_if_absent)?;
    for name in &spec.remove {
        found.edits.remove.push(field_name(name).map_err(|fault| format!("remove: {}", fault.message))?);
    }
    for matched in &spec.remove_on_match {
        found.remove_named.push(name_match(matched).map_err(|error| format!("removeOnMatch: {error}"))?);
    }
    Ok(found)
}

/// Names have no case.
fn name_match(spec: &StringMatch) -> Result<TextMatch, String> {
    let value = match spec.kind {
        Some(StringMatchType::RegularExpression) => format!("(?i:{})", spec.value),
        _ => spec.value.to_ascii_lowercase(),
    };
    text_match(&StringMatch { kind: spec.kind.clone(), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> ClientHeaders {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn edits_of_listeners() {
        let found = listener_headers(&spec(
            r#"{"lateResponseHeaders": {"set": [{"name": "X-A", "value": " 1 "}],
                "addIfAbsent": [{"name": "Server", "value": "edge"}], "remove": ["X-B"],
                "removeOnMatch": [{"type": "Prefix", "value": "X-Envoy-"}, {"type": "RegularExpression", "value": "x-(Y|z)"}]}}"#,
        ));
        let headers = found.unwrap().unwrap();
        assert!(headers.early.is_empty());
        let late = &headers.late;
        assert_eq!(late.edits.set, [("x-a".into(), "1".into())]);
        assert_eq!(late.absent, [("server".into(), "edge".into())]);
        assert_eq!(late.edits.remove, ["x-b".into()]);
        for (name, is_removed) in [("x-envoy-a", true), ("x-y", true), ("x-yz", false), ("y", false)] {
            assert_eq!(late.remove_named.iter().any(|one| one.matches(name.as_bytes())), is_removed, "{name}");
        }
        assert_eq!(listener_headers(&spec("{}")), Ok(None));
    }

    #[test]
    fn what_cannot_be_honoured() {
        for (text, expected) in [
            (r#"{"set": [{"name": "a b", "value": "1"}]}"#, "set: \"a b\" is no header name"),
            (r#"{"add": [{"name": "a", "value": "1\n"}]}"#, "add: \"1\\n\" is no header value"),
            (r#"{"removeOnMatch": [{"type": "RegularExpression", "value": "("}]}"#, "removeOnMatch: "),
            (r#"{"removeOnMatch": [{"type": "Glob", "value": "*"}]}"#, "removeOnMatch: type \"Glob\" is not known"),
        ] {
            let text = format!(r#"{{"earlyRequestHeaders": {text}}}"#);
            let error = listener_headers(&spec(&text)).unwrap_err();
            assert!(error.starts_with(&format!("headers.earlyRequestHeaders.{expected}")), "{error}");
        }
    }
}
