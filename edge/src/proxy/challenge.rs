//! HTTP-01 (RFC 8555 §8.3): what is answered below `/.well-known/acme-challenge/`, before any redirect or route.

use foldhash::{HashMap, HashSet};

const PATH: &str = "/.well-known/acme-challenge/";
/// A token has at least 128 bits in base64url (RFC 8555 §8.3); nobody sends one much longer.
const LONGEST_TOKEN: usize = 128;

/// Answers by token, and by account for hosts whose certificate Edge orders itself: any edge can then answer for an order
/// that another one placed, because a key authorization is the token and the account's thumbprint.
#[derive(Debug, Default)]
pub struct Challenges {
    pub tokens: HashMap<Box<str>, Box<str>>,
    pub thumbprint: Option<Box<str>>,
    /// In lower case.
    pub hosts: HashSet<Box<str>>,
}

impl Challenges {
    /// The key authorization to answer with, or `None` when this is a request like any other.
    pub fn answer(&self, host: &str, path: &str) -> Option<String> {
        let token = path.strip_prefix(PATH)?;
        if let Some(answer) = self.tokens.get(token) {
            return Some(answer.to_string());
        }
        let thumbprint = self.thumbprint.as_deref().filter(|_| self.hosts.contains(host))?;
        let is_token = !token.is_empty()
            && token.len() <= LONGEST_TOKEN
            && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        is_token.then(|| format!("{token}.{thumbprint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_tokens_and_our_own_hosts_are_answered_and_nothing_else() {
        let challenges = Challenges {
            tokens: [("known".into(), "known.abc".into())].into_iter().collect(),
            thumbprint: Some("xyz".into()),
            hosts: ["ours.example".into()].into_iter().collect(),
        };
        for (host, path, answer) in [
            ("any.example", "/.well-known/acme-challenge/known", Some("known.abc")),
            ("ours.example", "/.well-known/acme-challenge/a-b_1", Some("a-b_1.xyz")),
            ("ours.example", "/.well-known/acme-challenge/", None),
            ("ours.example", "/.well-known/acme-challenge/a/b", None),
            ("any.example", "/.well-known/acme-challenge/a-b_1", None),
            ("ours.example", "/", None),
        ] {
            assert_eq!(challenges.answer(host, path).as_deref(), answer, "{host} {path}");
        }
    }
}
