//! What a CA's answers say that instant-acme does not hand over.
//!
//! In: bodies of any content. Out: values with defaults for what is missing; nothing here fails on foreign bytes.

use std::net::IpAddr;

use serde::Deserialize;

use super::https::Answer;
use crate::challenge::{ChallengeKind, Identifier};
use crate::failure::LookedAt;

const URN: &str = "urn:ietf:params:acme:error:";
/// Characters of a foreign text that get into a reason.
const LONGEST: usize = 600;
const MOST: usize = 100;

/// RFC 7807 with RFC 8555 §6.7.1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub detail: String,
    pub subproblems: Vec<Subproblem>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Subproblem {
    #[serde(rename = "type")]
    pub kind: String,
    pub detail: String,
    pub identifier: Option<Named>,
}

/// RFC 8555 §9.7.7.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Named {
    #[serde(rename = "type")]
    pub kind: String,
    pub value: String,
}

impl Problem {
    /// Of an answer; an empty one where the body is none.
    pub fn of(answer: &Answer) -> Self {
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    pub fn is_bad_nonce(&self) -> bool {
        short(&self.kind) == "badNonce"
    }
}

/// A problem type without its URN.
pub fn short(kind: &str) -> &str {
    kind.strip_prefix(URN).unwrap_or(kind)
}

/// A foreign text as one bounded line.
pub fn line(text: &str) -> String {
    let clean = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let mut line: String = clean.take(LONGEST).collect();
    line.truncate(line.trim_end().len());
    line
}

impl Named {
    pub fn identifier(&self) -> Option<(Identifier, bool)> {
        match self.kind.as_str() {
            "dns" => {
                let bare = self.value.strip_prefix("*.");
                let name = bare.unwrap_or(&self.value).trim_end_matches('.').to_ascii_lowercase();
                (name.len() <= 253).then(|| (Identifier::Dns(name.into()), bare.is_some()))
            }
            "ip" => Some((Identifier::Ip(self.value.parse().ok()?), false)),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Pending,
    Processing,
    Valid,
    Invalid,
    Deactivated,
    Expired,
    Revoked,
    #[default]
    #[serde(other)]
    Unknown,
}

/// RFC 8555 §7.1.4.
#[derive(Debug, Clone, Deserialize)]
pub struct Authorization {
    #[serde(skip)]
    pub url: Box<str>,
    pub identifier: Named,
    pub status: Status,
    #[serde(default)]
    pub challenges: Vec<Offer>,
    #[serde(default)]
    pub wildcard: bool,
}

/// RFC 8555 §8, with the `validationRecord` of Boulder and Pebble.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Offer {
    #[serde(rename = "type")]
    pub kind: String,
    pub url: String,
    pub token: String,
    pub status: Status,
    pub error: Option<Problem>,
    #[serde(rename = "validationRecord")]
    pub validation_record: Vec<Record>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Record {
    pub url: String,
    pub hostname: String,
    pub port: serde_json::Value,
    pub addresses_resolved: Vec<String>,
    pub address_used: String,
}

impl Authorization {
    pub fn identifier(&self) -> Option<(Identifier, bool)> {
        self.identifier.identifier().map(|(identifier, star)| (identifier, star || self.wildcard))
    }

    pub fn offer(&self, kind: ChallengeKind) -> Option<&Offer> {
        let name = kind.to_string();
        self.challenges.iter().find(|offer| offer.kind == name)
    }

    /// The challenge that failed.
    pub fn failed(&self) -> Option<&Offer> {
        self.challenges.iter().find(|offer| offer.error.is_some() || offer.status == Status::Invalid)
    }
}

impl Offer {
    pub fn challenge(&self) -> Option<ChallengeKind> {
        [ChallengeKind::Http01, ChallengeKind::TlsAlpn01, ChallengeKind::Dns01]
            .into_iter()
            .find(|kind| kind.to_string() == self.kind)
    }

    /// RFC 8555 §8.1: base64url. It becomes part of a path and of a DNS answer, so it is believed only so far.
    pub fn has_sound_token(&self) -> bool {
        (16..=256).contains(&self.token.len())
            && self.token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    }

    pub fn looked_at(&self) -> Vec<LookedAt> {
        let one = |record: &Record| LookedAt {
            url: (!record.url.is_empty()).then(|| line(&record.url).into()),
            host: line(&record.hostname).into(),
            port: match &record.port {
                serde_json::Value::Number(port) => port.as_u64().and_then(|port| port.try_into().ok()),
                serde_json::Value::String(port) => port.parse().ok(),
                _ => None,
            },
            resolved: record
                .addresses_resolved
                .iter()
                .filter_map(|one| one.parse::<IpAddr>().ok())
                .take(MOST)
                .collect(),
            used: record.address_used.parse().ok(),
        };
        self.validation_record.iter().take(MOST).map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_authorization_of_boulder_is_read() {
        let text = r#"{"identifier":{"type":"dns","value":"WWW.example.com"},"status":"invalid","expires":"2026-01-01T00:00:00Z",
            "challenges":[{"type":"http-01","url":"https://ca/c","status":"invalid","validated":"2026-01-01T00:00:00Z",
            "error":{"type":"urn:ietf:params:acme:error:connection","detail":"203.0.113.7: Fetching\nrefused","status":400},
            "token":"LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0",
            "validationRecord":[{"url":"http://www.example.com/x","hostname":"www.example.com","port":"80",
              "addressesResolved":["203.0.113.7","2001:db8::1","nonsense"],"addressUsed":"203.0.113.7"},
              {"hostname":"www.example.com","port":443}]}]}"#;
        let authorization: Authorization = serde_json::from_str(text).unwrap();
        assert_eq!(authorization.identifier(), Some((Identifier::Dns("www.example.com".into()), false)));
        let offer = authorization.failed().unwrap();
        assert_eq!((offer.challenge(), offer.has_sound_token()), (Some(ChallengeKind::Http01), true));
        let looked_at = offer.looked_at();
        assert_eq!((looked_at[0].port, looked_at[0].resolved.len(), looked_at[1].port), (Some(80), 2, Some(443)));
        assert_eq!(line(&offer.error.as_ref().unwrap().detail), "203.0.113.7: Fetching refused");
    }

    #[test]
    fn what_is_odd_does_not_fail() {
        for text in [
            r#"{"identifier":{"type":"x","value":"y"},"status":"ready","challenges":[{"type":"dns-account-01"}]}"#,
            r#"{"identifier":{},"status":"pending"}"#,
        ] {
            let authorization: Authorization = serde_json::from_str(text).unwrap();
            assert_eq!(authorization.identifier(), None);
            assert!(authorization.offer(ChallengeKind::Dns01).is_none());
        }
        for (token, sound) in
            [("a/../b", false), ("short", false), ("0123456789abcdef", true), ("0123456789abcde\n", false)]
        {
            assert_eq!(Offer { token: token.into(), ..Offer::default() }.has_sound_token(), sound, "{token:?}");
        }
        let wild = Named { kind: "dns".into(), value: "*.example.com".into() };
        assert_eq!(wild.identifier(), Some((Identifier::Dns("example.com".into()), true)));
    }
}
