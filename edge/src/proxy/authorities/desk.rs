//! Who is asked what, and when: key sets before they are too old, providers now and then, tokens when a request wants them.
//! Everything runs on one thread; what waits, waits with a bound.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use edge_config::policy::{Provider, RemoteKeys};
use edge_config::snapshot::Snapshot;
use foldhash::{HashMap, HashSet, HashSetExt as _};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::discovery::{self, Endpoints};
use super::outgoing::{Form, Outgoing};
use super::tally::Outcomes;
use super::tokens::{self, Expected};
use super::{Authorities, Exchange, Grant, Granted, KeysState, Order, ProviderState, Refused, keys_of};
use crate::proxy::clock::Clock;
use crate::proxy::security::jwt::{self, JwtError, KeySet};
use crate::proxy::worker::Gate;
use crate::proxy::{Mode, Shared, Wanted};

/// Between fetches of one key set that unknown keys ask for.
const LEAST: Duration = Duration::from_secs(10);
/// Between fetches, however often they fail.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const DISCOVERY: Duration = Duration::from_secs(3600);
const SWEEP: Duration = Duration::from_secs(5);
/// Exchanges of tokens at once, those included that wait for one another.
const MOST_EXCHANGES: usize = 512;
/// Requests of a browser that come with an old cookie while a new one is on its way share what was granted.
const GRACE: Duration = Duration::from_secs(30);
/// So long a provider that is away, or has said no, is not asked again for the same.
const REST: Duration = Duration::from_secs(2);
const MOST_FLIGHTS: usize = 4096;

struct Desk {
    authorities: Arc<Authorities>,
    outgoing: Outgoing,
    keys: RefCell<HashMap<RemoteKeys, Kept>>,
    providers: RefCell<HashMap<Arc<Provider>, JoinHandle<()>>>,
    /// What policies name; the keys of providers come on top.
    wanted_keys: RefCell<HashSet<RemoteKeys>>,
    flights: RefCell<HashMap<Print, Flight>>,
    exchanges: Gate,
}

/// Of a refresh token.
type Print = [u8; 32];
type Outcome = Result<Granted, Refused>;

enum Flight {
    /// Others wait for it.
    Under(Vec<oneshot::Sender<Outcome>>),
    Over {
        until: Instant,
        outcome: Outcome,
    },
}

/// A key set that is kept fresh.
struct Kept {
    watch: Rc<Watch>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Watch {
    hurry: Notify,
    /// The last fetch that an unknown key has asked for.
    hurried: Cell<Option<Instant>>,
    is_asking: Cell<bool>,
    waiting: RefCell<Vec<oneshot::Sender<()>>>,
}

/// Runs until the proxy is told to stop.
pub(in crate::proxy) async fn run(
    shared: Arc<Shared>,
    mut wanted: watch::Receiver<Arc<Wanted>>,
    mut orders: mpsc::Receiver<Order>,
) {
    let clock = Clock::new();
    let ticking = tokio::task::spawn_local(Rc::clone(&clock).run());
    let desk = Rc::new(Desk {
        authorities: Arc::clone(&shared.authorities),
        outgoing: Outgoing::new(clock, Arc::clone(&shared.registry), Arc::clone(&wanted.borrow().generation)),
        keys: RefCell::default(),
        providers: RefCell::default(),
        wanted_keys: RefCell::default(),
        flights: RefCell::default(),
        exchanges: Gate::default(),
    });
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        // The end may have been wanted before this thread had its first turn.
        let (mode, generation) = {
            let want = wanted.borrow_and_update();
            (want.mode, Arc::clone(&want.generation))
        };
        if mode == Mode::Stop {
            break;
        }
        desk.follow(&generation.snapshot);
        desk.outgoing.adopt(generation);
        let is_forsaken = loop {
            tokio::select! {
                changed = wanted.changed() => break changed.is_err(),
                Some(order) = orders.recv() => desk.take(order),
                _ = sweep.tick() => desk.outgoing.sweep(),
            }
        };
        if is_forsaken {
            break;
        }
    }
    desk.keys.borrow_mut().drain().for_each(|(_, kept)| kept.task.abort());
    desk.providers.borrow_mut().drain().for_each(|(_, task)| task.abort());
    ticking.abort();
}

impl Desk {
    /// Keeps what the policies of a snapshot name, and forgets the rest.
    fn follow(self: &Rc<Self>, snapshot: &Snapshot) {
        let mut keys = HashSet::new();
        let mut providers: HashSet<Arc<Provider>> = HashSet::new();
        let of_rules = snapshot.rules.iter().filter_map(|rule| rule.policy.as_deref());
        let of_listeners = snapshot.listeners.iter().filter_map(|listener| listener.policy.as_deref());
        for security in of_rules.chain(of_listeners).filter_map(|policy| policy.security.as_deref()) {
            keys.extend(security.remote_keys().map(|keys| RemoteKeys::clone(keys)));
            providers.extend(security.oidc.iter().map(|oidc| Arc::clone(&oidc.provider)));
        }
        self.wanted_keys.replace(keys);
        let mut running = self.providers.borrow_mut();
        running.retain(|of, task| {
            let stays = providers.contains(of);
            if !stays {
                task.abort();
            }
            stays
        });
        self.authorities.publish(|known| known.providers.retain(|of, _| providers.contains(of)));
        for of in providers {
            running.entry(of).or_insert_with_key(|of| {
                // What the policy says itself is good at once.
                let endpoints = discovery::given(of).map(Arc::new);
                let state = ProviderState { endpoints, ..ProviderState::default() };
                self.authorities.publish(|known| drop(known.providers.insert(Arc::clone(of), state)));
                tokio::task::spawn_local(Rc::clone(self).discover(Arc::clone(of)))
            });
        }
        drop(running);
        self.follow_keys();
    }

    fn follow_keys(self: &Rc<Self>) {
        let mut wanted = self.wanted_keys.borrow().clone();
        for (of, state) in self.authorities.known().providers() {
            wanted.extend(state.endpoints.as_ref().and_then(|endpoints| keys_of(of, endpoints)));
        }
        let mut running = self.keys.borrow_mut();
        running.retain(|of, kept| {
            let stays = wanted.contains(of);
            if !stays {
                kept.task.abort();
            }
            stays
        });
        self.authorities.publish(|known| known.keys.retain(|of, _| wanted.contains(of)));
        for of in wanted {
            running.entry(of).or_insert_with_key(|of| {
                let watch = Rc::new(Watch::default());
                let task = tokio::task::spawn_local(Rc::clone(self).keep(of.clone(), Rc::clone(&watch)));
                self.authorities.publish(|known| drop(known.keys.insert(of.clone(), KeysState::default())));
                Kept { watch, task }
            });
        }
    }

    /// Asks a provider what it is, again and again.
    async fn discover(self: Rc<Self>, of: Arc<Provider>) {
        let tally = &self.authorities.tally;
        let url = of.discovery.as_deref().map_or_else(|| discovery::url_of(&of.issuer), str::to_owned);
        let mut pause = Duration::from_secs(1);
        loop {
            let found = match self.outgoing.send(&url, of.via.as_ref(), &Form::default()).await {
                Ok(reply) if reply.status == 200 => discovery::read(&of, &reply.body),
                Ok(reply) => Err(format!("{url} answered {}", reply.status)),
                Err(why) => Err(why),
            };
            let before = self.authorities.known().providers.get(&of).cloned().unwrap_or_default();
            let wait = match found {
                Ok(endpoints) => {
                    tally.discovered.fetch_add(1, Relaxed);
                    if before.trouble.is_some() {
                        tracing::info!(issuer = %of.issuer, "the OpenID provider is back");
                    }
                    let state = ProviderState { endpoints: Some(Arc::new(endpoints)), trouble: None, ..before };
                    self.authorities.publish(|known| drop(known.providers.insert(Arc::clone(&of), state)));
                    self.follow_keys();
                    pause = Duration::from_secs(1);
                    DISCOVERY
                }
                Err(why) => {
                    tally.not_discovered.fetch_add(1, Relaxed);
                    let why = tokens::line(&why);
                    if before.trouble.is_none() {
                        tracing::warn!(issuer = %of.issuer, "the OpenID provider cannot be discovered: {why}");
                    }
                    let state = ProviderState { trouble: Some(why.into()), ..before };
                    self.authorities.publish(|known| drop(known.providers.insert(Arc::clone(&of), state)));
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Fetches a key set, and again before it is too old.
    async fn keep(self: Rc<Self>, of: RemoteKeys, watch: Rc<Watch>) {
        let tally = &self.authorities.tally;
        let mut pause = of.retry;
        loop {
            watch.is_asking.set(true);
            let found = match self.outgoing.send(&of.uri, of.via.as_ref(), &Form::default()).await {
                Ok(reply) if reply.status == 200 => KeySet::parse(&reply.body),
                Ok(reply) => Err(format!("answered {}", reply.status)),
                Err(why) => Err(why),
            };
            let before = self.authorities.keys(&of);
            let (state, wait) = match found {
                Ok(set) => {
                    tally.fetched.fetch_add(1, Relaxed);
                    if before.trouble.is_some() {
                        tracing::info!(uri = %of.uri, "keys can be fetched again");
                    }
                    pause = of.retry;
                    let state = KeysState { set: Some(Arc::new(set)), fetched: Some(SystemTime::now()), trouble: None };
                    // Ahead of time, so that nobody meets them when they are too old.
                    (state, (of.keep * 9 / 10).max(Duration::from_secs(1)))
                }
                Err(why) => {
                    tally.not_fetched.fetch_add(1, Relaxed);
                    let why = tokens::line(&why);
                    if before.trouble.is_none() {
                        let kept = if before.set.is_some() { "; the last good ones stay in force" } else { "" };
                        tracing::warn!(uri = %of.uri, "keys cannot be fetched: {why}{kept}");
                    }
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE.max(of.retry));
                    (KeysState { trouble: Some(why.into()), ..before }, wait)
                }
            };
            self.authorities.publish(|known| drop(known.keys.insert(of.clone(), state)));
            watch.is_asking.set(false);
            for waiting in watch.waiting.take() {
                // Who went away meanwhile needs no answer.
                let _ = waiting.send(());
            }
            let until = tokio::time::sleep(wait);
            tokio::select! {
                () = until => {}
                () = watch.hurry.notified() => {}
            }
        }
    }

    fn take(self: &Rc<Self>, order: Order) {
        match order {
            Order::Keys { of, done } => self.hurry(&of, done),
            Order::Tokens { exchange, done } => {
                let Some(place) = self.exchanges.enter(MOST_EXCHANGES) else {
                    let _ = done.send(Err(Refused::Away("too many logins at once".to_owned())));
                    return;
                };
                let desk = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    let _place = place;
                    let outcome = desk.exchange_once(*exchange).await;
                    let _ = done.send(outcome);
                });
            }
        }
    }

    /// Fetches keys now, unless that was just done.
    fn hurry(&self, of: &RemoteKeys, done: oneshot::Sender<()>) {
        let keys = self.keys.borrow();
        let Some(Kept { watch, .. }) = keys.get(of) else { return };
        let mut waiting = watch.waiting.borrow_mut();
        let is_under_way = watch.is_asking.get() || !waiting.is_empty();
        let is_due = watch.hurried.get().is_none_or(|hurried| hurried.elapsed() >= LEAST);
        // Dropped, `done` tells whoever waits that there is nothing to wait for.
        if (is_under_way || is_due) && waiting.len() < MOST_EXCHANGES {
            waiting.push(done);
            if !is_under_way {
                watch.hurried.set(Some(Instant::now()));
                watch.hurry.notify_one();
            }
        }
    }

    /// The same refresh token is shown once, however many requests bring it.
    async fn exchange_once(&self, exchange: Exchange) -> Outcome {
        let tally = &self.authorities.tally;
        let Grant::Refresh { token, .. } = &exchange.grant else {
            let outcome = self.exchange(&exchange).await;
            count(&tally.logins, &outcome);
            self.note(&exchange.oidc.provider, &outcome);
            return outcome;
        };
        let print = print(&exchange, token);
        let waiting = {
            let mut flights = self.flights.borrow_mut();
            match flights.get_mut(&print) {
                Some(Flight::Over { until, outcome }) if *until > Instant::now() => {
                    tally.shared.fetch_add(1, Relaxed);
                    return outcome.clone();
                }
                Some(Flight::Under(others)) => {
                    let (sender, receiver) = oneshot::channel();
                    others.push(sender);
                    tally.shared.fetch_add(1, Relaxed);
                    Some(receiver)
                }
                _ => {
                    if flights.len() >= MOST_FLIGHTS {
                        let now = Instant::now();
                        flights.retain(|_, flight| match flight {
                            Flight::Under(_) => true,
                            Flight::Over { until, .. } => *until > now,
                        });
                    }
                    if flights.len() >= MOST_FLIGHTS {
                        return Err(Refused::Away("too many sessions to be prolonged at once".to_owned()));
                    }
                    flights.insert(print, Flight::Under(Vec::new()));
                    None
                }
            }
        };
        if let Some(waiting) = waiting {
            return waiting.await.unwrap_or_else(|_| Err(Refused::Away("given up".to_owned())));
        }
        let outcome = self.exchange(&exchange).await;
        count(&tally.refreshes, &outcome);
        self.note(&exchange.oidc.provider, &outcome);
        let until = Instant::now() + if outcome.is_ok() { GRACE } else { REST };
        let over = Flight::Over { until, outcome: outcome.clone() };
        if let Some(Flight::Under(others)) = self.flights.borrow_mut().insert(print, over) {
            for other in others {
                let _ = other.send(outcome.clone());
            }
        }
        outcome
    }

    /// Whether the provider answers who asks for tokens.
    fn note(&self, of: &Arc<Provider>, outcome: &Outcome) {
        let away: Option<Arc<str>> = match outcome {
            Err(Refused::Away(why)) => Some(why.as_str().into()),
            _ => None,
        };
        let known = self.authorities.known();
        let Some(before) = known.providers.get(of) else { return };
        if away.is_some() || before.away.is_some() {
            let away = away.map(|why| (std::time::Instant::now(), why));
            let state = ProviderState { away, ..before.clone() };
            self.authorities.publish(|known| drop(known.providers.insert(Arc::clone(of), state)));
        }
    }

    async fn exchange(&self, exchange: &Exchange) -> Outcome {
        let Exchange { oidc, client_id, client_secret, grant } = exchange;
        let endpoints = self.authorities.endpoints(&oidc.provider).map_err(|why| Refused::Away(why.to_string()))?;
        let form = tokens::form(grant, client_id, client_secret.bytes(), endpoints.takes_basic);
        let reply = self.outgoing.send(&endpoints.token, oidc.provider.via.as_ref(), &form).await;
        let reply = reply.map_err(|why| Refused::Away(tokens::line(&why)))?;
        let answer = tokens::read(reply.status, &reply.body)?;
        let now = edge_acme::client::now();
        let (nonce, subject) = match grant {
            Grant::Code { nonce, .. } => (Some(&**nonce), None),
            Grant::Refresh { subject, .. } => (None, Some(&**subject)),
        };
        let judged = match &answer.id_token {
            Some(token) => {
                let claims = self.claims(&oidc.provider, &endpoints, token).await?;
                let expected = Expected { issuer: &endpoints.issuer, client_id, nonce, subject, now };
                let judged = tokens::judge(&claims, &expected).map_err(|why| {
                    let ahead = reply.clock_ahead.filter(|ahead| ahead.abs() > tokens::SKEW);
                    let ahead = ahead.map(|ahead| format!(" (the provider's clock differs by {ahead} s)"));
                    Refused::Invalid(why + &ahead.unwrap_or_default())
                })?;
                Some(judged)
            }
            // §12.2: "might not contain an id_token".
            None if subject.is_some() => None,
            None => return Err(Refused::Invalid("the provider gave no ID token".to_owned())),
        };
        let expires = tokens::expiry(oidc, &answer, judged.as_ref().map(|(_, expires)| *expires), now);
        let Some(expires) = expires else {
            let why = "the provider does not say how long its tokens are good, and defaultTokenTTL is not set";
            return Err(Refused::Invalid(why.to_owned()));
        };
        let subject = judged.map(|(subject, _)| subject).or(subject.map(Into::into)).unwrap_or_default();
        let tokens::Answer { access_token, id_token, refresh_token, .. } = answer;
        Ok(Granted { access_token, id_token, refresh_token, expires, subject })
    }

    /// The claims of an ID token whose signature is good.
    async fn claims(
        &self,
        provider: &Provider,
        endpoints: &Endpoints,
        token: &str,
    ) -> Result<serde_json::Map<String, serde_json::Value>, Refused> {
        let Some(of) = keys_of(provider, endpoints) else {
            // Core §3.1.3.7 (6): "the TLS server validation MAY be used to validate the issuer in place of checking the
            // token signature".
            if provider.via.is_none() && endpoints.token.starts_with("https://") {
                return jwt::unverified(token).map_err(|error| Refused::Invalid(error.to_string()));
            }
            let why = "the keys of the provider are not known, and its tokens do not come over TLS";
            return Err(Refused::Away(why.to_owned()));
        };
        let mut is_second = false;
        loop {
            let state = self.authorities.keys(&of);
            let outcome = match &state.set {
                Some(set) => jwt::verify(token, set),
                None => Err(JwtError::UnknownKey),
            };
            match outcome {
                Ok(claims) => return Ok(claims),
                Err(JwtError::UnknownKey) if !is_second => {
                    is_second = true;
                    let (done, heard) = oneshot::channel();
                    self.hurry(&of, done);
                    let _ = heard.await;
                }
                Err(_) if state.set.is_none() => {
                    let why = state.trouble.unwrap_or_else(|| "not fetched yet".into());
                    return Err(Refused::Away(format!("the keys of the provider are not at hand: {why}")));
                }
                Err(error) => return Err(Refused::Invalid(format!("the ID token: {error}"))),
            }
        }
    }
}

fn count(outcomes: &Outcomes, outcome: &Outcome) {
    let counter = match outcome {
        Ok(_) => &outcomes.granted,
        Err(Refused::Denied(_)) => &outcomes.denied,
        Err(Refused::Invalid(_)) => &outcomes.invalid,
        Err(Refused::Away(_)) => &outcomes.away,
    };
    counter.fetch_add(1, Relaxed);
}

fn print(exchange: &Exchange, token: &str) -> Print {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(exchange.oidc.owner.to_string().as_bytes());
    hash.update(&[0]);
    hash.update(exchange.client_id.as_bytes());
    hash.update(&[0]);
    hash.update(token.as_bytes());
    let mut print = [0; 32];
    print.copy_from_slice(hash.finish().as_ref());
    print
}
