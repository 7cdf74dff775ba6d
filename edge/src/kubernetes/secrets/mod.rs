//! Writing Secrets: certificates that Edge issued, and keys of accounts that it made.
//!
//! In: what is offered ([`Offers`]), the supervisor's worlds, the texts of Secrets that are read. Out: Secrets of type
//! `kubernetes.io/tls` as cert-manager would have left them, each write with the version that it was computed from as its
//! precondition. One edge of a group writes ([`lease`](super::lease)). While the API server is away nothing is lost: what
//! is offered serves, is in the store, and is written when the API is back. It decides nothing about certificates, and
//! wipes what it held of keys.
//!
//! [`judge`] one Secret · [`book`] what next · here: the I/O.

mod book;
mod judge;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edge_config::names::{Kind, ObjectRef};
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::book::{Book, Job, Next, What};
use self::judge::{Body, Verdict, account_creation, creation, judge, judge_account, wipe};
pub(super) use self::judge::{EDGE, MANAGED_BY};
use super::calls::{self, CallError, Place};
use super::client::Api;
use super::events::Told;
use super::leadership::View;
use super::status::counters::{Counters, Outcome};
use super::status::faults::Fault;
use super::status::pace::Failure;
use super::watch::SourceState;
use crate::certs::SecretTexts;
use crate::certs::offer::Offers;
use crate::control::world::World;
use crate::moment;

/// Writes under way at a time.
const AT_ONCE: usize = 8;
const TIDY: Duration = Duration::from_secs(60);
/// Why an Event tells of a Secret that Edge should write and does not.
const NOT_WRITTEN: &str = "SecretNotWritten";

/// What the writer is connected to.
pub struct SecretWriter {
    pub api: Api,
    pub source: watch::Receiver<Arc<SourceState>>,
    pub worlds: watch::Receiver<Arc<World>>,
    pub offers: watch::Receiver<Arc<Offers>>,
    pub texts: watch::Receiver<Arc<SecretTexts>>,
    /// Who writes.
    pub view: watch::Receiver<View>,
    /// What owners of Secrets must see; a full queue drops it.
    pub events: mpsc::Sender<Told>,
    pub counters: Arc<Counters>,
    pub stop: watch::Receiver<bool>,
}

enum Ended {
    Same,
    Left,
    NotOurs { why: String, uid: Box<str> },
    Written,
}

struct Done {
    job: Box<Job>,
    result: Result<Ended, CallError>,
}

impl SecretWriter {
    /// Writes until it is told to stop. Writes under way are given up then: each is whole or not there.
    pub async fn run(mut self) {
        let mut book = Book::new(Instant::now());
        let mut under_way = FuturesUnordered::new();
        let mut tidy = tokio::time::interval(TIDY);
        let mut stop = self.stop.clone();
        let mut is_writer = false;
        loop {
            let now = Instant::now();
            let world = self.worlds.borrow_and_update().clone();
            let offers = self.offers.borrow_and_update().clone();
            let texts = self.texts.borrow_and_update().clone();
            book.note(&world, &offers, &texts);
            // Until everything is listed, what is there would look as if it were not.
            let is_open = self.source.borrow_and_update().is_complete;
            let until = self.view.borrow_and_update().writer_until.filter(|until| *until > now);
            if until.is_some() && !is_writer {
                book.take_over();
            }
            is_writer = until.is_some();
            let mut wake = until;
            while is_writer && is_open && under_way.len() < AT_ONCE {
                match book.next(now) {
                    Next::Do(job) => under_way.push(attend(self.api.clone(), job)),
                    Next::Wait(at) => {
                        wake = [wake, at].into_iter().flatten().min();
                        break;
                    }
                }
            }
            tokio::select! {
                changed = self.worlds.changed() => if changed.is_err() { return },
                changed = self.view.changed() => if changed.is_err() { return },
                changed = self.offers.changed() => if changed.is_err() { return },
                Ok(()) = self.texts.changed() => {}
                Ok(()) = self.source.changed(), if !is_open => {}
                Some(done) = under_way.next() => self.finish(&mut book, done),
                () = moment::reached(wake) => {}
                _ = tidy.tick() => book.tidy(Instant::now()),
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    fn finish(&self, book: &mut Book, done: Done) {
        let now = Instant::now();
        let Done { job, result } = done;
        let secret = &job.secret;
        let outcome = match result {
            Ok(Ended::Same | Ended::Left) => return book.settled(&job),
            Ok(Ended::NotOurs { why, uid }) => {
                tracing::warn!("{secret} is not written: {why}");
                self.tell(secret, uid, format!("Edge does not write its certificate there: {why}"));
                return book.settled(&job);
            }
            Ok(Ended::Written) => {
                tracing::info!("{secret} is written");
                match book.written(&job, now) {
                    false => Outcome::Written,
                    true => {
                        tracing::warn!("{secret}: somebody else keeps changing what Edge writes");
                        Outcome::Undone
                    }
                }
            }
            Err(CallError::Conflict | CallError::Exists | CallError::NotFound) => {
                book.failed(&job, Failure::Conflict, now);
                Outcome::Conflict
            }
            Err(CallError::Refused(why)) => {
                tracing::warn!("{secret} cannot be written: {why}");
                book.failed(&job, Failure::Refused, now);
                Outcome::Refused
            }
            Err(CallError::Unavailable { after, why, .. }) => {
                tracing::debug!("{secret} is not written yet: {why}");
                book.failed(&job, Failure::Unavailable(after), now);
                Outcome::Unavailable
            }
        };
        self.counters.count(Kind::Secret, outcome);
    }

    fn tell(&self, object: &ObjectRef, uid: Box<str>, note: String) {
        let fault = Fault { reason: NOT_WRITTEN.to_owned(), note, is_notice: false };
        // A courtesy: the log and edgectl have it, too.
        let _ = self.events.try_send(Told { object: object.clone(), uid, fault });
    }
}

async fn attend(api: Api, job: Box<Job>) -> Done {
    let result = carry_out(&api, &job).await;
    Done { job, result }
}

/// Reads the Secret as it is now, and writes it where it must be.
async fn carry_out(api: &Api, job: &Job) -> Result<Ended, CallError> {
    let place = Place::of(Kind::Secret, "v1", &job.secret.key);
    let mut found = match calls::get(api, &place).await {
        Ok(found) => found,
        Err(CallError::NotFound) => {
            let body = match &job.what {
                What::Certificate { write, offer, .. } => creation(write, offer),
                What::Account { reference, pem } => account_creation(reference, pem),
            };
            let collection = Place::new("api/v1", "secrets", &job.secret.key.namespace, "");
            return calls::create(api, &collection, &body.0).await.map(written);
        }
        Err(error) => return Err(error),
    };
    let verdict = match &job.what {
        What::Certificate { wish, write, offer } => judge(&found, wish, write, offer, unix_now()),
        What::Account { reference, pem } => judge_account(&found, reference, pem),
    };
    let uid = found["metadata"]["uid"].as_str().unwrap_or_default().into();
    wipe(&mut found["data"]);
    match verdict {
        Verdict::Same => Ok(Ended::Same),
        Verdict::Adopt => Ok(Ended::Left),
        Verdict::NotOurs(why) => Ok(Ended::NotOurs { why, uid }),
        Verdict::Write(Body(ref body)) => calls::merge(api, &place, body).await.map(written),
    }
}

fn written(mut answer: Value) -> Ended {
    wipe(&mut answer["data"]);
    Ended::Written
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
