//! JSON Web Tokens (RFC 7519): who issues them, where they are found, what backends are told of them.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::Jwks;
use crate::issuer::SecretRef;
use crate::matching::Pattern;
use crate::names::ObjectRef;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Jwt {
    /// Who says so; where a filter goes over a policy, whose step it is.
    #[serde(skip)]
    pub owner: ObjectRef,
    /// Any of them may accept the token.
    pub providers: Vec<JwtProvider>,
    pub missing: Missing,
}

/// What becomes of requests without a token, and of those with a bad one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Missing {
    /// Both are refused.
    Refused,
    /// Those without one pass.
    Passes,
    /// Both pass, and nothing is told of them.
    PassesEvenBad,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JwtProvider {
    pub name: Box<str>,
    /// `None`: any.
    pub issuer: Option<Box<str>>,
    /// Empty: any.
    pub audiences: Vec<Box<str>>,
    pub keys: KeySource,
    pub places: TokenPlaces,
    /// The field (lower case) in which backends are told the claim. A client's own is removed.
    pub claim_headers: Vec<(Box<str>, ClaimPath)>,
    /// What claims must be, beside what authorization says; a token with others is refused as a bad one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<ClaimRules>,
    /// For `WWW-Authenticate`.
    pub realm: Box<str>,
    /// Clocks may differ by so much.
    pub leeway: Duration,
}

/// All of the rules must hold, or one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClaimRules {
    pub all: bool,
    pub rules: Vec<ClaimRule>,
}

/// All of the claims must be as they say, or one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClaimRule {
    pub all: bool,
    pub claims: Vec<(ClaimPath, ClaimValues)>,
}

/// One of them is enough, and of a claim that is a list one that is so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ClaimValues {
    Exact(Vec<Box<str>>),
    Regex(Vec<Pattern>),
}

impl ClaimRules {
    pub fn hold(&self, claims: &Map<String, Value>) -> bool {
        some_or_all(self.all, &self.rules, |rule| {
            some_or_all(rule.all, &rule.claims, |(claim, values)| match claim.find(claims) {
                Some(Value::Array(list)) => list.iter().any(|one| values.have(one)),
                Some(one) => values.have(one),
                None => false,
            })
        })
    }
}

fn some_or_all<T>(all: bool, list: &[T], holds: impl FnMut(&T) -> bool) -> bool {
    let mut list = list.iter();
    if all { list.all(holds) } else { list.any(holds) }
}

impl ClaimValues {
    fn have(&self, value: &Value) -> bool {
        let written = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => return false,
        };
        match self {
            Self::Exact(values) => values.iter().any(|one| **one == *written),
            Self::Regex(patterns) => patterns.iter().any(|pattern| pattern.matches(written.as_bytes())),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum KeySource {
    Local(Arc<Jwks>),
    /// Text of a Secret.
    Secret(SecretRef),
    Remote(Arc<RemoteKeys>),
}

/// Keys that are fetched and kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RemoteKeys {
    pub uri: Box<str>,
    /// `None`: the host of the URI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<crate::policy::ServiceName>,
    /// Fetched again after so long.
    pub keep: Duration,
    /// After a failure.
    pub retry: Duration,
}

/// Where tokens are looked for; every one that is found must be good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenPlaces {
    /// Name (lower case), and what stands before the token.
    pub headers: Vec<(Box<str>, Box<str>)>,
    pub cookies: Vec<Box<str>>,
    pub params: Vec<Box<str>>,
}

impl Default for TokenPlaces {
    /// RFC 6750 §2.1 and §2.3.
    fn default() -> Self {
        Self {
            headers: vec![("authorization".into(), "Bearer ".into())],
            cookies: Vec::new(),
            params: vec!["access_token".into()],
        }
    }
}

/// The name of a claim; dots go into objects. A claim whose whole name has dots goes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ClaimPath(pub Box<str>);

impl ClaimPath {
    pub fn find<'c>(&self, claims: &'c Map<String, Value>) -> Option<&'c Value> {
        if let Some(found) = claims.get(&*self.0) {
            return Some(found);
        }
        let mut names = self.0.split('.');
        let mut found = claims.get(names.next()?)?;
        for name in names {
            found = found.as_object()?.get(name)?;
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_about_claims() {
        let exact =
            |name: &str, value: &str| (ClaimPath(name.into()), ClaimValues::Exact(vec!["x".into(), value.into()]));
        let regex =
            |name: &str, text: &str| (ClaimPath(name.into()), ClaimValues::Regex(vec![Pattern::parse(text).unwrap()]));
        let claims = serde_json::json!({ "role": "admin", "groups": ["a", "b"], "n": 7, "mail": "ann@example.com" });
        for (all, rules, expected) in [
            (false, vec![(false, vec![exact("role", "admin")])], true),
            (false, vec![(true, vec![exact("role", "admin"), exact("n", "8")])], false),
            (false, vec![(false, vec![exact("role", "dev"), exact("n", "7")])], true),
            (true, vec![(false, vec![exact("role", "admin")]), (false, vec![exact("groups", "b")])], true),
            (true, vec![(false, vec![exact("role", "admin")]), (false, vec![exact("groups", "c")])], false),
            (false, vec![(false, vec![regex("mail", r".*@example\.com")])], true),
            (false, vec![(false, vec![exact("absent", "x")])], false),
        ] {
            let rules: Vec<ClaimRule> = rules.into_iter().map(|(all, claims)| ClaimRule { all, claims }).collect();
            let rules = ClaimRules { all, rules };
            assert_eq!(rules.hold(claims.as_object().unwrap()), expected, "{rules:?}");
        }
    }
}
