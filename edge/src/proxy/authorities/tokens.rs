//! What the token endpoint says, and whether its ID token is good. Pure: bytes, claims and `now` in, values out.
//!
//! Standards: RFC 6749 §4.1.3, §5, §6; RFC 7636 (PKCE); OpenID Connect Core 1.0 §3.1.3.7, §12.2.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_config::policy::Oidc;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::outgoing::Form;

/// How far the provider's clock may be from ours, in seconds.
pub const SKEW: i64 = 60;
/// The longest token that is kept in a cookie's parts.
const LONGEST: usize = 16 << 10;

/// What is asked for.
#[derive(Clone)]
pub enum Grant {
    Code {
        code: Box<str>,
        redirect: Box<str>,
        verifier: Box<str>,
        nonce: Box<str>,
    },
    /// `subject`: whose session it is.
    Refresh {
        token: Box<str>,
        subject: Box<str>,
    },
}

/// What came of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Granted {
    pub access_token: Option<Box<str>>,
    /// Of a refresh it may be missing.
    pub id_token: Option<Box<str>>,
    pub refresh_token: Option<Box<str>>,
    /// Unix seconds until which the tokens are good.
    pub expires: i64,
    pub subject: Box<str>,
}

impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Granted").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Why there are no tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Nobody can say: the provider is away, too slow, or says nonsense.
    Away(String),
    /// The provider says no: the code or refresh token is not good (any more).
    Denied(String),
    /// It says yes, and what it says is not good.
    Invalid(String),
}

#[derive(Deserialize)]
struct Response {
    access_token: Option<String>,
    token_type: Option<String>,
    id_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Failure {
    error: String,
    error_description: String,
}

/// The tokens of an answer, not judged yet.
pub struct Answer {
    pub access_token: Option<Box<str>>,
    pub id_token: Option<Box<str>>,
    pub refresh_token: Option<Box<str>>,
    pub expires_in: Option<i64>,
}

/// The request for tokens. `basic`: how the client shows its secret (§2.3.1).
pub fn form(grant: &Grant, client_id: &str, secret: &[u8], basic: bool) -> Form {
    let mut body = String::new();
    let mut add = |name: &str, value: &str| {
        if !body.is_empty() {
            body.push('&');
        }
        body.push_str(name);
        body.push('=');
        escape(value.as_bytes(), &mut body);
    };
    match grant {
        Grant::Code { code, redirect, verifier, .. } => {
            add("grant_type", "authorization_code");
            add("code", code);
            add("redirect_uri", redirect);
            add("code_verifier", verifier);
        }
        Grant::Refresh { token, .. } => {
            add("grant_type", "refresh_token");
            add("refresh_token", token);
        }
    }
    let mut id = String::new();
    escape(client_id.as_bytes(), &mut id);
    let mut password = String::new();
    escape(secret, &mut password);
    let authorization = basic.then(|| format!("Basic {}", STANDARD.encode(format!("{id}:{password}"))).into());
    if !basic {
        body.push_str("&client_id=");
        body.push_str(&id);
        body.push_str("&client_secret=");
        body.push_str(&password);
    }
    Form { body: Some(body.into()), authorization }
}

/// Appends what application/x-www-form-urlencoded needs escaped, escaped.
pub fn escape(text: &[u8], out: &mut String) {
    use std::fmt::Write as _;
    for byte in text {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(*byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// Reads an answer of the token endpoint.
pub fn read(status: u16, body: &[u8]) -> Result<Answer, Refused> {
    if status != 200 {
        let failure: Failure = serde_json::from_slice(body).unwrap_or_default();
        let why = line(&format!("answered {status} {} {}", failure.error, failure.error_description));
        // §5.2: what concerns this code or token alone. The rest concerns everybody, so somebody has to look at it.
        return Err(match (status, failure.error.as_str()) {
            (400 | 401, "invalid_grant") => Refused::Denied(why),
            _ => Refused::Away(why),
        });
    }
    let response: Response = serde_json::from_slice(body)
        .map_err(|error| Refused::Away(format!("the answer of the token endpoint cannot be read: {error}")))?;
    if let Some(kind) = response.token_type.as_deref().filter(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err(Refused::Invalid(line(&format!("token_type is {kind:?}, expected Bearer"))));
    }
    let tokens = [&response.access_token, &response.id_token, &response.refresh_token];
    for token in tokens.into_iter().flatten() {
        // They become parts of fields.
        if token.len() > LONGEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refused::Invalid("a token is longer than 16 KiB or no plain text".to_owned()));
        }
    }
    let expires_in = match &response.expires_in {
        Some(Value::Number(number)) => number.as_f64().map(|seconds| seconds as i64),
        // Some providers write it as a text.
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    let boxed = |token: Option<String>| token.filter(|token| !token.is_empty()).map(Into::into);
    Ok(Answer {
        access_token: boxed(response.access_token),
        id_token: boxed(response.id_token),
        refresh_token: boxed(response.refresh_token),
        expires_in: expires_in.filter(|seconds| *seconds > 0),
    })
}

/// What the ID token of a login or refresh must say (§3.1.3.7, §12.2).
pub struct Expected<'e> {
    pub issuer: &'e str,
    pub client_id: &'e str,
    pub nonce: Option<&'e str>,
    pub subject: Option<&'e str>,
    pub now: i64,
}

/// Judges the claims of an ID token whose signature is good. Gives its subject and when it expires.
pub fn judge(claims: &Map<String, Value>, expected: &Expected<'_>) -> Result<(Box<str>, i64), String> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let shown = |value: Option<&str>| value.map_or("none".to_owned(), |value| format!("{:?}", line(value)));
    if text("iss") != Some(expected.issuer) {
        return Err(format!("issuer of the ID token is {}, expected {:?}", shown(text("iss")), expected.issuer));
    }
    let audiences: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !audiences.contains(&expected.client_id) {
        return Err("the ID token is for another client (aud)".to_owned());
    }
    match text("azp") {
        Some(party) if party != expected.client_id => return Err("the ID token is for another client (azp)".to_owned()),
        None if audiences.len() > 1 => return Err("the ID token has several audiences and no azp".to_owned()),
        _ => {}
    }
    let time = |name: &str| claims.get(name).and_then(Value::as_f64).map(|seconds| seconds as i64);
    let now = expected.now;
    let Some(expires) = time("exp") else { return Err("the ID token has no exp".to_owned()) };
    if expires <= now.saturating_sub(SKEW) {
        return Err(format!("the ID token expired {} s ago; is a clock wrong?", now.saturating_sub(expires)));
    }
    for name in ["iat", "nbf"] {
        if let Some(ahead) = time(name).map(|at| at.saturating_sub(now)).filter(|ahead| *ahead > SKEW) {
            return Err(format!("the ID token is of {ahead} s in the future ({name}); is a clock wrong?"));
        }
    }
    match (expected.nonce, text("nonce")) {
        (Some(nonce), Some(found)) if nonce == found => {}
        (Some(_), _) => return Err("nonce of the ID token is not that of this login".to_owned()),
        (None, _) => {}
    }
    let Some(subject) = text("sub").filter(|subject| !subject.is_empty() && subject.len() <= 255) else {
        return Err("the ID token has no sub".to_owned());
    };
    if expected.subject.is_some_and(|expected| expected != subject) {
        return Err("the ID token is of somebody else (sub)".to_owned());
    }
    Ok((subject.into(), expires))
}

/// Until when the tokens are good.
pub fn expiry(oidc: &Oidc, answer: &Answer, id_expires: Option<i64>, now: i64) -> Option<i64> {
    let default = oidc.token_ttl.map(|ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)).filter(|ttl| *ttl > 0);
    match answer.expires_in.or(default) {
        Some(seconds) => Some(now.saturating_add(seconds)),
        None => id_expires,
    }
}

/// A foreign text as one bounded line.
pub fn line(text: &str) -> String {
    let clean = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let mut line: String = clean.take(300).collect();
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn claims(edit: impl FnOnce(&mut Map<String, Value>)) -> Map<String, Value> {
        let Value::Object(mut claims) = serde_json::json!({
            "iss": "https://id.test", "aud": "edge", "sub": "alice", "exp": NOW + 300, "iat": NOW - 1, "nonce": "n",
        }) else {
            unreachable!()
        };
        edit(&mut claims);
        claims
    }

    #[test]
    fn claims_are_judged() {
        let expected =
            Expected { issuer: "https://id.test", client_id: "edge", nonce: Some("n"), subject: None, now: NOW };
        assert_eq!(judge(&claims(|_| {}), &expected), Ok(("alice".into(), NOW + 300)));
        type Edit = fn(&mut Map<String, Value>);
        let bad: [(Edit, &str); 14] = [
            (|claims| drop(claims.insert("iss".into(), "https://id.test/".into())), "issuer"),
            (|claims| drop(claims.remove("iss")), "issuer"),
            (|claims| drop(claims.insert("aud".into(), "other".into())), "aud"),
            (|claims| drop(claims.insert("aud".into(), serde_json::json!(["edge", "other"]))), "azp"),
            (|claims| drop(claims.insert("azp".into(), "other".into())), "azp"),
            (|claims| drop(claims.remove("exp")), "exp"),
            (|claims| drop(claims.insert("exp".into(), "soon".into())), "exp"),
            (|claims| drop(claims.insert("exp".into(), (NOW - 60).into())), "expired"),
            (|claims| drop(claims.insert("iat".into(), (NOW + 61).into())), "future"),
            (|claims| drop(claims.insert("nbf".into(), (NOW + 61).into())), "future"),
            (|claims| drop(claims.insert("nonce".into(), "m".into())), "nonce"),
            (|claims| drop(claims.remove("nonce")), "nonce"),
            (|claims| drop(claims.remove("sub")), "sub"),
            (|claims| drop(claims.insert("exp".into(), f64::MAX.into())), ""),
        ];
        for (edit, expected_text) in bad {
            match judge(&claims(edit), &expected) {
                Err(why) => assert!(!expected_text.is_empty() && why.contains(expected_text), "{why}"),
                Ok(_) => assert!(expected_text.is_empty(), "{expected_text}"),
            }
        }
        // Clocks may differ by a minute.
        assert!(judge(&claims(|claims| drop(claims.insert("exp".into(), (NOW - 59).into()))), &expected).is_ok());
        let of_bob = Expected { subject: Some("bob"), nonce: None, ..expected };
        assert!(judge(&claims(|_| {}), &of_bob).unwrap_err().contains("somebody else"));
    }

    #[test]
    fn answers_are_read() {
        let read = |status, text: &str| read(status, text.as_bytes());
        let good =
            read(200, r#"{"access_token":"a","token_type":"bearer","id_token":"i","expires_in":"60"}"#).ok().unwrap();
        assert_eq!((good.access_token.as_deref(), good.expires_in, good.refresh_token), (Some("a"), Some(60), None));
        for (status, text, is_denied) in [
            (400, r#"{"error":"invalid_grant","error_description":"used\ntwice"}"#, true),
            (401, r#"{"error":"invalid_client"}"#, false),
            (500, "<html>", false),
            (200, "<html>", false),
            (302, "", false),
        ] {
            match read(status, text).err().unwrap() {
                Refused::Denied(why) => assert!(is_denied && why.contains("used twice"), "{why}"),
                Refused::Away(why) => assert!(!is_denied && !why.contains('\n'), "{why}"),
                Refused::Invalid(why) => panic!("{why}"),
            }
        }
        for text in [
            r#"{"access_token":"a","token_type":"mac","id_token":"i"}"#,
            r#"{"access_token":"a b","token_type":"Bearer"}"#,
            r#"{"access_token":"a\r\nx: y"}"#,
        ] {
            assert!(matches!(read(200, text), Err(Refused::Invalid(_))), "{text}");
        }
    }

    #[test]
    fn credentials_are_escaped() {
        let grant = Grant::Refresh { token: "r/+=".into(), subject: "s".into() };
        let made = form(&grant, "my app", b"s&cret:", true);
        assert_eq!(made.body.as_deref(), Some(&b"grant_type=refresh_token&refresh_token=r%2F%2B%3D"[..]));
        let expected = format!("Basic {}", STANDARD.encode("my%20app:s%26cret%3A"));
        assert_eq!(made.authorization.as_deref(), Some(&*expected));
        let made = form(&grant, "my app", b"s&cret:", false);
        assert!(made.body.unwrap().ends_with(b"&client_id=my%20app&client_secret=s%26cret%3A"));
        assert!(made.authorization.is_none());
    }
}
