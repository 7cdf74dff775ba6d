//! One certificate from the wish to the chain, whatever happens in between.
//!
//! In: a wish, who answers challenges, where records are kept, and the record of a try that was cut short. Out: a
//! certificate that answers the wish. The key and its request are journaled before the CA hears of an order, the order's
//! URL as soon as it is known, and the intent to finalize before finalizing: whoever comes next looks at the order
//! instead of making another. Dropping the future at any await is the same as a crash.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join;
use instant_acme::{CertificateIdentifier, NewOrder, OrderStatus};
use tokio::time::{Instant, sleep_until};

use super::account::{Account, Live};
use super::authorize::{Placed, Subject, fault_of, methods, withdraw};
use super::certificate::request;
use super::pace::{FAILED_POLLS, Pace};
use super::refusal::{invalid, is_about_replaces, is_mismatch, journal as unwritten, of_problem, resumable, unmoved};
use super::{Journal, Obtained, OrderRecord, OrderWish, SecretText};
use crate::challenge::{ChallengeKind, Identifier, Present};
use crate::client::wire::{Named, Problem, Status};
use crate::client::{Answer, now};
use crate::failure::{Class, OrderError, Step};
use crate::local::{new_key, read_key};

/// Where a try begins.
enum Start {
    New,
    /// Somebody before us may have made the order.
    Resume(OrderRecord),
    /// The last order failed; the same key for another one.
    Again(OrderRecord),
}

enum Stop {
    Failed(OrderError),
    /// The CA does not know the account any more.
    LostAccount(OrderError),
    /// Another challenge may do where this one did not.
    Another(OrderRecord, OrderError),
}

impl From<OrderError> for Stop {
    fn from(error: OrderError) -> Self {
        match error.kind.as_deref() {
            Some("accountDoesNotExist") => Self::LostAccount(error),
            _ => Self::Failed(error),
        }
    }
}

/// An order as the CA last showed it.
pub(super) struct Shown {
    pub order: instant_acme::Order,
    pub last: Option<Answer>,
}

impl Shown {
    /// The order's own word for why it is invalid.
    pub fn refusal(&self, step: Step) -> OrderError {
        let read = self.last.as_ref().and_then(|last| serde_json::from_slice::<Listed>(&last.body).ok());
        match read.and_then(|order| order.error) {
            Some(problem) => of_problem(step, &problem, 400),
            None => OrderError::new(Class::Validation, step, "the CA calls the order invalid and does not say why"),
        }
    }
}

impl Account {
    /// Orders a certificate, or goes on with the order of `resume` where it is for the same wish and account. The error
    /// says whether its record is still good ([`OrderError::resumes`]).
    pub async fn obtain(
        &self,
        wish: &OrderWish,
        present: &impl Present,
        journal: &impl Journal,
        resume: Option<OrderRecord>,
    ) -> Result<Obtained, OrderError> {
        let methods = methods(self.issuer(), wish)?;
        let deadline = Instant::now() + wish.patience;
        let mut notes = Vec::new();
        if let Err(error) = self.sync_contacts(journal).await {
            match error.class {
                Class::Transient | Class::Limited | Class::Ours => return Err(resumable(error, resume.is_some())),
                // Wrong contacts must not keep certificates from being renewed.
                _ => notes.push(format!("contacts: {error}")),
            }
        }
        let mut start = resume.map_or(Start::New, Start::Resume);
        let mut may_register = self.issuer().create_account;
        // Why another challenge is tried.
        let mut first: Option<OrderError> = None;
        loop {
            let run = Run { account: self, wish, methods: &methods, present, journal, deadline };
            match run.attempt(start, &mut notes).await {
                Ok(obtained) => return Ok(Obtained { notes, ..obtained }),
                Err(Stop::LostAccount(_)) if may_register => {
                    may_register = false;
                    self.register(journal).await?;
                    notes.push("the CA had lost the account: registered again with the same key".to_owned());
                    start = Start::New;
                }
                Err(Stop::Another(record, error)) if first.is_none() => {
                    notes.push(format!("tried another challenge after {error}"));
                    first = Some(error);
                    start = Start::Again(record);
                }
                Err(Stop::Failed(error) | Stop::LostAccount(error) | Stop::Another(_, error)) => {
                    // The CA does not offer the other one, or it could not be answered: the first is why nothing came.
                    let is_no_news = error.step == Step::Present;
                    return Err(first.filter(|_| is_no_news).unwrap_or(error));
                }
            }
        }
    }

    /// Gives an order up that nobody will go on with; what cannot be undone now runs out by itself.
    pub async fn abandon(&self, record: &OrderRecord) -> Result<(), OrderError> {
        let Some(url) = &record.url else { return Ok(()) };
        let live = self.live().await?;
        let answer = self.post(Step::Authorize, &live, url, None).await?;
        let order: Listed = serde_json::from_slice(&answer.body).unwrap_or_default();
        self.deactivate_pending(&live, &order.authorizations).await;
        Ok(())
    }
}

/// What is read of orders beside instant-acme.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Listed {
    pub status: Status,
    pub identifiers: Vec<Named>,
    pub authorizations: Vec<Box<str>>,
    pub error: Option<Problem>,
}

/// One try: an account, a wish, and what it takes to fulfil it.
pub(super) struct Run<'a, P, J> {
    pub account: &'a Account,
    pub wish: &'a OrderWish,
    methods: &'a [(Subject, &'static [ChallengeKind])],
    present: &'a P,
    journal: &'a J,
    deadline: Instant,
}

impl<P: Present, J: Journal> Run<'_, P, J> {
    async fn attempt(&self, start: Start, notes: &mut Vec<String>) -> Result<Obtained, Stop> {
        let live = self.account.live().await?;
        let (mut record, mut shown) = match start {
            Start::Resume(record) if self.fits(&record, &live) => self.locate(&live, record, notes).await?,
            Start::Resume(old) => {
                // It was for other names, or of another account.
                if old.account == live.url {
                    let _ = self.account.abandon(&old).await;
                }
                (self.draft(&live, None).await?, None)
            }
            Start::Again(record) => {
                self.write(&record).await?;
                (record, None)
            }
            Start::New => (self.draft(&live, None).await?, None),
        };
        let mut shown = match shown.take() {
            Some(shown) => shown,
            None => self.new_order(&live, &mut record, notes).await?,
        };
        let url: Box<str> = shown.order.url().into();
        let authorizations = authorizations_of(&mut shown);
        let mut placed = Vec::new();
        if shown.order.state().status == OrderStatus::Pending {
            let proved = self.prove(&live, &record, &mut shown, &mut placed).await;
            if let Err(error) = proved {
                withdraw(&placed, self.present).await;
                if !error.resumes {
                    self.account.deactivate_pending(&live, &authorizations).await;
                }
                return Err(self.judge(record, error));
            }
        }
        let finish = self.finish(&live, &mut record, &mut shown, notes);
        // Taking answers back may be slow (DNS); nobody waits for it.
        let (answered, ()) = join(finish, withdraw(&placed, self.present)).await;
        let answered = answered?;
        if answered.is_early {
            notes.push("the certificate begins in the future by our clock".to_owned());
        }
        Ok(Obtained {
            chain_pem: answered.chain_pem,
            key_pem: zeroize::Zeroizing::new(record.key.reveal().to_owned()),
            validity: answered.validity,
            ari_id: answered.ari_id,
            issuer: answered.issuer,
            profile: record.profile.clone(),
            order_url: url,
            replaced: record.replaces.is_some(),
            notes: Vec::new(),
        })
    }

    pub(super) fn profile(&self) -> Option<&str> {
        self.wish.profile.as_deref().or(self.account.issuer().profile.as_deref())
    }

    /// The key and its request, journaled: from here on they are not lost.
    async fn draft(&self, live: &Live, key: Option<SecretText>) -> Result<OrderRecord, OrderError> {
        if let Some(profile) = self.profile()
            && !live.directory.meta.profiles.contains_key(profile)
        {
            let offered: Vec<&str> = live.directory.meta.profiles.keys().map(|name| &**name).take(20).collect();
            let what = match offered.as_slice() {
                [] => format!("the CA has no profiles, {profile:?} was asked for"),
                some => format!("the CA has no profile {profile:?}, only {}", some.join(", ")),
            };
            let mut error = OrderError::new(Class::Config, Step::Prepare, what);
            error.kind = Some("invalidProfile".into());
            return Err(error);
        }
        let ours = |error: crate::local::LocalError| OrderError::new(Class::Ours, Step::Prepare, error.to_string());
        let key = match key.as_ref().or(self.wish.keep_key.as_ref()) {
            Some(pem) => read_key(pem.reveal()).map_err(ours)?,
            None => {
                // Two large primes may take a second.
                let algorithm = self.wish.key;
                let made = tokio::task::spawn_blocking(move || new_key(algorithm)).await;
                made.map_err(|error| OrderError::new(Class::Ours, Step::Prepare, error.to_string()))?.map_err(ours)?
            }
        };
        let csr = request(self.wish, &key).map_err(ours)?;
        let record = OrderRecord {
            account: live.url.clone(),
            dns_names: self.wish.dns_names.clone(),
            addresses: self.wish.addresses.clone(),
            profile: self.profile().map(Into::into),
            replaces: None,
            key: SecretText::new(key.serialize_pem()),
            csr: STANDARD.encode(csr).into(),
            url: None,
            finalizing: false,
            made: now(),
            failed: Vec::new(),
        };
        self.write(&record).await?;
        Ok(record)
    }

    pub(super) async fn write(&self, record: &OrderRecord) -> Result<(), OrderError> {
        self.journal.order(record).await.map_err(|why| unwritten(&why))
    }

    async fn new_order(
        &self,
        live: &Live,
        record: &mut OrderRecord,
        notes: &mut Vec<String>,
    ) -> Result<Shown, OrderError> {
        let name = |name: &str| instant_acme::Identifier::Dns(name.to_ascii_lowercase());
        let identifiers: Vec<instant_acme::Identifier> = record
            .dns_names
            .iter()
            .map(|one| name(one))
            .chain(record.addresses.iter().map(|address| instant_acme::Identifier::Ip(*address)))
            .collect();
        let mut replaces = self.wish.replaces.as_deref().filter(|_| live.directory.renewal_info.is_some());
        let shown = loop {
            let profile = record.profile.clone();
            let sent = self
                .account
                .call(Step::NewOrder, async || {
                    let mut order = NewOrder::new(&identifiers);
                    if let Some(profile) = &profile {
                        order = order.profile(profile);
                    }
                    if let Some((authority, serial)) = replaces.and_then(|id| id.split_once('.')) {
                        let id = (authority.into(), serial.into());
                        order = order.replaces(CertificateIdentifier { authority_key_identifier: id.0, serial: id.1 });
                    }
                    match live.engine.new_order(&order).await {
                        // The order was made without what it replaces; its URL is in the answer.
                        Err(instant_acme::Error::Other(what)) if replaces.is_some() && is_mismatch(&*what) => Ok(None),
                        outcome => outcome.map(Some),
                    }
                })
                .await;
            match sent {
                Ok((Some(order), last)) => {
                    record.replaces = replaces.map(Into::into);
                    break Shown { order, last };
                }
                Ok((None, seen)) => {
                    notes.push("the CA did not take the order as a renewal (replaces was not repeated)".to_owned());
                    let url = seen.as_ref().and_then(|seen| seen.text("location")).unwrap_or_default().to_owned();
                    let again = self.account.call(Step::NewOrder, async || live.engine.order(url.clone()).await).await;
                    let (order, last) = again?;
                    break Shown { order, last };
                }
                Err(error) if replaces.is_some() && is_about_replaces(&error) => {
                    notes.push(format!("ordered without saying what is replaced: {}", error.detail));
                    replaces = None;
                }
                // Whether the CA made an order is not known; the record finds out.
                Err(error) => {
                    let resumes = matches!(error.class, Class::Transient | Class::Limited);
                    return Err(resumable(error, resumes));
                }
            }
        };
        record.url = Some(shown.order.url().into());
        self.write(record).await.map_err(|error| resumable(error, true))?;
        Ok(shown)
    }

    /// Until the order is ready.
    async fn prove(
        &self,
        live: &Live,
        record: &OrderRecord,
        shown: &mut Shown,
        placed: &mut Vec<Placed>,
    ) -> Result<(), OrderError> {
        let account = self.account;
        let urls = authorizations_of(shown);
        let authorizations = account.authorizations(live, &urls).await.map_err(|error| resumable(error, true))?;
        let dead: Vec<_> = authorizations.iter().filter_map(fault_of).collect();
        if !dead.is_empty() {
            return Err(invalid(dead));
        }
        let (some, outcome) =
            account.place(live, (self.methods, record), &authorizations, self.present, self.deadline).await;
        *placed = some;
        outcome?;
        account.set_ready(live, placed).await?;
        let mut pace = Pace::new();
        loop {
            self.rest(&mut pace, Step::Validate).await?;
            match self.refresh(live, shown, Step::Validate, &mut pace).await? {
                OrderStatus::Pending => {
                    // Some CAs leave an order pending whose authorization has failed.
                    if pace.is_slow() {
                        let found = account.authorizations(live, &urls).await.unwrap_or_default();
                        let faults: Vec<_> = found.iter().filter_map(fault_of).collect();
                        if !faults.is_empty() {
                            return Err(invalid(faults));
                        }
                    }
                }
                OrderStatus::Invalid => {
                    let found = account.authorizations(live, &urls).await.unwrap_or_default();
                    let faults: Vec<_> = found.iter().filter_map(fault_of).collect();
                    return Err(if faults.is_empty() { shown.refusal(Step::Validate) } else { invalid(faults) });
                }
                _ => return Ok(()),
            }
        }
    }

    /// A failed validation may be worth another challenge: one that the CA could not even connect for.
    fn judge(&self, mut record: OrderRecord, error: OrderError) -> Stop {
        let unreachable = |kind: Option<&str>| matches!(kind, Some("connection" | "tls"));
        let mut failed: Vec<(Identifier, ChallengeKind)> = Vec::new();
        for fault in &error.faults {
            let subject = (fault.identifier.clone(), fault.wildcard);
            let kinds = self.methods.iter().find(|(one, _)| *one == subject).map_or(&[][..], |(_, kinds)| *kinds);
            let Some(tried) = fault.challenge.filter(|_| unreachable(fault.kind.as_deref())) else { break };
            let is_left = |kind: &ChallengeKind| *kind != tried && !record.failed.contains(&(subject.0.clone(), *kind));
            if !kinds.iter().any(is_left) {
                break;
            }
            failed.push((subject.0, tried));
        }
        if error.class != Class::Validation || failed.is_empty() || failed.len() != error.faults.len() {
            return error.into();
        }
        record.failed.extend(failed);
        (record.url, record.finalizing, record.replaces) = (None, false, None);
        Stop::Another(record, error)
    }

    /// Looks at the order again. What passes by itself is waited out by the caller, as long as there is time.
    pub(super) async fn refresh(
        &self,
        live: &Live,
        shown: &mut Shown,
        step: Step,
        pace: &mut Pace,
    ) -> Result<OrderStatus, OrderError> {
        let url = shown.order.url().to_owned();
        let fetched = self.account.call(step, async || live.engine.order(url.clone()).await).await;
        match fetched {
            Ok((order, last)) => {
                pace.note(last.as_ref());
                *shown = Shown { order, last };
            }
            Err(error) if matches!(error.class, Class::Transient | Class::Limited) && pace.failures < FAILED_POLLS => {
                pace.failed(&error);
            }
            Err(error) => return Err(resumable(error, true)),
        }
        Ok(shown.order.state().status)
    }

    /// Waits for the next look at the order.
    pub(super) async fn rest(&self, pace: &mut Pace, step: Step) -> Result<(), OrderError> {
        let wait = pace.next();
        let at = Instant::now() + wait;
        if at < self.deadline {
            sleep_until(at).await;
            return Ok(());
        }
        let mut error = pace.last.take().unwrap_or_else(|| {
            let patience = self.wish.patience.as_secs();
            unmoved(step, &format!("the CA has not come to an end within {patience} s; it is asked again later"))
        });
        error.until = error.until.or(pace.until);
        Err(resumable(error, true))
    }
}

fn authorizations_of(shown: &mut Shown) -> Vec<Box<str>> {
    shown.order.state().authorizations.iter().map(|one| one.url.as_str().into()).collect()
}
