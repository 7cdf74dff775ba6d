//! The texts of the authorization code flow: to the provider and back. Pure but for its random numbers.

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use edge_config::policy::Oidc;

use super::session::Login;
use crate::proxy::authorities::{Endpoints, escape, line};
use crate::proxy::exchange::answer;
use crate::proxy::message::{Length, RequestHead, ResponseHead};

/// Of a URL to which a browser comes back after its login; a longer one leads to the host's root.
const LONGEST_TARGET: usize = 1500;
const LONGEST_CODE: usize = 4096;

/// A new login. `None`: there are no random numbers.
pub fn begin(target: String, redirect: String, now: i64) -> Option<Login> {
    let mut state = [0; 16];
    let mut secret = [0; 32];
    let mut nonce = [0; 16];
    rand::fill(&mut state).ok()?;
    rand::fill(&mut secret).ok()?;
    rand::fill(&mut nonce).ok()?;
    Some(Login {
        state: URL_SAFE_NO_PAD.encode(state).into(),
        // RFC 7636 §4.1: 43 characters of 32 octets.
        verifier: URL_SAFE_NO_PAD.encode(secret).into(),
        nonce: URL_SAFE_NO_PAD.encode(nonce).into(),
        target: target.into(),
        redirect: redirect.into(),
        began: now,
    })
}

/// Where a browser is sent to log in (Core §3.1.2.1).
pub fn authorization(oidc: &Oidc, endpoints: &Endpoints, client_id: &str, login: &Login) -> String {
    let mut url = String::from(&*endpoints.authorization);
    let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, login.verifier.as_bytes()));
    let scope = oidc.scopes.join(" ");
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", client_id),
        ("redirect_uri", &login.redirect),
        ("scope", &scope),
        ("state", &login.state),
        ("nonce", &login.nonce),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ] {
        add(&mut url, name, value);
    }
    for resource in &oidc.resources {
        add(&mut url, "resource", resource);
    }
    for (name, value) in &oidc.extra {
        add(&mut url, name, value);
    }
    url
}

/// Where a browser is sent to log out (RP-Initiated Logout §2).
pub fn end_session(url: &str, client_id: &str, id_token: Option<&str>, home: &str) -> String {
    let mut url = url.to_owned();
    if let Some(token) = id_token {
        add(&mut url, "id_token_hint", token);
    }
    add(&mut url, "client_id", client_id);
    add(&mut url, "post_logout_redirect_uri", home);
    url
}

fn add(url: &mut String, name: &str, value: &str) {
    url.push(if url.contains('?') { '&' } else { '?' });
    url.push_str(name);
    url.push('=');
    escape(value.as_bytes(), url);
}

/// The URL that a request was for. It has scheme and host, since a path that begins with `//` would name another host.
pub fn target(origin: &str, request: &RequestHead) -> String {
    let mut target = format!("{origin}{}", request.path());
    if let Some(query) = request.query() {
        target.push('?');
        target.push_str(query);
    }
    let is_page = matches!(request.method(), "GET" | "HEAD");
    if is_page && target.len() <= LONGEST_TARGET && target.bytes().all(|byte| byte.is_ascii_graphic()) {
        target
    } else {
        format!("{origin}/")
    }
}

/// Whether a redirect makes sense: to a browser that opens a page, and not to a program.
pub fn may_be_redirected(oidc: &Oidc, request: &RequestHead) -> bool {
    let fields = &request.fields;
    if request.is_grpc() || request.upgrade.is_some() || request.authority().is_empty() {
        return false;
    }
    if oidc.deny_redirect.iter().any(|(name, value)| fields.all(name.as_bytes()).any(|found| value.matches(found))) {
        return false;
    }
    // Fetch Metadata: browsers say whether it is a navigation. Who says nothing of it is judged by the method.
    match fields.first(b"sec-fetch-mode") {
        Some(mode) => mode == b"navigate",
        None => {
            let is_script =
                fields.first(b"x-requested-with").is_some_and(|by| by.eq_ignore_ascii_case(b"xmlhttprequest"));
            !is_script && matches!(request.method(), "GET" | "HEAD")
        }
    }
}

/// What a provider sends a browser back with (Core §3.1.2.5, §3.1.2.6).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Returned {
    pub state: Option<String>,
    pub code: Option<String>,
    pub error: Option<String>,
}

impl Returned {
    pub fn of(query: &str) -> Self {
        let mut found = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let place = match name {
                "state" => &mut found.state,
                "code" => &mut found.code,
                "error" => &mut found.error,
                _ => continue,
            };
            let Some(value) = unescaped(value).filter(|value| place.is_none() && value.len() <= LONGEST_CODE) else {
                // Twice, too long or no text: it is not what a provider writes.
                return Self::default();
            };
            *place = Some(value);
        }
        let is_state = |state: &String| {
            state.len() == 22 && state.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        found.state = found.state.filter(is_state);
        found.code = found.code.filter(|code| !code.is_empty() && found.error.is_none());
        found.error = found.error.map(|error| line(&error));
        found
    }
}

fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match first {
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                rest = after;
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            b'+' => b' ',
            other => *other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// When a token that is a JWT says that it ends. Not verified: it only limits how long we keep what a provider gave us.
pub fn expiry_of(token: &str) -> Option<i64> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    Some(claims.get("exp")?.as_f64()? as i64)
}

/// Fills a redirect that nobody keeps.
pub fn redirect(location: &str, response: &mut ResponseHead) {
    response.clear();
    response.status = 302;
    response.length = Length::None;
    answer::date(response);
    response.fields.add(b"location", location.as_bytes());
    response.fields.add(b"cache-control", b"no-store");
}

/// Fills a page that leads on.
pub fn plain(target: &str, response: &mut ResponseHead) -> Bytes {
    let mut escaped = String::with_capacity(target.len());
    for letter in target.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    let page = format!(
        "<!doctype html><meta http-equiv=\"refresh\" content=\"0;url={escaped}\"><title>Logged in</title>\
         <a href=\"{escaped}\">Continue</a>\n"
    );
    let page = Bytes::from(page);
    response.clear();
    response.status = 200;
    response.length = Length::Known(page.len() as u64);
    answer::date(response);
    response.fields.add(b"content-type", b"text/html; charset=utf-8");
    response.fields.add(b"content-security-policy", b"default-src 'none'");
    response.fields.add(b"cache-control", b"no-store");
    page
}
