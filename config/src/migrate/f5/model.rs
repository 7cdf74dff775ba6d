//! What a BIG-IP is told, whether AS3 or `bigip.conf` says it. Names are full paths, such as `/Common/web`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::migrate::{NoteKind, Notes};
use crate::problem::Origin;

#[derive(Default)]
pub(super) struct Model {
    /// In the order of the text.
    pub virtuals: Vec<Virtual>,
    pub pools: BTreeMap<String, Pool>,
    pub tls: BTreeMap<String, TlsProfile>,
    /// TLS towards endpoints.
    pub backend_tls: BTreeMap<String, BackendTls>,
    pub persistence: BTreeMap<String, Persistence>,
    pub policies: BTreeMap<String, Policy>,
    pub rules: BTreeMap<String, IRule>,
    /// Names of profiles, with their type: `http`, `tcp`, `client-ssl`.
    pub profiles: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub(super) struct Place {
    pub subject: String,
    pub origin: Origin,
}

impl Place {
    pub fn note(&self, notes: &mut Notes, kind: NoteKind, message: impl Into<String>) {
        notes.add(kind, Some(&self.origin), &self.subject, message);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    Https,
    Tcp,
    /// TLS ends here, what is inside is not HTTP.
    TlsTcp,
    Udp,
}

#[derive(Debug, Clone)]
pub(super) struct Virtual {
    /// `/tenant/application/name`
    pub name: String,
    pub place: Place,
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    pub kind: Kind,
    pub pool: Option<String>,
    /// Profiles for TLS with clients, the default first.
    pub tls: Vec<String>,
    pub backend_tls: Option<String>,
    /// A redirect to HTTPS listens on this port of the same address.
    pub redirect_from: Option<u16>,
    pub persistence: Option<String>,
    pub policies: Vec<String>,
    pub rules: Vec<String>,
    /// Only clients of these networks; empty: all.
    pub sources: Vec<String>,
    pub is_enabled: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Pool {
    pub place: Place,
    pub members: Vec<PoolMember>,
    /// `round-robin`, `least-connections-member`, …
    pub method: String,
    pub monitors: Vec<String>,
    /// Groups of lower priority help out below this.
    pub minimum_active: u32,
}

#[derive(Debug, Clone)]
pub(super) struct PoolMember {
    pub at: At,
    pub port: u16,
    pub ratio: u32,
    pub priority: u32,
    /// Takes new connections.
    pub is_enabled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum At {
    Address(IpAddr),
    Name(String),
}

#[derive(Debug, Clone)]
pub(super) struct TlsProfile {
    pub place: Place,
    /// Names of certificates, the default first.
    pub certificates: Vec<String>,
    /// Clients must have a certificate.
    pub is_mutual: bool,
}

#[derive(Debug, Clone)]
pub(super) struct BackendTls {
    pub server_name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Persistence {
    Cookie {
        name: Option<String>,
        seconds: u64,
    },
    /// Seconds.
    SourceAddress(u64),
    /// One that has no counterpart, by its name.
    Other(String),
}

#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub place: Place,
    pub rules: Vec<PolicyRule>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct PolicyRule {
    pub name: String,
    /// All must hold.
    pub conditions: Vec<Condition>,
    pub actions: Vec<Action>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// Any of the hosts.
    Host(Test, Vec<String>),
    Path(Test, Vec<String>),
    Header(String, Test, Vec<String>),
    Method(Vec<String>),
    /// What cannot be told, in its own words.
    Other(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equals,
    StartsWith,
    EndsWith,
    Contains,
    Exists,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Forward(String),
    /// Location and status.
    Redirect(String, u16),
    Insert(String, String),
    Replace(String, String),
    Remove(String),
    /// The response's header fields.
    InsertInResponse(String, String),
    RemoveFromResponse(String),
    ReplacePath(String),
    /// The connection is closed or the request refused.
    Refuse,
    Nothing,
    Other(String),
}

#[derive(Debug, Clone)]
pub(super) struct IRule {
    pub place: Place,
    pub text: String,
}

/// What an iRule does, as far as its words tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Nothing but sending HTTP to HTTPS.
    ToHttps(u16),
    /// Its parts, in words, and whether it refuses somebody.
    Script(Vec<&'static str>, bool),
}

/// Words of TCL by which a use is known, and what to do instead.
const USES: [(&[&str], &str); 12] = [
    (&["HTTP::redirect", "302", "Location"], "redirects: a RequestRedirect filter"),
    (&["pool "], "chooses a pool: rules of the HTTPRoute with matches"),
    (&["HTTP::header insert", "HTTP::header replace", "HTTP::header remove"], "edits headers: header modifiers"),
    (&["HTTP::uri /", "HTTP::path", "HTTP::uri ["], "reads or rewrites the path: matches, URLRewrite"),
    (&["HTTP::respond"], "answers itself: let a backend answer"),
    (
        &["IP::client_addr", "IP::addr"],
        "looks at the client's address: a SecurityPolicy, or source ranges of a Service",
    ),
    (&["HTTP::cookie", "persist "], "keeps sessions: sessionPersistence"),
    (&["SSL::", "CLIENTSSL"], "looks at TLS: listeners by host name, BackendTLSPolicy"),
    (&["class match", "class search", "class lookup"], "looks into data groups: matches of an HTTPRoute"),
    (&["log "], "writes logs: [access_log]"),
    (&["HTTP::collect", "HTTP::payload", "STREAM::"], "reads or changes bodies: nothing in Edge does"),
    (&["table ", "after "], "keeps state: nothing in Edge does"),
];

impl IRule {
    pub fn purpose(&self) -> Purpose {
        let code: String = self
            .text
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('#') && !line.starts_with("log "))
            .collect::<Vec<_>>()
            .join(" ");
        let squeezed: String = code.chars().filter(|c| !c.is_whitespace() && *c != '"' && *c != ';').collect();
        const SIMPLE: [&str; 4] = [
            "whenHTTP_REQUEST{HTTP::redirecthttps://[HTTP::host][HTTP::uri]}",
            "whenHTTP_REQUEST{HTTP::redirecthttps://[getfield[HTTP::host]:1][HTTP::uri]}",
            "whenHTTP_REQUEST{HTTP::respond301Locationhttps://[HTTP::host][HTTP::uri]}",
            "whenHTTP_REQUEST{HTTP::respond301Locationhttps://[getfield[HTTP::host]:1][HTTP::uri]}",
        ];
        if let Some(place) = SIMPLE.iter().position(|simple| *simple == squeezed) {
            return Purpose::ToHttps(if place < 2 { 302 } else { 301 });
        }
        let uses = USES.iter().filter(|(words, _)| words.iter().any(|word| code.contains(word)));
        let refuses = ["reject", "drop", "discard", "HTTP::respond 4", "ACCESS::", "HTTP::close", "forward disable"];
        Purpose::Script(uses.map(|(_, what)| *what).collect(), refuses.iter().any(|word| code.contains(word)))
    }
}

/// An address with a route domain: the address and the domain, where it is not 0.
pub(super) fn address(text: &str) -> Option<(IpAddr, Option<&str>)> {
    let (address, domain) = match text.split_once('%') {
        Some((address, domain)) => (address, Some(domain)),
        None => (text, None),
    };
    Some((address.parse().ok()?, domain.filter(|domain| *domain != "0")))
}

/// A network with a route domain inside of it: `10.0.0.0%1/8`.
pub(super) fn network(text: &str) -> Option<String> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let (address, _) = self::address(address)?;
    let length = match length {
        Some(length) => length.to_owned(),
        None => (if address.is_ipv4() { "32" } else { "128" }).to_owned(),
    };
    let network: ipnet::IpNet = format!("{address}/{length}").parse().ok()?;
    Some(network.trunc().to_string())
}

/// `https`, `http`, … as `bigip.conf` writes ports.
pub(super) fn port(text: &str) -> Option<u16> {
    const NAMES: [(&str, u16); 22] = [
        ("any", 0),
        ("ftp", 21),
        ("ssh", 22),
        ("telnet", 23),
        ("smtp", 25),
        ("domain", 53),
        ("http", 80),
        ("pop3", 110),
        ("ntp", 123),
        ("imap", 143),
        ("snmp", 161),
        ("ldap", 389),
        ("https", 443),
        ("syslog", 514),
        ("ldaps", 636),
        ("imaps", 993),
        ("pop3s", 995),
        ("ms-sql-s", 1433),
        ("mysql", 3306),
        ("ms-wbt-server", 3389),
        ("webcache", 8080),
        ("pcsync-https", 8443),
    ];
    text.parse().ok().or_else(|| NAMES.iter().find(|(name, _)| *name == text).map(|(_, port)| *port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Purpose {
        let origin = Origin { file: "x".into(), line: 1, column: 1 };
        IRule { place: Place { subject: String::new(), origin }, text: text.to_owned() }.purpose()
    }

    #[test]
    fn purposes() {
        assert_eq!(
            rule("when HTTP_REQUEST {\n  # to TLS\n  HTTP::redirect \"https://[HTTP::host][HTTP::uri]\"\n}"),
            Purpose::ToHttps(302)
        );
        let Purpose::Script(uses, refuses) =
            rule("when CLIENT_ACCEPTED { if { ![class match [IP::client_addr] equals ok] } { reject } }")
        else {
            panic!("a script")
        };
        assert!(refuses && uses.len() == 2, "{uses:?}");
        assert!(
            matches!(rule("when HTTP_REQUEST { pool /Common/a }"), Purpose::Script(uses, false) if uses.len() == 1)
        );
    }

    #[test]
    fn addresses() {
        assert_eq!(address("10.0.0.1%12"), Some(("10.0.0.1".parse().unwrap(), Some("12"))));
        assert_eq!(address("2001:db8::1%0"), Some(("2001:db8::1".parse().unwrap(), None)));
        assert_eq!(address("any"), None);
        assert_eq!(network("10.1.2.3%1/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(port("https"), Some(443));
    }
}
