//! Who may look: whoever has a certificate of the CA, or knows the token.
//!
//! The token comes in `Authorization: Bearer`, or was shown once at the login page and lives on as a session: a cookie with the
//! time of its end and a tag over it (HMAC-SHA256 with a key made of the token), so that nothing is stored and a new token ends
//! every session. The token itself is in no cookie. Comparisons take the same time whatever is wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// With the prefix browsers take it over TLS only, for the whole host and from no other one (RFC 6265bis §4.1.3.2).
pub(super) const COOKIE: &str = "__Host-edge-dashboard";
/// A working day.
pub(super) const SESSION: Duration = Duration::from_secs(12 * 3600);

/// What the TLS handshake has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Nothing,
    /// A certificate that the verifier has accepted.
    Certificate,
}

/// The token, in the forms that are needed of it.
pub(super) struct Token {
    /// What a text is compared by: two texts are equal when their tags are.
    compared: hmac::Key,
    expected: hmac::Tag,
    sessions: hmac::Key,
}

impl Token {
    pub fn new(token: &[u8]) -> Self {
        let of = |purpose: &[u8]| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, token);
            hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, purpose).as_ref())
        };
        let compared = of(b"edge dashboard token 1");
        let expected = hmac::sign(&compared, token);
        Self { compared, expected, sessions: of(b"edge dashboard session 1") }
    }

    pub fn is(&self, presented: &[u8]) -> bool {
        hmac::verify(&self.compared, presented, self.expected.as_ref()).is_ok()
    }

    /// The value of a cookie that is good until [`SESSION`] from now.
    pub fn session(&self, now: SystemTime) -> String {
        let end = seconds(now).saturating_add(SESSION.as_secs());
        let tag = hmac::sign(&self.sessions, &end.to_be_bytes());
        format!("{end:x}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    pub fn is_session(&self, cookie: &str, now: SystemTime) -> bool {
        let Some((end, tag)) = cookie.split_once('.') else { return false };
        let (Ok(end), Ok(tag)) = (u64::from_str_radix(end, 16), URL_SAFE_NO_PAD.decode(tag)) else { return false };
        hmac::verify(&self.sessions, &end.to_be_bytes(), &tag).is_ok() && seconds(now) < end
    }
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The token of an `Authorization` field (RFC 6750 §2.1); the scheme is compared without case (RFC 9110 §11.1).
pub(super) fn bearer(field: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = field.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// The value of our cookie, if it is among them.
pub(super) fn cookie(field: &str) -> Option<&str> {
    field.split(';').find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let token = Token::new(b"0123456789abcdef0123456789abcdef");
        assert!(token.is(b"0123456789abcdef0123456789abcdef"));
        for wrong in [&b""[..], b"0123456789abcdef0123456789abcdee", b"0123456789abcdef0123456789abcdef0"] {
            assert!(!token.is(wrong), "{wrong:?}");
        }
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc "), Some(&b"abc"[..]));
        assert_eq!((bearer(b"Basic abc"), bearer(b"Bearer"), bearer(b"")), (None, None, None));
    }

    #[test]
    fn sessions_end_with_their_time_and_with_the_token() {
        let (one, other) = (Token::new(&[b'a'; 32]), Token::new(&[b'b'; 32]));
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let session = one.session(now);
        assert!(one.is_session(&session, now) && one.is_session(&session, now + SESSION - Duration::from_secs(1)));
        assert!(!one.is_session(&session, now + SESSION), "it is over");
        assert!(!other.is_session(&session, now), "another token");
        let (end, tag) = session.split_once('.').unwrap();
        let later = format!("{:x}.{tag}", u64::from_str_radix(end, 16).unwrap() + 1);
        for forged in [later.as_str(), "", ".", "zz.zz", end, &format!("{end}."), &session[..session.len() - 1]] {
            assert!(!one.is_session(forged, now), "{forged}");
        }
        assert!(!session.contains("aaaa"), "the token is not in it");
        assert_eq!(cookie(&format!("a=b; {COOKIE}=x.y; c=d")), Some("x.y"));
        assert_eq!((cookie("edge-dashboard=x"), cookie(&format!("{COOKIE}x=y"))), (None, None));
    }
}
