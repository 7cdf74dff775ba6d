//! How this edge leaves the network and comes back, by command or because it stops.
//!
//! First the network is asked to prefer other ways (RFC 8326) while everything is served as before, but for kept-alive
//! connections, which end after their request; then the VIPs are withdrawn; then what is left of the connections ends.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{DISK_PATIENCE, Supervisor};
use crate::control::observed::{Drain, DrainStep};
use crate::vip::gate::Leave;

/// Under way out, or out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaving {
    since: SystemTime,
    step: Step,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Telling {
        until: Instant,
        wall: SystemTime,
    },
    Gone,
    /// Out because edged stops; connections may last so long.
    Stopping {
        until: SystemTime,
    },
}

impl Leaving {
    fn begin(tell: Duration) -> Self {
        let since = SystemTime::now();
        let step = match tell.is_zero() {
            true => Step::Gone,
            false => Step::Telling { until: Instant::now() + tell, wall: since + tell },
        };
        Self { since, step }
    }

    /// As it was told before a restart.
    pub(super) fn resumed(since: SystemTime) -> Self {
        Self { since, step: Step::Gone }
    }

    pub(super) fn leave(&self) -> Leave {
        match self.step {
            Step::Telling { .. } => Leave::Telling,
            Step::Gone | Step::Stopping { .. } => Leave::Gone,
        }
    }

    /// When the next step is to be taken.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.step {
            Step::Telling { until, .. } => Some(until),
            Step::Gone | Step::Stopping { .. } => None,
        }
    }

    pub(super) fn observed(&self) -> Drain {
        let step = match self.step {
            Step::Telling { wall, .. } => DrainStep::Telling { until: wall },
            Step::Gone => DrainStep::Withdrawn,
            Step::Stopping { until } => DrainStep::Stopping { until },
        };
        Drain { since: self.since, step }
    }
}

impl Supervisor {
    /// Begins to leave. Asked twice, the first time counts.
    pub(super) async fn drain(&mut self) -> Result<(), String> {
        if self.leaving.is_some() {
            return Ok(());
        }
        let leaving = Leaving::begin(self.lame_time());
        tracing::info!("draining by command");
        self.leaving = Some(leaving);
        self.proxy.leave(true);
        self.show();
        self.remember_drain(Some(leaving.since)).await
    }

    /// Comes back: nothing waits for the hold-down, since a person asked for it.
    pub(super) async fn undrain(&mut self) -> Result<(), String> {
        if self.leaving.take().is_some() {
            tracing::info!("no longer draining, by command");
            self.proxy.leave(false);
            self.show();
        }
        self.remember_drain(None).await
    }

    /// The time of a step has come.
    pub(super) fn step_out(&mut self) {
        if let Some(leaving) = &mut self.leaving
            && leaving.due().is_some_and(|due| due <= Instant::now())
        {
            leaving.step = Step::Gone;
        }
    }

    /// All the steps one after the other, for an edge that stops.
    pub(super) async fn leave_for_good(&mut self, deadline: Duration) {
        if self.leaving.is_none() {
            self.leaving = Some(Leaving::begin(self.lame_time()));
            self.proxy.leave(true);
            self.show();
        }
        if let Some(due) = self.leaving.and_then(|leaving| leaving.due()) {
            tokio::time::sleep_until(due).await;
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.step = Step::Stopping { until: SystemTime::now() + deadline };
        }
        self.show();
        self.announcer.until_withdrawn().await;
    }

    /// So long the network is asked to prefer other ways; nothing where nobody is told anything by BGP.
    fn lame_time(&self) -> Duration {
        let announce = &self.wanted.compiled.snapshot.announce;
        match &announce.bgp {
            Some(bgp) if self.announcer.observed().is_told() => bgp.graceful_shutdown,
            _ => Duration::ZERO,
        }
    }

    async fn remember_drain(&self, since: Option<SystemTime>) -> Result<(), String> {
        let store = self.store.clone();
        let write = tokio::task::spawn_blocking(move || store.put_drained_since(since));
        match tokio::time::timeout(DISK_PATIENCE, write).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(format!("in force, but a restart forgets it: {error}")),
            Ok(Err(error)) => Err(format!("in force, but a restart forgets it: {error}")),
            Err(_) => Err("in force, but not on disk yet: it does not answer".to_owned()),
        }
    }
}
