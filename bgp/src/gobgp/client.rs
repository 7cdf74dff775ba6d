//! One connection to an engine: calls with deadlines, and everything that is read out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edge_config::announce::Engine;
use futures_util::stream;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Code, IntoRequest as _, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::convert::{self, table};
use super::read::{self, PeerStatus, TablePath};
use super::{Series, wire};
use crate::plan::model::{self, Assignment, Call, Direction, Family, OURS, PeerKey, Seen, SetKind};

/// Of one request; a table of some ten thousand paths takes tenths of a second.
const DEADLINE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(3);
/// Of one answer. Answers come one path or peer a message.
const LARGEST_ANSWER: usize = 1 << 20;
/// Paths in one message of a stream.
const BATCH: usize = 500;
/// Answers that one list may have; an engine with more is not the one that we know.
const LONGEST_LIST: usize = 100_000;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("engine at {place}: {reason}; expected GoBGP's API")]
    Connect { place: Arc<str>, reason: String },
    #[error("engine at {place}: {method}: {reason}")]
    Call {
        place: Arc<str>,
        method: &'static str,
        reason: String,
        /// The engine did not answer at all, or the connection is gone.
        is_lost: bool,
    },
    #[error("engine at {place}: speaks neither apipb.GobgpApi nor api.GoBgpService; expected GoBGP 3 or 4")]
    Unknown { place: Arc<str> },
    #[error("engine at {place}: {path}: {reason}")]
    Tls { place: Arc<str>, path: PathBuf, reason: String },
}

#[derive(Clone)]
pub struct Client {
    grpc: tonic::client::Grpc<Channel>,
    series: Series,
    place: Arc<str>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("place", &self.place).field("series", &self.series).finish_non_exhaustive()
    }
}

impl Error {
    /// The connection is of no use any more; otherwise the engine refused this one request.
    pub fn is_lost(&self) -> bool {
        !matches!(self, Self::Call { is_lost: false, .. })
    }
}

/// What one look at an engine brings.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    pub seen: Seen,
    pub statuses: Vec<PeerStatus>,
    /// Prefixes in the engine's own table that a neighbor told it.
    pub accepted: BTreeMap<IpAddr, u64>,
}

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Unix(PathBuf),
    Other(Engine),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) | Self::Other(Engine::Unix { path }) => path.display().fmt(f),
            Self::Other(Engine::Tcp { address, .. }) => address.fmt(f),
            Self::Other(Engine::Child { program }) => program.display().fmt(f),
        }
    }
}

impl Client {
    /// Connects and finds out which series it speaks: the newer one is asked first.
    pub async fn connect(place: &Place) -> Result<Self, Error> {
        let name: Arc<str> = place.to_string().into();
        let channel = channel(place, &name).await?;
        let grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(LARGEST_ANSWER);
        for series in [Series::Four, Series::Three] {
            let mut client = Self { grpc: grpc.clone(), series, place: name.clone() };
            match client.unary::<_, wire::GlobalHolder>("GetBgp", wire::Empty {}).await {
                Ok(_) => return Ok(client),
                Err(status) if status.code() == Code::Unimplemented => {}
                Err(status) => return Err(client.failed("GetBgp", &status)),
            }
        }
        Err(Error::Unknown { place: name })
    }

    pub fn series(&self) -> Series {
        self.series
    }

    /// Everything of ours that it holds, every neighbor, and what got past the import policy.
    pub async fn read(&mut self) -> Result<Reading, Error> {
        let global: wire::GlobalHolder = self.ask("GetBgp", wire::Empty {}).await?;
        let Some(global) = global.global.and_then(read::global) else {
            return Ok(Reading::default());
        };
        let mut sets = BTreeSet::new();
        for kind in [SetKind::Neighbors, SetKind::Tags] {
            let request = wire::ListDefinedSetRequest { defined_type: convert::defined_type(self.series, kind) };
            let answers: Vec<wire::DefinedSetHolder> = self.list("ListDefinedSet", request).await?;
            let names = answers.into_iter().filter_map(|answer| answer.defined_set).map(|set| set.name);
            sets.extend(names.filter(|name| name.starts_with(OURS)).map(|name| (kind, name)));
        }
        let answers: Vec<wire::PolicyHolder> = self.list("ListPolicy", wire::Empty {}).await?;
        let names = answers.into_iter().filter_map(|answer| answer.policy).map(|policy| policy.name);
        let policies = names.filter(|name| name.starts_with(OURS)).collect();
        let import = self.assignment(Direction::Import).await?;
        let export = self.assignment(Direction::Export).await?;
        let mut paths = BTreeMap::new();
        let mut accepted: BTreeMap<IpAddr, u64> = BTreeMap::new();
        for family in Family::BOTH {
            let found = self.paths(table::GLOBAL, String::new(), family).await?;
            for neighbor in found.iter().filter_map(|path| path.neighbor) {
                *accepted.entry(neighbor).or_default() += 1;
            }
            paths.extend(found.iter().filter_map(read::own_path).map(|path| (path.prefix, path)));
        }
        let statuses = self.peers().await?;
        let (ours, foreign): (Vec<_>, Vec<_>) = statuses.iter().partition(|peer| peer.is_ours());
        let peers = ours.into_iter().map(|peer| (peer.key.clone(), peer.there.clone())).collect();
        let foreign_peers = foreign.len();
        let seen = Seen { global: Some(global), sets, policies, import, export, paths, peers, foreign_peers };
        Ok(Reading { seen, statuses, accepted })
    }

    pub async fn peers(&mut self) -> Result<Vec<PeerStatus>, Error> {
        let answers: Vec<wire::PeerHolder> = self.list("ListPeer", wire::PeerAddress::default()).await?;
        let series = self.series;
        Ok(answers.into_iter().filter_map(|answer| read::peer(series, answer.peer?)).collect())
    }

    /// What a neighbor has been told, as far as the engine's tables and policies say.
    pub async fn adj_out(&mut self, address: &str, family: Family) -> Result<Vec<TablePath>, Error> {
        self.paths(table::ADJ_OUT, address.to_owned(), family).await
    }

    /// Something about a session has changed, each time the stream has a message; its end is the engine's.
    pub async fn watch(&mut self) -> Result<Streaming<wire::WatchEventResponse>, Error> {
        let request = wire::WatchEventRequest { peer: Some(wire::watch_event_request::Peer {}) };
        // Only the beginning has a deadline.
        let opened = tokio::time::timeout(DEADLINE, self.streaming("WatchEvent", Request::new(request))).await;
        opened
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))
            .map_err(|status| self.failed("WatchEvent", &status))
    }

    pub async fn call(&mut self, call: &Call) -> Result<(), Error> {
        let series = self.series;
        match call {
            Call::Stop => self.tell("StopBgp", wire::Empty {}).await,
            Call::Start(global) => {
                self.tell("StartBgp", wire::GlobalHolder { global: Some(convert::global(global)) }).await
            }
            Call::AddSet(set) => {
                let defined_set = Some(convert::set(series, set));
                self.tell("AddDefinedSet", wire::DefinedSetHolder { defined_set, all: false }).await
            }
            Call::AddImport => self.tell("AddPolicy", wire::PolicyHolder { policy: Some(convert::import()) }).await,
            Call::AddPolicy(class) => {
                self.tell("AddPolicy", wire::PolicyHolder { policy: Some(convert::policy(series, class)) }).await
            }
            Call::Assign(direction, assignment) => {
                let assignment = Some(convert::assignment(*direction, assignment));
                self.tell("SetPolicyAssignment", wire::AssignmentHolder { assignment }).await
            }
            Call::Announce(paths) => self.stream_paths(paths, false).await,
            Call::Withdraw(paths) => self.stream_paths(paths, true).await,
            Call::AddPeer(peer) => self.tell("AddPeer", wire::PeerHolder { peer: Some(convert::peer(peer)) }).await,
            Call::DeletePeer(key, address) => {
                let interface = match key {
                    PeerKey::Interface(name) => name.clone(),
                    PeerKey::Address(_) => String::new(),
                };
                self.tell("DeletePeer", wire::DeletePeerRequest { address: address.clone(), interface }).await
            }
            Call::DeletePolicy(name) => {
                let policy = Some(wire::Policy { name: name.clone(), statements: Vec::new() });
                self.tell("DeletePolicy", wire::DeletePolicyRequest { policy, preserve_statements: false, all: true })
                    .await
            }
            Call::DeleteSet(kind, name) => {
                let defined_type = convert::defined_type(series, *kind);
                let set = wire::DefinedSet { defined_type, name: name.clone(), list: Vec::new() };
                self.tell("DeleteDefinedSet", wire::DefinedSetHolder { defined_set: Some(set), all: true }).await
            }
        }
    }

    /// Lets a neighbor call again that was closed for sending too much.
    pub async fn enable(&mut self, address: &str) -> Result<(), Error> {
        self.tell("EnablePeer", wire::PeerAddress { address: address.to_owned() }).await
    }

    async fn assignment(&mut self, direction: Direction) -> Result<Assignment, Error> {
        let request = wire::ListPolicyAssignmentRequest {
            name: convert::GLOBAL.to_owned(),
            direction: convert::direction(direction),
        };
        let answers: Vec<wire::AssignmentHolder> = self.list("ListPolicyAssignment", request).await?;
        let found = answers.into_iter().find_map(|answer| answer.assignment);
        Ok(found.map_or_else(Assignment::default, read::assignment))
    }

    async fn paths(&mut self, table_type: i32, name: String, family: Family) -> Result<Vec<TablePath>, Error> {
        let table_type = self.series.shift(table_type);
        let request = wire::ListPathRequest { table_type, name, family: Some(convert::family(family)) };
        match self.series {
            Series::Three => {
                let answers: Vec<wire::ListPathResponse3> = self.list("ListPath", request).await?;
                let paths = answers.into_iter().filter_map(|answer| answer.destination).flat_map(|found| found.paths);
                Ok(paths.filter_map(read::path3).collect())
            }
            Series::Four => {
                let answers: Vec<wire::ListPathResponse4> = self.list("ListPath", request).await?;
                let paths = answers.into_iter().filter_map(|answer| answer.destination).flat_map(|found| found.paths);
                Ok(paths.filter_map(read::path4).collect())
            }
        }
    }

    /// One stream for all of them: a request each would take seconds for a thousand. A path that is marked as withdrawn
    /// names what it withdraws, which a deletion that lost its argument would not.
    async fn stream_paths(&mut self, paths: &[model::Path], is_withdraw: bool) -> Result<(), Error> {
        const METHOD: &str = "AddPathStream";
        let table_type = self.series.shift(table::GLOBAL);
        let batches = paths.chunks(BATCH);
        let outcome = match self.series {
            Series::Three => {
                let messages: Vec<_> = batches
                    .map(|batch| wire::AddPathStreamRequest3 {
                        table_type,
                        paths: batch.iter().map(|path| convert::path3(path, is_withdraw)).collect(),
                    })
                    .collect();
                self.upload(METHOD, messages).await
            }
            Series::Four => {
                let messages: Vec<_> = batches
                    .map(|batch| wire::AddPathStreamRequest4 {
                        table_type,
                        paths: batch.iter().map(|path| convert::path4(path, is_withdraw)).collect(),
                    })
                    .collect();
                self.upload(METHOD, messages).await
            }
        };
        outcome.map_err(|status| self.failed(METHOD, &status))
    }

    async fn tell<M: prost::Message + 'static>(&mut self, method: &'static str, message: M) -> Result<(), Error> {
        self.ask::<M, wire::Empty>(method, message).await.map(|_| ())
    }

    async fn ask<M, A>(&mut self, method: &'static str, message: M) -> Result<A, Error>
    where
        M: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let outcome = self.unary(method, message).await;
        outcome.map_err(|status| self.failed(method, &status))
    }

    async fn list<M, A>(&mut self, method: &'static str, message: M) -> Result<Vec<A>, Error>
    where
        M: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let collected = async {
            let mut answers = self.streaming(method, message.into_request()).await?;
            let mut all = Vec::new();
            while let Some(answer) = answers.message().await? {
                if all.len() == LONGEST_LIST {
                    return Err(Status::resource_exhausted(format!("more than {LONGEST_LIST} answers")));
                }
                all.push(answer);
            }
            Ok(all)
        };
        let outcome = tokio::time::timeout(DEADLINE, collected).await;
        outcome
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))
            .map_err(|status| self.failed(method, &status))
    }

    async fn unary<M, A>(&mut self, method: &'static str, message: M) -> Result<A, Status>
    where
        M: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let path = self.path(method)?;
        let answer = async {
            self.ready().await?;
            self.grpc.unary(Request::new(message), path, ProstCodec::<M, A>::default()).await
        };
        let outcome = tokio::time::timeout(DEADLINE, answer).await;
        outcome.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))).map(tonic::Response::into_inner)
    }

    async fn upload<M: prost::Message + 'static>(
        &mut self,
        method: &'static str,
        messages: Vec<M>,
    ) -> Result<(), Status> {
        let path = self.path(method)?;
        let answer = async {
            self.ready().await?;
            let request = Request::new(stream::iter(messages));
            self.grpc.client_streaming(request, path, ProstCodec::<M, wire::Empty>::default()).await
        };
        let outcome = tokio::time::timeout(DEADLINE, answer).await;
        outcome.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))).map(|_| ())
    }

    async fn streaming<M, A>(&mut self, method: &'static str, request: Request<M>) -> Result<Streaming<A>, Status>
    where
        M: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let path = self.path(method)?;
        self.ready().await?;
        let answer = self.grpc.server_streaming(request, path, ProstCodec::<M, A>::default()).await?;
        Ok(answer.into_inner())
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::unavailable(chain(&error)))
    }

    fn path(&self, method: &'static str) -> Result<PathAndQuery, Status> {
        let path = format!("/{}/{method}", self.series.service());
        PathAndQuery::try_from(path).map_err(|error| Status::internal(error.to_string()))
    }

    fn failed(&self, method: &'static str, status: &Status) -> Error {
        let reason = match std::error::Error::source(status) {
            // What tonic made of a fault below it: its message is "transport error".
            Some(source) => chain(source),
            None => one_line(status.message()),
        };
        let reason = if reason.is_empty() { status.code().description().to_owned() } else { reason };
        let is_lost = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled);
        Error::Call { place: self.place.clone(), method, reason, is_lost }
    }
}

async fn channel(place: &Place, name: &Arc<str>) -> Result<Channel, Error> {
    let failed = |error: &dyn std::error::Error| Error::Connect { place: name.clone(), reason: chain(error) };
    let connecting = async {
        match place {
            Place::Unix(path) | Place::Other(Engine::Unix { path } | Engine::Child { program: path }) => {
                let path = path.clone();
                let connect = tower_service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                // The name is not looked at.
                endpoint("http://engine".to_owned()).map_err(|e| failed(&e))?.connect_with_connector(connect).await
            }
            Place::Other(Engine::Tcp { address, tls }) => {
                let scheme = if tls.is_some() { "https" } else { "http" };
                let mut endpoint = endpoint(format!("{scheme}://{address}")).map_err(|e| failed(&e))?;
                if let Some(tls) = tls {
                    let mut config = ClientTlsConfig::new()
                        .domain_name(tls.name.clone())
                        .ca_certificate(Certificate::from_pem(pem(&tls.ca, CERTIFICATE, name).await?));
                    if let Some((chain, key)) = &tls.client {
                        let (chain, key) = (pem(chain, CERTIFICATE, name).await?, pem(key, KEY, name).await?);
                        config = config.identity(Identity::from_pem(chain, key));
                    }
                    endpoint = endpoint.tls_config(config).map_err(|e| failed(&e))?;
                }
                endpoint.connect().await
            }
        }
        .map_err(|error| failed(&error))
    };
    let outcome = tokio::time::timeout(CONNECT, connecting).await;
    outcome.unwrap_or_else(|_| {
        Err(Error::Connect { place: name.clone(), reason: format!("no answer within {} s", CONNECT.as_secs()) })
    })
}

fn endpoint(uri: String) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(uri)?;
    // A hanging engine is found by these also while nothing is asked of it.
    Ok(endpoint
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true))
}

/// What a block of PEM says of itself (RFC 7468 §5 and §10; older keys name their algorithm before it).
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
const KEY: &str = "PRIVATE KEY-----";

/// A file with at least one such block: one without would be a handshake that fails for no visible reason.
async fn pem(path: &Path, block: &str, place: &Arc<str>) -> Result<Vec<u8>, Error> {
    let file = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
    let failed = |reason: String| Error::Tls { place: place.clone(), path: path.to_owned(), reason };
    let text = read.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
    if text.windows(block.len()).any(|window| window == block.as_bytes()) {
        Ok(text)
    } else {
        Err(failed(format!("no {} in it", block.trim_matches('-').trim_start_matches("BEGIN "))))
    }
}

/// A service of a function, which tower has behind a feature.
fn tower_service_fn<F>(function: F) -> ServiceFn<F> {
    ServiceFn(function)
}

#[derive(Clone)]
struct ServiceFn<F>(F);

impl<F, R, T, E> tower_service::Service<Uri> for ServiceFn<F>
where
    F: FnMut(Uri) -> R,
    R: Future<Output = Result<T, E>>,
{
    type Response = T;
    type Error = E;
    type Future = R;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), E>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> R {
        (self.0)(uri)
    }
}

/// The innermost cause says what happened; "transport error" around it does not.
fn chain(error: &dyn std::error::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    one_line(&last.to_string())
}

fn one_line(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}
