//! Hosts that an operator closes, carried out: kept on disk, opened when their time is over.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::{DISK_PATIENCE, Supervisor};
use crate::control::maintenance::{Ask, Closures};
use crate::proxy::responses::Maintenance;

/// The same in two forms: as it was asked for, and for workers.
pub(super) struct Closed {
    pub closures: Arc<Closures>,
    pub table: Option<Arc<Maintenance>>,
}

impl Closed {
    pub fn of(closures: Closures) -> Self {
        Self { table: Maintenance::of(&closures), closures: Arc::new(closures) }
    }
}

impl Supervisor {
    /// Carries out a command about a host and says what is in force then.
    pub(super) async fn close(&mut self, ask: Ask) -> Result<Closures, String> {
        let mut closures = (*self.closed.closures).clone();
        let (host, now) = (ask.host.to_string(), if ask.notice.is_some() { "in maintenance" } else { "open again" });
        closures.ask(ask, SystemTime::now())?;
        tracing::info!(%host, "{now} by command");
        self.closed = Closed::of(closures);
        self.publish();
        self.show();
        self.remember_closures().await?;
        Ok((*self.closed.closures).clone())
    }

    /// Opens what was closed for long enough.
    pub(super) async fn lapse_closures(&mut self) {
        let mut closures = (*self.closed.closures).clone();
        if closures.lapse(SystemTime::now()) {
            tracing::info!("the time of a maintenance is over");
            self.closed = Closed::of(closures);
            self.publish();
            if let Err(error) = self.remember_closures().await {
                tracing::warn!("hosts are open again: {error}");
            }
        }
    }

    /// When the next one is over.
    pub(super) fn next_closure(&self) -> Option<Instant> {
        let next = self.closed.closures.next()?;
        Some(Instant::now() + next.duration_since(SystemTime::now()).unwrap_or_default())
    }

    async fn remember_closures(&self) -> Result<(), String> {
        let store = self.store.clone();
        let closures = Arc::clone(&self.closed.closures);
        let write = tokio::task::spawn_blocking(move || store.put_closures(&closures));
        match tokio::time::timeout(DISK_PATIENCE, write).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(format!("in force, but a restart forgets it: {error}")),
            Ok(Err(error)) => Err(format!("in force, but a restart forgets it: {error}")),
            Err(_) => Err("in force, but not on disk yet: it does not answer".to_owned()),
        }
    }
}
