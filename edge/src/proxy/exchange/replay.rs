//! A request body that may have to be sent again: what was read is kept up to a bound, and beyond it there is no second
//! try. Mirrors get their copies here as well.

use std::cell::Cell;

use bytes::Bytes;

use super::gathered::Gathered;
use super::mirror::Copies;
use super::pace::Pace;
use crate::proxy::body::{Chunk, Source, StreamError};
use crate::proxy::filters::forwarded::is_claim;
use crate::proxy::message::Fields;
use crate::proxy::protection::Protected;

/// The most of a body that is kept.
pub const MOST_KEPT: usize = 64 << 10;

pub struct Body<'a, S> {
    source: &'a mut S,
    /// Read already, before this was made.
    gathered: Option<Gathered>,
    /// What was read, when it is kept.
    kept: Option<Vec<Bytes>>,
    kept_bytes: usize,
    /// How many of `kept` this try has sent.
    sent: usize,
    /// Whether all that was read so far can be sent again.
    replayable: &'a Cell<bool>,
    ended: bool,
    trailers: Option<Fields>,
    copies: Copies,
    pace: Pace,
    /// Bytes read from the client.
    pub received: u64,
    protected: Option<&'a Protected>,
}

impl<'a, S: Source> Body<'a, S> {
    /// `keep`: the rule allows further tries. `replayable` tells whether they are still possible.
    pub fn new(source: &'a mut S, keep: bool, copies: Copies, pace: Pace, replayable: &'a Cell<bool>) -> Self {
        replayable.set(true);
        let kept = keep.then(Vec::new);
        Self {
            source,
            gathered: None,
            kept,
            kept_bytes: 0,
            sent: 0,
            replayable,
            ended: false,
            trailers: None,
            copies,
            pace,
            received: 0,
            protected: None,
        }
    }

    /// With what was read of it before.
    pub fn after(mut self, gathered: Option<Gathered>) -> Self {
        self.gathered = gathered;
        self
    }

    /// As large, and as fast, as it may be.
    pub fn within(mut self, protected: Option<&'a Protected>) -> Self {
        self.protected = protected;
        self
    }

    /// Reads all of it before anything of it goes on. Then it can be sent as often as need be.
    pub async fn gather(&mut self, most: u64) -> Result<(), StreamError> {
        let mut kept = Vec::new();
        while !self.ended {
            let Some(chunk) = self.read().await? else { break };
            if self.received > most {
                return Err(StreamError::TooLarge);
            }
            kept.push(match chunk {
                Chunk::Shared(bytes) => bytes,
                Chunk::Pooled(buffer) => Bytes::copy_from_slice(buffer.as_slice()),
            });
        }
        self.kept = Some(kept);
        Ok(())
    }

    /// Whether all that was read so far can be sent again; it changes while the body is read.
    pub fn replayable(&self) -> &'a Cell<bool> {
        self.replayable
    }

    pub fn rewind(&mut self) {
        self.sent = 0;
    }

    pub fn is_ready(&self) -> bool {
        self.ended
            || self.source.is_ready()
            || self.gathered.is_some()
            || self.kept.as_ref().is_some_and(|kept| self.sent < kept.len())
    }

    pub async fn next(&mut self) -> Result<Option<Chunk>, StreamError> {
        if let Some(chunk) = self.kept.as_ref().and_then(|kept| kept.get(self.sent)) {
            self.sent += 1;
            return Ok(Some(Chunk::Shared(chunk.clone())));
        }
        if self.ended {
            return Ok(None);
        }
        let Some(chunk) = self.read().await? else { return Ok(None) };
        let bytes = chunk.as_slice();
        match &mut self.kept {
            Some(kept) if self.kept_bytes + bytes.len() <= MOST_KEPT => {
                kept.push(Bytes::copy_from_slice(bytes));
                self.kept_bytes += bytes.len();
                self.sent = kept.len();
            }
            kept => {
                *kept = None;
                self.replayable.set(false);
            }
        }
        Ok(Some(chunk))
    }

    /// The next bytes from the client.
    async fn read(&mut self) -> Result<Option<Chunk>, StreamError> {
        let next = match &mut self.gathered {
            None => self.pace.hold(self.source.next()).await?,
            // It is whole: the source has no more.
            Some(gathered) => gathered.take(),
        };
        let Some(chunk) = next else {
            self.ended = true;
            self.trailers = self.source.trailers();
            // Some backends merge them into the head, where these are ours.
            if let Some(trailers) = &mut self.trailers {
                trailers.remove_if(is_claim);
            }
            self.copies.end();
            return Ok(None);
        };
        let bytes = chunk.as_slice();
        self.received += bytes.len() as u64;
        self.pace.moved(bytes.len());
        if let Some(protected) = self.protected {
            if protected.max_body.is_some_and(|most| self.received > most) {
                return Err(StreamError::TooLarge);
            }
            if let Some(throttle) = &protected.request {
                // Boxed: it is rare. What is read here has been read from the kernel in one piece, so it waits as one.
                Box::pin(throttle.pass(bytes.len())).await;
            }
        }
        self.copies.push(bytes);
        Ok(Some(chunk))
    }

    pub fn trailers(&self) -> Option<&Fields> {
        self.trailers.as_ref()
    }

    pub fn source(&mut self) -> &mut S {
        self.source
    }
}
