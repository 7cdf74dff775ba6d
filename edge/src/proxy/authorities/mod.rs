//! Authorities: those whose word decides who may pass. OpenID providers are discovered, key sets are kept fresh, codes and
//! refresh tokens are exchanged; all of it on one thread of its own, so that no request waits but for what it asked itself.
//!
//! In: the generations that workers get, and their orders. Out: [`Known`], which workers read without a lock. What was known
//! stays in force while its source is away, and the trouble is told; nothing here lets anybody pass.
//!
//! [`outgoing`] the one client · [`discovery`], [`tokens`] what is said, judged · [`desk`] who asks what and when ·
//! [`trouble`] what policies are told of it.

mod desk;
mod discovery;
mod outgoing;
mod tally;
mod tokens;
pub mod trouble;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use edge_config::policy::{Oidc, Provider, RemoteKeys};
use foldhash::HashMap;
use tokio::sync::{mpsc, oneshot};

use super::security::jwt::KeySet;
use crate::source::PasswordText;

pub(super) use desk::run;
pub use discovery::Endpoints;
pub use tally::Tally;
pub use tokens::{Grant, Granted, Refused, SKEW, escape, line};

/// Orders that may wait to be taken.
const QUEUE: usize = 256;

/// What is known of authorities; of those that the current generation names.
#[derive(Default, Clone)]
pub struct Known {
    keys: HashMap<RemoteKeys, KeysState>,
    providers: HashMap<Arc<Provider>, ProviderState>,
}

#[derive(Debug, Clone, Default)]
pub struct KeysState {
    /// The last good ones.
    pub set: Option<Arc<KeySet>>,
    pub fetched: Option<SystemTime>,
    /// Why they are not newer, or not there.
    pub trouble: Option<Arc<str>>,
}

#[derive(Debug, Clone, Default)]
pub struct ProviderState {
    pub endpoints: Option<Arc<Endpoints>>,
    /// Why it could not be discovered when that was due last.
    pub trouble: Option<Arc<str>>,
    /// When it was asked for tokens last, where it gave no answer to that, and why.
    pub away: Option<(Instant, Arc<str>)>,
}

/// Something that a request waits for.
pub(super) enum Order {
    /// Keys that may be out of date: somebody has shown one that is not among them.
    Keys {
        of: RemoteKeys,
        done: oneshot::Sender<()>,
    },
    Tokens {
        exchange: Box<Exchange>,
        done: oneshot::Sender<Result<Granted, Refused>>,
    },
}

/// A code or refresh token, and who shows it.
pub struct Exchange {
    pub oidc: Arc<Oidc>,
    pub client_id: Box<str>,
    pub client_secret: Arc<PasswordText>,
    pub grant: Grant,
}

/// What workers have of it.
pub struct Authorities {
    known: ArcSwap<Known>,
    orders: mpsc::Sender<Order>,
    pub tally: Tally,
}

impl Authorities {
    /// With the end at which [`run`] takes orders.
    pub(super) fn new() -> (Arc<Self>, mpsc::Receiver<Order>) {
        let (orders, taken) = mpsc::channel(QUEUE);
        (Arc::new(Self { known: ArcSwap::default(), orders, tally: Tally::default() }), taken)
    }

    pub fn keys(&self, of: &RemoteKeys) -> KeysState {
        self.known.load().keys.get(of).cloned().unwrap_or_default()
    }

    /// Where a provider does what; the error is why nobody knows.
    pub fn endpoints(&self, of: &Provider) -> Result<Arc<Endpoints>, Arc<str>> {
        let known = self.known.load();
        let state = known.providers.get(of);
        match state.and_then(|state| state.endpoints.clone()) {
            Some(endpoints) => Ok(endpoints),
            None => Err(state.and_then(|state| state.trouble.clone()).unwrap_or_else(|| "not asked yet".into())),
        }
    }

    /// Has keys fetched anew where that is not too soon, and waits for it. A caller looks again afterwards.
    pub async fn refetch(&self, of: &RemoteKeys) {
        let (done, heard) = oneshot::channel();
        if self.orders.try_send(Order::Keys { of: of.clone(), done }).is_ok() {
            // Bounded by who fetches.
            let _ = heard.await;
        }
    }

    /// Exchanges a code or refresh token for tokens that are verified.
    pub async fn exchange(&self, exchange: Exchange) -> Result<Granted, Refused> {
        let (done, heard) = oneshot::channel();
        let away = |why: &str| Refused::Away(why.to_owned());
        let order = Order::Tokens { exchange: Box::new(exchange), done };
        self.orders.try_send(order).map_err(|_| away("too many logins at once"))?;
        heard.await.unwrap_or_else(|_| Err(away("given up")))
    }

    /// Everything that is known, for people.
    pub fn known(&self) -> Arc<Known> {
        self.known.load_full()
    }

    fn publish(&self, change: impl FnOnce(&mut Known)) {
        let mut next = Known::clone(&self.known.load());
        change(&mut next);
        self.known.store(Arc::new(next));
    }
}

impl Known {
    /// In the order of their URLs.
    pub fn key_sets(&self) -> Vec<(&RemoteKeys, &KeysState)> {
        let mut all: Vec<_> = self.keys.iter().collect();
        all.sort_by_key(|(of, _)| *of);
        all
    }

    /// In the order of their issuers.
    pub fn providers(&self) -> Vec<(&Provider, &ProviderState)> {
        let mut all: Vec<_> = self.providers.iter().map(|(of, state)| (&**of, state)).collect();
        all.sort_by_key(|(of, _)| *of);
        all
    }
}

/// The keys of a provider, where it says where they are.
fn keys_of(provider: &Provider, endpoints: &Endpoints) -> Option<RemoteKeys> {
    let uri = endpoints.keys.clone()?;
    Some(RemoteKeys { uri, via: provider.via.clone(), keep: Duration::from_secs(300), retry: Duration::from_secs(1) })
}
