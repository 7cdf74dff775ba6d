//! The directory of a CA (RFC 8555 §7.1.1, RFC 9773 §4.1, the profiles extension).
//!
//! In: JSON as the CA serves it; fields that are unknown or wrong in shape are left out where the order can do without.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    pub new_nonce: Box<str>,
    pub new_account: Box<str>,
    pub new_order: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoke_cert: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_change: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_info: Option<Box<str>>,
    #[serde(default)]
    pub meta: Meta,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms_of_service: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub website: Option<Box<str>>,
    /// What the CA calls itself in CAA records (RFC 8659).
    #[serde(default)]
    pub caa_identities: Vec<Box<str>>,
    #[serde(default)]
    pub external_account_required: bool,
    /// Name and description.
    #[serde(default)]
    pub profiles: BTreeMap<Box<str>, Box<str>>,
}
