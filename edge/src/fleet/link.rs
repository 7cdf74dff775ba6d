//! Calling one other edge: a connection that is kept, pinged twice a second, and made anew when it ends.
//!
//! In: calls of this edge. Out: their answers; what the pings say goes to the election. After it was connected, and
//! whenever the other one says that we lack something, it is asked for what it has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use futures_util::{StreamExt as _, stream};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::core::{Call, Core, Peer};
use super::election::Said;
use super::identity::{self, Credentials};
use super::merge::{self, Inventory};
use super::message::{self, After, Answer, Ask, Hello, Named, Ping};
use super::wire;
use crate::certs::edges::Shared;
use crate::proxy::tls::verify::explain;

/// Between two pings.
const PING: Duration = Duration::from_millis(500);
/// Who does not answer a ping for so long is called anew.
const ANSWER: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(2);
/// Until a connection that ended is made anew: doubled each time, half of it by chance.
const LEAST_WAIT: Duration = Duration::from_millis(100);
const MOST_WAIT: Duration = Duration::from_secs(2);
/// Questions without an answer yet.
const UNANSWERED: usize = 256;
/// Between two attempts to learn what the other edge has.
const SYNC_AGAIN: Duration = Duration::from_secs(1);
/// Things that are fetched at a time.
const FETCHES: usize = 16;
/// More than this no edge has: 10,000 certificates with all that belongs to them.
const MOST_ENTRIES: usize = 50_000;
/// How long one page or item may take.
const SYNC_CALL: Duration = Duration::from_secs(15);

/// Keeps a connection for ever.
pub(super) async fn run(
    core: Arc<Core>,
    peer: Arc<Peer>,
    mut calls: mpsc::Receiver<Call>,
    mut credentials: watch::Receiver<Option<Credentials>>,
) {
    let mut tries = 0;
    loop {
        let current = credentials.borrow_and_update().clone();
        let ended = match current {
            None => "this edge has no certificate of the fleet".to_owned(),
            Some(current) => match connect(&peer, &current).await {
                Err(why) => why,
                Ok(stream) => {
                    tries = 0;
                    session(&core, &peer, stream, &mut calls).await
                }
            },
        };
        let is_news = {
            let mut state = peer.state();
            let is_news = state.error.as_ref() != Some(&ended);
            state.error = Some(ended.clone());
            is_news
        };
        if is_news {
            tracing::info!("fleet: edge {} at {}: {ended}", peer.name, peer.address);
            core.changed.notify_one();
        }
        let wait = tokio::time::sleep(wait(tries));
        tries += 1;
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => break,
                () = peer.called.notified() => break,
                changed = credentials.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                call = calls.recv() => match call {
                    // Whoever asked may be gone by now.
                    Some(call) => drop(call.reply.send(Err(ended.clone()))),
                    None => return,
                },
            }
        }
    }
}

fn wait(tries: u32) -> Duration {
    let full = LEAST_WAIT.saturating_mul(1 << tries.min(10)).min(MOST_WAIT);
    let mut chance = [128];
    // Without randomness, the middle.
    let _ = SystemRandom::new().fill(&mut chance);
    full / 2 + full / 2 * u32::from(chance[0]) / 255
}

async fn connect(peer: &Peer, credentials: &Credentials) -> Result<TlsStream<TcpStream>, String> {
    let late = |_| format!("no connection within {CONNECT:?}");
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect(peer.address)).await.map_err(late)?;
    let stream = connected.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let name = identity::server_name(&peer.name).map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::clone(&credentials.client));
    let shaken = tokio::time::timeout(CONNECT, connector.connect(name, stream)).await.map_err(late)?;
    let mut stream = shaken.map_err(|error| tls_error(&error))?;
    // The other side judges our certificate only after we are done: what it thinks of it comes with the first answer.
    let hello = message::encode_ask(0, &Ask::Hello(Hello::ours()));
    wire::write(&mut stream, &hello).await.map_err(|error| tls_error(&error))?;
    let answer = wire::read(&mut stream, ANSWER).await.map_err(|error| tls_error(&error))?;
    let answer = answer.ok_or_else(|| "it closed the connection".to_owned())?;
    match message::decode_answer(&answer).map_err(|error| error.to_string())? {
        (0, Answer::Hello(hello)) => {
            if let Some(refusal) = hello.refusal() {
                return Err(refusal);
            }
            peer.state().version = Some(message::short(&hello.software));
            Ok(stream)
        }
        _ => Err("it does not say who it is".to_owned()),
    }
}

/// In words for people who have never heard of rustls.
pub(super) fn tls_error(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::AlertReceived(
            rustls::AlertDescription::UnknownCA | rustls::AlertDescription::DecryptError,
        )) => "it refuses our certificate: the secrets of the two edges differ".to_owned(),
        Some(error @ rustls::Error::InvalidCertificate(_)) => {
            format!("{}: do the secrets of the two edges differ?", explain(error))
        }
        Some(error) => explain(error),
        None => error.to_string(),
    }
}

enum Waiting {
    Ping { sent: Instant },
    Call(oneshot::Sender<Result<Answer, String>>),
}

/// Asks and takes answers until the connection ends; why it ended.
async fn session(
    core: &Arc<Core>,
    peer: &Arc<Peer>,
    stream: TlsStream<TcpStream>,
    calls: &mut mpsc::Receiver<Call>,
) -> String {
    let (mut from, mut to) = tokio::io::split(stream);
    let (arrived, mut arrivals) = mpsc::channel::<Zeroizing<Vec<u8>>>(16);
    let reader: JoinHandle<String> = tokio::spawn(async move {
        loop {
            match wire::read(&mut from, 2 * ANSWER).await {
                Ok(Some(bytes)) => {
                    if arrived.send(bytes).await.is_err() {
                        return "ended here".to_owned();
                    }
                }
                Ok(None) => return "it closed the connection".to_owned(),
                Err(error) => return tls_error(&error),
            }
        }
    });
    // Ends the task however this function ends.
    let _reader = Aborted(reader.abort_handle());
    let mut waiting: BTreeMap<u64, Waiting> = BTreeMap::new();
    let mut next_id: u64 = 1;
    let mut tick = tokio::time::interval(PING);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut syncing: Option<(JoinHandle<()>, Instant)> = None;
    loop {
        let message = tokio::select! {
            biased;
            bytes = arrivals.recv() => {
                let Some(bytes) = bytes else {
                    return reader.await.unwrap_or_else(|_| "the connection ended".to_owned());
                };
                match message::decode_answer(&bytes) {
                    Err(error) => return error.to_string(),
                    Ok((id, answer)) => answered(core, peer, waiting.remove(&id), answer),
                }
                continue;
            }
            _ = tick.tick() => {
                let now = Instant::now();
                let is_late = |one: &Waiting| {
                    matches!(one, Waiting::Ping { sent } if now.saturating_duration_since(*sent) > ANSWER)
                };
                if waiting.values().any(is_late) {
                    return format!("no answer within {ANSWER:?}");
                }
                waiting.retain(|_, one| !matches!(one, Waiting::Call(reply) if reply.is_closed()));
                let is_due = syncing.as_ref().is_none_or(|(task, since)| {
                    task.is_finished() && now.saturating_duration_since(*since) >= SYNC_AGAIN
                });
                if is_due && !core.election().is_synced(&peer.name) {
                    syncing = Some((tokio::spawn(learn(Arc::clone(core), Arc::clone(peer))), now));
                }
                let lacks = std::mem::take(&mut peer.state().lacks);
                let ping = Ping { claims: core.election().claims(now), leaves: false, lacks, list: core.list.clone() };
                waiting.insert(next_id, Waiting::Ping { sent: now });
                message::encode_ask(next_id, &Ask::Ping(ping))
            }
            call = calls.recv() => {
                let Some(Call { ask, reply }) = call else { return "this edge is stopping".to_owned() };
                if waiting.len() >= UNANSWERED {
                    // Whoever asked may be gone by now.
                    let _ = reply.send(Err("too many questions wait for its answer".to_owned()));
                    continue;
                }
                let message = message::encode_ask(next_id, &ask);
                if message.len() > wire::MOST {
                    let _ = reply.send(Err(format!("{} bytes are too much for a message", message.len())));
                    continue;
                }
                waiting.insert(next_id, Waiting::Call(reply));
                message
            }
        };
        next_id += 1;
        if let Err(error) = wire::write(&mut to, &message).await {
            return tls_error(&error);
        }
    }
}

fn answered(core: &Core, peer: &Peer, waiting: Option<Waiting>, answer: Answer) {
    match (waiting, answer) {
        (Some(Waiting::Ping { sent }), Answer::Pong(pong)) => {
            let same_list = pong.list == core.list;
            let said = Said { is_fit: pong.fit, votes: pong.votes, same_list };
            let now = Instant::now();
            let mut election = core.election();
            let is_new = !election.is_live(&peer.name, now);
            election.answer(&peer.name, said, sent, now);
            drop(election);
            {
                let mut state = peer.state();
                (state.last_exchange, state.orders, state.error) = (Some(SystemTime::now()), pong.orders, None);
                state.hash = pong.hash;
            }
            if is_new {
                tracing::info!("fleet: edge {} at {} answers", peer.name, peer.address);
                core.changed.notify_one();
            }
        }
        // Whoever asked may be gone by now.
        (Some(Waiting::Call(reply)), answer) => drop(reply.send(Ok(answer))),
        // An answer to nothing, or of another kind: not from one of ours, and nobody waits for it.
        (Some(Waiting::Ping { .. }) | None, _) => {}
    }
}

/// Asks the other edge for what this one lacks.
async fn learn(core: Arc<Core>, peer: Arc<Peer>) {
    match sync(&core, &peer).await {
        Ok(count) => {
            core.election().synced(&peer.name);
            if count > 0 {
                tracing::info!("fleet: {count} things learned from edge {}", peer.name);
            }
        }
        Err(why) => tracing::debug!("fleet: what edge {} has is not known: {why}", peer.name),
    }
}

async fn sync(core: &Arc<Core>, peer: &Arc<Peer>) -> Result<usize, String> {
    let all = core.all().await?;
    let mine: Inventory = all.iter().map(|(key, shared)| (key.clone(), merge::version(shared))).collect();
    drop(all);
    let mut theirs = Inventory::new();
    let mut after = None;
    loop {
        let page = match called(peer, Ask::Inventory(After { after: after.clone() })).await? {
            Answer::Inventory(page) => page,
            Answer::Done(done) => return Err(done.error.unwrap_or_default()),
            _ => return Err("it does not know what an inventory is".to_owned()),
        };
        let last = page.entries.keys().next_back().cloned();
        // A page that does not go on would be asked for without end.
        if page.more && last <= after {
            return Err("its inventory does not end".to_owned());
        }
        theirs.extend(page.entries);
        if theirs.len() > MOST_ENTRIES {
            return Err(format!("it has more than {MOST_ENTRIES} things"));
        }
        if !page.more {
            break;
        }
        after = last;
    }
    let counts = peer.state().orders;
    let lacking = merge::lacking(&mine, &theirs, counts);
    let count = lacking.len();
    let fetched = stream::iter(lacking.into_iter().map(|key| fetch(core, peer, key))).buffer_unordered(FETCHES);
    let failures: Vec<String> = fetched.filter_map(async |result| result.err()).collect().await;
    match failures.first() {
        None => Ok(count),
        // One thing that cannot be taken must not be asked for without end.
        Some(first) => {
            tracing::warn!("fleet: {} of {count} things of edge {} were not taken: {first}", failures.len(), peer.name);
            Ok(count - failures.len())
        }
    }
}

async fn fetch(core: &Core, peer: &Peer, key: String) -> Result<(), String> {
    let name = key.clone();
    let item = match called(peer, Ask::Fetch(Named { key })).await? {
        Answer::Item(fetched) => fetched.item,
        _ => return Err(format!("{name}: it gives another answer than it was asked for")),
    };
    let Some(item) = item else { return Ok(()) };
    let shared = Shared::try_from(item).map_err(|error| format!("{name}: {error}"))?;
    core.take(shared).await.map_err(|why| format!("{name}: {why}"))
}

async fn called(peer: &Peer, ask: Ask) -> Result<Answer, String> {
    let answer = tokio::time::timeout(SYNC_CALL, peer.call(ask)).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {SYNC_CALL:?}")))
}

/// Ends a task when it is dropped.
struct Aborted(tokio::task::AbortHandle);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
