//! What is done with an account beside ordering: contacts, another key, revocation, renewal windows, its end.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::account::{Account, registered};
use super::refusal::{checked, journal as unwritten, key as unusable};
use super::{Journal, RenewalWindow, RevocationReason, SecretText};
use crate::client::jws::{self, Identity, SigningKey};
use crate::client::wire::line;
use crate::client::{CaClock, now};
use crate::failure::{Class, OrderError, Step};

/// RFC 9773 §4.3: what a CA that says nothing, or nonsense, is asked again after.
const ASK_AGAIN: i64 = 6 * 3600;
const SOONEST: i64 = 60;
const LATEST: i64 = 86_400;

/// Whose word a revocation is (RFC 8555 §7.6).
#[derive(Debug, Clone, Copy)]
pub enum RevokeBy<'a> {
    /// The account that the certificate was issued to.
    Account,
    /// The certificate's own private key, PEM: for when it is out, or the account is lost.
    Key(&'a SecretText),
}

impl Account {
    /// Makes the CA's contacts those of the issuer; whether there was anything to do.
    pub async fn sync_contacts(&self, journal: &impl Journal) -> Result<bool, OrderError> {
        let mut record = self.record();
        let wanted = &self.issuer().contacts;
        if record.contacts == *wanted {
            return Ok(false);
        }
        let live = self.live().await?;
        let contacts: Vec<String> = wanted.iter().map(|contact| format!("mailto:{contact}")).collect();
        self.post(Step::Account, &live, &live.url, Some(&json!({ "contact": contacts }))).await?;
        record.contacts.clone_from(wanted);
        journal.account(&record).await.map_err(|why| unwritten(&why))?;
        self.set(record)?;
        Ok(true)
    }

    /// Gives the account another key (RFC 8555 §7.3.5). The new one is journaled before the CA hears of it.
    pub async fn roll_key(&self, journal: &impl Journal) -> Result<(), OrderError> {
        let live = self.live().await?;
        let Some(url) = live.directory.key_change.as_deref() else {
            return Err(OrderError::new(Class::Config, Step::Account, "the CA has no key change"));
        };
        let _turn = self.inner.turn.lock().await;
        let next = jws::new_account_key().map_err(|error| unusable(Step::Account, &error))?;
        let key = SigningKey::from_pem(&next).map_err(|error| unusable(Step::Account, &error))?;
        let mut record = self.record();
        record.next_key = Some(SecretText::new(next));
        journal.account(&record).await.map_err(|why| unwritten(&why))?;
        self.set(record.clone())?;
        let claim = json!({ "account": live.url, "oldKey": live.key.jwk() });
        let inner =
            jws::sign(&key, Identity::Key, None, url, Some(&claim)).map_err(|error| unusable(Step::Account, &error))?;
        let sent = self.inner.exchange.post(&live.key, Identity::Account(&live.url), url, Some(&inner)).await;
        let answered = sent.is_ok();
        let outcome = checked(Step::Account, sent);
        if outcome.is_err() && !answered {
            // Which key holds is asked when the account is opened next.
            return outcome.map(|_| ());
        }
        if let (Ok(_), Some(next)) = (&outcome, record.next_key.take()) {
            record.key = next;
        }
        journal.account(&record).await.map_err(|why| unwritten(&why))?;
        self.set(record)?;
        outcome.map(|_| ())
    }

    /// A roll-over was cut short: whichever key the CA knows stays.
    pub(super) async fn settle_key(&self, journal: &impl Journal) -> Result<(), OrderError> {
        let mut record = self.record();
        let Some(next) = record.next_key.take() else { return Ok(()) };
        let directory = self.directory().await?;
        let key = SigningKey::from_pem(next.reveal()).map_err(|error| unusable(Step::Account, &error))?;
        let wish = json!({ "onlyReturnExisting": true });
        let sent = self.inner.exchange.post(&key, Identity::Key, &directory.new_account, Some(&wish)).await;
        match checked(Step::Account, sent) {
            Ok(answer) if Some(&registered(&answer)?.0) == record.url.as_ref() => record.key = next,
            Ok(_) => {}
            Err(error) if error.is_kind("accountDoesNotExist") => {}
            Err(error) => return Err(error),
        }
        journal.account(&record).await.map_err(|why| unwritten(&why))?;
        self.set(record)
    }

    /// For good: nothing can be done with the account afterwards (RFC 8555 §7.3.6).
    pub async fn deactivate(&self) -> Result<(), OrderError> {
        let live = self.live().await?;
        self.post(Step::Account, &live, &live.url, Some(&json!({ "status": "deactivated" }))).await?;
        Ok(())
    }

    /// Revokes the first certificate of a chain; one that is revoked already is no failure.
    pub async fn revoke(&self, chain_pem: &str, by: RevokeBy<'_>, reason: RevocationReason) -> Result<(), OrderError> {
        let live = self.live().await?;
        let wrong = |what: String| OrderError::new(Class::Ours, Step::Revoke, what);
        let leaf = CertificateDer::from_pem_slice(chain_pem.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        let Some(url) = live.directory.revoke_cert.as_deref() else {
            return Err(OrderError::new(Class::Config, Step::Revoke, "the CA revokes nothing by request"));
        };
        let request = json!({ "certificate": URL_SAFE_NO_PAD.encode(&leaf), "reason": reason as u8 });
        let exchange = &self.inner.exchange;
        let sent = match by {
            RevokeBy::Account => exchange.post(&live.key, Identity::Account(&live.url), url, Some(&request)).await,
            RevokeBy::Key(pem) => {
                let key = SigningKey::from_pem(pem.reveal()).map_err(|error| unusable(Step::Revoke, &error))?;
                exchange.post(&key, Identity::Key, url, Some(&request)).await
            }
        };
        match checked(Step::Revoke, sent) {
            Err(error) if !error.is_kind("alreadyRevoked") => Err(error),
            _ => Ok(()),
        }
    }

    /// RFC 9773 §4.2. The identifier is that of [`super::certificate_id`].
    pub async fn renewal_window(&self, id: &str) -> Result<RenewalWindow, OrderError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            suggested_window: Window,
            #[serde(rename = "explanationURL")]
            explanation: Option<String>,
        }
        #[derive(Deserialize)]
        struct Window {
            start: String,
            end: String,
        }
        let live = self.live().await?;
        let Some(base) = live.directory.renewal_info.as_deref() else {
            return Err(OrderError::new(Class::Config, Step::RenewalInfo, "the CA gives no renewal information (ARI)"));
        };
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if id.is_empty() || !id.bytes().all(sound) {
            return Err(OrderError::new(
                Class::Ours,
                Step::RenewalInfo,
                format!("{:?} identifies no certificate", line(id)),
            ));
        }
        let url = format!("{}/{id}", base.trim_end_matches('/'));
        let answer = checked(Step::RenewalInfo, self.inner.exchange.fetch(&url).await)?;
        let now = now();
        let nonsense = |what: String| OrderError::new(Class::Transient, Step::RenewalInfo, line(&what));
        let body: Body = serde_json::from_slice(&answer.body).map_err(|error| nonsense(error.to_string()))?;
        let at = |text: &str| {
            let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|error| nonsense(format!("{text:?}: {error}")))?;
            Ok(at.unix_timestamp())
        };
        let (start, end) = (at(&body.suggested_window.start)?, at(&body.suggested_window.end)?);
        // RFC 9773 §4.2: such a window is no answer.
        if end <= start {
            return Err(nonsense("the window ends before it begins".into()));
        }
        let wait = answer.retry_after(now).map_or(ASK_AGAIN, |at| at - now);
        Ok(RenewalWindow {
            start,
            end,
            explanation: body.explanation.map(|url| line(&url).into()),
            ask_again: now + wait.clamp(SOONEST, LATEST),
        })
    }

    /// What the CA's clock said last.
    pub fn clock(&self) -> Option<CaClock> {
        self.inner.exchange.clock()
    }
}
