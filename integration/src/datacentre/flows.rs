//! Flows of a client that ask again and again and count every answer that does not come.
//!
//! Flows in: where to, how, how often. Flows out: a [`Tally`] for each flow. A flow of UDP keeps its source port, so it
//! stays on one way through the network; a flow of TCP or HTTP opens a connection for each question, or keeps one.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, timeout};

use crate::netns::{Namespace, enter};

/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(1);
const BUFFER: usize = 8192;

#[derive(Debug, Clone)]
pub enum Ask {
    /// A datagram with a number, which comes back.
    Udp,
    /// A connection for each question, whose first bytes come back.
    Tcp,
    /// A connection for each request.
    Http { host: String },
    /// One connection for all of them. As clients do, a question on a kept connection that ends without one byte of an
    /// answer is asked once more on a new one (RFC 9112 §9.3.1); only then it is lost.
    HttpKept { host: String },
}

#[derive(Debug, Clone)]
pub struct Flow {
    pub ask: Ask,
    pub to: SocketAddr,
    pub every: Duration,
}

impl Flow {
    pub fn new(ask: Ask, to: SocketAddr, every: Duration) -> Self {
        Self { ask, to, every }
    }
}

/// What became of one flow.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub asked: u64,
    pub answered: u64,
    /// Between two answers, less the time between two questions: how long it was out.
    pub longest_gap: Duration,
    /// When that gap began.
    pub gap_at: Option<Instant>,
    /// Questions that were asked once more.
    pub repeated: u64,
    /// Reason → how often.
    pub failures: BTreeMap<String, u64>,
    /// Who answered, how often.
    pub by: BTreeMap<String, u64>,
}

impl Tally {
    pub fn lost(&self) -> u64 {
        self.asked.saturating_sub(self.answered)
    }

    fn answer(&mut self, last: &mut Instant, every: Duration, by: String) {
        let now = Instant::now();
        let gap = now.duration_since(*last).saturating_sub(every);
        if gap > self.longest_gap {
            (self.longest_gap, self.gap_at) = (gap, Some(*last));
        }
        *last = now;
        self.answered += 1;
        *self.by.entry(by).or_default() += 1;
    }
}

/// Flows that run until they are stopped.
pub struct Flows {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Tally>>>,
}

impl Flows {
    /// Inside a namespace, all on one thread.
    pub fn start(inside: &Namespace, flows: Vec<Flow>) -> Self {
        Self::start_in(inside.name(), flows)
    }

    /// The same by the namespace's name.
    pub fn start_in(namespace: &str, flows: Vec<Flow>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, name) = (Arc::clone(&stop), namespace.to_owned());
        let thread = std::thread::spawn(move || {
            enter(&name).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, async {
                let tasks: Vec<_> =
                    flows.into_iter().map(|flow| tokio::task::spawn_local(run(flow, Arc::clone(&stopped)))).collect();
                let mut tallies = Vec::new();
                for task in tasks {
                    tallies.push(task.await.unwrap());
                }
                tallies
            })
        });
        Self { stop, thread: Some(thread) }
    }

    /// One tally for each flow, in their order.
    pub fn stop(mut self) -> Vec<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn run(flow: Flow, stop: Arc<AtomicBool>) -> Tally {
    match flow.ask {
        Ask::Udp => udp(&flow, &stop).await,
        Ask::Tcp | Ask::Http { .. } | Ask::HttpKept { .. } => streams(&flow, &stop).await,
    }
}

/// Questions leave at their pace whether answers come or not; one that comes late is one that came.
async fn udp(flow: &Flow, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let any = if flow.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await.unwrap();
    socket.connect(flow.to).await.unwrap();
    let mut pace = tokio::time::interval(flow.every);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    let mut buffer = vec![0; BUFFER];
    let mut end: Option<Instant> = None;
    loop {
        if stop.load(Ordering::Relaxed) && end.is_none() {
            end = Some(Instant::now() + PATIENCE);
        }
        if end.is_some_and(|end| Instant::now() >= end || tally.lost() == 0) {
            return tally;
        }
        tokio::select! {
            received = socket.recv(&mut buffer) => match received {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    let by = text.split(':').next().unwrap_or_default().to_owned();
                    tally.answer(&mut last, flow.every, by);
                }
                // ICMP says that nobody is there, and a later question may find somebody.
                Err(error) => *tally.failures.entry(error.to_string()).or_default() += 1,
            },
            _ = pace.tick() => if end.is_none() {
                tally.asked += 1;
                if let Err(error) = socket.send(tally.asked.to_string().as_bytes()).await {
                    *tally.failures.entry(error.to_string()).or_default() += 1;
                }
            },
        }
    }
}

/// One question at a time.
async fn streams(flow: &Flow, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut pace = tokio::time::interval(flow.every);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    let mut kept = None;
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        tally.asked += 1;
        let outcome = match timeout(PATIENCE, question(flow, &mut kept, &mut tally.repeated)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        };
        match outcome {
            Ok(by) => tally.answer(&mut last, flow.every, by),
            Err(error) => {
                kept = None;
                *tally.failures.entry(error.to_string()).or_default() += 1;
            }
        }
    }
    tally
}

/// Who answered.
async fn question(flow: &Flow, kept: &mut Option<TcpStream>, repeated: &mut u64) -> io::Result<String> {
    let (host, is_kept) = match &flow.ask {
        Ask::Http { host } => (host, false),
        Ask::HttpKept { host } => (host, true),
        Ask::Tcp | Ask::Udp => return echo(TcpStream::connect(flow.to).await?).await,
    };
    if let Some(stream) = kept.take() {
        match http(stream, host, is_kept, kept).await {
            Err(Failure { is_silent: true, .. }) => *repeated += 1,
            outcome => return outcome.map_err(|failure| failure.error),
        }
    }
    let stream = TcpStream::connect(flow.to).await?;
    http(stream, host, is_kept, kept).await.map_err(|failure| failure.error)
}

struct Failure {
    error: io::Error,
    /// Not one byte of an answer came.
    is_silent: bool,
}

async fn http(
    mut stream: TcpStream,
    host: &str,
    is_kept: bool,
    kept: &mut Option<TcpStream>,
) -> Result<String, Failure> {
    let connection = if is_kept { "keep-alive" } else { "close" };
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n\r\n");
    let silent = |error| Failure { error, is_silent: true };
    stream.set_nodelay(true).map_err(silent)?;
    stream.write_all(request.as_bytes()).await.map_err(silent)?;
    let mut answer = Vec::with_capacity(BUFFER);
    loop {
        let is_silent = answer.is_empty();
        let failed = |error| Failure { error, is_silent };
        if let Some((by, is_whole)) = read_answer(&answer).map_err(failed)?
            && is_whole
        {
            let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
            if is_kept && !head.contains("\r\nconnection: close\r\n") {
                *kept = Some(stream);
            }
            return Ok(by);
        }
        if stream.read_buf(&mut answer).await.map_err(failed)? == 0 {
            return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, "ended in the middle of an answer")));
        }
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<String> {
    stream.write_all(b"?").await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"?") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "ended in the middle of an answer"));
        }
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    Ok(text.split(['\n', '\r', ':', '?']).next().unwrap_or_default().to_owned())
}

/// `x-backend` of an answer whose head is there, and whether its body is, too. Anything but 200 is a failure.
fn read_answer(bytes: &[u8]) -> io::Result<Option<(String, bool)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        return Err(io::Error::other(format!("answered with {status}")));
    }
    let field = |name: &str| {
        let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let by = field("x-backend").unwrap_or_default();
    let body = &bytes[end + 4..];
    let is_whole = match field("content-length").and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => body.len() >= length,
        None => body.ends_with(b"0\r\n\r\n"),
    };
    Ok(Some((by, is_whole)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let whole = |text: &str| read_answer(text.as_bytes());
        assert_eq!(whole("HTTP/1.1 200 OK\r\nX-Back").unwrap(), None);
        let head = "HTTP/1.1 200 OK\r\nX-Backend: shop-1\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(whole(head).unwrap(), Some(("shop-1".to_owned(), false)));
        assert_eq!(whole(&format!("{head}abc")).unwrap(), Some(("shop-1".to_owned(), true)));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        assert_eq!(whole(chunked).unwrap(), Some((String::new(), true)));
        assert!(whole("HTTP/1.1 503 Service Unavailable\r\n\r\n").is_err());
    }

    #[test]
    fn gaps() {
        let mut tally = Tally { asked: 3, ..Tally::default() };
        let mut last = Instant::now() - Duration::from_secs(2);
        tally.answer(&mut last, Duration::from_secs(1), "a".to_owned());
        tally.answer(&mut last, Duration::from_secs(1), "b".to_owned());
        assert_eq!((tally.lost(), tally.by.len()), (1, 2));
        assert!(tally.longest_gap >= Duration::from_secs(1) && tally.longest_gap < Duration::from_secs(60));
    }
}
