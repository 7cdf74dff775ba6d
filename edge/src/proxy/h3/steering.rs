//! Keeps a QUIC connection with its worker, whatever the address of its client becomes.
//!
//! The kernel chooses among the sockets of an address by the client's address and port (SO_REUSEPORT). A client that moves
//! to another one (RFC 9000 §9) therefore comes to any worker. Connection IDs say whose they are: the last byte is the
//! worker's index, masked by a keyed hash of the others, so that nobody outside can link two IDs by it (§5.1). A worker
//! that receives what is another's hands it over through a bounded queue; what does not fit is lost, as any datagram may be.
//! The number of workers is that of the process, and the key is its own: IDs of an earlier process lead to any worker, which
//! answers with a stateless reset.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use aws_lc_rs::{hkdf, hmac};
use quinn::crypto::{HandshakeTokenKey, HmacKey};
use quinn::udp::EcnCodepoint;
use quinn::{ConnectionId, ConnectionIdGenerator};
use tokio::sync::mpsc;

/// Bytes of the IDs that we give out.
pub const CID: usize = 8;
/// Datagrams that wait for another worker, per worker and address.
const QUEUE: usize = 256;
/// Bit of a long header; the two below the next say which packet it is (RFC 9000 §17.2).
const LONG: u8 = 0x80;
const HANDSHAKE: u8 = 0x20;

/// What QUIC is keyed with, the same at every start: a client of a process that is gone is told so by the next one.
#[derive(Clone)]
pub struct Keys {
    pub reset: Arc<dyn HmacKey>,
    pub token: Arc<dyn HandshakeTokenKey>,
}

impl Keys {
    pub fn new(secret: &[u8]) -> Self {
        let derive = |label: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), label);
        let reset = hmac::Key::new(hmac::HMAC_SHA256, derive(b"edge quic stateless reset v1").as_ref());
        let token = hkdf::Salt::new(hkdf::HKDF_SHA256, b"edge quic retry v1").extract(secret);
        Self { reset: Arc::new(reset), token: Arc::new(token) }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys([redacted])")
    }
}

/// A datagram on its way to its worker.
#[derive(Debug)]
pub struct Datagram {
    pub bytes: Box<[u8]>,
    pub from: SocketAddr,
    pub to: Option<IpAddr>,
    pub ecn: Option<EcnCodepoint>,
}

/// What the sockets of one address share.
pub struct Steering {
    pub keys: Keys,
    mask: RandomState,
    queues: Vec<Queue>,
    /// Connections of all workers.
    connections: AtomicUsize,
}

/// A connection, until it is dropped.
pub struct Alive(Arc<Steering>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Queue {
    sender: mpsc::Sender<Datagram>,
    /// Until its worker has it.
    receiver: Mutex<Option<mpsc::Receiver<Datagram>>>,
}

impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steering").field("workers", &self.queues.len()).finish_non_exhaustive()
    }
}

impl Steering {
    pub fn new(workers: usize, keys: Keys) -> Arc<Self> {
        let queue = |_| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            Queue { sender, receiver: Mutex::new(Some(receiver)) }
        };
        let (mask, connections) = (RandomState::new(), AtomicUsize::new(0));
        Arc::new(Self { keys, mask, queues: (0..workers).map(queue).collect(), connections })
    }

    /// Counts a connection.
    pub fn enter(self: &Arc<Self>) -> Alive {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Alive(Arc::clone(self))
    }

    /// Whether no worker has a connection. As long as one has, each must read its socket: the kernel deals to all of them.
    pub fn is_idle(&self) -> bool {
        self.connections.load(Ordering::Relaxed) == 0
    }

    /// What others hand over to a worker. There is one taker per worker at a time; it gives back what it took.
    pub fn take(&self, worker: usize) -> Option<mpsc::Receiver<Datagram>> {
        self.queues.get(worker)?.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn give_back(&self, worker: usize, receiver: mpsc::Receiver<Datagram>) {
        if let Some(queue) = self.queues.get(worker) {
            *queue.receiver.lock().unwrap_or_else(PoisonError::into_inner) = Some(receiver);
        }
    }

    /// The worker that a datagram is for, where it is known to be another than this one.
    pub fn other(&self, worker: usize, datagram: &[u8]) -> Option<usize> {
        if self.queues.len() < 2 {
            return None;
        }
        let owner = self.owner(destination(datagram)?);
        (owner != worker && owner < self.queues.len()).then_some(owner)
    }

    /// Hands a datagram over, or drops it where too many wait.
    pub fn pass(&self, worker: usize, datagram: Datagram) {
        if let Some(queue) = self.queues.get(worker) {
            // A full queue is loss, which QUIC recovers from.
            let _ = queue.sender.try_send(datagram);
        }
    }

    fn mask(&self, nonce: &[u8]) -> u8 {
        self.mask.hash_one(nonce) as u8
    }

    fn owner(&self, id: &[u8; CID]) -> usize {
        let (last, nonce) = id.split_last().unwrap_or((&0, &[]));
        usize::from(last ^ self.mask(nonce))
    }
}

/// The ID that a datagram is addressed to, where it is one of ours: in packets of an established connection, and in those of a
/// handshake that we have answered. A client's first packets have an ID of its own making.
fn destination(datagram: &[u8]) -> Option<&[u8; CID]> {
    let (first, rest) = datagram.split_first()?;
    if first & LONG == 0 {
        return rest.first_chunk();
    }
    // Version, length of the ID, the ID.
    let (length, rest) = rest.get(4..)?.split_first()?;
    if first & 0x30 != HANDSHAKE || usize::from(*length) != CID {
        return None;
    }
    rest.first_chunk()
}

/// Makes the IDs of one worker.
pub struct Ids {
    steering: Arc<Steering>,
    worker: u8,
}

impl Ids {
    /// `None` for a worker beyond those that an ID can name.
    pub fn new(steering: &Arc<Steering>, worker: usize) -> Option<Self> {
        Some(Self { steering: Arc::clone(steering), worker: u8::try_from(worker).ok()? })
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CID];
        if let Some((last, nonce)) = id.split_last_mut() {
            // The system's generator does not fail once it has begun; an ID that is known would be made again.
            let _ = SystemRandom::new().fill(nonce);
            *last = self.worker ^ self.steering.mask(nonce);
        }
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CID
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(id: &[u8]) -> Vec<u8> {
        [&[0x40], id, b"protected"].concat()
    }

    fn long(kind: u8, id: &[u8]) -> Vec<u8> {
        [&[LONG | 0x40 | kind, 0, 0, 0, 1, id.len() as u8], id, &[0]].concat()
    }

    #[test]
    fn every_id_leads_to_its_worker() {
        let steering = Steering::new(3, Keys::new(b"test"));
        let mut last = [0_usize; 3];
        for (worker, plain) in last.iter_mut().enumerate() {
            let mut ids = Ids::new(&steering, worker).unwrap();
            for _ in 0..1000 {
                let id = ids.generate_cid();
                *plain += usize::from(id[CID - 1] == worker as u8);
                for here in 0..3 {
                    let expected = (here != worker).then_some(worker);
                    assert_eq!(steering.other(here, &short(&id)), expected);
                    assert_eq!(steering.other(here, &long(HANDSHAKE, &id)), expected);
                    // Initial, 0-RTT and Retry have IDs of the client.
                    for kind in [0x00, 0x10, 0x30] {
                        assert_eq!(steering.other(here, &long(kind, &id)), None);
                    }
                }
            }
        }
        assert!(last.iter().all(|count| *count < 50), "the worker is to be seen in its IDs: {last:?}");
        assert!(Ids::new(&steering, 256).is_none());
    }

    #[test]
    fn what_has_no_id_of_ours_stays() {
        let steering = Steering::new(2, Keys::new(b"test"));
        for datagram in [
            &b""[..],
            b"\x40",
            b"\x40short",
            b"\xe0",
            b"\xe0\0\0\0\x01",
            b"\xe0\0\0\0\x01\x08seven..",
            &long(HANDSHAKE, b"another length"),
        ] {
            assert_eq!(steering.other(0, datagram), None, "{datagram:x?}");
        }
        let alone = Steering::new(1, Keys::new(b"test"));
        assert_eq!(alone.other(0, &short(b"anything")), None);
    }

    #[test]
    fn a_full_queue_loses_what_comes_next() {
        let steering = Steering::new(2, Keys::new(b"test"));
        let datagram =
            |byte| Datagram { bytes: Box::new([byte]), from: ([127, 0, 0, 1], 1).into(), to: None, ecn: None };
        for _ in 0..QUEUE + 10 {
            steering.pass(1, datagram(1));
        }
        let mut taken = steering.take(1).unwrap();
        assert!(steering.take(1).is_none(), "one taker at a time");
        assert_eq!(std::iter::from_fn(|| taken.try_recv().ok()).count(), QUEUE);
        steering.give_back(1, taken);
        assert!(steering.take(1).is_some());
    }

    #[test]
    fn keys_are_those_of_their_secret() {
        let sign = |secret: &[u8]| {
            let mut out = [0; 32];
            Keys::new(secret).reset.sign(b"an id", &mut out);
            out
        };
        assert_eq!(sign(b"one"), sign(b"one"));
        assert_ne!(sign(b"one"), sign(b"two"));
        assert_eq!(format!("{:?}", Keys::new(b"one")), "Keys([redacted])");
    }
}
