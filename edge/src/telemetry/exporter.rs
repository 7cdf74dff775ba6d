//! The thread that exports: it gathers for a moment, sends, and waits longer after each failure.
//!
//! OTLP says which failures are worth another try of the same message; the others cost it. Either way nothing new is sent
//! before the wait is over: meanwhile spans wait in the queue, and what finds no room there is dropped.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use edge_config::settings::{Collector, OtlpProtocol};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::{Trouble, files, grpc, http, otlp};
use crate::kubernetes::backoff::Backoff;
use crate::proxy::trace::{Batch, Tally};

/// So long spans are gathered before they are sent.
const GATHER: Duration = Duration::from_secs(1);
/// Bytes of spans in one message.
const MOST: usize = 512 << 10;
/// So long one message is tried.
const PERSIST: Duration = Duration::from_secs(60);
/// How soon the end is noticed while nothing else is to be done.
const LOOK: Duration = Duration::from_millis(100);
/// Of what a collector says.
const LONGEST: usize = 200;

/// Why a message was not taken.
#[derive(Debug)]
pub struct Fault {
    pub why: String,
    pub again: Again,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// The same message would fare no better.
    No,
    /// Not before this.
    After(Option<Duration>),
}

impl Fault {
    pub fn passing(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: Again::After(None) }
    }

    pub fn lasting(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: Again::No }
    }
}

pub struct Exporter {
    collector: Collector,
    resource: Vec<u8>,
    client: Option<(Vec<u8>, Client)>,
    backoff: Backoff,
    tally: Arc<Tally>,
    trouble: Trouble,
}

enum Client {
    Http(Box<http::Client>),
    Grpc(grpc::Client),
}

impl Exporter {
    pub fn new(collector: Collector, tally: Arc<Tally>, trouble: Trouble) -> Self {
        let resource = otlp::resource(&collector);
        Self { collector, resource, client: None, backoff: Backoff::default(), tally, trouble }
    }

    /// Exports until nobody traces any more and nothing is left.
    pub async fn run(mut self, mut spans: UnboundedReceiver<Batch>) {
        while let Some(first) = spans.recv().await {
            let mut size = first.bytes.len();
            let mut batches = vec![first];
            let end = Instant::now() + GATHER;
            while size < MOST {
                match tokio::time::timeout_at(end, spans.recv()).await {
                    Ok(Some(batch)) => {
                        size += batch.bytes.len();
                        batches.push(batch);
                    }
                    Ok(None) | Err(_) => break,
                }
            }
            self.export(&batches, &spans).await;
        }
    }

    async fn export(&mut self, batches: &[Batch], spans: &UnboundedReceiver<Batch>) {
        let count: u64 = batches.iter().map(|batch| batch.count).sum();
        let message = Bytes::from(otlp::request(&self.resource, batches));
        let end = Instant::now() + PERSIST;
        loop {
            match self.send(message.clone()).await {
                Ok(response) => {
                    self.backoff.reset();
                    let partial = response.partial_success.unwrap_or_default();
                    let rejected = u64::try_from(partial.rejected).unwrap_or_default().min(count);
                    self.tally.exported.fetch_add(count - rejected, Ordering::Relaxed);
                    self.tally.failed.fetch_add(rejected, Ordering::Relaxed);
                    let why = format!("refuses some spans: {}", said(partial.message.as_bytes()));
                    self.tell((rejected > 0).then_some(why));
                    return;
                }
                Err(Fault { why, again }) => {
                    self.tell(Some(format!("takes no spans: {why}")));
                    let is_lost = again == Again::No || spans.is_closed() || Instant::now() >= end;
                    if is_lost {
                        self.tally.failed.fetch_add(count, Ordering::Relaxed);
                    }
                    let asked = match again {
                        Again::After(asked) => asked,
                        Again::No => None,
                    };
                    self.wait(asked, spans).await;
                    if is_lost {
                        return;
                    }
                }
            }
        }
    }

    /// Until the next request, but not longer than anybody traces.
    async fn wait(&mut self, asked: Option<Duration>, spans: &UnboundedReceiver<Batch>) {
        let end = Instant::now() + self.backoff.next(asked);
        while Instant::now() < end && !spans.is_closed() {
            tokio::time::sleep_until(end.min(Instant::now() + LOOK)).await;
        }
    }

    async fn send(&mut self, message: Bytes) -> Result<otlp::Response, Fault> {
        let fields = self.collector.headers_file.as_deref().map(files::fields).transpose().map_err(Fault::passing)?;
        let fields = fields.unwrap_or_default();
        let ca = self.collector.ca_file.as_deref().map(files::read).transpose().map_err(Fault::passing)?;
        let ca = ca.unwrap_or_default();
        let client = match &mut self.client {
            Some((of, client)) if *of == ca => client,
            other => {
                let client = match self.collector.protocol {
                    OtlpProtocol::HttpProtobuf => Client::Http(Box::new(http::Client::new(&self.collector, &ca)?)),
                    OtlpProtocol::Grpc => Client::Grpc(grpc::Client::new(&self.collector, &ca)?),
                };
                &mut other.insert((ca, client)).1
            }
        };
        match client {
            Client::Http(client) => client.send(message, fields).await,
            Client::Grpc(client) => client.send(message, fields).await,
        }
    }

    /// What is wrong is in the status as long as it is; the log tells when it changes.
    fn tell(&self, trouble: Option<String>) {
        let line = trouble.map(|what| format!("tracing: {} {what}", self.collector.endpoint));
        let mut known = self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match (&*known, &line) {
            (before, Some(line)) if before.as_ref() != Some(line) => tracing::warn!("{line}"),
            (Some(_), None) => tracing::info!("tracing: {} takes spans again", self.collector.endpoint),
            _ => {}
        }
        *known = line;
    }
}

/// Words of a collector: short, and in one line.
pub fn said(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut out = String::new();
    for letter in text.trim().chars().take(LONGEST) {
        // A terminal obeys controls.
        let _ = out.write_char(if letter.is_control() { ' ' } else { letter });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_collector_says_is_short_and_one_line() {
        assert_eq!(said(b" a\nb\x1b[31m \xff "), "a b [31m \u{fffd}");
        assert_eq!(said("ä".repeat(500).as_bytes()).chars().count(), LONGEST);
    }
}
