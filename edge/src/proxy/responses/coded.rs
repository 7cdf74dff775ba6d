//! The response of an endpoint under a policy of answers: its body replaced, coded, or as it is.

use std::time::Instant;

use bytes::Bytes;

use super::encoder::Encoder;
use super::{Replaced, Shaping, negotiation};
use crate::proxy::body::{Chunk, Sink};
use crate::proxy::buffer::Buffer;
use crate::proxy::exchange::pace::Pace;
use crate::proxy::exchange::relay::{Failure, body_fault, body_of, throttled};
use crate::proxy::message::{Length, RequestHead, ResponseHead};
use crate::proxy::protection::{Protected, Throttle};
use crate::proxy::reason::Reason;
use crate::proxy::upstream::Download;

/// What a body needs on its way beside its two ends.
pub struct Way<'a> {
    pub request: &'a RequestHead,
    pub pace: Pace,
    pub protected: Option<&'a Protected>,
}

/// The response from its head on. Says how many bytes of a body the client got, how a call of gRPC ended, and whether the
/// endpoint's body was read to its end.
pub async fn relay<W: Download, K: Sink>(
    shaping: &Shaping<'_>,
    way: Way<'_>,
    down: &mut W,
    response: &mut ResponseHead,
    sink: &mut K,
) -> Result<(u64, Option<u8>, bool), Failure> {
    let Way { request, pace, protected } = way;
    let other = match &*shaping.replaced.borrow() {
        Some(Replaced::Whole(body)) => Some(body.clone()),
        Some(Replaced::Head) | None => None,
    };
    if let Some(body) = other {
        let body = shaping.whole(request, response, body);
        let (bytes, ended) = instead(down, response, body, sink, pace).await?;
        return Ok((bytes, None, ended));
    }
    let encoder = shaping.decide(request, response).and_then(|coding| {
        let encoder = Encoder::new(coding);
        if encoder.is_none() {
            shaping.counters.skipped.one();
        }
        encoder.map(|encoder| (coding, encoder))
    });
    let Some((coding, encoder)) = encoder else {
        let (bytes, grpc_status) = body_of(down, response, sink, pace, protected).await?;
        return Ok((bytes, grpc_status, true));
    };
    // Of a body that is there as a whole the client waits for the end in any case.
    let flushes = response.length == Length::Unknown;
    negotiation::recode(response, coding);
    let throttle = protected.and_then(|protected| protected.response.as_ref());
    let mut pump = Pump { encoder, flushes, sent: 0, read: 0, pace, throttle };
    let started = Instant::now();
    let result = pump.run(down, response, sink).await;
    let sent = pump.sent;
    shaping.count(
        coding,
        usize::try_from(pump.read).unwrap_or(usize::MAX),
        usize::try_from(sent).unwrap_or(usize::MAX),
    );
    result?;
    let last = match pump.encoder.finish() {
        Ok(last) => last,
        Err(_) => return Err(Failure::Truncated(Reason::Internal)),
    };
    let last_length = last.len() as u64;
    put(&last, sink, &mut pump.pace, throttle).await?;
    shaping.counters.of(coding).bytes_out.add(last_length);
    let mut trailers = down.trailers();
    if let Some(protected) = protected {
        trailers = protected.trailers(trailers, started);
    }
    sink.finish(trailers.as_ref()).await.map_err(Failure::Client)?;
    Ok((sent + last_length, None, true))
}

/// Sends another body. What is here of the endpoint's is read, so that its connection may be used again.
async fn instead<W: Download, K: Sink>(
    down: &mut W,
    response: &ResponseHead,
    body: Option<Bytes>,
    sink: &mut K,
    mut pace: Pace,
) -> Result<(u64, bool), Failure> {
    const MOST: usize = 64 << 10;
    let (mut read, mut ended) = (0, false);
    while !ended && read < MOST && down.is_ready() {
        match down.next().await {
            Ok(Some(chunk)) => read += chunk.as_slice().len(),
            Ok(None) => ended = true,
            // It is not wanted any more.
            Err(_) => break,
        }
    }
    let bytes = body.as_ref().map_or(0, Bytes::len);
    sink.head(response).await.map_err(Failure::Client)?;
    if let Some(body) = body {
        pace.moved(body.len());
        pace.hold(sink.chunk(Chunk::Shared(body))).await.map_err(Failure::Client)?;
    }
    pace.hold(sink.finish(None)).await.map_err(Failure::Client)?;
    Ok((bytes as u64, ended))
}

struct Pump<'a> {
    encoder: Encoder,
    /// Whether what has come is sent before there is a wait for more.
    flushes: bool,
    sent: u64,
    read: u64,
    pace: Pace,
    /// How fast the client may get it.
    throttle: Option<&'a Throttle>,
}

impl Pump<'_> {
    /// Moves the body up to its end, which is left to the caller.
    async fn run<W: Download, K: Sink>(
        &mut self,
        down: &mut W,
        response: &ResponseHead,
        sink: &mut K,
    ) -> Result<(), Failure> {
        let internal = |_| Failure::Truncated(Reason::Internal);
        let mut begun = false;
        loop {
            if !begun && !down.is_ready() {
                sink.head(response).await.map_err(Failure::Client)?;
                sink.flush().await.map_err(Failure::Client)?;
                begun = true;
            }
            let next = match down.next().await {
                Ok(next) => next,
                Err(error) if !begun => return Err(Failure::Endpoint(body_fault(&error))),
                Err(error) => return Err(Failure::Truncated(body_fault(&error))),
            };
            if !begun {
                sink.head(response).await.map_err(Failure::Client)?;
                begun = true;
            }
            let Some(chunk) = next else { return Ok(()) };
            self.read += chunk.as_slice().len() as u64;
            self.encoder.write(chunk.as_slice()).map_err(internal)?;
            drop(chunk);
            let waits = !down.is_ready();
            if waits && self.flushes {
                self.encoder.flush().map_err(internal)?;
            }
            let out = self.encoder.out();
            if !out.is_empty() {
                self.sent += out.len() as u64;
                put(out, sink, &mut self.pace, self.throttle).await?;
                out.clear();
            }
            if waits {
                self.pace.hold(sink.flush()).await.map_err(Failure::Client)?;
            }
        }
    }
}

/// Sends bytes in pieces of the worker's memory.
async fn put<K: Sink>(bytes: &[u8], sink: &mut K, pace: &mut Pace, throttle: Option<&Throttle>) -> Result<(), Failure> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut buffer = Buffer::take();
        let count = buffer.append(rest);
        rest = rest.get(count..).unwrap_or_default();
        pace.moved(count);
        let chunk = Chunk::Pooled(buffer);
        match throttle {
            None => pace.hold(sink.chunk(chunk)).await.map_err(Failure::Client)?,
            Some(throttle) => throttled(throttle, chunk, sink, pace).await.map_err(Failure::Client)?,
        }
    }
    Ok(())
}
