//! The thread that talks to CAs: carries out what was planned, many orders side by side.
//!
//! In: jobs from the certificate thread. Out: events to it. It decides nothing but in which order one job's steps go, and
//! nothing of it holds up the certificate thread or a worker. What the disk must have is written before what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use edge_acme::challenge::Challenge;
use edge_acme::client::{self, CaClock, Https};
use edge_acme::dns::diagnosis::{Beside, diagnose};
use edge_acme::dns::present::DnsPresenter;
use edge_acme::dns::provider::{Limits, Means};
use edge_acme::failure::{Class, OrderError, Step};
use edge_acme::order::{
    Account, AccountRecord, Obtained, OrderRecord, OrderWish, RenewalWindow, RevocationReason, RevokeBy, SecretText,
    Secrets,
};
use edge_acme::plan::UnderWay;
use edge_config::issuer::{AcmeIssuer, DnsProvider, IssuerId, Solve};
use edge_config::names::CertId;
use edge_config::snapshot::WantedCertificate;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::Roads;
use super::answers::{Answers, LIFETIME, Presenter, dns_solvers};
use super::journal::{Records, Written, durably, here};
use super::look::resolver;
use super::remembering::Spent;
use super::secrets::Texts;
use crate::certs::SecretTexts;
use crate::certs::command::Answer;
use crate::certs::edges::Shared;
use crate::store::{Store, StoreError, StoredCertificate};

/// What every job of an issuer needs.
#[derive(Clone)]
pub struct Client {
    pub issuer: Arc<AcmeIssuer>,
    pub secrets: Secrets,
    pub texts: Arc<SecretTexts>,
    pub account: Option<AccountRecord>,
}

pub struct OrderJob {
    pub client: Client,
    pub wanted: Arc<WantedCertificate>,
    pub wish: OrderWish,
    pub under_way: UnderWay,
    pub resume: Option<OrderRecord>,
    pub look: Option<Look>,
}

/// How names are looked at before an order.
#[derive(Clone)]
pub struct Look {
    /// Empty: those of the system.
    pub resolvers: Arc<[SocketAddr]>,
    /// Addresses that serve the certificate.
    pub entries: BTreeSet<IpAddr>,
}

pub enum Job {
    /// What they cost is written first.
    Orders {
        spent: Option<Spent>,
        orders: Vec<OrderJob>,
    },
    Remember {
        memory: Zeroizing<Vec<u8>>,
        /// The small records that are in it.
        up_to: u64,
        /// Whether others are to hear of it.
        share: bool,
    },
    /// The record of an order that nobody goes on with.
    Abandon {
        id: CertId,
        client: Option<Client>,
        order: Box<OrderRecord>,
    },
    /// An account, before anything is ordered.
    Open {
        client: Client,
    },
    Poll {
        id: CertId,
        client: Client,
        ari_id: Box<str>,
    },
    Revoke {
        id: CertId,
        client: Client,
        chain_pem: String,
        key: SecretText,
        reason: RevocationReason,
        reply: Answer,
    },
    /// Another edge orders: its challenge is answered here as well.
    Tell {
        challenge: Challenge,
        lifetime: Duration,
        reply: Answer,
    },
    Forget {
        challenge: Challenge,
        reply: Answer,
    },
    Share(Shared),
}

pub enum Event {
    Written {
        issuer: IssuerId,
        written: Written,
    },
    Opened {
        issuer: IssuerId,
        result: Result<(), OrderError>,
    },
    Found {
        id: CertId,
        /// What is wrong.
        findings: Vec<String>,
        /// What is as it should be.
        seen: Vec<String>,
    },
    Obtained {
        id: CertId,
        under_way: UnderWay,
        account: Box<str>,
        obtained: Box<Obtained>,
    },
    /// It is stored, and all edges have been told; its order is over.
    Settled {
        id: CertId,
    },
    /// Another edge orders by now.
    Yielded {
        id: CertId,
    },
    Failed {
        id: CertId,
        under_way: UnderWay,
        error: OrderError,
        sentence: String,
    },
    Window {
        id: CertId,
        ari_id: Box<str>,
        result: Result<RenewalWindow, OrderError>,
    },
    Revoked {
        id: CertId,
        result: Result<(), String>,
        reply: Answer,
    },
}

/// What is being done to each order now; read by whoever shows it.
pub type Doing = Arc<Mutex<BTreeMap<CertId, (String, SystemTime)>>>;

/// What the clocks of CAs said last.
pub type Clocks = Arc<Mutex<BTreeMap<IssuerId, CaClock>>>;

/// What the thread works with.
pub struct Runner {
    pub store: Store,
    pub answers: Arc<Answers>,
    pub tell: Arc<dyn Fn(Event) + Send + Sync>,
    pub doing: Doing,
    pub clocks: Clocks,
    pub roads: Roads,
    /// Makes what is stored of a certificate that arrived.
    pub stored: fn(&WantedCertificate, &UnderWay, &str, &Obtained) -> Result<StoredCertificate, String>,
}

/// Carries out jobs until the sender is gone. What is under way then is dropped, which is the same as a crash.
pub fn run(runner: Runner, mut jobs: mpsc::UnboundedReceiver<Job>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime for orders: nothing is ordered from ACME CAs");
            return;
        }
    };
    let local = tokio::task::LocalSet::new();
    let desk = Rc::new(Desk { runner, accounts: Mutex::default(), ways: Mutex::default() });
    local.block_on(&runtime, async move {
        while let Some(job) = jobs.recv().await {
            tokio::task::spawn_local(Rc::clone(&desk).carry_out(job));
        }
    });
    // A write that hangs in the disk ends with the process.
    runtime.shutdown_timeout(Duration::from_secs(5));
}

pub(super) struct Desk {
    pub(super) runner: Runner,
    accounts: Mutex<BTreeMap<IssuerId, Arc<Cell>>>,
    /// DNS providers in use, one for each solver: some write whole sets of records, one after the other.
    ways: Mutex<Vec<Way>>,
}

/// The account of an issuer, with what it was opened by.
type Cell = tokio::sync::Mutex<Option<(Client, Account)>>;
/// A provider, whether it follows aliases, by which secrets, and who writes to it.
type Way = (DnsProvider, bool, Arc<SecretTexts>, DnsPresenter);

impl Desk {
    async fn carry_out(self: Rc<Self>, job: Job) {
        let Runner { answers, tell, .. } = &self.runner;
        match job {
            Job::Orders { spent, orders } => {
                if let Some(Spent { number, memory }) = spent {
                    let copy = memory.clone();
                    self.remember(move |store| store.put_acme_memory_since(number, copy), Some(memory)).await;
                }
                for order in orders {
                    tokio::task::spawn_local(Rc::clone(&self).order(order));
                }
            }
            Job::Remember { memory, up_to, share } => {
                let copy = memory.clone();
                self.remember(move |store| store.put_acme_memory(copy, up_to), share.then_some(memory)).await;
            }
            Job::Abandon { id, client, order } => {
                if let Some(client) = client
                    && let Ok(account) = self.account(&client, None).await
                    && let Err(error) = account.abandon(&order).await
                {
                    tracing::debug!(certificate = %id, %error, "order that nobody wants any more");
                }
                self.order_is_over(&id).await;
            }
            Job::Open { client } => {
                let result = match self.account(&client, None).await {
                    Ok(account) => account.sync_contacts(&self.records(&client.issuer.id, None)).await.map(drop),
                    Err(error) => Err(error),
                };
                tell(Event::Opened { issuer: client.issuer.id.clone(), result });
            }
            Job::Poll { id, client, ari_id } => {
                let result = match self.account(&client, None).await {
                    Ok(account) => account.renewal_window(&ari_id).await,
                    Err(error) => Err(error),
                };
                tell(Event::Window { id, ari_id, result });
            }
            Job::Revoke { id, client, chain_pem, key, reason, reply } => {
                let result = self.revoke(&client, &chain_pem, &key, reason).await;
                tell(Event::Revoked { id, result: result.map_err(|error| error.to_string()), reply });
            }
            Job::Tell { challenge, lifetime, reply } => {
                let told = answers.tell(&challenge, lifetime.min(LIFETIME)).await;
                let _ = reply.send(told.map(|()| "answered here".into()));
            }
            Job::Forget { challenge, reply } => {
                answers.forget(&challenge);
                let _ = reply.send(Ok("forgotten".into()));
            }
            Job::Share(shared) => {
                for delivery in answers.edges().share(shared).await {
                    if let Err(reason) = delivery.result {
                        tracing::debug!(edge = delivery.edge, reason, "not shared");
                    }
                }
            }
        }
    }

    async fn remember(
        &self,
        write: impl FnOnce(Store) -> Result<(), StoreError> + Send + 'static,
        share: Option<Zeroizing<Vec<u8>>>,
    ) {
        let store = self.runner.store.clone();
        if let Err(reason) = durably(move || write(store)).await {
            tracing::warn!("limits of CAs are not remembered over a restart: {reason}");
        }
        if let Some(memory) = share {
            let _ = self.runner.answers.edges().share(Shared::Memory(memory.to_vec())).await;
        }
    }

    /// The account of an issuer, opened once for all that is asked of it at the same settings.
    async fn account(&self, client: &Client, order: Option<(CertId, UnderWay)>) -> Result<Account, OrderError> {
        let id = &client.issuer.id;
        let place =
            Arc::clone(self.accounts.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_default());
        // Others that want the same one wait for it; those of another CA do not.
        let mut held = place.lock().await;
        if let Some((opened, account)) = &*held
            && opened.issuer == client.issuer
            && opened.secrets == client.secrets
        {
            return Ok(account.clone());
        }
        let records = self.records(id, order);
        let account = Account::open(&client.issuer, &client.secrets, client.account.clone(), &records).await?;
        self.hear_clock(id, &account);
        *held = Some((client.clone(), account.clone()));
        Ok(account)
    }

    fn hear_clock(&self, issuer: &IssuerId, account: &Account) -> Option<CaClock> {
        let clock = account.clock()?;
        self.runner.clocks.lock().unwrap_or_else(PoisonError::into_inner).insert(issuer.clone(), clock);
        Some(clock)
    }

    fn records(&self, issuer: &IssuerId, order: Option<(CertId, UnderWay)>) -> Records {
        let (tell, of) = (Arc::clone(&self.runner.tell), issuer.clone());
        Records {
            store: self.runner.store.clone(),
            edges: Arc::clone(self.runner.answers.edges()),
            issuer: issuer.clone(),
            order,
            told: Box::new(move |written| tell(Event::Written { issuer: of.clone(), written })),
        }
    }

    async fn order(self: Rc<Self>, job: OrderJob) {
        let (id, tell) = (job.wanted.id.clone(), &self.runner.tell);
        let outcome = self.obtain(&job).await;
        forget(&self.runner.doing, &id);
        let under_way = job.under_way.clone();
        match outcome {
            Ok((account, obtained)) => {
                let stored = (self.runner.stored)(&job.wanted, &under_way, &account, &obtained);
                for note in &obtained.notes {
                    tracing::info!(certificate = %id, issuer = %under_way.issuer, "{note}");
                }
                tracing::info!(certificate = %id, issuer = %under_way.issuer, "obtained");
                // Served first: what the disk and others are told now is also in the order, which is not over yet.
                tell(Event::Obtained { id: id.clone(), under_way, account, obtained });
                if let Ok(stored) = stored {
                    self.keep(&id, stored).await;
                }
                tell(Event::Settled { id });
            }
            Err((error, _)) if here(&**self.runner.answers.edges()).is_err() => {
                tracing::info!(certificate = %id, issuer = %under_way.issuer, "left to the edge that orders now: {error}");
                tell(Event::Yielded { id });
            }
            Err((error, sentence)) => {
                tracing::warn!(certificate = %id, issuer = %under_way.issuer, "not obtained: {sentence}");
                if !error.resumes {
                    self.order_is_over(&id).await;
                }
                tell(Event::Failed { id, under_way, error, sentence });
            }
        }
    }

    /// Puts a certificate into the store, and only then lets go of the order that it came from.
    async fn keep(&self, id: &CertId, stored: StoredCertificate) {
        let (store, name, copy) = (self.runner.store.clone(), id.clone(), stored.clone());
        let kept = durably(move || store.put_certificate(&name, &copy)).await;
        let _ = self.runner.answers.edges().share(Shared::Certificate { id: id.clone(), stored }).await;
        match kept {
            Ok(()) => self.order_is_over(id).await,
            // The order is still there, and with it the key: a restart downloads the certificate again.
            Err(reason) => tracing::error!(certificate = %id, "not stored: {reason}"),
        }
    }

    async fn order_is_over(&self, id: &CertId) {
        let (store, name) = (self.runner.store.clone(), id.clone());
        if let Err(reason) = durably(move || store.remove_order(&name)).await {
            tracing::warn!(certificate = %id, "record of its order: {reason}");
        }
        let _ = self.runner.answers.edges().share(Shared::Order { id: id.clone(), record: None }).await;
    }

    async fn obtain(&self, job: &OrderJob) -> Result<(Box<str>, Box<Obtained>), (OrderError, String)> {
        let (id, issuer) = (&job.wanted.id, &job.client.issuer);
        let plain = |error: OrderError| {
            let sentence = error.to_string();
            (error, sentence)
        };
        let diagnosed = |error: OrderError| {
            let sentence = diagnose(&error, Beside { issuer: &issuer.id.0, ..Beside::default() }).to_string();
            (error, sentence)
        };
        let ours = |step, reason: String| plain(resuming(OrderError::new(Class::Transient, step, reason), job));
        here(&**self.runner.answers.edges()).map_err(|reason| ours(Step::Prepare, reason))?;
        note(&self.runner.doing, id, "opening the account".into());
        let order = Some((id.clone(), job.under_way.clone()));
        let account =
            self.account(&job.client, order.clone()).await.map_err(|error| diagnosed(resuming(error, job)))?;
        // What was validated already is not looked at again.
        let facts = match &job.look {
            Some(look) if job.resume.is_none() => {
                note(&self.runner.doing, id, "looking at its names".into());
                self.look(job, look, &account)
                    .await
                    .map_err(|reason| plain(OrderError::new(Class::Validation, Step::Prepare, reason)))?
            }
            _ => Vec::new(),
        };
        let presenter = Presenter {
            answers: Arc::clone(&self.runner.answers),
            issuer: Arc::clone(issuer),
            labels: job.wish.labels.clone(),
            dns: self.dns(job).map_err(|reason| ours(Step::Prepare, reason))?,
            doing: {
                let (doing, id) = (Arc::clone(&self.runner.doing), id.clone());
                Box::new(move |text| note(&doing, &id, text))
            },
        };
        note(&self.runner.doing, id, "ordering".into());
        let journal = self.records(&issuer.id, order);
        let obtained = account.obtain(&job.wish, &presenter, &journal, job.resume.clone()).await;
        let clock = self.hear_clock(&issuer.id, &account);
        let obtained = match obtained {
            Ok(obtained) => obtained,
            Err(error) => {
                let worst = facts
                    .iter()
                    .find(|facts| error.faults.first().is_none_or(|fault| fault.identifier == facts.wish.identifier));
                let beside = Beside {
                    facts: worst,
                    clock_ahead: clock.and_then(|clock| clock.ahead(client::now())),
                    issuer: &issuer.id.0,
                    profile: job.wish.profile.as_deref().or(issuer.profile.as_deref()),
                };
                let sentence = diagnose(&error, beside).to_string();
                return Err((error, sentence));
            }
        };
        let url = account.record().url.unwrap_or_default();
        Ok((url, Box::new(obtained)))
    }

    fn dns(&self, job: &OrderJob) -> Result<Vec<(usize, DnsPresenter)>, String> {
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        for (place, solve) in dns_solvers(&job.client.issuer) {
            let Solve::Dns01 { provider, follow_cname } = solve else { continue };
            let known = ways.iter().find(|(of, follow, texts, _)| {
                of == provider && follow == follow_cname && Arc::ptr_eq(texts, &job.client.texts)
            });
            if let Some((.., presenter)) = known {
                found.push((place, presenter.clone()));
                continue;
            }
            let settings = client::Settings { plain_http: true, ..client::Settings::default() };
            let https = Https::new(&settings).map_err(|error| error.to_string())?;
            let resolvers = job.look.as_ref().map(|look| &*look.resolvers).unwrap_or_default();
            let means = Means { resolver: resolver(resolvers), https, now: client::now, limits: Limits::default() };
            let secrets = Arc::new(Texts(Arc::clone(&job.client.texts)));
            let presenter = DnsPresenter::new(provider.clone(), *follow_cname, secrets, means, Default::default());
            // Of providers that changed, only what is in use lives on.
            ways.retain(|(of, follow, ..)| of != provider || follow != follow_cname);
            ways.push((provider.clone(), *follow_cname, Arc::clone(&job.client.texts), presenter.clone()));
            found.push((place, presenter));
        }
        Ok(found)
    }

    async fn revoke(
        &self,
        client: &Client,
        chain_pem: &str,
        key: &SecretText,
        reason: RevocationReason,
    ) -> Result<(), OrderError> {
        let account = self.account(client, None).await?;
        match account.revoke(chain_pem, RevokeBy::Account, reason).await {
            // It was issued to another account: its key speaks for it as well (RFC 8555 §7.6).
            Err(error) if error.is_kind("unauthorized") => account.revoke(chain_pem, RevokeBy::Key(key), reason).await,
            result => result,
        }
    }
}

/// What failed before the CA was asked anything leaves the record of an order as good as it was.
fn resuming(mut error: OrderError, job: &OrderJob) -> OrderError {
    error.resumes = job.resume.is_some();
    error
}

fn note(doing: &Doing, id: &CertId, text: String) {
    let mut doing = doing.lock().unwrap_or_else(PoisonError::into_inner);
    let since = doing.get(id).map_or_else(SystemTime::now, |(_, since)| *since);
    doing.insert(id.clone(), (text, since));
}

fn forget(doing: &Doing, id: &CertId) {
    doing.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
}
