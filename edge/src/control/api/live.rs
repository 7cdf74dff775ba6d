//! Answers that go on: one JSON value per line (application/x-ndjson), as long as the reader stays. Few at a time, each with
//! a bounded queue: whoever reads too slowly misses lines and is told how many.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::PATIENCE;
use super::pages::{Answer, error};
use crate::control::log::{Ask, Item, Line};
use crate::control::top::{self, Frames};
use crate::control::world::Handle;
use crate::logging::ring::Ring;
use crate::proxy::metrics::{Sample, WorkerMetrics};
use crate::proxy::tap::meter::Meter;
use crate::proxy::tap::{self, Tap, Taps};

/// At the same time, of all kinds.
const MOST: usize = 16;
/// Chunks that wait for one reader.
const QUEUE: usize = 8;
/// Bytes that are put together for one reader, about.
const CHUNK: usize = 32 << 10;
/// From one look at the log to the next, at least.
const PACE: Duration = Duration::from_millis(50);
/// Lines of the log in one look.
const BATCH: usize = 256;

/// What there is to look at as it happens.
#[derive(Clone)]
pub struct Sights {
    ring: Arc<Ring>,
    taps: Arc<Taps>,
    workers: Arc<[Arc<WorkerMetrics>]>,
    places: Arc<Semaphore>,
}

impl Sights {
    pub fn new(ring: Arc<Ring>, taps: Arc<Taps>, workers: &[Arc<WorkerMetrics>]) -> Self {
        Self { ring, taps, workers: workers.into(), places: Arc::new(Semaphore::new(MOST)) }
    }

    /// A place for one more answer that goes on.
    fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }
}

fn no_place() -> Answer {
    let reason = format!("{MOST} readers follow logs, requests or figures already; one of them must go first");
    error(StatusCode::SERVICE_UNAVAILABLE, &reason)
}

impl Default for Sights {
    fn default() -> Self {
        Self::new(Arc::default(), Arc::new(Taps::new(0)), &[])
    }
}

/// In the extensions of an answer that may take longer than others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Live;

/// Chunks from a task.
struct Chunks(mpsc::Receiver<Bytes>);

impl HttpBody for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

fn going_on(body: impl HttpBody<Data = Bytes, Error = Infallible> + Send + 'static) -> Answer {
    let mut answer = Response::new(body.boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer.extensions_mut().insert(Live);
    answer
}

fn put(out: &mut Vec<u8>, item: &impl Serialize) {
    // Plain values, for which it cannot fail.
    if serde_json::to_writer(&mut *out, item).is_ok() {
        out.push(b'\n');
    }
}

/// The newest lines of the log, and further ones as they come.
pub(super) fn log(sights: &Sights, body: &[u8]) -> Answer {
    let ask: Ask = match serde_json::from_slice(body) {
        Ok(ask) => ask,
        Err(fault) => return error(StatusCode::BAD_REQUEST, &format!("body: {fault}")),
    };
    let Some(place) = sights.enter() else { return no_place() };
    let (send, receive) = mpsc::channel(QUEUE);
    let ring = Arc::clone(&sights.ring);
    tokio::spawn(async move {
        // Ends when the reader has gone: then there is nobody to send to.
        tokio::select! {
            () = tell_log(&ring, &ask, &send) => {}
            () = send.closed() => {}
        }
        drop(place);
    });
    going_on(Chunks(receive))
}

async fn tell_log(ring: &Ring, ask: &Ask, send: &mpsc::Sender<Bytes>) {
    let follower = ring.follow();
    let mut news = follower.news();
    let mut found = ring.after(0, ask.lines as usize, |line| ask.passes(line));
    // What was forgotten before anybody asked is no news.
    found.missed = 0;
    loop {
        for lines in found.lines.chunks(BATCH) {
            let mut chunk = Vec::new();
            lines.iter().for_each(|line| put(&mut chunk, &Item::Line(Line::from(line))));
            if send.send(chunk.into()).await.is_err() {
                return;
            }
        }
        if !ask.follow {
            return;
        }
        news.await;
        // With libraries at trace, to tell a line makes further ones.
        tokio::time::sleep(PACE).await;
        news = follower.news();
        found = ring.after(found.next, usize::MAX, |line| ask.passes(line));
        if found.missed > 0 {
            let mut chunk = Vec::new();
            put(&mut chunk, &Item::Missed { missed: found.missed });
            if send.send(chunk.into()).await.is_err() {
                return;
            }
        }
    }
}

/// Requests as they happen.
pub(super) async fn tap(sights: &Sights, body: &[u8]) -> Answer {
    let ask: tap::ask::Ask = match serde_json::from_slice(body) {
        Ok(ask) => ask,
        Err(fault) => return error(StatusCode::BAD_REQUEST, &format!("body: {fault}")),
    };
    if let Err(fault) = ask.check() {
        return error(StatusCode::BAD_REQUEST, &fault);
    }
    let Some(place) = sights.enter() else { return no_place() };
    tracing::info!(host = %ask.host, "requests are shown, by command");
    let (tap, lines) = Tap::new(ask);
    let opened = sights.taps.open(&tap);
    // Whoever sees the head of the answer sees every request from then on.
    opened.until_live(PATIENCE).await;
    let (send, receive) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        tokio::select! {
            () = tell_requests(&tap, lines, &send) => {}
            () = send.closed() => {}
        }
        drop(opened);
        drop(place);
    });
    going_on(Chunks(receive))
}

async fn tell_requests(tap: &Tap, mut lines: mpsc::UnboundedReceiver<Bytes>, send: &mpsc::Sender<Bytes>) {
    let mut left = tap.count().unwrap_or(u64::MAX);
    while left > 0 {
        let mut next = tokio::select! {
            biased;
            line = lines.recv() => line,
            // The reader is told of it when it has what came before.
            () = tap.loss() => None,
        };
        let mut chunk = Vec::new();
        while let Some(line) = next.take() {
            tap.took(&line);
            chunk.extend_from_slice(&line);
            left = left.saturating_sub(1);
            next = if chunk.len() < CHUNK { lines.try_recv().ok() } else { None };
        }
        let missed = tap.lost();
        if missed > 0 {
            left = left.saturating_sub(missed);
            put(&mut chunk, &Item::Missed { missed });
        }
        if !chunk.is_empty() && send.send(chunk.into()).await.is_err() {
            return;
        }
    }
}

/// Figures, over and over.
pub(super) async fn top(sights: &Sights, handle: &Handle, body: &[u8]) -> Answer {
    let ask: top::Ask = match serde_json::from_slice(body) {
        Ok(ask) => ask,
        Err(fault) => return error(StatusCode::BAD_REQUEST, &format!("body: {fault}")),
    };
    let interval = match ask.check() {
        Ok(interval) => interval,
        Err(fault) => return error(StatusCode::BAD_REQUEST, &fault),
    };
    let Some(place) = sights.enter() else { return no_place() };
    let meter = Arc::new(Meter::new(sights.taps.workers()));
    let opened = sights.taps.measure(&meter);
    opened.until_live(PATIENCE).await;
    let (send, receive) = mpsc::channel(1);
    let (handle, workers) = (handle.clone(), Arc::clone(&sights.workers));
    tokio::spawn(async move {
        let mut frames = Frames::default();
        let mut last = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = send.closed() => break,
            }
            // A reader that is slow gets fewer frames, each of a longer time.
            let Ok(free) = send.reserve().await else { break };
            let now = Instant::now();
            let over = now.duration_since(std::mem::replace(&mut last, now));
            let connections = Sample::take(&workers, false).connections();
            let frame = frames.next(handle.now(), &meter.take(), connections, over, ask.rows);
            let mut chunk = Vec::new();
            put(&mut chunk, &frame);
            free.send(chunk.into());
        }
        drop(opened);
        drop(place);
    });
    going_on(Chunks(receive))
}
