//! What a peer may cost without getting on: frames that carry nothing, and streams that come to nothing.
//!
//! Streams taken back by the client (rapid reset, CVE-2023-44487) and streams that it makes us reset (made-you-reset,
//! CVE-2025-8671) count the same: a connection may have some, and beyond that no more than half of its requests. SETTINGS,
//! PING, PRIORITY, empty DATA, WINDOW_UPDATE and unknown frames are paid for by data that moves, and by time.

use std::fmt;
use std::time::{Duration, Instant};

/// Streams that may come to nothing whatever else a connection does.
const FREE_RESETS: u64 = 100;
/// Frames that carry nothing, beyond those that are paid for, within [`SPAN`].
const FRAMES: u32 = 1000;
const SPAN: Duration = Duration::from_secs(10);

/// What a connection was closed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    Resets,
    Frames,
    /// Header blocks: too long, in too many frames.
    Headers,
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resets => "too many streams that come to nothing",
            Self::Frames => "too many frames that carry nothing",
            Self::Headers => "a header block without end",
        })
    }
}

pub struct Budget {
    requests: u64,
    resets: u64,
    frames: u32,
    since: Instant,
}

impl Default for Budget {
    fn default() -> Self {
        Self { requests: 0, resets: 0, frames: 0, since: Instant::now() }
    }
}

impl Budget {
    pub fn request(&mut self) {
        self.requests += 1;
        self.earn(4);
    }

    /// Something moved.
    pub fn earn(&mut self, frames: u32) {
        self.frames = self.frames.saturating_sub(frames);
    }

    pub fn reset(&mut self) -> Result<(), Flood> {
        self.resets += 1;
        if self.resets > FREE_RESETS.max(self.requests / 2) { Err(Flood::Resets) } else { Ok(()) }
    }

    pub fn frame(&mut self) -> Result<(), Flood> {
        self.frames += 1;
        if self.frames <= FRAMES {
            return Ok(());
        }
        // The clock is asked only here.
        let now = Instant::now();
        if now.duration_since(self.since) < SPAN {
            return Err(Flood::Frames);
        }
        self.since = now;
        self.frames = 0;
        Ok(())
    }
}
