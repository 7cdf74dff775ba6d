//! Answers to challenges: on this edge's workers, and on all others before a CA is told that it may ask.
//!
//! In: challenges of orders here, and of others that order. Out: tables on the [`Board`], and word of who answers. This
//! is the one place that changes the table.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edge_acme::challenge::{Challenge, ChallengeKind, Present};
use edge_acme::dns::present::DnsPresenter;
use edge_config::issuer::{AcmeIssuer, Solve};

use crate::certs::edges::{Edges, Shared};
use crate::fleet::Readiness;
use crate::proxy::challenges::{Board, Challenges, Hosts};

/// How long an answer stays where nobody takes it back: longer than any order.
pub const LIFETIME: Duration = Duration::from_secs(900);
/// Within this every worker takes up a table.
const WORKERS: Duration = Duration::from_secs(5);
/// Challenges at a time, own and others': what is told beyond is refused.
const MOST: usize = 10_000;

pub struct Answers {
    board: Arc<Board>,
    edges: Arc<dyn Edges>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    table: Challenges,
    /// By kind and token or name; to be forgotten then.
    told: BTreeMap<(ChallengeKind, Box<str>), Told>,
}

struct Told {
    challenge: Challenge,
    until: Instant,
    asked: Arc<AtomicU32>,
}

impl Answers {
    pub fn new(board: Arc<Board>, edges: Arc<dyn Edges>) -> Self {
        Self { board, edges, state: Mutex::default() }
    }

    pub fn edges(&self) -> &Arc<dyn Edges> {
        &self.edges
    }

    /// Which hosts are answered for by the thumbprint of which account.
    pub fn set_hosts(&self, hosts: Hosts) {
        let mut state = self.lock();
        if **state.table.hosts() != hosts {
            state.table.answer_for_all(Arc::new(hosts));
            self.board.set(state.table.clone());
        }
    }

    /// Answers one challenge on every worker of this edge; resolves when they do.
    pub async fn tell(&self, challenge: &Challenge, lifetime: Duration) -> Result<(), String> {
        let revision = {
            let mut state = self.lock();
            let now = Instant::now();
            state.forget_old(now);
            if state.told.len() >= MOST {
                return Err(format!("more than {MOST} challenges at a time"));
            }
            let asked = state.table.tell(challenge)?;
            let told = Told { challenge: challenge.clone(), until: now + lifetime.min(LIFETIME), asked };
            state.told.insert(key(challenge), told);
            self.board.set(state.table.clone())
        };
        self.board.until_live(revision, WORKERS).await
    }

    /// How often it was asked for on this edge; `None`: it is not told, or was answered elsewhere for all that is known.
    pub fn forget(&self, challenge: &Challenge) -> Option<u32> {
        let mut state = self.lock();
        let told = state.told.remove(&key(challenge))?;
        state.table.forget(challenge);
        self.board.set(state.table.clone());
        Some(told.asked.load(Ordering::Relaxed))
    }

    /// For an edge that comes up: the challenges of now.
    pub fn held(&self) -> Vec<Shared> {
        let now = Instant::now();
        let state = self.lock();
        let alive = state.told.values().filter(|told| told.until > now);
        alive.map(|told| Shared::Challenge { challenge: told.challenge.clone(), lifetime: told.until - now }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget_old(&mut self, now: Instant) {
        let (told, old): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.told).into_iter().partition(|(_, told)| told.until > now);
        self.told = told;
        for told in old.values() {
            self.table.forget(&told.challenge);
        }
    }
}

fn key(challenge: &Challenge) -> (ChallengeKind, Box<str>) {
    match challenge.kind {
        ChallengeKind::TlsAlpn01 => (challenge.kind, challenge.identifier.to_string().into()),
        kind => (kind, challenge.token.clone()),
    }
}

/// What answers the challenges of one order.
pub struct Presenter {
    pub answers: Arc<Answers>,
    pub issuer: Arc<AcmeIssuer>,
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// By solver, as its address in the issuer.
    pub dns: Vec<(usize, DnsPresenter)>,
    /// What is being done, for whoever looks.
    pub doing: Box<dyn Fn(String) + Send + Sync>,
}

impl Presenter {
    fn dns_for(&self, challenge: &Challenge) -> Option<&DnsPresenter> {
        let name = format!("{}{}", if challenge.wildcard { "*." } else { "" }, challenge.identifier);
        let has = |key: &str, value: &str| self.labels.iter().any(|(k, v)| **k == *key && **v == *value);
        let solver = self.issuer.solver(&name, has)?;
        let place = self.issuer.solvers.iter().position(|one| std::ptr::eq(one, solver))?;
        self.dns.iter().find(|(of, _)| *of == place).map(|(_, presenter)| presenter)
    }
}

/// The solvers of an issuer that write to DNS, by their place in it.
pub fn dns_solvers(issuer: &AcmeIssuer) -> impl Iterator<Item = (usize, &Solve)> {
    issuer.solvers.iter().enumerate().filter_map(|(place, solver)| match &solver.solve {
        solve @ Solve::Dns01 { .. } => Some((place, solve)),
        Solve::Http01 | Solve::TlsAlpn01 => None,
    })
}

impl Present for Presenter {
    async fn present(&self, challenge: &Challenge) -> Result<(), String> {
        (self.doing)(format!("answering {} for {}", challenge.kind, challenge.identifier));
        if challenge.kind == ChallengeKind::Dns01 {
            let presenter = self.dns_for(challenge).ok_or("the issuer has no dns-01 solver for this name")?;
            presenter.present(challenge).await?;
        } else {
            let shared = Shared::Challenge { challenge: challenge.clone(), lifetime: LIFETIME };
            let (here, deliveries) =
                futures_util::join!(self.answers.tell(challenge, LIFETIME), self.answers.edges.share(shared));
            here?;
            let readiness = Readiness::of(&deliveries, &self.answers.edges.absent());
            if !readiness.is_ready() {
                return Err(readiness.to_string());
            }
        }
        (self.doing)(format!("the CA validates {} by {}", challenge.identifier, challenge.kind));
        Ok(())
    }

    async fn withdraw(&self, challenge: &Challenge) {
        if challenge.kind == ChallengeKind::Dns01 {
            if let Some(presenter) = self.dns_for(challenge) {
                presenter.withdraw(challenge).await;
            }
            return;
        }
        let asked = self.answers.forget(challenge);
        tracing::debug!(identifier = %challenge.identifier, kind = %challenge.kind, asked, "challenge is over");
        // What one edge keeps longer ends by itself.
        let _ = self.answers.edges.share(Shared::ChallengeOver(challenge.clone())).await;
    }
}
