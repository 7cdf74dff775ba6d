//! HTTPRouteFilter: what a rule does beyond the filters of HTTPRoute. Rules name it by `extensionRef`.

use serde::{Deserialize, Serialize};

use super::CustomBody;
use crate::gateway::{HeaderModifier, SecretRef};
use crate::wire::open_enum;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteFilterSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<ExtendedRewrite>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_response: Option<DirectResponse>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_injection: Option<CredentialInjection>,
    /// One of them has to match, beside one of the rule's own; at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<ExtendedMatch>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtendedRewrite {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostnameRewrite>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathRewrite>,
    /// Absent is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append_x_forwarded_host: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostnameRewrite {
    #[serde(rename = "type")]
    pub kind: HostnameRewriteType,
    /// With type Header: the field that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// With type PathRegex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_regex: Option<RegexSubstitution>,
}

open_enum! {
    pub enum HostnameRewriteType { Header = "Header", Backend = "Backend", PathRegex = "PathRegex" }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathRewrite {
    #[serde(rename = "type")]
    pub kind: PathRewriteType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_regex_match: Option<RegexSubstitution>,
}

open_enum! {
    pub enum PathRewriteType { ReplaceRegexMatch = "ReplaceRegexMatch" }
}

/// Every match of the pattern is replaced; `\1` to `\9` are its groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegexSubstitution {
    pub pattern: String,
    pub substitution: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectResponse {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<CustomBody>,
    /// Absent is 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// Without `remove`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderModifier>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialInjection {
    /// Absent is `Authorization`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Whether one that is there is replaced. Absent is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwrite: Option<bool>,
    pub credential: InjectedCredential,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectedCredential {
    /// A Secret with the key `credential`: the whole value of the field.
    pub value_ref: SecretRef,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtendedMatch {
    /// All of them have to match; 1 to 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<CookieMatch>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CookieMatch {
    /// Absent is Exact.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<CookieMatchType>,
    pub name: String,
    pub value: String,
}

open_enum! {
    pub enum CookieMatchType { Exact = "Exact", RegularExpression = "RegularExpression" }
}
