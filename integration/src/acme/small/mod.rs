//! A small ACME CA of our own (RFC 8555), for what no real one does: slow, rude, wrong or gone at any step that a test
//! names.
//!
//! Flows in: faults, each at a place and so many times. Flows out: a directory at plain HTTP on loopback, certificates,
//! and counts of what was asked. It believes every name and every signature, for proofs are the business of the real
//! CAs; nonces are counted, and each is good once.

#![allow(clippy::panic, clippy::unwrap_used)]

mod ca;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use self::ca::Ca;
use self::wire::{Request, Stream};

/// What is asked of a CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Directory,
    Nonce,
    NewAccount,
    /// Contacts, and the list of orders.
    Account,
    NewOrder,
    Order,
    Authorization,
    Challenge,
    Finalize,
    Certificate,
    Revocation,
    /// Nothing that the directory names.
    Elsewhere,
}

impl Place {
    /// What one order asks for, in its order, when nothing is known yet.
    pub const OF_AN_ORDER: [Self; 9] = [
        Self::Directory,
        Self::Nonce,
        Self::NewAccount,
        Self::NewOrder,
        Self::Authorization,
        Self::Challenge,
        Self::Order,
        Self::Finalize,
        Self::Certificate,
    ];
}

/// An answer of one's own making.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn of(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![("content-type".into(), kind.into())], body: body.into() }
    }

    /// RFC 7807, with a type of ACME.
    pub fn problem(status: u16, kind: &str, detail: &str) -> Self {
        let kind = format!("urn:ietf:params:acme:error:{kind}");
        let body = json!({ "type": kind, "detail": detail, "status": status }).to_string();
        Self::of(status, "application/problem+json", body)
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing is done.
    Says(Reply),
    /// Nothing is done, and the connection ends.
    Cut,
    /// It is done, and the connection ends without a word of it.
    DoneThenCut,
    /// It is done; half of the answer comes.
    HalfThenCut,
    /// Nothing is done or said, as long as the client waits.
    Silent,
    /// It is done; the answer comes byte by byte.
    Dribbles(Duration),
    /// A body without an end.
    Endless,
    /// It is done, and the answer has no nonce.
    WithoutNonce,
}

/// Which certificate comes for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    Right,
    OtherNames,
    MoreNames,
    OtherKey,
    Expired,
    NotYet,
    /// Of a CA that is not the next one in the chain.
    BrokenChain,
    /// Signed by itself, for nobody.
    SelfSigned,
    /// The right names, the right key, and the rights of a CA.
    IsCa,
    /// PEM around something else.
    Garbage,
    Nothing,
}

/// How it is beside its faults.
#[derive(Debug, Clone)]
pub struct Manner {
    pub leaf: Leaf,
    /// Seconds.
    pub validity: u64,
    /// Orders stay in processing once they are finalized.
    pub stuck: bool,
    pub wants_external_account: bool,
    pub profiles: Vec<&'static str>,
    /// Every name fails its challenge so (type and detail).
    pub refuses: Option<(&'static str, &'static str)>,
    /// No order is made for such a name.
    pub rejects: Option<&'static str>,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            leaf: Leaf::Right,
            validity: 90 * 86_400,
            stuck: false,
            wants_external_account: false,
            profiles: Vec::new(),
            refuses: None,
            rejects: None,
        }
    }
}

struct Armed {
    place: Place,
    left: usize,
    fault: Fault,
}

struct State {
    ca: Ca,
    armed: Vec<Armed>,
    asked: Vec<(Place, Instant)>,
}

/// It lives until it is dropped.
pub struct Small {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    root: String,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Small {
    pub fn start() -> Self {
        Self::start_at(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))
    }

    /// The same at a place of one's own choice, as for a CA that comes back.
    pub fn start_at(at: SocketAddr) -> Self {
        crate::pki::install_provider();
        let listener = std::net::TcpListener::bind(at).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let ca = Ca::new(&format!("http://{address}"));
        let root = ca.root();
        let state = Arc::new(Mutex::new(State { ca, armed: Vec::new(), asked: Vec::new() }));
        let (end, ended) = oneshot::channel();
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                let serve = async {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(serve(stream, shared.clone()));
                    }
                };
                tokio::select! { () = serve => {}, _ = ended => {} }
            });
        });
        Self { address, state, root, end: Some(end), thread: Some(thread) }
    }

    pub fn directory(&self) -> String {
        format!("http://{}/dir", self.address)
    }

    /// PEM of the root of its certificates.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// From now on, so many times. Of several at one place, the one that was named first comes first.
    pub fn fault(&self, place: Place, times: usize, fault: Fault) {
        self.state().armed.push(Armed { place, left: times, fault });
    }

    /// No faults any more.
    pub fn behave(&self) {
        let mut state = self.state();
        state.armed.clear();
        state.ca.manner = Manner::default();
    }

    pub fn set(&self, manner: Manner) {
        self.state().ca.manner = manner;
    }

    /// It knows none of its accounts any more.
    pub fn forget_accounts(&self) {
        self.state().ca.forget_accounts();
    }

    /// How often a place was asked for.
    pub fn asked(&self, place: Place) -> usize {
        self.state().asked.iter().filter(|(of, _)| *of == place).count()
    }

    /// All requests there were.
    pub fn requests(&self) -> usize {
        self.state().asked.len()
    }

    /// Requests of the last while.
    pub fn requests_within(&self, last: Duration) -> usize {
        self.state().asked.iter().filter(|(_, at)| at.elapsed() < last).count()
    }

    /// Orders that were made.
    pub fn orders(&self) -> usize {
        self.state().ca.orders()
    }

    /// Accounts that were ever made.
    pub fn accounts(&self) -> usize {
        self.state().ca.accounts_made
    }

    /// Nonces that came twice, or from nowhere.
    pub fn bad_nonces(&self) -> usize {
        self.state().ca.bad_nonces
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn take(&mut self, request: &Request) -> (Option<Fault>, Reply) {
        let place = ca::place(&request.path);
        self.asked.push((place, Instant::now()));
        let fault = self.armed.iter_mut().find(|armed| armed.place == place && armed.left > 0).map(|armed| {
            armed.left -= 1;
            armed.fault.clone()
        });
        match fault {
            Some(Fault::Says(mut reply)) => {
                // Whoever refuses hands out another nonce (RFC 8555 §6.5), unless the test says what.
                if request.method == "POST" && !reply.headers.iter().any(|(name, _)| name == "replay-nonce") {
                    reply = reply.with("replay-nonce", &self.ca.nonce());
                }
                (None, reply)
            }
            Some(fault @ (Fault::Cut | Fault::Silent | Fault::Endless)) => (Some(fault), Reply::of(200, "", "")),
            other => (other, self.ca.answer(place, request)),
        }
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let _ = stream.set_nodelay(true);
    let mut stream = Stream::new(stream);
    while let Some(request) = stream.request().await {
        let (fault, reply) = lock(&state).take(&request);
        let is_head = request.method == "HEAD";
        let ended = match fault {
            None | Some(Fault::Says(_)) => stream.answer(&reply, is_head).await,
            Some(Fault::WithoutNonce) => {
                let headers = reply.headers.into_iter().filter(|(name, _)| name != "replay-nonce").collect();
                stream.answer(&Reply { headers, ..reply }, is_head).await
            }
            Some(Fault::Cut | Fault::DoneThenCut) => return,
            Some(Fault::HalfThenCut) => return stream.half(&reply).await,
            Some(Fault::Silent) => return stream.until_gone().await,
            Some(Fault::Dribbles(gap)) => stream.dribble(&reply, gap).await,
            Some(Fault::Endless) => return stream.endless().await,
        };
        if ended.is_err() {
            return;
        }
    }
}
