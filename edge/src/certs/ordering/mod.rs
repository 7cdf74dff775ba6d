//! Certificates from ACME CAs, on the certificate thread's side: what is known of accounts, orders and limits, and the way
//! to the thread that talks to CAs.
//!
//! In: plans, events of the runner, what other edges say. Out: jobs, answers for every host that is ordered, and what is
//! observed. Deciding is the plan's, doing is the runner's; what must survive is in the store before either goes on.

mod accounts;
pub mod answers;
pub mod journal;
mod launch;
mod look;
mod observe;
mod remembering;
mod runner;
mod secrets;
mod sharing;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use edge_acme::challenge::Identifier;
use edge_acme::failure::OrderError;
use edge_acme::memory::{Memory, Tried};
use edge_acme::order::{self, AccountRecord, Obtained, OrderRecord, RenewalWindow};
use edge_acme::plan::{AcmeInput, IssuerState as Known, UnderWay};
use edge_config::issuer::IssuerId;
use edge_config::names::CertId;
use edge_config::snapshot::{WantedCertificate, WantedIssuer};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use self::accounts::Opening;
use self::answers::Answers;
use self::journal::{Written, decode_account};
use self::runner::{Clocks, Doing, Job, Runner};
use super::edges::{Edges, Orders};
use super::observed::{AcmeError, Tally};
use super::view::at;
use super::{CertsWanted, SecretTexts};
use crate::proxy::challenges::{Board, Hosts, host_of};
use crate::store::{Store, StoredCertificate};
use crate::vip::road::Roads;

pub use runner::Event;

/// What orders work with.
#[derive(Clone)]
pub struct Means {
    pub board: Arc<Board>,
    pub edges: Arc<dyn Edges>,
    pub roads: Roads,
}

pub struct Ordering {
    store: Store,
    answers: Arc<Answers>,
    jobs: mpsc::UnboundedSender<Job>,
    doing: Doing,
    clocks: Clocks,
    issuers: BTreeMap<IssuerId, Known>,
    accounts: BTreeMap<IssuerId, AccountRecord>,
    /// RFC 7638, by issuer.
    thumbprints: BTreeMap<IssuerId, Arc<str>>,
    under_way: BTreeMap<CertId, UnderWay>,
    journal: BTreeMap<CertId, OrderRecord>,
    polling: BTreeSet<CertId>,
    /// Accounts that are being opened before anything is ordered, and what became of tries.
    opening: BTreeMap<IssuerId, Opening>,
    memory: Memory,
    /// The memory as it was handed out last.
    remembered: Zeroizing<Vec<u8>>,
    remembered_at: Option<Instant>,
    /// The newest of the small records since then, whether others told something, and whether people did.
    batch: u64,
    is_told: bool,
    is_asked: bool,
    elsewhere: Option<String>,
    past: BTreeMap<CertId, Past>,
    tallies: BTreeMap<IssuerId, Tally>,
    texts: Arc<SecretTexts>,
    /// Jobs whose answers count no more when the certificate is wanted in another way.
    wanted: BTreeMap<CertId, Arc<WantedCertificate>>,
}

/// What became of the last tries.
#[derive(Default)]
struct Past {
    failures: u32,
    last: Option<AcmeError>,
    findings: Vec<String>,
    seen: Vec<String>,
}

impl Ordering {
    /// Takes up what the store has, and starts the thread.
    pub fn start(
        store: Store,
        means: Means,
        tell: Arc<dyn Fn(Event) + Send + Sync>,
        notices: &mut Vec<String>,
    ) -> io::Result<Self> {
        let (jobs, inbox) = mpsc::unbounded_channel();
        let answers = Arc::new(Answers::new(means.board, Arc::clone(&means.edges)));
        let (doing, clocks) = (Doing::default(), Clocks::default());
        let mut ordering = Self {
            answers: Arc::clone(&answers),
            jobs,
            doing: Arc::clone(&doing),
            clocks: Arc::clone(&clocks),
            issuers: BTreeMap::new(),
            accounts: BTreeMap::new(),
            thumbprints: BTreeMap::new(),
            under_way: BTreeMap::new(),
            journal: BTreeMap::new(),
            polling: BTreeSet::new(),
            opening: BTreeMap::new(),
            memory: Memory::new(),
            remembered: Zeroizing::default(),
            remembered_at: None,
            batch: 0,
            is_told: false,
            is_asked: false,
            elsewhere: None,
            past: BTreeMap::new(),
            tallies: BTreeMap::new(),
            texts: Arc::default(),
            wanted: BTreeMap::new(),
            store: store.clone(),
        };
        ordering.load(notices);
        let runner = Runner { store, answers, tell, doing, clocks, roads: means.roads, stored };
        std::thread::Builder::new().name("edge-acme".into()).spawn(move || runner::run(runner, inbox))?;
        Ok(ordering)
    }

    fn load(&mut self, notices: &mut Vec<String>) {
        for (issuer, bytes) in self.store.accounts() {
            match decode_account(&bytes) {
                Ok(record) => self.note_account(IssuerId(issuer.into()), record),
                Err(reason) => notices.push(format!("stored account of {issuer}: {reason}")),
            }
        }
        for (id, bytes) in self.store.orders() {
            match journal::Entry::decode(&bytes) {
                Ok(entry) => self.note_order(id, entry.under_way, entry.order),
                Err(reason) => notices.push(format!("stored order of {id}: {reason}")),
            }
        }
        self.recall(notices);
    }

    fn note_account(&mut self, issuer: IssuerId, record: AccountRecord) {
        if let Ok(thumbprint) = order::thumbprint(&record) {
            self.thumbprints.insert(issuer.clone(), thumbprint.into());
        }
        self.accounts.insert(issuer, record);
    }

    fn note_order(&mut self, id: CertId, under_way: UnderWay, order: OrderRecord) {
        let running = self.under_way.get(&id).is_some_and(|known| known.running);
        self.under_way.insert(id.clone(), UnderWay { running, ..under_way });
        self.journal.insert(id, order);
    }

    /// Before a plan: what is configured now, who orders, and which hosts are answered for.
    pub fn prepare(&mut self, wanted: &CertsWanted) {
        if *self.texts != wanted.texts {
            self.texts = Arc::new(wanted.texts.clone());
        }
        self.elsewhere = match self.answers.edges().orders() {
            Orders::Here => None,
            Orders::Elsewhere(edge) => Some(edge),
            Orders::Unknown(why) => Some(why),
        };
        let known = wanted.issuers.iter().map(|issuer| {
            let account = self.accounts.get(&issuer.id).filter(|record| record.directory == issuer.directory);
            let mut state = Known::of(issuer);
            state.account = account.and_then(|record| record.url.clone());
            let resources = account.and_then(|record| record.resources.as_ref());
            state.tells_windows = resources.is_some_and(|resources| resources.renewal_info.is_some());
            state.unusable = secrets::of_account(issuer, &self.texts, state.account.is_some()).err();
            (issuer.id.clone(), state)
        });
        self.issuers = known.collect();
        self.opening.retain(|id, _| self.issuers.contains_key(id));
        self.learn_thumbprints(wanted);
        let ids: BTreeSet<&CertId> = wanted.certificates.iter().map(|one| &one.id).collect();
        self.past.retain(|id, _| ids.contains(id));
        self.answers.set_hosts(self.hosts(wanted));
    }

    /// Hosts of certificates that Edge orders, each with the account that orders it: the one at work, else the first.
    fn hosts(&self, wanted: &CertsWanted) -> Hosts {
        let mut hosts = Hosts::new();
        for one in &wanted.certificates {
            let WantedIssuer::Acme(issuers) = &one.issuer else { continue };
            let at_work = self.under_way.get(&one.id).map(|order| &order.issuer);
            let mut candidates = at_work.into_iter().chain(issuers);
            let Some(thumbprint) = candidates.find_map(|issuer| self.thumbprints.get(issuer)) else { continue };
            let names = one.dns_names.iter().filter(|name| !name.starts_with("*."));
            let names = names.map(|name| Identifier::Dns(name.clone()));
            for identifier in names.chain(one.addresses.iter().map(|address| Identifier::Ip(*address))) {
                hosts.insert(host_of(&identifier), Arc::clone(thumbprint));
            }
        }
        hosts
    }

    pub fn is_elsewhere(&self) -> bool {
        self.elsewhere.is_some()
    }

    pub fn input(&self) -> AcmeInput<'_> {
        AcmeInput {
            issuers: &self.issuers,
            under_way: &self.under_way,
            polling: &self.polling,
            memory: &self.memory,
            elsewhere: self.elsewhere.as_deref(),
        }
    }

    fn send(&self, job: Job) {
        // A thread that could not be started, or died, said so; plans go on without it.
        let _ = self.jobs.send(job);
    }

    /// Something was written while an order went its way.
    pub fn written(&mut self, issuer: IssuerId, written: Written) {
        match written {
            Written::Account(record) => self.note_account(issuer, *record),
            Written::Order(id, order) => drop(self.journal.insert(id, *order)),
        }
    }

    pub fn found(&mut self, id: CertId, findings: Vec<String>, seen: Vec<String>) {
        let past = self.past.entry(id).or_default();
        (past.findings, past.seen) = (findings, seen);
    }

    /// A certificate arrived: what is to be held of it.
    pub fn obtained(
        &mut self,
        id: &CertId,
        under_way: &UnderWay,
        account: &str,
        obtained: &Obtained,
        now: i64,
    ) -> Option<StoredCertificate> {
        let wanted = self.wanted.get(id)?.clone();
        if let Some(issuer) = self.issuers.get(&under_way.issuer) {
            let tried = Tried { wanted: &wanted, order: under_way, issuer };
            self.memory.obtained(&tried, obtained.replaced, now);
        }
        self.tallies.entry(under_way.issuer.clone()).or_default().obtained += 1;
        let past = self.past.entry(id.clone()).or_default();
        (past.failures, past.last) = (0, None);
        stored(&wanted, under_way, account, obtained).ok()
    }

    pub fn settled(&mut self, id: &CertId) {
        self.under_way.remove(id);
        self.journal.remove(id);
        self.wanted.remove(id);
    }

    /// Another edge orders by now, and goes on with what was begun: nobody has failed.
    pub fn yielded(&mut self, id: &CertId) {
        self.wanted.remove(id);
        if self.journal.contains_key(id) {
            self.under_way.entry(id.clone()).and_modify(|known| known.running = false);
        } else {
            self.under_way.remove(id);
        }
    }

    pub fn failed(&mut self, id: &CertId, under_way: &UnderWay, error: &OrderError, sentence: String, now: i64) {
        let over = !error.resumes;
        if let (Some(wanted), Some(issuer)) = (self.wanted.remove(id), self.issuers.get(&under_way.issuer)) {
            let tried = Tried { wanted: &wanted, order: under_way, issuer };
            self.memory.failed(&tried, error, over, now);
            self.memory.explain(&tried, &sentence, now);
        }
        if over {
            self.under_way.remove(id);
            self.journal.remove(id);
        } else if let Some(known) = self.under_way.get_mut(id) {
            known.running = false;
        }
        let past = self.past.entry(id.clone()).or_default();
        past.failures = past.failures.saturating_add(1);
        past.last = Some(AcmeError {
            at: at(now),
            issuer: under_way.issuer.clone(),
            text: sentence,
            class: error.class,
            said: error.to_string(),
        });
        *self.tallies.entry(under_way.issuer.clone()).or_default().failed.entry(error.class).or_default() += 1;
    }

    /// A newer certificate came from another edge: what was asked for is there.
    pub fn arrived(&mut self, id: &CertId) {
        self.memory.arrived(id);
        self.past.remove(id);
    }

    pub fn window(&mut self, id: &CertId, ari_id: &str, result: &Result<RenewalWindow, OrderError>, now: i64) {
        self.polling.remove(id);
        match result {
            Ok(window) => self.memory.window(id, ari_id, window, now),
            Err(error) => self.memory.window_failed(id, ari_id, error, now),
        }
    }

    /// Somebody wants it anew.
    pub fn ask(&mut self, wanted: &WantedCertificate, now: i64) {
        self.memory.ask(wanted, now);
        self.is_asked = true;
    }
}

/// A certificate as it is stored, with what it was made for.
fn stored(
    _: &WantedCertificate,
    under_way: &UnderWay,
    account: &str,
    obtained: &Obtained,
) -> Result<StoredCertificate, String> {
    let made_for = under_way.attempt.clone().obtained(account.into(), obtained.ari_id.clone());
    let note = serde_json::to_string(&made_for).map_err(|error| error.to_string())?;
    Ok(StoredCertificate { note, chain_pem: obtained.chain_pem.clone(), key_pem: obtained.key_pem.clone() })
}
