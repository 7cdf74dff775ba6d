//! What a provider says of itself (OpenID Connect Discovery 1.0 §4). Pure: bytes in, values out.

use edge_config::policy::Provider;
use serde::Deserialize;

/// Longer URLs of a provider are refused: they become part of answers to browsers.
const LONGEST_URL: usize = 2048;

/// Where a provider does what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// As it stands in ID tokens.
    pub issuer: Box<str>,
    pub authorization: Box<str>,
    pub token: Box<str>,
    pub end_session: Option<Box<str>>,
    /// `None`: it could not be asked for its keys, which may do where tokens come from it over TLS.
    pub keys: Option<Box<str>>,
    pub takes_basic: bool,
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    end_session_endpoint: Option<String>,
    jwks_uri: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// Where the document is (§4.1).
pub fn url_of(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
}

/// Reads the document. What the policy says goes before it.
pub fn read(provider: &Provider, body: &[u8]) -> Result<Endpoints, String> {
    let document: Document =
        serde_json::from_slice(body).map_err(|error| format!("the discovery document cannot be read: {error}"))?;
    // §4.3: "MUST exactly match"; the one slash that people forget is let through, and tokens are held to this text.
    if document.issuer.trim_end_matches('/') != provider.issuer.trim_end_matches('/') {
        let found: String = document.issuer.chars().take(200).collect();
        return Err(format!("the discovery document is of issuer {found:?}, expected {:?}", provider.issuer));
    }
    let need = |own: &Option<Box<str>>, found: Option<String>, name: &str| {
        let found = own.clone().or(found.map(Into::into));
        sound(found.ok_or_else(|| format!("the discovery document has no {name}"))?, name)
    };
    let authorization = need(&provider.authorization, document.authorization_endpoint, "authorization_endpoint")?;
    let token = need(&provider.token, document.token_endpoint, "token_endpoint")?;
    let keys = need(&None, document.jwks_uri, "jwks_uri")?;
    let end_session = provider.end_session.clone().or(document.end_session_endpoint.map(Into::into));
    let methods = document.token_endpoint_auth_methods_supported;
    let has = |name: &str| methods.as_ref().is_none_or(|all| all.iter().any(|method| method == name));
    Ok(Endpoints {
        issuer: document.issuer.into(),
        authorization,
        token,
        end_session: end_session.and_then(|url| sound(url, "end_session_endpoint").ok()),
        keys: Some(keys),
        // Absent: "client_secret_basic" (§3). Who offers neither is asked in the usual way.
        takes_basic: has("client_secret_basic") || !has("client_secret_post"),
    })
}

/// What the policy alone says, if that is enough.
pub fn given(provider: &Provider) -> Option<Endpoints> {
    Some(Endpoints {
        issuer: provider.issuer.clone(),
        authorization: provider.authorization.clone()?,
        token: provider.token.clone()?,
        end_session: provider.end_session.clone(),
        keys: None,
        takes_basic: true,
    })
}

fn sound(url: Box<str>, name: &str) -> Result<Box<str>, String> {
    let is_url = url.len() <= LONGEST_URL
        && url.bytes().all(|byte| byte.is_ascii_graphic())
        && url.parse::<http::Uri>().is_ok_and(|uri| {
            uri.authority().is_some() && matches!(uri.scheme_str(), Some("https" | "http")) && !url.contains('#')
        });
    if is_url { Ok(url) } else { Err(format!("{name} of the discovery document is no URL")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(issuer: &str) -> Provider {
        Provider {
            issuer: issuer.into(),
            discovery: None,
            authorization: None,
            token: None,
            end_session: None,
            via: None,
        }
    }

    const GOOD: &str = r#"{"issuer":"https://id.test/t/v2.0","authorization_endpoint":"https://id.test/auth",
        "token_endpoint":"https://id.test/token","jwks_uri":"https://id.test/keys","end_session_endpoint":"https://id.test/out",
        "token_endpoint_auth_methods_supported":["client_secret_post","private_key_jwt"],"more":[1]}"#;

    #[test]
    fn a_document() {
        let found = read(&provider("https://id.test/t/v2.0"), GOOD.as_bytes()).unwrap();
        assert_eq!((&*found.token, found.keys.as_deref()), ("https://id.test/token", Some("https://id.test/keys")));
        assert!(!found.takes_basic);
        assert_eq!(url_of("https://id.test/t/v2.0/"), "https://id.test/t/v2.0/.well-known/openid-configuration");
        let mut own = provider("https://id.test/t/v2.0/");
        own.authorization = Some("https://id.test/auth?domain_hint=x".into());
        let found = read(&own, GOOD.as_bytes()).unwrap();
        assert_eq!(&*found.authorization, "https://id.test/auth?domain_hint=x");
        assert_eq!(&*found.issuer, "https://id.test/t/v2.0");
        assert!(given(&own).is_none());
        own.token = Some("https://id.test/token".into());
        assert!(given(&own).is_some_and(|given| given.takes_basic && given.keys.is_none()));
    }

    #[test]
    fn what_is_wrong_is_one_line() {
        for (from, to, expected) in [
            (r#""issuer":"https://id.test/t/v2.0""#, r#""issuer":"https://evil.test""#, "is of issuer"),
            (r#""jwks_uri":"https://id.test/keys""#, r#""jwks_uri":"ftp://x""#, "jwks_uri"),
            (r#""jwks_uri":"https://id.test/keys","#, "", "no jwks_uri"),
            (
                r#""token_endpoint":"https://id.test/token""#,
                r#""token_endpoint":"https://id.test/\r\nx""#,
                "token_endpoint",
            ),
            ("{", "<html>", "cannot be read"),
            (r#""issuer":"https://id.test/t/v2.0""#, r#""issuer":7"#, "cannot be read"),
        ] {
            let error = read(&provider("https://id.test/t/v2.0"), GOOD.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
    }
}
