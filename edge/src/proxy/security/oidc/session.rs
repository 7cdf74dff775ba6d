//! A login that is over and one that is under way, as they lie in the browser's cookies.
//!
//! A session is one sealed text, cut into cookies that browsers take: the first is called by the policy's name and begins
//! with the number of parts, the others have `-1`, `-2` … behind the name. Nothing is believed that does not open whole.
//! Standards: RFC 6265.

use edge_config::policy::{Oidc, SameSite};
use serde::{Deserialize, Serialize};

use super::seal::{Purpose, Seal};
use crate::proxy::filters::session::cookies;
use crate::proxy::message::Fields;

/// Browsers keep 4096 bytes of a cookie, attributes included.
const PART: usize = 3600;
const MOST_PARTS: usize = 8;
/// Values of one name that are tried; browsers send one per domain and path.
const TRIED: usize = 4;
/// Logins under way at once in one browser; the oldest ones are given up.
pub const MOST_LOGINS: usize = 5;

/// Tokens, and until when they are good, in Unix seconds.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<Box<str>>,
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub id_token: Option<Box<str>>,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Box<str>>,
    #[serde(rename = "s")]
    pub subject: Box<str>,
    #[serde(rename = "t")]
    pub issued: i64,
    #[serde(rename = "e")]
    pub expires: i64,
    /// Of the refresh token.
    #[serde(rename = "x", default)]
    pub refresh_expires: i64,
}

/// What a browser keeps between being sent to the provider and coming back.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    #[serde(rename = "s")]
    pub state: Box<str>,
    #[serde(rename = "v")]
    pub verifier: Box<str>,
    #[serde(rename = "n")]
    pub nonce: Box<str>,
    /// Where it wanted to go.
    #[serde(rename = "u")]
    pub target: Box<str>,
    #[serde(rename = "r")]
    pub redirect: Box<str>,
    #[serde(rename = "t")]
    pub began: i64,
}

/// How cookies of a policy are written on one host.
#[derive(Clone, Copy)]
pub struct Jar<'a> {
    pub oidc: &'a Oidc,
    pub seal: &'a Seal,
    /// The host of the request, unless the policy names a domain.
    pub host: &'a str,
    pub secure: bool,
}

impl Jar<'_> {
    fn hosts(&self) -> &str {
        self.oidc.cookies.domain.as_deref().unwrap_or(self.host)
    }

    /// The session that a request brings.
    pub fn session(&self, request: &Fields) -> Option<Session> {
        let name = &*self.oidc.cookies.name;
        cookies(request, name).take(TRIED).find_map(|first| {
            let (count, first) = first.split_first()?;
            let count = usize::from(count.checked_sub(b'0')?);
            let mut text = first.to_vec();
            for place in 1..count.min(MOST_PARTS + 1) {
                text.extend_from_slice(cookies(request, &part(name, place)).next()?);
            }
            let plain = self.seal.open(Purpose::Session, self.hosts(), &text)?;
            serde_json::from_slice(&plain).ok()
        })
    }

    /// Sets a session's cookies for so many seconds. `false`: it is too large for a browser.
    #[must_use]
    pub fn keep(&self, session: &Session, lasts: i64, request: &Fields, response: &mut Fields) -> bool {
        let Some(text) =
            serde_json::to_vec(session).ok().and_then(|plain| self.seal.seal(Purpose::Session, self.hosts(), &plain))
        else {
            return false;
        };
        let count = text.len().div_ceil(PART);
        if count > MOST_PARTS {
            return false;
        }
        for (place, piece) in text.as_bytes().chunks(PART).enumerate() {
            // Base64 is ASCII.
            let piece = std::str::from_utf8(piece).unwrap_or_default();
            let name = part(&self.oidc.cookies.name, place);
            let value = if place == 0 { format!("{count}{piece}") } else { piece.to_owned() };
            self.set(&name, &value, Some(lasts.max(1)), self.oidc.cookies.same_site, response);
        }
        self.drop_parts(count, request, response);
        true
    }

    /// Has the browser forget the session.
    pub fn forget(&self, request: &Fields, response: &mut Fields) {
        self.drop_parts(0, request, response);
    }

    fn drop_parts(&self, from: usize, request: &Fields, response: &mut Fields) {
        for place in from..=MOST_PARTS {
            let name = part(&self.oidc.cookies.name, place);
            if cookies(request, &name).next().is_some() {
                self.set(&name, "", Some(0), self.oidc.cookies.same_site, response);
            }
        }
    }

    /// The login that a provider's answer belongs to.
    pub fn login(&self, state: &str, request: &Fields) -> Option<Login> {
        let name = self.login_name(state)?;
        cookies(request, &name).take(TRIED).find_map(|text| {
            let plain = self.seal.open(Purpose::Login, self.hosts(), text)?;
            serde_json::from_slice::<Login>(&plain).ok().filter(|login| *login.state == *state)
        })
    }

    /// Notes a login in the browser; others that are too many are given up.
    #[must_use]
    pub fn begin(&self, login: &Login, request: &Fields, response: &mut Fields) -> bool {
        let sealed = serde_json::to_vec(login).ok();
        let sealed = sealed.and_then(|plain| self.seal.seal(Purpose::Login, self.hosts(), &plain));
        let (Some(sealed), Some(name)) = (sealed, self.login_name(&login.state)) else { return false };
        let lasts = i64::try_from(self.oidc.login_ttl.as_secs()).unwrap_or(i64::MAX);
        self.set(&name, &sealed, Some(lasts.max(1)), self.on_return(), response);
        for old in self.logins(request).into_iter().rev().skip(MOST_LOGINS - 1) {
            self.set(&old, "", Some(0), self.on_return(), response);
        }
        true
    }

    /// Has the browser forget a login.
    pub fn end(&self, state: &str, response: &mut Fields) {
        if let Some(name) = self.login_name(state) {
            self.set(&name, "", Some(0), self.on_return(), response);
        }
    }

    /// A cookie that must come with a navigation from the provider's site.
    fn on_return(&self) -> SameSite {
        match self.oidc.cookies.same_site {
            SameSite::Strict | SameSite::Lax => SameSite::Lax,
            SameSite::None => SameSite::None,
        }
    }

    fn login_name(&self, state: &str) -> Option<String> {
        Some(format!("{}{}", self.login_prefix(), state.get(..8)?))
    }

    fn login_prefix(&self) -> String {
        format!("{}-login-", self.oidc.cookies.name)
    }

    /// The names of logins that a browser has under way, in the order in which it tells of them.
    fn logins(&self, request: &Fields) -> Vec<String> {
        let prefix = self.login_prefix();
        let names = request.all(b"cookie").flat_map(|line| line.split(|byte| *byte == b';'));
        let names = names.filter_map(|pair| pair.trim_ascii().split(|byte| *byte == b'=').next());
        let names = names.filter(|name| name.starts_with(prefix.as_bytes()) && name.len() == prefix.len() + 8);
        // Our own alphabet, as it goes back into a field.
        let names = names.filter(|name| name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)));
        names.filter_map(|name| String::from_utf8(name.to_vec()).ok()).collect()
    }

    fn set(&self, name: &str, value: &str, lasts: Option<i64>, same_site: SameSite, response: &mut Fields) {
        let mut text = format!("{name}={value}; Path=/");
        if let Some(domain) = &self.oidc.cookies.domain {
            text.push_str("; Domain=");
            text.push_str(domain);
        }
        if let Some(lasts) = lasts {
            text.push_str(&format!("; Max-Age={lasts}"));
        }
        if self.secure {
            text.push_str("; Secure");
        }
        text.push_str("; HttpOnly; SameSite=");
        text.push_str(match same_site {
            SameSite::Lax => "Lax",
            SameSite::Strict => "Strict",
            SameSite::None => "None",
        });
        response.add(b"set-cookie", text.as_bytes());
    }

    /// Takes out of a request what is meant for Edge alone, and what would be taken for a token of ours; then puts in the
    /// tokens for which the policy has names.
    pub fn hand_on(&self, session: Option<&Session>, request: &mut Fields) {
        let cookies = &self.oidc.cookies;
        let prefix = self.login_prefix();
        let is_ours = |name: &[u8]| {
            let is = |own: &Option<Box<str>>| own.as_ref().is_some_and(|own| own.as_bytes() == name);
            let rest = name.strip_prefix(cookies.name.as_bytes());
            is(&cookies.access_token)
                || is(&cookies.id_token)
                || name.starts_with(prefix.as_bytes())
                || rest.is_some_and(|rest| matches!(rest, [] | [b'-', b'0'..=b'9']))
        };
        let mut kept = Vec::new();
        let mut has_changed = false;
        for pair in request.all(b"cookie").flat_map(|line| line.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii) {
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii_end();
            if is_ours(name) {
                has_changed = true;
            } else if !pair.is_empty() {
                add_pair(&mut kept, pair);
            }
        }
        if let Some(session) = session {
            for (name, token) in
                [(&cookies.access_token, &session.access_token), (&cookies.id_token, &session.id_token)]
            {
                if let (Some(name), Some(token)) = (name, token) {
                    has_changed = true;
                    add_pair(&mut kept, format!("{name}={token}").as_bytes());
                }
            }
        }
        if has_changed {
            request.remove(b"cookie");
            if !kept.is_empty() {
                request.add(b"cookie", &kept);
            }
        }
    }
}

fn add_pair(line: &mut Vec<u8>, pair: &[u8]) {
    if !line.is_empty() {
        line.extend_from_slice(b"; ");
    }
    line.extend_from_slice(pair);
}

fn part(name: &str, place: usize) -> String {
    if place == 0 { name.to_owned() } else { format!("{name}-{place}") }
}
