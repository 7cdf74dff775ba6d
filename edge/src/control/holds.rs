//! What an operator says of single endpoints: they are drained or disabled until that is taken back or its time is over,
//! over restarts and whatever routes, policies and checks say.
//!
//! The words are F5's: a drained endpoint ("disabled" there) keeps the sessions that are pinned to it and gets no other
//! request; a disabled one ("forced offline") gets none. Requests and connections under way are left alone by both.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use edge_config::snapshot::EndpointState;
use serde::{Deserialize, Serialize};

/// So many holds are kept; whoever needs more changes the Service.
pub const MOST: usize = 1000;

/// An address, or one port of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub address: IpAddr,
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no endpoint, expected an address such as 10.0.0.1, 10.0.0.1:8080 or [2001:db8::1]:8080")]
pub struct NoPlace(String);

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { address, port: None });
        }
        let socket: SocketAddr = text.parse().map_err(|_| NoPlace(text.chars().take(64).collect()))?;
        Ok(Self { address: socket.ip(), port: Some(socket.port()) })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Place {
    pub fn holds(&self, endpoint: SocketAddr) -> bool {
        self.address.to_canonical() == endpoint.ip().to_canonical()
            && self.port.is_none_or(|port| port == endpoint.port())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    Enabled,
    Drained,
    Disabled,
}

impl Standing {
    /// What it makes of an endpoint that would be in this state.
    pub fn of(self, state: EndpointState) -> EndpointState {
        match self {
            Self::Enabled => state,
            Self::Drained => EndpointState::Drained,
            Self::Disabled => EndpointState::Disabled,
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub endpoint: Place,
    pub standing: Standing,
    /// `None`: until it is taken back.
    pub seconds: Option<u64>,
}

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub endpoint: Place,
    pub standing: Standing,
    pub since: SystemTime,
    pub until: Option<SystemTime>,
}

/// All of them, in the order in which they were asked for; the last one about an endpoint counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds(pub Vec<Hold>);

impl Holds {
    /// Carries out what is asked; what is over is forgotten.
    pub fn ask(&mut self, ask: Ask, now: SystemTime) -> Result<(), String> {
        self.lapse(now);
        let Ask { endpoint, standing, seconds } = ask;
        // An address without port stands for all its ports.
        self.0.retain(|hold| {
            hold.endpoint != endpoint && !(endpoint.port.is_none() && hold.endpoint.address == endpoint.address)
        });
        let is_under_another =
            self.0.iter().any(|hold| hold.endpoint.port.is_none() && hold.endpoint.address == endpoint.address);
        if standing == Standing::Enabled && !is_under_another {
            return Ok(());
        }
        if self.0.len() >= MOST {
            return Err(format!("{MOST} endpoints are drained or disabled already; enable some of them first"));
        }
        let until = match seconds {
            None => None,
            Some(seconds) => {
                let end = now.checked_add(Duration::from_secs(seconds));
                Some(end.ok_or_else(|| format!("{seconds} seconds are longer than time is counted"))?)
            }
        };
        self.0.push(Hold { endpoint, standing, since: now, until });
        Ok(())
    }

    /// Forgets what is over. Says whether anything was.
    pub fn lapse(&mut self, now: SystemTime) -> bool {
        let before = self.0.len();
        self.0.retain(|hold| hold.until.is_none_or(|until| until > now));
        self.0.len() != before
    }

    /// When the next one is over.
    pub fn next(&self) -> Option<SystemTime> {
        self.0.iter().filter_map(|hold| hold.until).min()
    }

    /// What is said of an endpoint.
    pub fn of(&self, endpoint: SocketAddr) -> Standing {
        let held = self.0.iter().rev().find(|hold| hold.endpoint.holds(endpoint));
        held.map_or(Standing::Enabled, |hold| hold.standing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(endpoint: &str, standing: Standing, seconds: Option<u64>) -> Ask {
        Ask { endpoint: endpoint.parse().unwrap(), standing, seconds }
    }

    #[test]
    fn places() {
        for text in ["10.0.0.1", "10.0.0.1:80", "2001:db8::1", "[2001:db8::1]:80"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        for text in ["", "a", "10.0.0.1:", "10.0.0.1:99999", "10.0.0.0/8", &"1".repeat(1000)] {
            let error = text.parse::<Place>().unwrap_err().to_string();
            assert!(error.len() < 250, "{error}");
        }
    }

    #[test]
    fn the_last_word_counts_and_ends() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let at = |seconds| start + Duration::from_secs(seconds);
        let (one, two): (SocketAddr, SocketAddr) = ("10.0.0.1:80".parse().unwrap(), "10.0.0.1:81".parse().unwrap());
        let mut holds = Holds::default();
        holds.ask(ask("10.0.0.1", Standing::Drained, None), start).unwrap();
        holds.ask(ask("10.0.0.1:80", Standing::Disabled, Some(60)), start).unwrap();
        assert_eq!((holds.of(one), holds.of(two)), (Standing::Disabled, Standing::Drained));
        assert_eq!(holds.next(), Some(at(60)));
        assert!(!holds.lapse(at(59)) && holds.lapse(at(60)));
        assert_eq!(holds.of(one), Standing::Drained, "the wider word holds again");
        // One port may be excepted from it.
        holds.ask(ask("10.0.0.1:80", Standing::Enabled, None), at(60)).unwrap();
        assert_eq!((holds.of(one), holds.of(two)), (Standing::Enabled, Standing::Drained));
        let text = serde_json::to_string(&holds).unwrap();
        assert_eq!(serde_json::from_str::<Holds>(&text).unwrap(), holds);
        holds.ask(ask("10.0.0.1", Standing::Enabled, None), at(61)).unwrap();
        assert_eq!(holds, Holds::default());
        assert!(holds.ask(ask("10.0.0.1", Standing::Drained, Some(u64::MAX)), start).is_err());
    }

    #[test]
    fn there_is_a_bound() {
        let mut holds = Holds::default();
        for number in 0..MOST {
            let endpoint = format!("10.0.{}.{}", number / 256, number % 256);
            holds.ask(ask(&endpoint, Standing::Drained, None), SystemTime::UNIX_EPOCH).unwrap();
        }
        assert!(holds.ask(ask("10.9.9.9", Standing::Drained, None), SystemTime::UNIX_EPOCH).is_err());
        holds.ask(ask("10.0.0.7", Standing::Disabled, None), SystemTime::UNIX_EPOCH).unwrap();
    }
}
