//! An account at a CA: opened from a record without asking the CA, registered where there is none yet.
//!
//! In: issuer, secrets, record. Out: a key that is known to the journal before the CA knows it, so that no account is
//! lost or made twice. The directory is read when it is first needed, and again every hour.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edge_config::issuer::AcmeIssuer;
use instant_acme::AccountCredentials;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::refusal::{broken, checked, engine, journal as unwritten, key as unusable};
use super::{AccountRecord, Journal, SecretText, Secrets};
use crate::client::exchange::{Exchange, ExchangeError, NONCE_ATTEMPTS};
use crate::client::jws::{self, Identity, SigningKey};
use crate::client::wire::{Problem, Status};
use crate::client::{Answer, Directory, Https, KeyError, Settings, Trust};
use crate::failure::{Class, OrderError, Step};

/// Directories change rarely, but they do.
const DIRECTORY_HOLDS: Duration = Duration::from_secs(3600);

/// Cheap to clone; orders of one account may run side by side.
#[derive(Clone)]
pub struct Account {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub issuer: AcmeIssuer,
    external_key: Option<SecretText>,
    pub exchange: Exchange,
    state: RwLock<State>,
    /// Held while the account itself changes.
    pub turn: tokio::sync::Mutex<()>,
}

struct State {
    record: AccountRecord,
    key: Arc<SigningKey>,
    thumbprint: Arc<str>,
    live: Option<Arc<Live>>,
}

/// An account that requests can be made with now.
pub(super) struct Live {
    pub url: Box<str>,
    pub key: Arc<SigningKey>,
    pub thumbprint: Arc<str>,
    pub engine: instant_acme::Account,
    pub directory: Directory,
    since: Instant,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("issuer", &self.inner.issuer.id).finish_non_exhaustive()
    }
}

impl Account {
    /// Asks nothing of the CA where the record has the account's URL; registers the account otherwise, after its key
    /// has been journaled. A record of another directory, external account or key than configured is not used.
    pub async fn open(
        issuer: &AcmeIssuer,
        secrets: &Secrets,
        record: Option<AccountRecord>,
        journal: &impl Journal,
    ) -> Result<Self, OrderError> {
        let trust = match issuer.trust.as_ref().or(secrets.trust.as_ref()) {
            _ if issuer.insecure => Trust::Insecure,
            Some(pem) => Trust::Roots(pem.clone()),
            None => Trust::System,
        };
        let https = Https::new(&Settings { trust, ..Settings::default() })
            .map_err(|error| broken(Step::Prepare, &ExchangeError::Client(error)))?;
        let given = secrets.account_key.as_ref().map(|pem| jws::account_key(pem.reveal()));
        let given = given.transpose().map_err(|error| unusable(Step::Prepare, &error))?;
        let key_id = issuer.external_account.as_ref().map(|external| &external.key_id);
        let record = record.filter(|record| {
            record.directory == issuer.directory
                && given.as_ref().is_none_or(|given| is_same_key(given, record))
                // One that was never bound may have been made before the CA demanded it.
                && (record.external_key_id.as_ref() == key_id || key_id.is_none())
        });
        let is_new = record.is_none();
        let record = match record {
            Some(record) => record,
            None => draft(issuer, given)?,
        };
        let (key, thumbprint) = signing(&record.key)?;
        if is_new {
            journal.account(&record).await.map_err(|why| unwritten(&why))?;
        }
        let (registered, rolling) = (record.url.is_some(), record.next_key.is_some());
        let state = State { record, key, thumbprint, live: None };
        let account = Self {
            inner: Arc::new(Inner {
                issuer: issuer.clone(),
                external_key: secrets.external_key.clone(),
                exchange: Exchange::new(https),
                state: RwLock::new(state),
                turn: tokio::sync::Mutex::new(()),
            }),
        };
        if rolling {
            account.settle_key(journal).await?;
        }
        if !registered {
            account.register(journal).await?;
        }
        Ok(account)
    }

    pub fn issuer(&self) -> &AcmeIssuer {
        &self.inner.issuer
    }

    /// What is to be stored of it.
    pub fn record(&self) -> AccountRecord {
        self.state(|state| state.record.clone())
    }

    /// RFC 8555 §8.1: with it any edge answers any HTTP-01 challenge of this account. Public.
    pub fn thumbprint(&self) -> Arc<str> {
        self.state(|state| state.thumbprint.clone())
    }

    /// What the CA says of itself: profiles, CAA identities, terms.
    pub async fn about(&self) -> Result<Directory, OrderError> {
        Ok(self.live().await?.directory.clone())
    }

    pub(super) fn key(&self) -> Arc<SigningKey> {
        self.state(|state| state.key.clone())
    }

    fn state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.inner.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a record in place; requests from now on are made with it.
    pub(super) fn set(&self, record: AccountRecord) -> Result<(), OrderError> {
        let (key, thumbprint) = signing(&record.key)?;
        let mut state = self.inner.state.write().unwrap_or_else(PoisonError::into_inner);
        *state = State { record, key, thumbprint, live: None };
        Ok(())
    }

    /// Reads the directory where it is not known or old.
    pub(super) async fn live(&self) -> Result<Arc<Live>, OrderError> {
        let fresh = || self.state(|state| state.live.clone().filter(|live| live.since.elapsed() < DIRECTORY_HOLDS));
        if let Some(live) = fresh() {
            return Ok(live);
        }
        let _turn = self.inner.turn.lock().await;
        if let Some(live) = fresh() {
            return Ok(live);
        }
        let directory = self.directory().await?;
        let record = self.record();
        let url = record.url.clone();
        let url =
            url.ok_or_else(|| OrderError::new(Class::Transient, Step::Account, "the account is not registered yet"))?;
        let engine = self.engine(&url, &record.key, &directory).await?;
        let live = self.state(|state| {
            let (key, thumbprint) = (state.key.clone(), state.thumbprint.clone());
            Arc::new(Live { url, key, thumbprint, engine, directory: directory.clone(), since: Instant::now() })
        });
        let mut state = self.inner.state.write().unwrap_or_else(PoisonError::into_inner);
        state.record.resources = Some(directory);
        state.live = Some(live.clone());
        Ok(live)
    }

    /// instant-acme's account, from what is known: nothing is fetched.
    async fn engine(&self, url: &str, key: &SecretText, urls: &Directory) -> Result<instant_acme::Account, OrderError> {
        let ours = |what: &dyn fmt::Display| OrderError::new(Class::Ours, Step::Account, what.to_string());
        let der = PrivateKeyDer::from_pem_slice(key.reveal().as_bytes()).map_err(|error| ours(&error))?;
        let credentials = json!({ "id": url, "key_pkcs8": URL_SAFE_NO_PAD.encode(der.secret_der()), "urls": urls });
        let credentials: AccountCredentials = serde_json::from_value(credentials).map_err(|error| ours(&error))?;
        let builder = instant_acme::Account::builder_with_http(Box::new(self.inner.exchange.clone()));
        builder.from_credentials(credentials).await.map_err(|error| engine(Step::Account, &error, None))
    }

    pub(super) async fn directory(&self) -> Result<Directory, OrderError> {
        let answer = checked(Step::Directory, self.inner.exchange.fetch(&self.inner.issuer.directory).await)?;
        let directory: Directory = serde_json::from_slice(&answer.body).map_err(|error| {
            let what = format!("{} is no ACME directory: {error}", self.inner.issuer.directory);
            OrderError::new(Class::Transient, Step::Directory, what)
        })?;
        self.inner.exchange.nonces_at(&directory.new_nonce);
        Ok(directory)
    }

    /// RFC 8555 §7.3: with a key that the CA knows, this finds the account.
    pub(super) async fn register(&self, journal: &impl Journal) -> Result<(), OrderError> {
        let _turn = self.inner.turn.lock().await;
        let issuer = &self.inner.issuer;
        let directory = self.directory().await?;
        let key = self.key();
        let contacts: Vec<String> = issuer.contacts.iter().map(|contact| format!("mailto:{contact}")).collect();
        let mut wish = json!({ "termsOfServiceAgreed": true, "contact": contacts });
        if !issuer.create_account {
            wish["onlyReturnExisting"] = Value::Bool(true);
        }
        match (&issuer.external_account, &self.inner.external_key) {
            (Some(external), Some(secret)) => {
                let bound = jws::bind(&key, &external.key_id, secret.reveal(), &directory.new_account);
                wish["externalAccountBinding"] = bound.map_err(|error| unusable(Step::Prepare, &error))?;
            }
            (Some(external), None) => {
                let what = format!("the key of the external account {} is not there", external.key_id);
                return Err(OrderError::new(Class::Config, Step::Prepare, what));
            }
            (None, _) if directory.meta.external_account_required && issuer.create_account => {
                let mut error = OrderError::new(
                    Class::Config,
                    Step::Account,
                    "the CA wants an external account (EAB), none is configured",
                );
                error.kind = Some("externalAccountRequired".into());
                return Err(error);
            }
            (None, _) => {}
        }
        let sent = self.inner.exchange.post(&key, Identity::Key, &directory.new_account, Some(&wish)).await;
        let answer = checked(Step::Account, sent)?;
        let (url, contacts) = registered(&answer)?;
        let mut record = self.record();
        record.url = Some(url);
        record.contacts = contacts.unwrap_or_else(|| issuer.contacts.clone());
        record.external_key_id = issuer.external_account.as_ref().map(|external| external.key_id.clone());
        record.resources = Some(directory);
        journal.account(&record).await.map_err(|why| unwritten(&why))?;
        self.set(record)
    }

    /// Runs a call of instant-acme as often as its nonce is refused; with the last answer.
    pub(super) async fn call<T>(
        &self,
        step: Step,
        mut call: impl AsyncFnMut() -> Result<T, instant_acme::Error>,
    ) -> Result<(T, Option<Answer>), OrderError> {
        // It tries three times by itself.
        let mut left = NONCE_ATTEMPTS / 3;
        loop {
            let (outcome, seen) = self.inner.exchange.tee(call()).await;
            left -= 1;
            match outcome {
                Ok(value) => return Ok((value, seen)),
                Err(_) if left > 0 && seen.as_ref().is_some_and(|seen| Problem::of(seen).is_bad_nonce()) => {}
                Err(error) => return Err(engine(step, &error, seen.as_ref())),
            }
        }
    }

    /// A request of the account that instant-acme has no call for.
    pub(super) async fn post(
        &self,
        step: Step,
        live: &Live,
        url: &str,
        payload: Option<&Value>,
    ) -> Result<Answer, OrderError> {
        checked(step, self.inner.exchange.post(&live.key, Identity::Account(&live.url), url, payload).await)
    }
}

/// The thumbprint of an account that is not open here.
pub fn thumbprint(record: &AccountRecord) -> Result<String, KeyError> {
    Ok(SigningKey::from_pem(record.key.reveal())?.thumbprint())
}

/// An account key from elsewhere as PEM of PKCS#8; the error says what it is instead of ECDSA P-256.
pub fn account_key(pem: &str) -> Result<SecretText, KeyError> {
    jws::account_key(pem).map(SecretText::new)
}

fn signing(key: &SecretText) -> Result<(Arc<SigningKey>, Arc<str>), OrderError> {
    let key = SigningKey::from_pem(key.reveal()).map_err(|error| unusable(Step::Prepare, &error))?;
    let thumbprint = key.thumbprint().into();
    Ok((Arc::new(key), thumbprint))
}

fn is_same_key(given: &str, record: &AccountRecord) -> bool {
    let of = |pem: &str| SigningKey::from_pem(pem).map(|key| key.thumbprint()).ok();
    let given = of(given);
    given == of(record.key.reveal()) || record.next_key.as_ref().is_some_and(|next| given == of(next.reveal()))
}

fn draft(issuer: &AcmeIssuer, given: Option<zeroize::Zeroizing<String>>) -> Result<AccountRecord, OrderError> {
    let key = match given {
        Some(key) => key,
        None if issuer.create_account => jws::new_account_key().map_err(|error| unusable(Step::Prepare, &error))?,
        None => {
            let what = "there is no account key, and making one is disabled (disableAccountKeyGeneration)";
            return Err(OrderError::new(Class::Config, Step::Prepare, what));
        }
    };
    Ok(AccountRecord {
        directory: issuer.directory.clone(),
        url: None,
        key: SecretText::new(key),
        next_key: None,
        contacts: Vec::new(),
        external_key_id: None,
        resources: None,
    })
}

/// Addresses of electronic mail, without `mailto:`.
type Contacts = Vec<Box<str>>;

/// Where the CA says that it keeps the account, and the contacts that it has.
pub(super) fn registered(answer: &Answer) -> Result<(Box<str>, Option<Contacts>), OrderError> {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(default)]
        status: Status,
        contact: Option<Vec<String>>,
    }
    let url = answer.text("location").filter(|url| !url.is_empty());
    let url = url.ok_or_else(|| OrderError::new(Class::Transient, Step::Account, "the CA gave the account no URL"))?;
    let body: Option<Body> = serde_json::from_slice(&answer.body).ok();
    if let Some(body) = &body
        && matches!(body.status, Status::Deactivated | Status::Revoked)
    {
        let what = format!(
            "the account {url} was {}; another key is needed",
            match body.status {
                Status::Revoked => "revoked by the CA",
                _ => "deactivated",
            }
        );
        return Err(OrderError::new(Class::Config, Step::Account, what));
    }
    let bare = |contact: String| contact.strip_prefix("mailto:").unwrap_or(&contact).into();
    let contacts = body.and_then(|body| body.contact).map(|all| all.into_iter().take(20).map(bare).collect());
    Ok((url.into(), contacts))
}
