//! acme-dns (github.com/joohoi/acme-dns): a server that holds nothing but challenge records, each behind a CNAME.
//!
//! In: the registrations as JSON, `{"DOMAIN": {"username", "password", "subdomain", "fulldomain", ...}}`, the format of
//! cert-manager and lego. Out: `POST SERVER/update`. The server keeps the two newest values itself, so nothing is
//! removed.

use std::collections::HashMap;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use zeroize::{Zeroize as _, Zeroizing};

use super::json::{Json, join};
use super::{Means, ProviderError, TxtValue, WriteTxt};

pub struct AcmeDns {
    server: Box<str>,
    accounts: HashMap<String, Registration>,
    means: Means,
}

#[derive(Deserialize)]
struct Registration {
    username: String,
    password: String,
    subdomain: String,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.password.zeroize();
    }
}

impl AcmeDns {
    pub fn new(server: &str, accounts: Zeroizing<String>, means: &Means) -> Result<Self, ProviderError> {
        // The error's own text could repeat a password.
        let accounts = serde_json::from_str(&accounts).map_err(|error| ProviderError::Secret {
            what: "acme-dns accounts".into(),
            reason: format!(
                "line {} column {}: not {{\"DOMAIN\": {{\"username\", \"password\", \"subdomain\"}}}}",
                error.line(),
                error.column()
            )
            .into(),
        })?;
        Ok(Self { server: server.into(), accounts, means: means.clone() })
    }

    fn registration(&self, domain: &str) -> Option<&Registration> {
        // Some tools register wildcards by their own name.
        self.accounts.get(domain).or_else(|| self.accounts.get(&format!("*.{domain}")))
    }
}

impl WriteTxt for AcmeDns {
    async fn add(&self, record: &TxtValue) -> Result<(), ProviderError> {
        let registration = self.registration(&record.domain).ok_or_else(|| ProviderError::Secret {
            what: "acme-dns accounts".into(),
            reason: format!("there is no registration for {}", record.domain).into(),
        })?;
        let mut json = Json::new(self.means.https.clone(), format!("acme-dns server {}", self.server));
        json.secret_header("x-api-user", "", &registration.username)?;
        json.secret_header("x-api-key", "", &registration.password)?;
        let body = json!({"subdomain": registration.subdomain, "txt": &*record.value});
        let answer = json.send(Method::POST, &join(&self.server, "update"), Some(&body)).await?;
        if answer.status == StatusCode::OK {
            return Ok(());
        }
        let reason = answer.body.get("error").and_then(|error| error.as_str());
        Err(json.refused(&record.name, &answer, reason))
    }

    async fn remove(&self, _record: &TxtValue) -> Result<(), ProviderError> {
        Ok(())
    }
}
