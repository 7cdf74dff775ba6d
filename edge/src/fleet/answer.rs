//! Being called by other edges: nobody gets a word in without a certificate that only an edge of the fleet can make.
//!
//! In: connections. Out: answers. Bounded: connections, time for a handshake, size of a message, answers under way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::core::{Core, Peer};
use super::identity::{self, Credentials};
use super::link::tls_error;
use super::merge::{self, Key};
use super::message::{self, Answer, Ask, Done, Fetched, Hello, Item, PAGE, Page, Pong};
use super::survey;
use super::wire;
use crate::certs::edges::{Edges as _, Orders, Shared};

/// From accept to the end of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Who calls pings twice a second.
const SILENCE: Duration = Duration::from_secs(10);
/// Of all edges together, those that fail to prove themselves included.
const CONNECTIONS: usize = 128;
/// Questions of one connection that are being answered.
const UNDER_WAY: usize = 64;
const BIND_AGAIN: Duration = Duration::from_secs(2);

/// Accepts for ever; an address that is not there yet is tried again.
pub(super) async fn listen(core: Arc<Core>, listen: SocketAddr, credentials: watch::Receiver<Option<Credentials>>) {
    let listener = loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => break listener,
            Err(error) => {
                core.fault("listen", Some(format!("cannot listen on {listen}: {error}; no other edge can call")));
                tokio::time::sleep(BIND_AGAIN).await;
            }
        }
    };
    core.fault("listen", None);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Somebody leaves within the time of a handshake.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "fleet: accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let current = credentials.borrow().clone();
        let Some(current) = current else { continue };
        tokio::spawn(greet(Arc::clone(&core), stream, from, current, place));
    }
}

async fn greet(
    core: Arc<Core>,
    stream: TcpStream,
    from: SocketAddr,
    credentials: Credentials,
    _place: OwnedSemaphorePermit,
) {
    // It fails on sockets that are closed already; the handshake tells.
    let _ = stream.set_nodelay(true);
    let shaken = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(credentials.server).accept(stream)).await;
    let stream = match shaken {
        Err(_) => return core.refuse(from.ip(), &format!("no handshake within {HANDSHAKE:?}")),
        Ok(Err(error)) => return core.refuse(from.ip(), &tls_error(&error)),
        Ok(Ok(stream)) => stream,
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let name = certificates.and_then(|all| all.first()).and_then(identity::edge_of).unwrap_or_default();
    let Some(peer) = core.peer(&name).cloned() else {
        let why = match *name == *core.me {
            true => format!("it is called {name}, as this edge is"),
            false => format!("edge {name} is none of [[fleet.edge]]"),
        };
        return core.refuse(from.ip(), &why);
    };
    core.election().hear(&peer.name, Instant::now());
    peer.called.notify_one();
    converse(&core, &peer, stream).await;
}

/// What a connection was told last of what there is: things are fetched from the same list.
type Listed = Mutex<Arc<BTreeMap<Key, Shared>>>;

async fn converse(core: &Arc<Core>, peer: &Arc<Peer>, stream: tokio_rustls::server::TlsStream<TcpStream>) {
    let (mut from, mut to) = tokio::io::split(stream);
    let (out, mut outgoing) = mpsc::channel::<Zeroizing<Vec<u8>>>(UNDER_WAY);
    let writer = tokio::spawn(async move {
        while let Some(message) = outgoing.recv().await {
            if wire::write(&mut to, &message).await.is_err() {
                return;
            }
        }
    });
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    let listed: Arc<Listed> = Arc::default();
    // An end of any kind: the caller knows better why, and calls again.
    while let Ok(Some(bytes)) = wire::read(&mut from, SILENCE).await {
        let (id, ask) = match message::decode_ask(&bytes) {
            Ok(asked) => asked,
            Err(error) => {
                tracing::warn!("fleet: edge {}: {error}", peer.name);
                break;
            }
        };
        drop(bytes);
        let at_once = match ask {
            Ok(Ask::Ping(ping)) => {
                let now = Instant::now();
                let mut election = core.election();
                election.hear(&peer.name, now);
                peer.state().left = ping.leaves;
                if ping.leaves {
                    election.release(&peer.name);
                }
                if ping.lacks {
                    election.lacks(&peer.name);
                }
                let votes = ping.claims && !ping.leaves && ping.list == core.list && election.vote(&peer.name, now);
                let fit = election.is_fit(now);
                drop(election);
                let orders = core.orders() == Orders::Here;
                Answer::Pong(Pong { fit, votes, list: core.list.clone(), orders, hash: core.hash() })
            }
            Ok(Ask::Hello(_)) => Answer::Hello(Hello::ours()),
            Err(kind) => {
                tracing::info!("fleet: edge {} asks {kind:?}, which this version does not know", peer.name);
                Answer::Unknown
            }
            Ok(ask) => {
                let Ok(place) = Arc::clone(&under_way).acquire_owned().await else { break };
                let (core, out, listed) = (Arc::clone(core), out.clone(), Arc::clone(&listed));
                tokio::spawn(async move {
                    let answer = answer(&core, ask, &listed).await;
                    // The connection may have ended.
                    let _ = out.send(message::encode_answer(id, &answer)).await;
                    drop(place);
                });
                continue;
            }
        };
        if out.send(message::encode_answer(id, &at_once)).await.is_err() {
            break;
        }
    }
    writer.abort();
}

async fn answer(core: &Core, ask: Ask, listed: &Listed) -> Answer {
    match ask {
        Ask::Share(item) => Answer::Done(Done {
            error: match Shared::try_from(item) {
                Ok(shared) => core.take(shared).await.err(),
                Err(error) => Some(error.to_string()),
            },
        }),
        Ask::Inventory(request) => {
            if request.after.is_none() {
                match core.all().await {
                    Ok(all) => *listed.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(all),
                    Err(why) => return Answer::Done(Done { error: Some(why) }),
                }
            }
            let all = Arc::clone(&listed.lock().unwrap_or_else(PoisonError::into_inner));
            let begin = match &request.after {
                Some(after) => std::ops::Bound::Excluded(after.as_str()),
                None => std::ops::Bound::Unbounded,
            };
            let mut rest = all.range::<str, _>((begin, std::ops::Bound::Unbounded));
            let entries = rest.by_ref().take(PAGE).map(|(key, shared)| (key.clone(), merge::version(shared)));
            let entries = entries.collect();
            Answer::Inventory(Page { entries, more: rest.next().is_some() })
        }
        Ask::Fetch(named) => {
            let all = Arc::clone(&listed.lock().unwrap_or_else(PoisonError::into_inner));
            Answer::Item(Fetched { item: all.get(&named.key).map(Item::from) })
        }
        Ask::Limits(news) => {
            core.learn_limits(&news);
            Answer::Done(Done { error: None })
        }
        Ask::Standing(_) => match core.standing().await {
            Ok(standing) => Answer::Standing(Box::new(standing)),
            Err(why) => Answer::Done(Done { error: Some(why) }),
        },
        Ask::Keys(request) => match core.configuration().await {
            Some(known) => Answer::Keys(survey::page(&known.1, request.after.as_deref())),
            None => Answer::Done(Done { error: Some("it is still starting".to_owned()) }),
        },
        // Answered where they arrive.
        Ask::Hello(_) => Answer::Hello(Hello::ours()),
        Ask::Ping(_) => Answer::Unknown,
    }
}
