//! Asks the configured name servers, and a zone's own servers where freshness or proof matters.
//!
//! In: names as text. Out: records with the aliases that led to them, or which kind of absence or failure it was: a CA
//! treats "no such name", "no such record" and "the server failed" differently. Nothing is cached or retried later.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, Record};
pub use hickory_proto::rr::{RData, RecordType};

use super::wire::{self, WireError};

/// Aliases that are followed; CAs and resolvers give up at 8 to 16.
const ALIASES: usize = 10;
/// Name servers of one zone that are asked, and addresses of each.
const SERVERS: usize = 16;
const ADDRESSES: usize = 4;

/// How far an answer tells what the CA will see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    /// The system's resolver: it may have an inside view.
    Inside,
    /// Servers that the operator named for this, or a zone's own servers on the Internet.
    AsTheCa,
}

/// Whom to ask and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Resolvers, in the order they are asked.
    pub servers: Vec<SocketAddr>,
    pub sight: Sight,
    /// For one server.
    pub patience: Duration,
    /// Of a zone's own servers; 53 but in tests.
    pub authority_port: u16,
}

impl Settings {
    /// Servers that are configured for looking at names as a CA does.
    pub fn configured(servers: Vec<SocketAddr>) -> Self {
        Self { servers, sight: Sight::AsTheCa, patience: Duration::from_secs(3), authority_port: 53 }
    }

    /// From the text of `/etc/resolv.conf`; without a server in it, the one on this host (resolv.conf(5)).
    pub fn system(resolv_conf: &str) -> Self {
        let address = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            let word = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
            // A scope (`fe80::1%eth0`) names an interface; such servers are left out.
            word.parse::<IpAddr>().ok()
        };
        let mut servers: Vec<_> = resolv_conf.lines().filter_map(address).map(|ip| SocketAddr::new(ip, 53)).collect();
        if servers.is_empty() {
            servers.push(SocketAddr::from(([127, 0, 0, 1], 53)));
        }
        Self { sight: Sight::Inside, ..Self::configured(servers) }
    }
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Resolver {
    settings: Arc<Settings>,
}

/// Why there is no answer, of either kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("{0:?} is not a name that DNS can hold")]
    Name(Box<str>),
    #[error("no name server is configured")]
    NoServers,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("name server {server} answered {code} for {name}")]
    Refused { server: SocketAddr, code: Box<str>, name: Box<str> },
    #[error("name server {server} is named for {name} but does not serve it")]
    Lame { server: SocketAddr, name: Box<str> },
    #[error("the aliases of {0} do not end")]
    Aliases(Box<str>),
    #[error("no zone was found above {0}")]
    NoZone(Box<str>),
    #[error("zone {0} has no name server with an address")]
    NoAuthority(Box<str>),
}

/// What one lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub found: Found,
    /// Targets of the CNAMEs on the way, in order.
    pub aliases: Vec<Box<str>>,
    /// Who said so.
    pub server: SocketAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Records(Vec<RData>),
    /// The name exists without such a record.
    NoRecord,
    NoName,
}

impl Answer {
    pub fn records(&self) -> &[RData] {
        match &self.found {
            Found::Records(records) => records,
            Found::NoRecord | Found::NoName => &[],
        }
    }
}

/// A server that the zone names as its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    pub name: Box<str>,
    pub addresses: Vec<SocketAddr>,
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A zone and the servers it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    pub name: Box<str>,
    /// Those without an address have none in the list.
    pub servers: Vec<NameServer>,
}

/// `name` as DNS writes it, rooted. Only ASCII: names arrive in their A-label form.
pub fn parse(name: &str) -> Result<Name, ResolveError> {
    let mut parsed = Name::from_ascii(name).map_err(|_| ResolveError::Name(name.into()))?;
    parsed.set_fqdn(true);
    Ok(parsed)
}

/// Without the dot of the root.
pub fn text(name: &Name) -> Box<str> {
    let text = name.to_lowercase().to_ascii();
    match text.strip_suffix('.') {
        Some(bare) if !bare.is_empty() => bare.into(),
        _ => text.into(),
    }
}

impl Resolver {
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings) }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Asks the configured servers in turn until one knows; follows aliases.
    pub async fn lookup(&self, name: &str, kind: RecordType) -> Result<Answer, ResolveError> {
        let mut asked = parse(name)?;
        let mut aliases = Vec::new();
        loop {
            let (message, server) = self.any(&asked, kind).await?;
            match read(&message, &asked, kind, &mut aliases)? {
                Read::Done(found) => return Ok(Answer { found, aliases, server }),
                Read::Alias(target) => asked = target,
            }
        }
    }

    /// Asks the own servers of the zone that each name on the way is in. No cache can be between.
    pub async fn authority(&self, name: &str, kind: RecordType) -> Result<Answer, ResolveError> {
        let mut asked = parse(name)?;
        let mut aliases = Vec::new();
        loop {
            let zone = self.zone(&text(&asked)).await?;
            let (message, server) = self.one_of(&zone, &asked, kind).await?;
            match read(&message, &asked, kind, &mut aliases)? {
                Read::Done(found) => return Ok(Answer { found, aliases, server }),
                Read::Alias(target) => asked = target,
            }
        }
    }

    /// The zone that holds a name, by its SOA, with its servers.
    pub async fn zone(&self, name: &str) -> Result<Zone, ResolveError> {
        let apex = self.apex(name).await?;
        self.servers_of(apex).await
    }

    /// What each address of each server of a zone says about one name; aliases are not followed.
    pub async fn all_of(
        &self,
        zone: &Zone,
        name: &str,
        kind: RecordType,
    ) -> Result<Vec<(NameServer, Vec<Result<Answer, ResolveError>>)>, ResolveError> {
        let asked = parse(name)?;
        let asking = zone.servers.iter().map(|server| {
            let each = server.addresses.iter().map(|address| self.one_says(*address, &asked, kind));
            async { (server.clone(), join_all(each).await) }
        });
        Ok(join_all(asking).await)
    }

    async fn one_says(&self, server: SocketAddr, asked: &Name, kind: RecordType) -> Result<Answer, ResolveError> {
        let (message, server) = self.own(server, asked, kind).await?;
        let mut aliases = Vec::new();
        let found = match read(&message, asked, kind, &mut aliases)? {
            Read::Done(found) => found,
            Read::Alias(_) => Found::NoRecord,
        };
        Ok(Answer { found, aliases, server })
    }

    async fn apex(&self, name: &str) -> Result<Name, ResolveError> {
        let mut at = parse(name)?;
        loop {
            let (message, _) = self.any(&at, RecordType::SOA).await?;
            let soa = |record: &&Record| matches!(record.data, RData::SOA(_));
            if message.answers.iter().any(|record| soa(&record) && record.name == at) {
                return Ok(at);
            }
            // A negative answer carries the SOA of its zone (RFC 2308 §2); behind an alias it is another zone's.
            let aliased = message.answers.iter().any(|record| matches!(record.data, RData::CNAME(_)));
            if !aliased
                && let Some(record) = message.authorities.iter().find(soa)
                && record.name.zone_of(&at)
                && !record.name.is_root()
            {
                return Ok(record.name.clone());
            }
            at = at.base_name();
            if at.is_root() {
                return Err(ResolveError::NoZone(name.into()));
            }
        }
    }

    async fn servers_of(&self, apex: Name) -> Result<Zone, ResolveError> {
        let (message, _) = self.any(&apex, RecordType::NS).await?;
        let mut servers = Vec::new();
        for record in message.answers.iter().filter(|record| record.name == apex) {
            if let RData::NS(name) = &record.data
                && servers.len() < SERVERS
            {
                servers.push(text(&name.0));
            }
        }
        servers.sort();
        servers.dedup();
        let servers = join_all(servers.into_iter().map(|name| self.name_server(name))).await;
        let zone = Zone { name: text(&apex), servers };
        if zone.servers.iter().all(|server| server.addresses.is_empty()) {
            return Err(ResolveError::NoAuthority(zone.name));
        }
        Ok(zone)
    }

    async fn name_server(&self, name: Box<str>) -> NameServer {
        let (four, six) = tokio::join!(self.lookup(&name, RecordType::A), self.lookup(&name, RecordType::AAAA));
        let found = [four, six].into_iter().flatten();
        let found = found.flat_map(|answer| answer.records().iter().filter_map(RData::ip_addr).collect::<Vec<_>>());
        let addresses = found.map(|ip| SocketAddr::new(ip, self.settings.authority_port)).take(ADDRESSES).collect();
        NameServer { name, addresses }
    }

    /// The first configured server that has a definite answer.
    async fn any(&self, name: &Name, kind: RecordType) -> Result<(Message, SocketAddr), ResolveError> {
        let mut last = ResolveError::NoServers;
        for &server in &self.settings.servers {
            match wire::ask(server, name, kind, true, self.settings.patience).await {
                Ok(message) => match message.response_code {
                    ResponseCode::NoError | ResponseCode::NXDomain => return Ok((message, server)),
                    code => last = refused(server, code, name),
                },
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    async fn one_of(&self, zone: &Zone, name: &Name, kind: RecordType) -> Result<(Message, SocketAddr), ResolveError> {
        let mut last = ResolveError::NoAuthority(zone.name.clone());
        for &address in zone.servers.iter().flat_map(|server| &server.addresses) {
            match self.own(address, name, kind).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// One of a zone's own servers; it must speak with authority.
    async fn own(
        &self,
        server: SocketAddr,
        name: &Name,
        kind: RecordType,
    ) -> Result<(Message, SocketAddr), ResolveError> {
        let message = wire::ask(server, name, kind, false, self.settings.patience).await?;
        match message.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain if message.authoritative => Ok((message, server)),
            ResponseCode::NoError | ResponseCode::NXDomain => Err(ResolveError::Lame { server, name: text(name) }),
            code => Err(refused(server, code, name)),
        }
    }
}

fn refused(server: SocketAddr, code: ResponseCode, name: &Name) -> ResolveError {
    let code = match code {
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::Refused => "REFUSED".into(),
        other => format!("{other:?}").to_uppercase().into(),
    };
    ResolveError::Refused { server, code, name: text(name) }
}

enum Read {
    Done(Found),
    /// The answer ends in an alias whose target it does not hold.
    Alias(Name),
}

fn read(message: &Message, asked: &Name, kind: RecordType, aliases: &mut Vec<Box<str>>) -> Result<Read, ResolveError> {
    let mut at = asked;
    loop {
        let of_kind = |record: &&Record| record.name == *at && record.record_type() == kind;
        let records: Vec<RData> = message.answers.iter().filter(of_kind).map(|record| record.data.clone()).collect();
        if !records.is_empty() {
            return Ok(Read::Done(Found::Records(records)));
        }
        let alias = message.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *at && kind != RecordType::CNAME => Some(&target.0),
            _ => None,
        });
        let Some(target) = alias else { break };
        let name = text(target);
        if aliases.len() >= ALIASES || aliases.contains(&name) {
            return Err(ResolveError::Aliases(text(asked)));
        }
        aliases.push(name);
        at = target;
    }
    if message.response_code == ResponseCode::NXDomain {
        return Ok(Read::Done(Found::NoName));
    }
    // An SOA says that the absence was looked for (RFC 2308 §2.2), otherwise the target is another server's.
    let looked_for =
        message.authorities.iter().any(|record| record.name.zone_of(at) && matches!(record.data, RData::SOA(_)));
    if at == asked || looked_for {
        return Ok(Read::Done(Found::NoRecord));
    }
    Ok(Read::Alias(at.clone()))
}

#[cfg(test)]
#[path = "resolver/tests.rs"]
mod tests;
