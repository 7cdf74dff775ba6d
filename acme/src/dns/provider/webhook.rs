//! A webhook of one's own: `POST URL/present` and `URL/cleanup` with `{"fqdn": "NAME.", "value": "VALUE"}`, the protocol
//! of lego's `httpreq` provider in its default mode.
//!
//! The authorization is a whole header value (`Bearer TOKEN`, `Basic ...`), `USER:PASSWORD` for basic authentication
//! (RFC 7617), or a token alone, which goes as a bearer (RFC 6750).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::json;
use zeroize::Zeroizing;

use super::json::{Json, join};
use super::{Means, ProviderError, TxtValue, WriteTxt};

pub struct Webhook {
    url: Box<str>,
    json: Json,
}

impl Webhook {
    pub fn new(url: &str, authorization: Option<&str>, means: &Means) -> Result<Self, ProviderError> {
        // Credentials in a URL are none of an error's business.
        let shown = url.split_once("://").map_or(url, |(_, rest)| rest.rsplit_once('@').map_or(rest, |(_, host)| host));
        let mut json = Json::new(means.https.clone(), format!("webhook {shown}"));
        if let Some(text) = authorization.map(str::trim) {
            let scheme = |scheme: &str| text.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme));
            if scheme("bearer ") || scheme("basic ") {
                let secret = text.split_once(' ').map_or("", |(_, secret)| secret);
                json.hide(secret);
                json.secret_header("authorization", "", text)?;
            } else if let Some((_, password)) = text.split_once(':') {
                json.hide(password);
                json.secret_header("authorization", "Basic ", &Zeroizing::new(STANDARD.encode(text)))?;
            } else {
                json.secret_header("authorization", "Bearer ", text)?;
            }
        }
        Ok(Self { url: url.into(), json })
    }

    async fn post(&self, path: &str, record: &TxtValue) -> Result<(), ProviderError> {
        let body = json!({"fqdn": format!("{}.", record.name), "value": &*record.value});
        let answer = self.json.send(Method::POST, &join(&self.url, path), Some(&body)).await?;
        if answer.status.is_success() { Ok(()) } else { Err(self.json.refused(&record.name, &answer, None)) }
    }
}

impl WriteTxt for Webhook {
    async fn add(&self, record: &TxtValue) -> Result<(), ProviderError> {
        self.post("present", record).await
    }

    async fn remove(&self, record: &TxtValue) -> Result<(), ProviderError> {
        self.post("cleanup", record).await
    }
}
