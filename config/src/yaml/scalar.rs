//! Plain scalars to values, as go-yaml 2 does it for Kubernetes: the YAML 1.1 words are booleans and a leading zero
//! means octal. Only its single letters `y` and `n` stay strings: nobody means a boolean by them.

use std::borrow::Cow;

use super::tree::Value;

pub(super) fn resolve(text: Cow<'_, str>) -> Value<'_> {
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    let first = text.as_bytes()[0];
    if (first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.'))
        && let Some(number) = number(&text)
    {
        return number;
    }
    Value::String(text)
}

fn number(text: &str) -> Option<Value<'static>> {
    let (negative, digits) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if let Some(magnitude) = integer(digits) {
        return match (negative, magnitude) {
            (false, magnitude) => Some(i64::try_from(magnitude).map_or(Value::Uint(magnitude), Value::Int)),
            (true, magnitude) => 0i64.checked_sub_unsigned(magnitude).map(Value::Int),
        };
    }
    match digits {
        ".inf" | ".Inf" | ".INF" => {
            return Some(Value::Float(if negative { f64::NEG_INFINITY } else { f64::INFINITY }));
        }
        ".nan" | ".NaN" | ".NAN" if digits.len() == text.len() => return Some(Value::Float(f64::NAN)),
        _ => {}
    }
    is_float(digits).then(|| text.parse().ok()).flatten().map(Value::Float)
}

fn integer(digits: &str) -> Option<u64> {
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x', ..] => (&digits[2..], 16),
        [b'0', b'o', ..] => (&digits[2..], 8),
        [b'0', b'b', ..] => (&digits[2..], 2),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    // `from_str_radix` would take another sign.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// `[0-9]*(\.[0-9]*)?([eE][-+]?[0-9]+)?` with at least one digit before the exponent.
fn is_float(digits: &str) -> bool {
    let bytes = digits.as_bytes();
    let count = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = count(0);
    let mut at = whole;
    let mut fraction = 0;
    if bytes.get(at) == Some(&b'.') {
        fraction = count(at + 1);
        at += 1 + fraction;
    }
    if whole + fraction == 0 {
        return false;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1;
        if matches!(bytes.get(at), Some(b'+' | b'-')) {
            at += 1;
        }
        let exponent = count(at);
        if exponent == 0 {
            return false;
        }
        at += exponent;
    }
    at == bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars() {
        for (text, value) in [
            ("", Value::Null),
            ("~", Value::Null),
            ("true", Value::Bool(true)),
            ("no", Value::Bool(false)),
            ("80", Value::Int(80)),
            ("-80", Value::Int(-80)),
            ("+80", Value::Int(80)),
            ("0x1F", Value::Int(31)),
            ("0o17", Value::Int(15)),
            ("017", Value::Int(15)),
            ("9223372036854775807", Value::Int(i64::MAX)),
            ("-9223372036854775808", Value::Int(i64::MIN)),
            ("18446744073709551615", Value::Uint(u64::MAX)),
            ("1.5", Value::Float(1.5)),
            (".5", Value::Float(0.5)),
            ("1e3", Value::Float(1000.0)),
            ("-.inf", Value::Float(f64::NEG_INFINITY)),
        ] {
            assert_eq!(resolve(text.into()), value, "{text}");
        }
        for text in ["10.0.0.1", "1h", "-", "+", ".", "--1", "+-1", "0x", "1e", "1_000", "2024-01-01", "a", "08", "."] {
            let value = resolve(text.into());
            // A leading zero that is no octal number is read as a float by go-yaml.
            if text == "08" {
                assert_eq!(value, Value::Float(8.0));
            } else {
                assert_eq!(value, Value::String(text.into()), "{text}");
            }
        }
    }
}
