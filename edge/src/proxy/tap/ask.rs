//! Which requests somebody wants to see.

use std::time::Duration;

use edge_config::names::HostPattern;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::control::maintenance::Site;
use crate::proxy::access_log::Entry;

/// Everything that is asked for must hold of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Below HTTP it is the server name of TLS; what has none is seen by `*` only.
    pub host: Site,
    /// In upper case; none: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// The path begins with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// None: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<Statuses>,
    /// `namespace/name`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// One of these networks has the client; none: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<IpNet>,
    /// It took so long or longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_ms: Option<u64>,
    /// Edge itself answered, or it broke off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// One in so many of those for which all of that holds.
    #[serde(default = "one")]
    pub sample: u32,
    /// No more than so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Fields of the request whose values are wanted; lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
}

fn one() -> u32 {
    1
}

/// So many names of methods, networks, statuses or fields may be asked for.
const MOST: usize = 32;
/// Of one of them, or of a path.
const LONGEST: usize = 1024;

impl Ask {
    /// Whether it can be carried out; else why not.
    pub fn check(&self) -> Result<(), String> {
        let lengths = [self.methods.len(), self.statuses.len(), self.clients.len(), self.headers.len()];
        if lengths.iter().any(|length| *length > MOST) {
            return Err(format!("more than {MOST} methods, statuses, networks or headers"));
        }
        let texts = self.methods.iter().chain(&self.headers).chain(&self.path).chain(&self.route);
        if let Some(long) = texts.clone().find(|text| text.len() > LONGEST) {
            return Err(format!("{:.40}… is longer than {LONGEST} bytes", long.as_str()));
        }
        if self.sample == 0 {
            return Err("sample 0, expected 1 or more: one in so many".to_owned());
        }
        if let Some(path) = self.path.as_ref().filter(|path| !path.starts_with('/')) {
            return Err(format!("path {path:?} does not begin with /"));
        }
        if let Some(route) = self.route.as_ref().filter(|route| !route.contains('/')) {
            return Err(format!("route {route:?}, expected NAMESPACE/NAME"));
        }
        Ok(())
    }

    pub(super) fn holds(&self, entry: &Entry<'_>) -> bool {
        self.slow_ms.is_none_or(|slow| entry.duration >= Duration::from_millis(slow))
            && self.is_for(entry)
            && (self.methods.is_empty() || self.methods.iter().any(|method| method.as_bytes() == entry.method))
            && self.path.as_ref().is_none_or(|path| entry.path.starts_with(path.as_bytes()))
            && (self.statuses.is_empty() || self.statuses.iter().any(|known| known.0.contains(&entry.status)))
            && (!self.failed || entry.reason.is_some())
            && (self.clients.is_empty()
                || self.clients.iter().any(|network| network.contains(&entry.client.ip().to_canonical())))
            && self.route.as_ref().is_none_or(|route| {
                let of = entry.rule.map(|rule| &rule.route.key);
                of.zip(route.split_once('/'))
                    .is_some_and(|(key, (namespace, name))| *key.namespace == *namespace && *key.name == *name)
            })
    }

    fn is_for(&self, entry: &Entry<'_>) -> bool {
        if self.host.0 == HostPattern::Any {
            return true;
        }
        host_of(entry).is_some_and(|host| self.host.0.matches(&host.to_ascii_lowercase()))
    }
}

/// The host that a request is for, or the server name of a connection.
pub(super) fn host_of<'e>(entry: &Entry<'e>) -> Option<&'e str> {
    match entry.host {
        b"" => entry.tls.and_then(|tls| tls.server_name),
        host => std::str::from_utf8(host).ok(),
    }
}

/// `404`, or `5xx`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statuses(std::ops::RangeInclusive<u16>);

impl std::str::FromStr for Statuses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let class = text.strip_suffix("xx").and_then(|digit| digit.parse::<u16>().ok());
        let range = match (class, text.parse::<u16>()) {
            (Some(class @ 1..=5), _) => class * 100..=class * 100 + 99,
            (None, Ok(status @ 100..=599)) => status..=status,
            _ => return Err(format!("status {text:.10?}, expected such as 404 or 5xx")),
        };
        Ok(Self(range))
    }
}

impl std::fmt::Display for Statuses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.start() == self.0.end() {
            write!(f, "{}", self.0.start())
        } else {
            write!(f, "{}xx", self.0.start() / 100)
        }
    }
}

impl Serialize for Statuses {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
