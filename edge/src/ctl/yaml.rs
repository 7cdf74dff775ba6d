//! JSON values as YAML 1.2, for `-o yaml`. Any value flows in; block style text that YAML 1.1 and 1.2 readers
//! understand alike comes out: whatever could be read as anything but the same string is quoted. It never parses.

use std::fmt::Write;

use serde_json::Value;

/// A mapping key longer than this must be written in the explicit form (YAML 1.2 §8.2.2: 1024 characters).
const IMPLICIT_KEY: usize = 1000;

/// One document, with a newline at the end.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut out, map, 0, false),
        Value::Array(items) if !items.is_empty() => sequence(&mut out, items, 0, false),
        other => {
            scalar(&mut out, other);
            out.push('\n');
        }
    }
    out
}

fn mapping(out: &mut String, map: &serde_json::Map<String, Value>, indent: usize, mut inline: bool) {
    for (key, value) in map {
        margin(out, indent, &mut inline);
        let mut name = String::new();
        string(&mut name, key);
        if name.chars().count() > IMPLICIT_KEY {
            out.push_str("? ");
            out.push_str(&name);
            out.push('\n');
            margin(out, indent, &mut false);
        } else {
            out.push_str(&name);
        }
        out.push(':');
        nested(out, value, indent);
    }
}

fn sequence(out: &mut String, items: &[Value], indent: usize, mut inline: bool) {
    for item in items {
        margin(out, indent, &mut inline);
        out.push('-');
        match item {
            Value::Object(map) if !map.is_empty() => {
                out.push(' ');
                mapping(out, map, indent + 2, true);
            }
            Value::Array(inner) if !inner.is_empty() => {
                out.push(' ');
                sequence(out, inner, indent + 2, true);
            }
            other => {
                out.push(' ');
                scalar(out, other);
                out.push('\n');
            }
        }
    }
}

/// The first line of a block that starts behind `- ` has its margin already.
fn margin(out: &mut String, indent: usize, inline: &mut bool) {
    if !std::mem::take(inline) {
        out.extend(std::iter::repeat_n(' ', indent));
    }
}

fn nested(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            mapping(out, map, indent + 2, false);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            sequence(out, items, indent + 2, false);
        }
        other => {
            out.push(' ');
            scalar(out, other);
            out.push('\n');
        }
    }
}

fn scalar(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => string(out, text),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

fn string(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push_str(text);
    } else {
        quoted(out, text);
    }
}

/// Whether every reader takes the bare text for this very string.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let last = text.chars().next_back().is_some_and(|c| c != ' ' && c != ':');
    first
        && last
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
        && !text.contains(": ")
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " /_.-:()=+@".contains(c))
}

/// Double-quoted style (YAML 1.2 §7.3.1); what is not printable there (§5.1) is escaped.
fn quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                // Writing to a String cannot fail.
                let _ = if code <= 0xff {
                    write!(out, "\\x{code:02x}")
                } else if code <= 0xffff {
                    write!(out, "\\u{code:04x}")
                } else {
                    write!(out, "\\U{code:08x}")
                };
            }
        }
    }
    out.push('"');
}

/// Without the line breaks of YAML 1.1 and the byte order mark, which readers treat differently.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}'
        | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn blocks() {
        let value = json!({
            "a": 1,
            "list": [1, "two", {"x": 1, "y": []}, [1, [2, {}]], {"deep": {"er": null}}],
            "empty": {},
            "text": "a: b",
            "": "empty key",
        });
        let expected = "a: 1\nlist:\n  - 1\n  - two\n  - x: 1\n    \"y\": []\n  - - 1\n    - - 2\n      - {}\n  - deep:\n      \
                        er: null\nempty: {}\ntext: \"a: b\"\n\"\": empty key\n";
        assert_eq!(to_yaml(&value), expected);
    }

    #[test]
    fn strings_that_need_quotes() {
        for text in [
            "", "true", "No", "1", "1e3", "-", "~", "a ", " a", "a:", "a: b", "#", "a #b", "*x", "0x1f", "é\u{85}",
            "12:30",
        ] {
            assert!(to_yaml(&json!(text)).starts_with('"'), "{text:?}");
        }
        for text in ["abc", "HTTPRoute shop/cart", "a:b", "/path/x", "x.example", "not bound"] {
            assert_eq!(to_yaml(&json!(text)), format!("{text}\n"));
        }
    }

    #[test]
    fn long_keys_are_explicit() {
        let key = "k".repeat(2000);
        assert_eq!(to_yaml(&json!({ key.clone(): [1] })), format!("? {key}\n:\n  - 1\n"));
    }

    fn reread(value: &Value) -> Value {
        let text = to_yaml(value);
        let node = edge_config::yaml::parse(&text).unwrap_or_else(|fault| panic!("{fault:?} in\n{text}"));
        let node = node.unwrap_or_else(|| panic!("nothing in\n{text}"));
        edge_config::yaml::decode(&node, "", &[]).0.unwrap_or_else(|fault| panic!("{fault:?} in\n{text}"))
    }

    fn any_value() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let text = prop_oneof![any::<String>(), "[ -~]{0,12}", "[ynYN~.0-9eEx:#-]{0,5}"].boxed();
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(text.clone(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn any_value_comes_back(value in any_value()) {
            proptest::prop_assert_eq!(reread(&value), value);
        }
    }
}
