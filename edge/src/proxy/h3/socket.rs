//! A worker's UDP socket as quinn wants it: what is another worker's goes there, and what others bring comes from here too.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::steering::{Datagram, Steering};

/// Errors in a row after which others have their turn.
const ERRORS: usize = 16;

pub struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
    worker: usize,
    steering: Arc<Steering>,
    /// None once it is given back.
    handed: Mutex<Option<mpsc::Receiver<Datagram>>>,
}

impl Socket {
    pub fn new(socket: std::net::UdpSocket, worker: usize, steering: &Arc<Steering>) -> io::Result<Self> {
        Ok(Self {
            state: UdpSocketState::new((&socket).into())?,
            socket: UdpSocket::from_std(socket)?,
            worker,
            steering: Arc::clone(steering),
            handed: Mutex::new(steering.take(worker)),
        })
    }

    /// What others brought, as far as there is room.
    fn poll_handed(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        if handed.is_none() {
            // Its last taker may have been about to go.
            *handed = self.steering.take(self.worker);
        }
        let Some(handed) = handed.as_mut() else { return 0 };
        let mut count = 0;
        for (buffer, meta) in bufs.iter_mut().zip(meta) {
            let Poll::Ready(Some(datagram)) = handed.poll_recv(cx) else { break };
            let length = datagram.bytes.len();
            let Some(room) = buffer.get_mut(..length) else { continue };
            room.copy_from_slice(&datagram.bytes);
            let Datagram { from: addr, to: dst_ip, ecn, .. } = datagram;
            *meta = RecvMeta { addr, len: length, stride: length, ecn, dst_ip };
            count += 1;
        }
        count
    }

    /// Passes on what is another worker's. What the kernel has put together is looked at one by one only where the first is.
    fn sort(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        let is_other = |part: &[u8]| self.steering.other(self.worker, part);
        if buffer.chunks(stride).all(|part| is_other(part).is_none()) {
            return;
        }
        let mut kept = 0;
        let mut at = 0;
        while at < meta.len {
            let end = (at + stride).min(meta.len);
            let part = buffer.get(at..end).unwrap_or_default();
            match is_other(part) {
                Some(other) => {
                    let (bytes, from, to, ecn) = (part.into(), meta.addr, meta.dst_ip, meta.ecn);
                    self.steering.pass(other, Datagram { bytes, from, to, ecn });
                }
                None => {
                    buffer.copy_within(at..end, kept);
                    kept += end - at;
                }
            }
            at = end;
        }
        meta.len = kept;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let handed = self.handed.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(handed) = handed.take() {
            self.steering.give_back(self.worker, handed);
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("socket", &self.socket).field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self, wait: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_io(Interest::WRITABLE, || self.state.send((&self.socket).into(), transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let handed = self.poll_handed(cx, bufs, meta);
        if handed > 0 {
            return Poll::Ready(Ok(handed));
        }
        for _ in 0..ERRORS {
            ready!(self.socket.poll_recv_ready(cx))?;
            let received =
                self.socket.try_io(Interest::READABLE, || self.state.recv((&self.socket).into(), bufs, meta));
            // An error is about some datagram that was sent: it concerns nobody else.
            if let Ok(count) = received {
                for (buffer, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(count) {
                    let length = meta.len.min(buffer.len());
                    self.sort(buffer.get_mut(..length).unwrap_or_default(), meta);
                }
                return Poll::Ready(Ok(count));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

type Wait = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// One of many that wait for room to send.
struct Poller {
    socket: Arc<Socket>,
    wait: Option<Wait>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

impl UdpPoller for Poller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let wait = this.wait.get_or_insert_with(|| {
            let socket = Arc::clone(&this.socket);
            Box::pin(async move { socket.socket.writable().await })
        });
        let outcome = ready!(wait.as_mut().poll(cx));
        this.wait = None;
        Poll::Ready(outcome)
    }
}
