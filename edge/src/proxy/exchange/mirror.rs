//! RequestMirror: copies of a request, sent beside it and never waited for. A copy that cannot keep up with the client
//! is given up, because the main request must not feel it.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use edge_config::snapshot::{Balance, Mirror};
use tokio::sync::mpsc;

use crate::proxy::body::{Chunk, StreamError};
use crate::proxy::filters;
use crate::proxy::message::{RequestHead, ResponseHead};
use crate::proxy::proxy_protocol::Origin;
use crate::proxy::upstream::{Dialer, Download, Lease, Upload, Upstream};
use crate::proxy::worker::{Current, Worker};

/// Chunks that may wait for a mirror.
const QUEUE: usize = 16;
/// Mirrors at work on one worker; beyond it no copy is made.
const MOST: usize = 256;
/// A copy and its answer take no longer.
const DEADLINE: Duration = Duration::from_secs(30);
/// An answer is read up to here, so that the connection can be used again.
const MOST_ANSWER: u64 = 1 << 20;

enum Part {
    Chunk(Bytes),
    End,
}

/// The copies of one request.
#[derive(Default)]
pub struct Copies {
    queues: Vec<mpsc::Sender<Part>>,
}

impl Copies {
    /// Draws which mirrors fire, and starts them with the head as it stands.
    pub fn start<'m>(
        worker: &Rc<Worker>,
        current: &Rc<Current>,
        mirrors: impl Iterator<Item = &'m [Mirror]>,
        head: &RequestHead,
        client: Origin,
    ) -> Self {
        let mut copies = Self::default();
        for mirrors in mirrors.filter(|mirrors| !mirrors.is_empty()) {
            for target in filters::mirror::firing(mirrors, || worker.random.next_u32()) {
                let Some(upstream) = current.upstream(target) else { continue };
                let Some(place) = worker.mirrors.enter(MOST) else { continue };
                let (sender, receiver) = mpsc::channel(QUEUE);
                let (worker, upstream, head) = (Rc::clone(worker), Rc::clone(upstream), head.clone());
                let current = Rc::clone(current);
                tokio::task::spawn_local(async move {
                    let _place = place;
                    let timer = worker.clock.timer();
                    let dialer = worker.dialer(&current, Some(client));
                    // What becomes of a copy concerns nobody; its endpoint's failures are noted by the lease.
                    let _ = timer.within(DEADLINE, send(&worker, dialer, &upstream, &head, receiver)).await;
                });
                copies.queues.push(sender);
            }
        }
        copies
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if self.queues.is_empty() {
            return;
        }
        let bytes = Bytes::copy_from_slice(bytes);
        self.queues.retain(|queue| queue.try_send(Part::Chunk(bytes.clone())).is_ok());
    }

    pub fn end(&mut self) {
        for queue in self.queues.drain(..) {
            let _ = queue.try_send(Part::End);
        }
    }
}

async fn send(
    worker: &Worker,
    dialer: Dialer<'_>,
    upstream: &Upstream,
    head: &RequestHead,
    parts: mpsc::Receiver<Part>,
) -> Result<(), StreamError> {
    let Some(endpoint) = upstream.pick(&Balance::RoundRobin, &worker.random, None) else { return Ok(()) };
    let Ok(mut lease) = Lease::new(upstream, endpoint, false, dialer).await else { return Ok(()) };
    let whole = match lease.call(head) {
        Some(call) => {
            let (up, down) = call.map_err(|_| StreamError::Closed)?.halves();
            copy(up, down, parts).await?
        }
        None => {
            let Some(connection) = lease.connection() else { return Ok(()) };
            connection.begin(head);
            let (up, down) = connection.halves(head.is_head());
            copy(up, down, parts).await?
        }
    };
    if whole {
        lease.finish(true);
    }
    Ok(())
}

/// Sends the copy and reads the answer away; `false` where the rest of that was not worth it.
async fn copy(
    mut up: impl Upload,
    mut down: impl Download,
    mut parts: mpsc::Receiver<Part>,
) -> Result<bool, StreamError> {
    loop {
        match parts.recv().await {
            Some(Part::Chunk(bytes)) => up.chunk(Chunk::Shared(bytes)).await?,
            Some(Part::End) => break,
            // The client went away, or was too fast: a cut-off copy must not look whole.
            None => return Err(StreamError::Closed),
        }
    }
    up.finish(None).await?;
    let mut response = ResponseHead::default();
    loop {
        down.head(&mut response).await?;
        if response.status >= 200 {
            break;
        }
    }
    let mut read = 0;
    while let Some(chunk) = down.next().await? {
        read += chunk.as_slice().len() as u64;
        if read > MOST_ANSWER {
            return Ok(false);
        }
    }
    Ok(true)
}
