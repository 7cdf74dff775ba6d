//! How much is logged, changed while edged runs: by command, and back when its time is over. It is not kept over a
//! restart, so that nobody finds a forgotten `trace` after it.

use std::sync::Arc;
use std::time::SystemTime;

use super::Supervisor;
use crate::logging::levels::{Ask, Levels};

impl Supervisor {
    /// Carries out a command about levels and says what is in force then.
    pub(super) fn set_levels(&mut self, ask: Ask) -> Result<Levels, String> {
        let mut levels = (*self.levels).clone();
        levels.ask(ask, SystemTime::now())?;
        self.take_levels(levels);
        match self.levels.text() {
            text if text.is_empty() => tracing::info!("log levels are as configured, by command"),
            text => tracing::info!("log levels by command: {text}"),
        }
        self.show();
        Ok((*self.levels).clone())
    }

    /// Takes back what is over.
    pub(super) fn lapse_levels(&mut self) {
        let now = SystemTime::now();
        if self.levels.next().is_some_and(|next| next <= now) {
            let mut levels = (*self.levels).clone();
            levels.lapse(now);
            self.take_levels(levels);
            tracing::info!("the time of a command about log levels is over");
        }
    }

    /// `[log] level` may be new. What was said by command stays above it.
    pub(super) fn configure_levels(&mut self) {
        let configured = self.wanted.settings.log.level.into();
        if self.levels.configured != configured {
            self.take_levels(Levels { configured, ..(*self.levels).clone() });
        }
    }

    fn take_levels(&mut self, levels: Levels) {
        self.logging.set(&levels);
        self.levels = Arc::new(levels);
    }
}
