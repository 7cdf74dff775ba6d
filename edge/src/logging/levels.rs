//! How much is logged of what: `[log] level`, and what an operator has said since, until that is over or edged ends.
//!
//! Pure: what is asked and the time flow in, what is in force flows out.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use edge_config::settings::LogLevel;
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::modules::{self, ALL, LIBRARIES, MODULES};

/// From the most important on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    pub const EACH: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::EACH.into_iter().find(|level| level.as_str() == text);
        known.ok_or_else(|| format!("level {:?} is not known; there are error, warn, info, debug, trace", short(text)))
    }
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}

impl From<tracing::Level> for Level {
    fn from(level: tracing::Level) -> Self {
        match level {
            tracing::Level::ERROR => Self::Error,
            tracing::Level::WARN => Self::Warn,
            tracing::Level::INFO => Self::Info,
            tracing::Level::DEBUG => Self::Debug,
            tracing::Level::TRACE => Self::Trace,
        }
    }
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// A word of [`modules`], `all` or `libraries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word(&'static str);

impl FromStr for Word {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = modules::module(text).map(|module| module.word);
        let word = named.or_else(|| [ALL, LIBRARIES].into_iter().find(|word| *word == text));
        word.map(Self).ok_or_else(|| format!("module {:?} is not known; there are {}", short(text), modules::words()))
    }
}

impl Serialize for Word {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Word {
    pub fn as_str(&self) -> &'static str {
        self.0
    }
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

/// One word about one part: `bgp=debug`; `bgp=default`; `debug` for all of Edge; `default` takes everything back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    pub module: Word,
    /// `None`: as if nothing had been said of it.
    pub level: Option<Level>,
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (module, level) = text.split_once('=').unwrap_or((ALL, text));
        let level = match level {
            "default" => None,
            // A word alone may be a module whose level was forgotten.
            level => Some(level.parse().map_err(|fault| match modules::module(level) {
                Some(_) if !text.contains('=') => {
                    format!("module {level} has no level, expected such as {level}=debug")
                }
                _ => format!("{fault}, and default for what [log] level says"),
            })?),
        };
        Ok(Self { module: module.parse()?, level })
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    pub changes: Vec<Change>,
    /// `None`: until it is taken back, or edged ends.
    pub seconds: Option<u64>,
}

/// What differs from the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    pub module: Word,
    pub level: Level,
    pub since: SystemTime,
    pub until: Option<SystemTime>,
}

/// All that is in force. The number of words bounds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// `[log] level`
    pub configured: Level,
    pub changed: Vec<Changed>,
}

impl Default for Levels {
    fn default() -> Self {
        Self { configured: Level::Info, changed: Vec::new() }
    }
}

impl Levels {
    pub fn of(configured: LogLevel) -> Self {
        Self { configured: configured.into(), changed: Vec::new() }
    }

    /// Carries out what is asked; what is over is forgotten.
    pub fn ask(&mut self, ask: Ask, now: SystemTime) -> Result<(), String> {
        self.lapse(now);
        let until = match ask.seconds {
            None => None,
            Some(seconds) => {
                let end = now.checked_add(Duration::from_secs(seconds));
                Some(end.ok_or_else(|| format!("{seconds} seconds are longer than time is counted"))?)
            }
        };
        for Change { module, level } in ask.changes {
            let Some(level) = level else {
                self.changed.retain(|known| module.0 != ALL && known.module != module);
                continue;
            };
            self.changed.retain(|known| known.module != module);
            self.changed.push(Changed { module, level, since: now, until });
        }
        Ok(())
    }

    /// Forgets what is over. Says whether anything was.
    pub fn lapse(&mut self, now: SystemTime) -> bool {
        let before = self.changed.len();
        self.changed.retain(|changed| changed.until.is_none_or(|until| until > now));
        self.changed.len() != before
    }

    /// When the next one is over.
    pub fn next(&self) -> Option<SystemTime> {
        self.changed.iter().filter_map(|changed| changed.until).min()
    }

    pub fn said_of(&self, word: &str) -> Option<&Changed> {
        self.changed.iter().find(|changed| changed.module.0 == word)
    }

    /// Of everything of Edge's of which nothing narrower is said.
    fn ours(&self) -> Level {
        self.said_of(ALL).map_or(self.configured, |changed| changed.level)
    }

    /// The level in force of a word: what is said of it, or of the narrowest that it is part of, or of everything.
    pub fn of_module(&self, word: &str) -> Level {
        if let Some(changed) = self.said_of(word) {
            return changed.level;
        }
        let targets = modules::module(word).map_or(&[][..], |module| module.targets);
        let wider = MODULES.iter().filter(|module| self.said_of(module.word).is_some()).filter_map(|module| {
            let prefixes =
                module.targets.iter().filter(|prefix| targets.iter().any(|target| target.starts_with(**prefix)));
            prefixes.map(|prefix| (prefix.len(), module.word)).max()
        });
        let of = wider.max().and_then(|(_, word)| self.said_of(word));
        of.map_or(self.ours(), |changed| changed.level)
    }

    pub fn of_libraries(&self) -> Level {
        match (self.said_of(LIBRARIES), self.ours()) {
            (Some(changed), _) => changed.level,
            (None, Level::Trace) => Level::Trace,
            (None, ours) => ours.min(Level::Warn),
        }
    }

    /// Ours at the level that was asked for. Libraries speak up only when something is wrong, unless everything is asked
    /// for (`trace`) or they are; what fails within kube is told by whoever asked, once and with what follows from it.
    pub(super) fn filter(&self) -> Targets {
        let (ours, libraries) = (self.ours(), self.of_libraries());
        let mut targets = Targets::new().with_default(libraries);
        if self.said_of(LIBRARIES).is_none() && libraries != Level::Trace {
            targets = targets.with_target("kube_client", LevelFilter::OFF).with_target("tower", LevelFilter::OFF);
        }
        let own = ["edge", "edged", "edge_acme", "edge_config", "edge_bgp"];
        targets = targets.with_targets(own.map(|target| (target, LevelFilter::from(ours))));
        for changed in &self.changed {
            let of_module = modules::module(changed.module.0).map_or(&[][..], |module| module.targets);
            targets = targets.with_targets(of_module.iter().map(|target| (*target, LevelFilter::from(changed.level))));
        }
        targets
    }

    /// `bgp debug until 2026-11-23T12:00:00Z, tls trace`; empty while all is as configured.
    pub fn text(&self) -> String {
        let one = |changed: &Changed| {
            let until = changed.until.map(|at| format!(" until {}", crate::control::span::rfc3339(at)));
            format!("{} {}{}", changed.module.0, changed.level, until.unwrap_or_default())
        };
        self.changed.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(text: &str, seconds: Option<u64>) -> Ask {
        Ask { changes: text.split(',').map(|change| change.parse().unwrap()).collect(), seconds }
    }

    fn lets(levels: &Levels, target: &str, level: tracing::Level) -> bool {
        levels.filter().would_enable(target, &level)
    }

    #[test]
    fn words() {
        for (text, part) in [
            ("bpg=debug", "module \"bpg\" is not known; there are all, proxy, tls,"),
            ("bgp=loud", "level \"loud\" is not known; there are error, warn, info, debug, trace, and default"),
            ("bgp", "module bgp has no level, expected such as bgp=debug"),
            ("", "level \"\" is not known"),
            ("=debug", "module \"\" is not known"),
        ] {
            let fault = text.parse::<Change>().unwrap_err();
            assert!(fault.starts_with(part) && !fault.contains('\n'), "{text}: {fault}");
        }
        let long = format!("{}=debug", "x".repeat(10_000)).parse::<Change>().unwrap_err();
        assert!(long.len() < 400, "{long}");
        assert!(
            serde_json::from_str::<Ask>(r#"{"changes":[{"module":"nonsense","level":"info"}],"seconds":null}"#)
                .is_err()
        );
    }

    #[test]
    fn the_narrower_word_holds_and_all_of_them_end() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let at = |seconds| start + Duration::from_secs(seconds);
        let (debug, info) = (tracing::Level::DEBUG, tracing::Level::INFO);
        let mut levels = Levels::of(LogLevel::Info);
        assert!(!lets(&levels, "edge::vip::announcer", debug) && lets(&levels, "edge::vip::announcer", info));
        levels.ask(ask("bgp=debug", Some(60)), start).unwrap();
        assert!(lets(&levels, "edge::vip::announcer", debug) && !lets(&levels, "edge::vip::address", debug));
        levels.ask(ask("vip=warn", None), start).unwrap();
        assert!(!lets(&levels, "edge::vip::address", info) && !lets(&levels, "edge::vip::l2::actor", info));
        assert_eq!((levels.of_module("bgp"), levels.of_module("l2")), (Level::Debug, Level::Warn));
        assert_eq!(levels.of_module("proxy"), Level::Info);
        assert_eq!(
            (levels.next(), levels.text().as_str()),
            (Some(at(60)), "bgp debug until 1970-01-01T00:17:40Z, vip warn")
        );
        assert!(!levels.lapse(at(59)) && levels.lapse(at(60)));
        assert!(!lets(&levels, "edge::vip::announcer", info), "the wider word holds again");
        // A reload says something else of the rest.
        levels.configured = Level::Debug;
        assert!(lets(&levels, "edge::proxy::worker", debug) && !lets(&levels, "edge::vip::address", info));
        levels.ask(ask("all=error,vip=default", None), at(61)).unwrap();
        assert!(!lets(&levels, "edge::vip::address", info) && !lets(&levels, "edge::proxy", tracing::Level::WARN));
        levels.ask(ask("default", None), at(62)).unwrap();
        assert_eq!(levels, Levels { configured: Level::Debug, changed: Vec::new() });
        assert!(levels.ask(ask("bgp=debug", Some(u64::MAX)), start).is_err());
        let text = serde_json::to_string(&levels).unwrap();
        assert_eq!(serde_json::from_str::<Levels>(&text).unwrap(), levels);
    }

    #[test]
    fn libraries_speak_when_they_are_asked() {
        let mut levels = Levels::of(LogLevel::Info);
        let (warn, debug) = (tracing::Level::WARN, tracing::Level::DEBUG);
        assert!(lets(&levels, "hyper::proto", warn) && !lets(&levels, "hyper::proto", debug));
        assert!(!lets(&levels, "kube_client::client", tracing::Level::ERROR));
        levels.ask(ask("debug", None), SystemTime::UNIX_EPOCH).unwrap();
        assert!(lets(&levels, "edge::proxy", debug) && !lets(&levels, "hyper::proto", debug));
        levels.ask(ask("libraries=debug", None), SystemTime::UNIX_EPOCH).unwrap();
        assert!(lets(&levels, "hyper::proto", debug) && lets(&levels, "kube_client::client", debug));
        assert!(lets(&Levels::of(LogLevel::Trace), "hyper::proto", tracing::Level::TRACE));
    }
}
