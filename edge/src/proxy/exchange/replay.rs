//! A request body that may have to be sent again: what was read is kept up to a bound, and beyond it there is no second
//! try. Mirrors get their copies here as well.

use std::cell::Cell;

use bytes::Bytes;

use super::mirror::Copies;
use super::pace::Pace;
use crate::proxy::body::{Chunk, Source, StreamError};
use crate::proxy::filters::forwarded::is_claim;
use crate::proxy::message::Fields;

/// The most of a body that is kept.
pub const MOST_KEPT: usize = 64 << 10;

pub struct Body<'a, S> {
    source: &'a mut S,
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
}

impl<'a, S: Source> Body<'a, S> {
    /// `keep`: the rule allows further tries. `replayable` tells whether they are still possible.
    pub fn new(source: &'a mut S, keep: bool, copies: Copies, pace: Pace, replayable: &'a Cell<bool>) -> Self {
        replayable.set(true);
        let kept = keep.then(Vec::new);
        Self {
            source,
            kept,
            kept_bytes: 0,
            sent: 0,
            replayable,
            ended: false,
            trailers: None,
            copies,
            pace,
            received: 0,
        }
    }

    /// Whether all that was read so far can be sent again; it changes while the body is read.
    pub fn replayable(&self) -> &'a Cell<bool> {
        self.replayable
    }

    pub fn rewind(&mut self) {
        self.sent = 0;
    }

    pub fn is_ready(&self) -> bool {
        self.ended || self.source.is_ready() || self.kept.as_ref().is_some_and(|kept| self.sent < kept.len())
    }

    pub async fn next(&mut self) -> Result<Option<Chunk>, StreamError> {
        if let Some(chunk) = self.kept.as_ref().and_then(|kept| kept.get(self.sent)) {
            self.sent += 1;
            return Ok(Some(Chunk::Shared(chunk.clone())));
        }
        if self.ended {
            return Ok(None);
        }
        let Some(chunk) = self.pace.hold(self.source.next()).await? else {
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
        self.copies.push(bytes);
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

    pub fn trailers(&self) -> Option<&Fields> {
        self.trailers.as_ref()
    }

    pub fn source(&mut self) -> &mut S {
        self.source
    }
}
