//! Session persistence (GEP-1619): a token in a cookie or header names the endpoint that a client is pinned to.
//!
//! The token is sealed with a key derived from a secret that is given from outside, so a client can neither read an
//! address, nor choose an endpoint, nor carry a pin from one rule to another; and every edge with the same secret, also
//! after a restart, honours it. Nothing is stored. A pin that does not open, is too old, or names an endpoint that is
//! gone, counts as none: the request is balanced as usual and a new token is issued.
//!
//! Standards: GEP-1619 as of Gateway API v1.6.1, RFC 6265 §4.1, RFC 8452 (AES-GCM-SIV: repeated nonces reveal no more
//! than equality).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edge_config::snapshot::{Rule, SessionCarrier, SessionPersistence};

use crate::proxy::message::Fields;

/// Issued (8), backend (4), address (16), port (2).
const PLAIN: usize = 30;
const TAG: usize = 16;
const SEALED: usize = NONCE_LEN + PLAIN + TAG;
/// In base64 without padding.
const TOKEN: usize = (SEALED * 4).div_ceil(3);
/// Cookies of the right name and length that are tried; browsers send one per matching path.
const TRIED: usize = 8;
/// How far the clock of another edge may be ahead, in seconds.
const SKEW: u64 = 300;

/// Seals and opens tokens. One per daemon; cheap to share.
pub struct Tokens {
    key: LessSafeKey,
}

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    pub endpoint: SocketAddr,
    /// [`backend_tag`] of the backend reference, since one address may stand behind several of them.
    pub backend: u32,
    /// Seconds since the epoch.
    pub issued: u64,
}

/// The crypto library refused to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("session key could not be derived")]
pub struct KeyError;

impl Tokens {
    pub fn new(secret: &[u8]) -> Result<Self, KeyError> {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"edge session persistence v1");
        let key = UnboundKey::new(&AES_256_GCM_SIV, derived.as_ref()).map_err(|_| KeyError)?;
        Ok(Self { key: LessSafeKey::new(key) })
    }

    /// The pin that a request carries for this rule. `now` is in seconds since the epoch.
    pub fn read(&self, rule: &Rule, session: &SessionPersistence, request: &Fields, now: u64) -> Option<Pin> {
        let scope = Scope::of(rule, session);
        let open = |token: &[u8]| self.open(&scope, token).filter(|pin| is_current(session, pin, now));
        match session.carrier {
            SessionCarrier::Header => first_ignoring_case(request, &session.name).and_then(open),
            SessionCarrier::SessionCookie | SessionCarrier::PermanentCookie => {
                cookies(request, &session.name).filter(|value| value.len() == TOKEN).take(TRIED).find_map(open)
            }
        }
    }

    /// Tells the client its pin. `path` is what the matched PathPrefix or Exact path covered, and `secure` whether the client
    /// speaks HTTPS, without which a Secure cookie would never come back.
    pub fn issue(&self, pin: &Pin, to: Recipient<'_>, response: &mut Fields) {
        let Recipient { rule, session, path, secure } = to;
        let mut token = [0; TOKEN];
        if !self.seal(&Scope::of(rule, session), pin, &mut token) {
            return;
        }
        let mut value = Vec::with_capacity(160);
        match session.carrier {
            SessionCarrier::Header => {
                let name = session.name.to_ascii_lowercase();
                response.set(name.as_bytes(), &token);
                return;
            }
            SessionCarrier::SessionCookie | SessionCarrier::PermanentCookie => {
                value.extend_from_slice(session.name.as_bytes());
                value.push(b'=');
                value.extend_from_slice(&token);
            }
        }
        value.extend_from_slice(b"; Path=");
        value.extend_from_slice(cookie_path(path).as_bytes());
        if let (SessionCarrier::PermanentCookie, Some(timeout)) = (session.carrier, session.absolute_timeout) {
            // Whole seconds, and never 0, which would delete the cookie.
            let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
            value.extend_from_slice(format!("; Max-Age={}", seconds.max(1)).as_bytes());
        }
        // GEP-1619: "This means enabling Secure and HttpOnly, and setting SameSite to Strict."
        value.extend_from_slice(if secure {
            b"; Secure; HttpOnly; SameSite=Strict"
        } else {
            b"; HttpOnly; SameSite=Strict"
        });
        response.add(b"set-cookie", &value);
    }

    fn seal(&self, scope: &Scope, pin: &Pin, token: &mut [u8; TOKEN]) -> bool {
        let mut sealed = [0; SEALED];
        let (nonce_out, rest) = sealed.split_at_mut(NONCE_LEN);
        let mut nonce = [0; NONCE_LEN];
        if rand::fill(&mut nonce).is_err() {
            return false;
        }
        nonce_out.copy_from_slice(&nonce);
        let (plain, tag_out) = rest.split_at_mut(PLAIN);
        plain[..8].copy_from_slice(&pin.issued.to_be_bytes());
        plain[8..12].copy_from_slice(&pin.backend.to_be_bytes());
        let address = match pin.endpoint.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        plain[12..28].copy_from_slice(&address.octets());
        plain[28..].copy_from_slice(&pin.endpoint.port().to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let Ok(tag) = self.key.seal_in_place_separate_tag(nonce, Aad::from(&scope.0), plain) else { return false };
        tag_out.copy_from_slice(tag.as_ref());
        URL_SAFE_NO_PAD.encode_slice(sealed, token) == Ok(TOKEN)
    }

    fn open(&self, scope: &Scope, token: &[u8]) -> Option<Pin> {
        if token.len() != TOKEN {
            return None;
        }
        let mut sealed = [0; SEALED];
        if URL_SAFE_NO_PAD.decode_slice(token, &mut sealed) != Ok(SEALED) {
            return None;
        }
        let (nonce, rest) = sealed.split_at_mut(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self.key.open_in_place(nonce, Aad::from(&scope.0), rest).ok()?;
        let (issued, plain) = plain.split_first_chunk()?;
        let (backend, plain) = plain.split_first_chunk()?;
        let (address, plain) = plain.split_first_chunk::<16>()?;
        let (port, _) = plain.split_first_chunk()?;
        Some(Pin {
            endpoint: SocketAddr::new(Ipv6Addr::from(*address).to_canonical(), u16::from_be_bytes(*port)),
            backend: u32::from_be_bytes(*backend),
            issued: u64::from_be_bytes(*issued),
        })
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens([redacted])")
    }
}

/// To whom a token is issued.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    pub rule: &'a Rule,
    pub session: &'a SessionPersistence,
    pub path: &'a str,
    pub secure: bool,
}

/// A number for a backend reference that is the same on every edge and in every release (FNV-1a).
pub fn backend_tag(reference: &str) -> u32 {
    reference.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Where a token is good: "Route rules referencing the same service MUST NOT share persistent sessions". A rule is known by
/// its name, which survives an edit of the route, or else by its place.
struct Scope(Vec<u8>);

impl Scope {
    fn of(rule: &Rule, session: &SessionPersistence) -> Self {
        use std::io::Write;
        let mut text = Vec::with_capacity(128);
        // Names hold no NUL, so no two scopes have one text. Writing to a vector does not fail.
        let _ = match &rule.name {
            Some(name) => write!(text, "{}\0{}\0{name}", rule.route, session.name),
            None => write!(text, "{}\0{}\0\0{}", rule.route, session.name, rule.index),
        };
        Self(text)
    }
}

fn is_current(session: &SessionPersistence, pin: &Pin, now: u64) -> bool {
    if pin.issued > now.saturating_add(SKEW) {
        return false;
    }
    session.absolute_timeout.is_none_or(|timeout| {
        let age = now.saturating_sub(pin.issued);
        age < timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0)
    })
}

/// The values of one cookie, in the order in which they came: the most specific path first (RFC 6265 §5.4), or in several
/// fields (RFC 9113 §8.2.3).
pub(in crate::proxy) fn cookies<'f>(request: &'f Fields, name: &'f str) -> impl Iterator<Item = &'f [u8]> {
    request.all(b"cookie").flat_map(|line| line.split(|byte| *byte == b';')).filter_map(move |pair| {
        let rest = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(rest.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(rest))
    })
}

fn first_ignoring_case<'f>(request: &'f Fields, name: &str) -> Option<&'f [u8]> {
    request.iter().find(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
}

/// "For an xRoute that matches all paths, the Path should be set to `/`." A path that cannot stand in the attribute is cut at
/// the last segment before.
fn cookie_path(path: &str) -> &str {
    let path = if path.len() > 1 { path.strip_suffix('/').unwrap_or(path) } else { path };
    if !path.starts_with('/') {
        return "/";
    }
    match path.find(|c: char| !c.is_ascii_graphic() || c == ';') {
        None => path,
        Some(at) => match path[..at].rfind('/') {
            Some(0) | None => "/",
            Some(end) => &path[..end],
        },
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
