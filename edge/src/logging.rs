//! The log of the daemon: one line per event on standard error, human on a terminal and JSON elsewhere, and the newest of
//! them in memory ([`ring`]). How much is logged of which part changes while edged runs ([`levels`], [`modules`]).
//! The access log is another thing: see [`crate::proxy`].

pub mod levels;
pub mod modules;
pub mod ring;

use std::io::IsTerminal as _;
use std::sync::Arc;

use edge_config::settings::{LogFormat, LogSettings};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use self::levels::Levels;
use self::ring::{IntoRing, Ring};

/// Changes levels while the daemon runs. The format stays what it was at the start.
pub struct Logging {
    filter: reload::Handle<Targets, Registry>,
    ring: Arc<Ring>,
}

impl Logging {
    /// Installs the log for the whole process. Called once, first thing.
    pub fn install(settings: &LogSettings) -> Self {
        let (layer, filter) = reload::Layer::new(Levels::of(settings.level).filter());
        let human = match settings.format {
            LogFormat::Human => true,
            LogFormat::Json => false,
            LogFormat::Auto => std::io::stderr().is_terminal(),
        };
        let ring = Arc::new(Ring::default());
        let registry = tracing_subscriber::registry().with(layer).with(IntoRing(Arc::clone(&ring)));
        let installed = if human {
            let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            registry.with(fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(ansi)).try_init()
        } else {
            registry
                .with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).with_target(false))
                .try_init()
        };
        // A second call in one process, as in tests, keeps the first log.
        drop(installed);
        Self { filter, ring }
    }

    /// The newest lines.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    pub fn set(&self, levels: &Levels) {
        // It fails only when another log was installed before ours, whose levels are not ours to change.
        let _ = self.filter.modify(|filter| *filter = levels.filter());
    }
}
