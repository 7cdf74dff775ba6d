//! The log of the daemon: one line per event on standard error, human on a terminal and JSON elsewhere.
//! The access log is another thing: see [`crate::proxy`].

use std::io::IsTerminal as _;

use edge_config::settings::{LogFormat, LogLevel, LogSettings};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

/// Changes the level while the daemon runs. The format stays what it was at the start.
pub struct Logging {
    level: reload::Handle<Targets, Registry>,
}

impl Logging {
    /// Installs the log for the whole process. Called once, first thing.
    pub fn install(settings: &LogSettings) -> Self {
        let (filter, level) = reload::Layer::new(filter(settings.level));
        let human = match settings.format {
            LogFormat::Human => true,
            LogFormat::Json => false,
            LogFormat::Auto => std::io::stderr().is_terminal(),
        };
        let registry = tracing_subscriber::registry().with(filter);
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
        Self { level }
    }

    pub fn set_level(&self, level: LogLevel) {
        // It fails only when another log was installed before ours, whose level is not ours to change.
        let _ = self.level.modify(|filter_now| *filter_now = filter(level));
    }
}

/// Ours at the level that was asked for. Libraries speak up only when something is wrong, except at `trace`; what fails
/// within kube is told by whoever asked, once and with what follows from it.
fn filter(level: LogLevel) -> Targets {
    let ours = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => return Targets::new().with_default(LevelFilter::TRACE),
    };
    let targets = ["edge", "edged", "edge_acme", "edge_config"].map(|target| (target, ours));
    let others = [("kube_client", LevelFilter::OFF), ("tower", LevelFilter::OFF)];
    Targets::new().with_default(ours.min(LevelFilter::WARN)).with_targets(targets.into_iter().chain(others))
}
