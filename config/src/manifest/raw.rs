//! Secret and ConfigMap bodies: keys to bytes, `data` from base64.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::core::{RawConfigMap, RawSecret};
use crate::validate::Faults;
use crate::yaml::{DecodeError, Node, Unknown, decode};

/// No `Debug`: the values are secret.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretBody {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default)]
    string_data: BTreeMap<String, String>,
    #[serde(default)]
    #[allow(dead_code, reason = "a manifest may say it; only an API server enforces it")]
    immutable: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigMapBody {
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default)]
    binary_data: BTreeMap<String, String>,
    #[serde(default)]
    #[allow(dead_code, reason = "a manifest may say it; only an API server enforces it")]
    immutable: bool,
}

const ELSEWHERE: [&str; 3] = ["apiVersion", "kind", "metadata"];

pub(super) fn secret(root: &Node<'_>, faults: &mut Faults) -> (Result<RawSecret, DecodeError>, Vec<Unknown>) {
    let (body, unknown) = decode::<SecretBody>(root, "", &ELSEWHERE);
    let raw = body.map(|body| {
        let mut values = from_base64("data", body.data, faults);
        // Kubernetes: stringData overwrites data.
        values.extend(body.string_data.into_iter().map(|(key, text)| (key, text.into_bytes())));
        RawSecret { kind: body.kind.unwrap_or_else(|| "Opaque".to_owned()), values }
    });
    (raw, unknown)
}

pub(super) fn config_map(root: &Node<'_>, faults: &mut Faults) -> (Result<RawConfigMap, DecodeError>, Vec<Unknown>) {
    let (body, unknown) = decode::<ConfigMapBody>(root, "", &ELSEWHERE);
    let raw = body.map(|body| {
        let mut values = from_base64("binaryData", body.binary_data, faults);
        values.extend(body.data.into_iter().map(|(key, text)| (key, text.into_bytes())));
        RawConfigMap { values }
    });
    (raw, unknown)
}

fn from_base64(field: &str, encoded: BTreeMap<String, String>, faults: &mut Faults) -> BTreeMap<String, Vec<u8>> {
    let mut values = BTreeMap::new();
    for (key, text) in encoded {
        // Block scalars bring line breaks, which Go's decoder skips too.
        let text: String = text.chars().filter(|character| !matches!(character, '\n' | '\r')).collect();
        match STANDARD.decode(text) {
            Ok(bytes) => {
                values.insert(key, bytes);
            }
            // The value itself is not shown: it may be a key that was not encoded.
            Err(_) => faults.error(
                format_args!("{field}"),
                format!(
                    "the value of {key:?} is not base64; plain text belongs in {}",
                    match field {
                        "data" => "`stringData`",
                        _ => "`data`",
                    }
                ),
            ),
        }
    }
    values
}
