//! Writing TXT records: one door to whoever holds a zone.
//!
//! In: a record name and one of its values, the provider's settings and secrets. Out: done, or why not in one line that
//! holds no secret. Several values live at one name at once (a wildcard and its parent share it), so each provider adds
//! and removes single values and leaves others alone. Nothing here waits for name servers to follow.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use edge_config::issuer::{DnsProvider, SecretSource};
use zeroize::Zeroizing;

use super::resolver::{ResolveError, Resolver};
use super::wire::WireError;
use crate::client::{ClientError, Https};

mod acmedns;
mod cloudflare;
mod designate;
mod exec;
mod json;
mod rfc2136;
mod webhook;

pub use exec::Limits;

/// One value of a TXT record set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxtValue {
    /// Where it is written, without the dot at its end.
    pub name: Box<str>,
    /// The name of the certificate that it is for: acme-dns knows its accounts by it.
    pub domain: Box<str>,
    /// The digest that the CA looks for.
    pub value: Box<str>,
}

/// Why a record was not written or removed.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("{what}: {reason}")]
    Secret { what: Box<str>, reason: Box<str> },
    #[error(transparent)]
    Dns(#[from] ResolveError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{who} refuses {name}: {reason}")]
    Refused { who: Box<str>, name: Box<str>, reason: Box<str> },
    #[error("{who} gave an answer that cannot be read: {reason}")]
    Garbled { who: Box<str>, reason: Box<str> },
    #[error("program {program}: {reason}")]
    Program { program: Box<str>, reason: Box<str> },
}

/// What a read of a secret ends in.
pub type SecretResult<'a> = Pin<Box<dyn Future<Output = Result<Zeroizing<Vec<u8>>, String>> + Send + 'a>>;

/// Where secrets come from: files or Secrets. Asked each time one is needed, so that a new one is used at once.
pub trait Secrets: Send + Sync {
    fn read<'a>(&'a self, source: &'a SecretSource) -> SecretResult<'a>;
}

/// Adds and removes single values at a name.
pub trait WriteTxt {
    fn add(&self, record: &TxtValue) -> impl Future<Output = Result<(), ProviderError>> + Send;

    /// Succeeds where the value is not there.
    fn remove(&self, record: &TxtValue) -> impl Future<Output = Result<(), ProviderError>> + Send;
}

/// What all providers share.
#[derive(Clone)]
pub struct Means {
    pub resolver: Resolver,
    /// Speaks plain HTTP as well where the operator wrote such a URL.
    pub https: Https,
    /// Unix seconds; signatures of RFC 8945 carry them.
    pub now: fn() -> i64,
    /// What a program may do.
    pub limits: Limits,
}

/// A provider with its secrets read, for one record.
pub enum Provider {
    Rfc2136(rfc2136::Rfc2136),
    AcmeDns(acmedns::AcmeDns),
    Cloudflare(cloudflare::Cloudflare),
    Designate(Box<designate::Designate>),
    Exec(exec::Exec),
    Webhook(webhook::Webhook),
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rfc2136(_) => "Rfc2136",
            Self::AcmeDns(_) => "AcmeDns",
            Self::Cloudflare(_) => "Cloudflare",
            Self::Designate(_) => "Designate",
            Self::Exec(_) => "Exec",
            Self::Webhook(_) => "Webhook",
        })
    }
}

impl Provider {
    /// Reads the secrets that the settings name.
    pub async fn open(settings: &DnsProvider, secrets: &dyn Secrets, means: &Means) -> Result<Self, ProviderError> {
        Ok(match settings {
            DnsProvider::Rfc2136 { server, tsig } => {
                Self::Rfc2136(rfc2136::Rfc2136::open(server, tsig.as_ref(), secrets, means).await?)
            }
            DnsProvider::AcmeDns { server, accounts } => Self::AcmeDns(acmedns::AcmeDns::new(
                server,
                read("acme-dns accounts", accounts, secrets).await?,
                means,
            )?),
            DnsProvider::Cloudflare { token } => {
                Self::Cloudflare(cloudflare::Cloudflare::new(&read("Cloudflare token", token, secrets).await?, means)?)
            }
            DnsProvider::Designate { clouds, cloud } => Self::Designate(Box::new(
                designate::Designate::open(&read("clouds.yaml", clouds, secrets).await?, cloud, secrets, means).await?,
            )),
            DnsProvider::Exec { command, arguments } => Self::Exec(exec::Exec::new(command, arguments, means.limits)),
            DnsProvider::Webhook { url, authorization } => {
                let authorization = match authorization {
                    Some(source) => Some(read("webhook authorization", source, secrets).await?),
                    None => None,
                };
                Self::Webhook(webhook::Webhook::new(url, authorization.as_deref().map(String::as_str), means)?)
            }
        })
    }
}

impl WriteTxt for Provider {
    async fn add(&self, record: &TxtValue) -> Result<(), ProviderError> {
        match self {
            Self::Rfc2136(provider) => provider.add(record).await,
            Self::AcmeDns(provider) => provider.add(record).await,
            Self::Cloudflare(provider) => provider.add(record).await,
            Self::Designate(provider) => provider.add(record).await,
            Self::Exec(provider) => provider.add(record).await,
            Self::Webhook(provider) => provider.add(record).await,
        }
    }

    async fn remove(&self, record: &TxtValue) -> Result<(), ProviderError> {
        match self {
            Self::Rfc2136(provider) => provider.remove(record).await,
            Self::AcmeDns(provider) => provider.remove(record).await,
            Self::Cloudflare(provider) => provider.remove(record).await,
            Self::Designate(provider) => provider.remove(record).await,
            Self::Exec(provider) => provider.remove(record).await,
            Self::Webhook(provider) => provider.remove(record).await,
        }
    }
}

/// A secret as text, without the newline that editors leave.
async fn read(what: &str, source: &SecretSource, secrets: &dyn Secrets) -> Result<Zeroizing<String>, ProviderError> {
    let fault = |reason: String| ProviderError::Secret { what: what.into(), reason: reason.into() };
    let bytes = secrets.read(source).await.map_err(fault)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| fault("it is not UTF-8".into()))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(Zeroizing::new(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

#[cfg(test)]
mod tests;
