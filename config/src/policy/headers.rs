//! What a listener changes about the fields of every request and every response (ClientTrafficPolicy `headers`).

use serde::Serialize;

use super::TextMatch;
use crate::snapshot::HeaderEdits;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ListenerHeaders {
    /// Of requests, before a rule is looked for; after what is believed of the sender is settled.
    #[serde(skip_serializing_if = "FieldEdits::is_empty")]
    pub early: FieldEdits,
    /// Of responses, last of all. Strict-Transport-Security is set on none that leaves without TLS (RFC 6797 §7.2).
    #[serde(skip_serializing_if = "FieldEdits::is_empty")]
    pub late: FieldEdits,
}

impl ListenerHeaders {
    pub fn is_empty(&self) -> bool {
        self.early.is_empty() && self.late.is_empty()
    }
}

/// In this order: set, add, what is absent, remove, remove by name. Names are lower case and valid, values are valid.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FieldEdits {
    pub edits: HeaderEdits,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<(Box<str>, Box<str>)>,
    /// Of lower-case names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove_named: Vec<TextMatch>,
}

impl FieldEdits {
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty() && self.absent.is_empty() && self.remove_named.is_empty()
    }
}
