//! UDPRoute: datagrams of one client go to one endpoint, and its answers come back from the address that the client wrote to.
//!
//! Each worker has a socket of its own per address (SO_REUSEPORT: the kernel keeps a client with one worker) and each
//! session a connected one, so the kernel tells the sessions' answers apart and reports ICMP errors to the right one.
//! The listening socket is bound to one concrete address, which is therefore the source of all answers. Nothing waits for
//! room: a datagram that does not fit into a socket's buffer is dropped and counted, as on any other hop.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use edge_config::snapshot::{Sources, StreamRoute, UpstreamId};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{How, Sticky, Targets, target};
use crate::proxy::metrics::{ListenerSeries, UdpDrop};
use crate::proxy::reason::Reason;
use crate::proxy::upstream::priority;

/// The largest datagram.
const LARGEST: usize = 65_535;
/// Datagrams taken from one socket before others have their turn.
const BATCH: usize = 64;
/// An ICMP error alone makes a socket ready for nothing but errors.
const ANSWER: Interest = Interest::READABLE.add(Interest::ERROR);

#[derive(Debug, Clone, Copy)]
pub struct UdpLimits {
    /// Per address and worker; each holds a socket. One address must not use up what is there for all.
    pub sessions: usize,
    /// A session without datagrams in either direction.
    pub idle: Duration,
    /// The same, as long as the endpoint never answered: what floods with invented sources leave behind.
    pub unanswered: Duration,
}

impl Default for UdpLimits {
    fn default() -> Self {
        Self { sessions: 8192, idle: Duration::from_secs(60), unanswered: Duration::from_secs(15) }
    }
}

/// What one generation says of a listener.
pub struct Serving<T> {
    pub route: Option<StreamRoute>,
    /// Who is let in; `None` is everybody.
    pub sources: Option<Sources>,
    pub targets: T,
    pub series: Arc<ListenerSeries>,
    /// Uniformly distributed numbers.
    pub draw: Box<dyn Fn() -> u32>,
    /// Sessions of all addresses and workers together.
    pub most: usize,
}

impl<T> Serving<T> {
    fn lets_in(&self, client: IpAddr) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.contains(client))
    }
}

/// A session that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEnd {
    pub began: SystemTime,
    pub client: SocketAddr,
    pub backend: Arc<str>,
    pub endpoint: SocketAddr,
    pub duration: Duration,
    /// Payload bytes from the client, to the client.
    pub received: u64,
    pub sent: u64,
    /// `None` when it fell idle, which is how UDP sessions end.
    pub reason: Option<Reason>,
}

/// A session between two processes: the endpoint notices nothing, as its socket is the same.
#[derive(Debug)]
pub struct HandedFlow {
    /// The address that the client writes to, and which of its sockets the kernel gives its datagrams to.
    pub local: SocketAddr,
    pub index: usize,
    pub client: SocketAddr,
    pub endpoint: SocketAddr,
    pub backend: Arc<str>,
    pub answered: bool,
    pub socket: OwnedFd,
}

/// One address on one worker.
pub struct Udp<T: Targets> {
    socket: UdpSocket,
    limits: UdpLimits,
    serving: RefCell<Serving<T>>,
    sessions: RefCell<HashMap<SocketAddr, Held<T>>>,
    scratch: RefCell<Box<[u8]>>,
    /// Sessions of all addresses and workers.
    all: Arc<AtomicUsize>,
    ended: Box<dyn Fn(&SessionEnd)>,
}

/// A session in the table.
struct Held<T: Targets> {
    session: Rc<Session<T>>,
    task: AbortHandle,
}

struct Session<T: Targets> {
    client: SocketAddr,
    socket: UdpSocket,
    endpoint: SocketAddr,
    backend: Arc<str>,
    /// In the generation that is served.
    upstream: Cell<UpstreamId>,
    _load: T::Load,
    _counted: Counted,
    began: SystemTime,
    start: Instant,
    last: Cell<Instant>,
    answered: Cell<bool>,
    received: Cell<u64>,
    sent: Cell<u64>,
}

impl<T: Targets + 'static> Udp<T> {
    /// Serves a socket that is bound to one concrete address. `ended` is told each session that is over.
    pub fn start(
        socket: UdpSocket,
        limits: UdpLimits,
        serving: Serving<T>,
        all: Arc<AtomicUsize>,
        ended: Box<dyn Fn(&SessionEnd)>,
    ) -> Rc<Self> {
        Rc::new(Self {
            socket,
            limits,
            serving: RefCell::new(serving),
            sessions: RefCell::default(),
            scratch: RefCell::new(vec![0; LARGEST].into_boxed_slice()),
            all,
            ended,
        })
    }

    /// Receives for ever; drop it to stop, then [`Udp::close`].
    pub async fn run(self: Rc<Self>) -> io::Result<()> {
        loop {
            self.socket.readable().await?;
            self.take_batch();
            // A flood on one address must not starve the worker.
            tokio::task::yield_now().await;
        }
    }

    fn take_batch(self: &Rc<Self>) {
        let mut scratch = self.scratch.borrow_mut();
        for _ in 0..BATCH {
            match self.socket.try_recv_from(&mut scratch) {
                Ok((count, client)) => self.take(client, scratch.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error about some answer: it concerns nobody else.
                Err(_) => {}
            }
        }
    }

    /// Takes up another generation. Sessions whose backend and endpoint are still there go on.
    pub fn set(self: &Rc<Self>, serving: Serving<T>) {
        let gone: Vec<Held<T>> = {
            let is_let_in = |client: SocketAddr| serving.lets_in(client.ip());
            let stays = |session: &Session<T>| {
                if !is_let_in(session.client) {
                    return false;
                }
                let backends = serving.route.iter().flat_map(|route| &route.backends);
                let mut same = backends.filter(|backend| backend.reference == session.backend).filter_map(target);
                let upstream = same.find(|upstream| serving.targets.has(*upstream, session.endpoint));
                if let Some(upstream) = upstream {
                    session.upstream.set(upstream);
                }
                upstream.is_some()
            };
            let mut sessions = self.sessions.borrow_mut();
            sessions.extract_if(|_, held| !stays(&held.session)).map(|(_, held)| held).collect()
        };
        for held in gone {
            held.task.abort();
            self.note_end(&held.session, Some(Reason::BackendClosed));
        }
        *self.serving.borrow_mut() = serving;
    }

    /// All sessions, for another process; here they are over. Those that descriptors do not suffice for stay, to be closed.
    pub fn hand(&self, local: SocketAddr, index: usize) -> Vec<HandedFlow> {
        let mut handed = Vec::new();
        self.sessions.borrow_mut().retain(|_, held| {
            let Session { client, endpoint, backend, answered, socket, .. } = &*held.session;
            let Ok(socket) = socket.as_fd().try_clone_to_owned() else { return true };
            held.task.abort();
            self.serving.borrow().series.udp_sessions_closed.one();
            let (client, endpoint, backend) = (*client, *endpoint, Arc::clone(backend));
            handed.push(HandedFlow { local, index, client, endpoint, backend, answered: answered.get(), socket });
            false
        });
        handed
    }

    /// Goes on with a session of another process, if its backend and endpoint are still there.
    pub fn resume(self: &Rc<Self>, flow: HandedFlow) {
        let HandedFlow { client, endpoint, backend, answered, socket, .. } = flow;
        let serving = self.serving.borrow();
        if !serving.lets_in(client.ip()) {
            return;
        }
        let backends = serving.route.iter().flat_map(|route| &route.backends);
        let mut same = backends.filter(|known| known.reference == backend).filter_map(target);
        let held = same.find_map(|upstream| Some((upstream, serving.targets.hold(upstream, endpoint)?)));
        let (Some((upstream, load)), Some(counted)) = (held, Counted::new(&self.all, serving.most)) else { return };
        // It is as it was given away: not to be waited for.
        let Ok(socket) = UdpSocket::from_std(socket.into()) else { return };
        let now = Instant::now();
        let session = Rc::new(Session {
            client,
            socket,
            endpoint,
            backend,
            upstream: Cell::new(upstream),
            _load: load,
            _counted: counted,
            began: SystemTime::now(),
            start: now,
            last: Cell::new(now),
            answered: Cell::new(answered),
            received: Cell::new(0),
            sent: Cell::new(0),
        });
        let task = tokio::task::spawn_local(Rc::clone(self).answer(Rc::clone(&session))).abort_handle();
        serving.series.udp_sessions_opened.one();
        self.sessions.borrow_mut().insert(client, Held { session, task });
    }

    /// Ends all sessions.
    pub fn close(&self) {
        let all: Vec<Held<T>> = self.sessions.borrow_mut().drain().map(|(_, held)| held).collect();
        for held in all {
            held.task.abort();
            self.note_end(&held.session, Some(Reason::Draining));
        }
    }

    pub fn sessions(&self) -> usize {
        self.sessions.borrow().len()
    }

    fn take(self: &Rc<Self>, client: SocketAddr, datagram: &[u8]) {
        {
            let serving = self.serving.borrow();
            if !serving.lets_in(client.ip()) {
                return serving.series.count_udp_drop(UdpDrop::SourceForbidden);
            }
            serving.series.udp_datagrams_received.one();
            serving.series.received.add(datagram.len() as u64);
        }
        let known = self.sessions.borrow().get(&client).map(|held| Rc::clone(&held.session));
        let failed = match known {
            Some(session) => match self.forward(&session, datagram) {
                Ok(()) => return,
                Err(error) => {
                    self.fail(&session, &error);
                    Some(session.endpoint)
                }
            },
            None => None,
        };
        match self.open(client, failed) {
            Ok(session) => {
                // A new socket has no error waiting; if it fails at once, the next datagram tries elsewhere.
                if let Err(error) = self.forward(&session, datagram) {
                    self.fail(&session, &error);
                    self.drop_for(UdpDrop::Refused);
                }
            }
            Err(drop) => self.drop_for(drop),
        }
    }

    /// Sends to the endpoint. An error means that the session is of no further use.
    fn forward(&self, session: &Session<T>, datagram: &[u8]) -> io::Result<()> {
        match SockRef::from(&session.socket).send(datagram) {
            Ok(_) => {
                session.received.set(session.received.get() + datagram.len() as u64);
                session.last.set(Instant::now());
                Ok(())
            }
            Err(error) if is_endpoint_gone(&error) => Err(error),
            Err(error) => {
                self.drop_for(drop_of(&error));
                Ok(())
            }
        }
    }

    fn open(self: &Rc<Self>, client: SocketAddr, failed: Option<SocketAddr>) -> Result<Rc<Session<T>>, UdpDrop> {
        if self.sessions.borrow().len() >= self.limits.sessions {
            return Err(UdpDrop::TableFull);
        }
        let serving = self.serving.borrow();
        let admission = serving.route.as_ref().and_then(|route| route.admission.as_ref());
        if admission.is_some_and(|admission| !admission.admits(client.ip())) {
            return Err(UdpDrop::SourceForbidden);
        }
        let counted = Counted::new(&self.all, serving.most).ok_or(UdpDrop::TableFull)?;
        let backends = serving.route.as_ref().map(|route| &*route.backends).unwrap_or_default();
        // "Invalid share must be dropped".
        let census = |upstream| serving.targets.census(upstream);
        let backend = priority::choose(backends, (serving.draw)(), census).ok_or(UdpDrop::InvalidBackend)?;
        let upstream = target(backend).ok_or(UdpDrop::InvalidBackend)?;
        let sticky = serving.route.as_ref().and_then(|route| Sticky::of(route, client.ip()));
        let how = How { client: client.ip(), sticky, balance: backend.balance.as_ref() };
        let (endpoint, load) = serving.targets.pick(upstream, how, failed).ok_or(UdpDrop::NoReadyEndpoint)?;
        let socket = connect(endpoint).map_err(|error| {
            serving.targets.note(upstream, endpoint, Err(&error));
            UdpDrop::Refused
        })?;
        let now = Instant::now();
        let session = Rc::new(Session {
            client,
            socket,
            endpoint,
            backend: Arc::clone(&backend.reference),
            upstream: Cell::new(upstream),
            _load: load,
            _counted: counted,
            began: SystemTime::now(),
            start: now,
            last: Cell::new(now),
            answered: Cell::new(false),
            received: Cell::new(0),
            sent: Cell::new(0),
        });
        let task = tokio::task::spawn_local(Rc::clone(self).answer(Rc::clone(&session))).abort_handle();
        serving.series.udp_sessions_opened.one();
        self.sessions.borrow_mut().insert(client, Held { session: Rc::clone(&session), task });
        Ok(session)
    }

    /// Passes the endpoint's answers on until the session falls idle or the endpoint refuses.
    async fn answer(self: Rc<Self>, session: Rc<Session<T>>) {
        loop {
            let limit = if session.answered.get() { self.limits.idle } else { self.limits.unanswered };
            let deadline = session.last.get() + limit;
            match tokio::time::timeout_at(deadline, session.socket.ready(ANSWER)).await {
                // What came in meanwhile may have moved the deadline.
                Err(_) if session.last.get() + limit > Instant::now() => continue,
                Err(_) => return self.remove(&session, None),
                Ok(Err(error)) => return self.fail(&session, &error),
                Ok(Ok(ready)) if ready.is_error() => {
                    if let Some(error) = pending_error(&session.socket) {
                        return self.fail(&session, &error);
                    }
                }
                Ok(Ok(_)) => {}
            }
            for _ in 0..BATCH {
                let mut scratch = self.scratch.borrow_mut();
                match session.socket.try_recv(&mut scratch) {
                    Ok(count) => self.send_back(&session, scratch.get(..count).unwrap_or_default()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if is_endpoint_gone(&error) => return self.fail(&session, &error),
                    Err(_) => {}
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn send_back(&self, session: &Session<T>, datagram: &[u8]) {
        session.last.set(Instant::now());
        let serving = self.serving.borrow();
        if !session.answered.replace(true) {
            serving.targets.note(session.upstream.get(), session.endpoint, Ok(()));
        }
        match SockRef::from(&self.socket).send_to(datagram, &session.client.into()) {
            Ok(_) => {
                session.sent.set(session.sent.get() + datagram.len() as u64);
                serving.series.udp_datagrams_sent.one();
                serving.series.sent.add(datagram.len() as u64);
            }
            Err(error) => serving.series.count_udp_drop(drop_of(&error)),
        }
    }

    /// The endpoint refuses datagrams (ICMP); the next one of this client goes elsewhere.
    fn fail(&self, session: &Rc<Session<T>>, error: &io::Error) {
        self.serving.borrow().targets.note(session.upstream.get(), session.endpoint, Err(error));
        self.remove(session, Some(Reason::ConnectFailed));
    }

    fn remove(&self, session: &Rc<Session<T>>, reason: Option<Reason>) {
        let held = match self.sessions.borrow_mut().entry(session.client) {
            // The client may have a newer session already.
            Slot::Occupied(slot) if Rc::ptr_eq(&slot.get().session, session) => slot.remove(),
            _ => return,
        };
        self.note_end(session, reason);
        // Its own task may be the one that calls this; then it ends right after.
        held.task.abort();
    }

    fn note_end(&self, session: &Session<T>, reason: Option<Reason>) {
        self.serving.borrow().series.udp_sessions_closed.one();
        (self.ended)(&SessionEnd {
            began: session.began,
            client: session.client,
            backend: Arc::clone(&session.backend),
            endpoint: session.endpoint,
            duration: session.start.elapsed(),
            received: session.received.get(),
            sent: session.sent.get(),
            reason,
        });
    }

    fn drop_for(&self, drop: UdpDrop) {
        self.serving.borrow().series.count_udp_drop(drop);
    }
}

/// A session among those of all workers, until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// `None` at the limit.
    fn new(all: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        // Made first, so that the count is taken back where it is one too many.
        let counted = Self(Arc::clone(all));
        (all.fetch_add(1, Ordering::Relaxed) < most).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn connect(endpoint: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match endpoint {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = Socket::new(Domain::for_address(endpoint), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&any.into())?;
    socket.connect(&endpoint.into())?;
    UdpSocket::from_std(socket.into())
}

/// Takes the error of a socket, and the readiness for it.
fn pending_error(socket: &UdpSocket) -> Option<io::Error> {
    let look = || SockRef::from(socket).take_error()?.ok_or(io::ErrorKind::WouldBlock.into());
    socket.try_io(Interest::ERROR, look).ok()
}

/// What ICMP errors become on a connected socket.
fn is_endpoint_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable)
}

fn drop_of(error: &io::Error) -> UdpDrop {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS) => UdpDrop::Congested,
        _ => UdpDrop::Refused,
    }
}
