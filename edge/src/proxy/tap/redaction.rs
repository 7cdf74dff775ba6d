//! Which fields of requests are secrets: a tap shows that they are there, never what they say.

use edge_config::policy::{Place, Security};
use edge_config::snapshot::{SessionCarrier, Snapshot};
use foldhash::{HashSet, HashSetExt as _};

/// Parts of names that say it: whoever names a field so puts a secret into it. `auth` finds `authorization` and
/// `x-auth-token`, `key` finds `x-api-key`, `cert` what forwards client certificates.
const PARTS: [&str; 14] = [
    "auth",
    "cookie",
    "token",
    "secret",
    "passw",
    "passphrase",
    "key",
    "credential",
    "session",
    "signature",
    "jwt",
    "assertion",
    "cert",
    "saml",
];

/// The fields of a snapshot's policies that carry secrets, whatever their names: where API keys and tokens are looked for,
/// where credentials, tokens and sessions are put, and what claims are told in.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    named: HashSet<Box<str>>,
}

impl Secrets {
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut named = HashSet::new();
        let of_rules = snapshot.rules.iter().filter_map(|rule| rule.policy.as_deref());
        let of_listeners = snapshot.listeners.iter().filter_map(|listener| listener.policy.as_deref());
        for security in of_rules.chain(of_listeners).filter_map(|policy| policy.security.as_deref()) {
            fields_of(security, &mut named);
        }
        let sessions = snapshot.rules.iter().filter_map(|rule| rule.session.as_deref());
        named.extend(
            sessions.filter(|session| session.carrier == SessionCarrier::Header).map(|session| lower(&session.name)),
        );
        for filters in snapshot.rules.iter().flat_map(|rule| rule.filters()) {
            let credential = filters.extension.as_ref().and_then(|extension| extension.credential.as_ref());
            named.extend(credential.map(|credential| lower(&credential.field)));
        }
        Self { named }
    }

    /// `name` is lower case.
    pub fn has(&self, name: &str) -> bool {
        says_secret(name) || self.named.contains(name)
    }
}

/// Whether the name of a field, in lower case, says that a secret is in it.
pub fn says_secret(name: &str) -> bool {
    PARTS.iter().any(|part| name.contains(part))
}

fn fields_of(security: &Security, named: &mut HashSet<Box<str>>) {
    for place in security.api_keys.iter().flat_map(|keys| &keys.places) {
        if let Place::Header(name) = place {
            named.insert(lower(name));
        }
    }
    for provider in security.jwt.iter().flat_map(|jwt| &jwt.providers) {
        named.extend(provider.places.headers.iter().map(|(name, _)| lower(name)));
        named.extend(provider.claim_headers.iter().map(|(name, _)| lower(name)));
    }
    named.extend(security.oidc.iter().filter_map(|oidc| oidc.forward_id_token.as_deref()).map(lower));
}

/// Whatever users wrote; who looks asks in lower case.
fn lower(name: &str) -> Box<str> {
    name.to_ascii_lowercase().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_say_it() {
        let secrets = Secrets::default();
        for name in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "x-api-key",
            "x-auth-token",
            "x-subject-token",
            "x-forwarded-client-cert",
            "x-amz-signature",
            "x-csrf-token",
            "sec-websocket-key",
        ] {
            assert!(secrets.has(name), "{name}");
        }
        for name in ["user-agent", "accept", "x-request-id", "x-forwarded-for", "content-type", "origin", "x-env"] {
            assert!(!secrets.has(name), "{name}");
        }
    }
}
