//! Hosts that an operator has closed: they answer 503 until that is taken back or its time is over, over restarts and
//! whatever routes and policies say. Challenges of CAs are answered all the same, and who is let in is served.
//!
//! It is a word about one edge; where there are several, each is told.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use edge_config::names::HostPattern;
use edge_config::policy::Body;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// So many hosts are closed at once, and so many bytes of pages are kept for them.
pub const MOST: usize = 100;
pub const MOST_PAGES: usize = 1 << 20;
/// Of one page; a command is 64 KiB at most.
pub const LONGEST_PAGE: usize = 32 << 10;
const MOST_ALLOWED: usize = 64;
/// A day; crawlers come back no later than that anyway.
const LONGEST_RETRY: u32 = 86_400;

/// `a.example`, `*.example`, or `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site(pub HostPattern);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host, expected one such as www.example.com, *.example.com or *")]
pub struct NoSite(String);

impl FromStr for Site {
    type Err = NoSite;

    fn from_str(text: &str) -> Result<Self, NoSite> {
        if text == "*" {
            return Ok(Self(HostPattern::Any));
        }
        match HostPattern::parse(Some(text)) {
            Ok(pattern @ (HostPattern::Exact(_) | HostPattern::Wildcard(_))) => Ok(Self(pattern)),
            _ => Err(NoSite(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Site {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Site {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What the closed host says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    pub content_type: String,
    pub text: String,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub host: Site,
    /// `None`: it is open again.
    pub notice: Option<Notice>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// `None`: a short one of Edge's own.
    pub page: Option<Page>,
    /// Seconds; said to clients.
    pub retry_after: u32,
    /// Who is served all the same.
    pub allow: Vec<IpNet>,
    /// `None`: until it is taken back.
    pub seconds: Option<u64>,
}

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closure {
    pub host: Site,
    pub page: Option<Page>,
    pub retry_after: u32,
    pub allow: Vec<IpNet>,
    pub since: SystemTime,
    pub until: Option<SystemTime>,
}

/// All of them, one for each host, in the order in which they were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closures(pub Vec<Closure>);

impl Closures {
    /// Carries out what is asked; what is over is forgotten.
    pub fn ask(&mut self, ask: Ask, now: SystemTime) -> Result<(), String> {
        self.lapse(now);
        let Ask { host, notice } = ask;
        let others = self.0.iter().filter(|closure| closure.host != host);
        let Some(notice) = notice else {
            if self.0.iter().all(|closure| closure.host != host) {
                return Err(format!("{host} is not in maintenance"));
            }
            self.0.retain(|closure| closure.host != host);
            return Ok(());
        };
        let Notice { page, retry_after, allow, seconds } = notice;
        if others.clone().count() >= MOST {
            return Err(format!("{MOST} hosts are in maintenance already; end one of them first"));
        }
        let length = page.as_ref().map_or(0, |page| page.text.len());
        if length > LONGEST_PAGE {
            return Err(format!("the page has {length} bytes, expected {LONGEST_PAGE} at most"));
        }
        let kept: usize = others.filter_map(|closure| closure.page.as_ref()).map(|page| page.text.len()).sum();
        if kept + length > MOST_PAGES {
            return Err(format!("the pages of all hosts have more than {MOST_PAGES} bytes"));
        }
        if let Some(page) = &page {
            Body::parse(&page.text).map_err(|error| format!("the page: {error}"))?;
        }
        if !(1..=LONGEST_RETRY).contains(&retry_after) {
            return Err(format!("retry-after {retry_after} is out of range, expected 1 to {LONGEST_RETRY} seconds"));
        }
        if allow.len() > MOST_ALLOWED {
            return Err(format!("{} networks are let in, expected {MOST_ALLOWED} at most", allow.len()));
        }
        let until = match seconds {
            None => None,
            Some(seconds) => {
                let end = now.checked_add(Duration::from_secs(seconds));
                Some(end.ok_or_else(|| format!("{seconds} seconds are longer than time is counted"))?)
            }
        };
        self.0.retain(|closure| closure.host != host);
        self.0.push(Closure { host, page, retry_after, allow, since: now, until });
        Ok(())
    }

    /// Forgets what is over. Says whether anything was.
    pub fn lapse(&mut self, now: SystemTime) -> bool {
        let before = self.0.len();
        self.0.retain(|closure| closure.until.is_none_or(|until| until > now));
        self.0.len() != before
    }

    /// When the next one is over.
    pub fn next(&self) -> Option<SystemTime> {
        self.0.iter().filter_map(|closure| closure.until).min()
    }

    /// The one that holds for a host: that of the most specific name.
    pub fn of(&self, host: &str) -> Option<&Closure> {
        let matching = self.0.iter().filter(|closure| closure.host.0.matches(host));
        matching.max_by_key(|closure| match &closure.host.0 {
            HostPattern::Any => 0,
            HostPattern::Wildcard(suffix) => 1 + suffix.as_str().len(),
            HostPattern::Exact(_) => usize::MAX,
        })
    }

    /// `www.example.com, *.test`
    pub fn names(&self) -> String {
        let names: Vec<String> = self.0.iter().map(|closure| closure.host.to_string()).collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(host: &str, seconds: Option<u64>) -> Ask {
        let notice = Notice { page: None, retry_after: 300, allow: Vec::new(), seconds };
        Ask { host: host.parse().unwrap(), notice: Some(notice) }
    }

    fn off(host: &str) -> Ask {
        Ask { host: host.parse().unwrap(), notice: None }
    }

    #[test]
    fn hosts() {
        for text in ["www.example.com", "*.example.com", "*"] {
            assert_eq!(text.parse::<Site>().unwrap().to_string(), text);
        }
        for text in ["", "a b", "*.", "http://a.example", &"a".repeat(1000)] {
            let error = text.parse::<Site>().unwrap_err().to_string();
            assert!(error.len() < 200, "{error}");
        }
    }

    #[test]
    fn the_most_specific_one_counts_and_ends() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut closures = Closures::default();
        closures.ask(on("*", None), start).unwrap();
        closures.ask(on("*.example", Some(60)), start).unwrap();
        closures.ask(on("a.example", Some(90)), start).unwrap();
        let name = |closures: &Closures, host| closures.of(host).map(|closure| closure.host.to_string());
        assert_eq!(name(&closures, "a.example").as_deref(), Some("a.example"));
        assert_eq!(name(&closures, "b.example").as_deref(), Some("*.example"));
        assert_eq!(closures.next(), Some(at(60)));
        assert!(!closures.lapse(at(59)) && closures.lapse(at(60)));
        assert_eq!(name(&closures, "b.example").as_deref(), Some("*"));
        let text = serde_json::to_string(&closures).unwrap();
        assert_eq!(serde_json::from_str::<Closures>(&text).unwrap(), closures);
        closures.ask(off("*"), at(61)).unwrap();
        assert_eq!((name(&closures, "b.example"), closures.names()), (None, "a.example".to_owned()));
        assert_eq!(closures.ask(off("*"), at(61)), Err("* is not in maintenance".to_owned()));
    }

    #[test]
    fn there_are_bounds() {
        let now = SystemTime::UNIX_EPOCH;
        let with = |notice: Notice| Ask { host: "a.example".parse().unwrap(), notice: Some(notice) };
        let plain = Notice { page: None, retry_after: 300, allow: Vec::new(), seconds: None };
        let page = |text: String| Some(Page { content_type: "text/html".into(), text });
        let mut closures = Closures::default();
        for (notice, expected) in [
            (Notice { retry_after: 0, ..plain.clone() }, "retry-after 0 is out of range"),
            (Notice { page: page("x".repeat(LONGEST_PAGE + 1)), ..plain.clone() }, "the page has"),
            (Notice { page: page("%DURATION%".into()), ..plain.clone() }, "the page: %DURATION%"),
            (Notice { allow: vec!["10.0.0.0/8".parse().unwrap(); 65], ..plain.clone() }, "65 networks"),
            (Notice { seconds: Some(u64::MAX), ..plain.clone() }, "seconds are longer"),
        ] {
            let error = closures.ask(with(notice), now).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        for number in 0..MOST {
            closures.ask(on(&format!("h{number}.example"), None), now).unwrap();
        }
        assert!(closures.ask(on("one-more.example", None), now).is_err());
        // Another word about a host that is closed is none more.
        closures.ask(on("h7.example", Some(5)), now).unwrap();
    }
}
