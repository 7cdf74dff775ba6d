//! Dynamic updates of a primary name server (RFC 2136), signed by TSIG (RFC 8945) where a key is given.
//!
//! One value is one record: it is added without prerequisites and deleted by its content, so that others at the same
//! name stay. The zone is found by asking that server itself for its SOA. TCP only: an update is never sent twice by a
//! lost answer, and source addresses cannot be forged.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_config::issuer::{ServerAddress, Tsig, TsigAlgorithm};
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm as Algorithm, TsigError};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, TSigner};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::{Means, ProviderError, Secrets, TxtValue, WriteTxt, read};
use crate::dns::resolver::{parse, text};
use crate::dns::wire::{self, WireError};

const PATIENCE: Duration = Duration::from_secs(10);
/// Seconds; nothing caches a challenge for longer than this.
const TTL: u32 = 60;
/// Seconds by which the clocks may differ (RFC 8945 §10).
const FUDGE: u16 = 300;

pub struct Rfc2136 {
    /// Each is tried until one takes the connection.
    servers: Vec<SocketAddr>,
    signer: Option<TSigner>,
    now: fn() -> i64,
}

enum Change {
    Add,
    Delete,
}

impl Rfc2136 {
    pub async fn open(
        server: &ServerAddress,
        tsig: Option<&Tsig>,
        secrets: &dyn Secrets,
        means: &Means,
    ) -> Result<Self, ProviderError> {
        let servers = match server {
            ServerAddress::Address(address) => vec![*address],
            ServerAddress::Name { host, port } => addresses(host, *port).await?,
        };
        let signer = match tsig {
            None => None,
            Some(tsig) => Some(signer(tsig, &read("TSIG key", &tsig.key, secrets).await?)?),
        };
        Ok(Self { servers, signer, now: means.now })
    }

    async fn change(&self, record: &TxtValue, change: Change) -> Result<(), ProviderError> {
        let name = parse(&record.name)?;
        let mut last = None;
        for &server in &self.servers {
            match self.change_at(server, &name, record, &change).await {
                Err(ProviderError::Wire(error @ WireError::Unreachable { .. })) => last = Some(error),
                done => return done,
            }
        }
        Err(last.map_or_else(|| refusal("name server", &record.name, "it has no address"), ProviderError::Wire))
    }

    async fn change_at(
        &self,
        server: SocketAddr,
        name: &Name,
        record: &TxtValue,
        change: &Change,
    ) -> Result<(), ProviderError> {
        let zone = self.zone(server, name).await?;
        let mut message = update(&zone, name, &record.value, change);
        let garbled = |reason: String| WireError::Garbled { server, reason: reason.into() };
        let mut mac = None;
        if let Some(signer) = &self.signer {
            let now = u64::try_from((self.now)()).unwrap_or_default();
            message.finalize(signer, now).map_err(|error| garbled(error.to_string()))?;
            mac = message.signature().map(|signature| signature.data.mac.clone());
        }
        let bytes = message.to_vec().map_err(|error| garbled(error.to_string()))?;
        let bytes = wire::exchange(server, &bytes, PATIENCE).await?;
        let answer = Message::from_vec(&bytes).map_err(|error| garbled(error.to_string()))?;
        if answer.id != message.id || answer.op_code != OpCode::Update {
            return Err(garbled("it answers another message".into()).into());
        }
        if answer.response_code != ResponseCode::NoError {
            return Err(refusal(&format!("name server {server}"), &record.name, &self.reason(&answer, &zone)));
        }
        // Errors may come unsigned, success may not (RFC 8945 §5.3).
        if let (Some(signer), Some(mac)) = (&self.signer, mac) {
            signer
                .verify_message_byte(&bytes, Some(&mac), true)
                .map_err(|_| garbled("its success is not signed by the key".into()))?;
        }
        Ok(())
    }

    /// The apex of the zone on this server: parents are not asked, since it may be a hidden primary.
    async fn zone(&self, server: SocketAddr, name: &Name) -> Result<Name, ProviderError> {
        let mut at = name.clone();
        while !at.is_root() {
            let message = wire::ask(server, &at, RecordType::SOA, false, PATIENCE).await?;
            let soa = message.answers.iter().chain(&message.authorities).find(|record| {
                matches!(record.data, RData::SOA(_)) && record.name.zone_of(name) && !record.name.is_root()
            });
            if let Some(record) = soa
                && message.authoritative
            {
                return Ok(record.name.clone());
            }
            at = at.base_name();
        }
        Err(refusal(&format!("name server {server}"), &text(name), "it serves no zone that holds this name"))
    }

    /// What a refusal means, with the remedy.
    fn reason(&self, answer: &Message, zone: &Name) -> String {
        let key = self.signer.as_ref().map(|signer| text(signer.signer_name())).unwrap_or_default();
        let zone = text(zone);
        match (answer.signature().and_then(|signature| signature.data.error.as_ref()), answer.response_code) {
            (Some(TsigError::BadKey), _) => {
                // Knot says this of keys that no ACL of the zone names, too.
                format!(
                    "it knows no TSIG key {key} with this algorithm for zone {zone} (BADKEY): \
                     correct name and algorithm, or allow the key to update TXT there"
                )
            }
            (Some(TsigError::BadSig), _) => {
                format!("its TSIG key {key} has another secret (BADSIG): correct the secret")
            }
            (Some(TsigError::BadTime), _) => {
                format!("its clock and ours differ by more than {FUDGE} s (BADTIME): synchronize them")
            }
            (_, ResponseCode::Refused | ResponseCode::NotAuth) if self.signer.is_none() => {
                format!("it takes no unsigned updates of zone {zone}: give the solver a TSIG key")
            }
            (_, ResponseCode::Refused | ResponseCode::NotAuth) => {
                format!(
                    "its policy does not let key {key} update zone {zone} ({:?}): allow it TXT there",
                    answer.response_code
                )
            }
            (_, ResponseCode::NotImp) => format!("zone {zone} takes no updates there (NOTIMP): name its primary"),
            (_, code) => format!("it answers {code:?} for zone {zone}"),
        }
    }
}

impl WriteTxt for Rfc2136 {
    async fn add(&self, record: &TxtValue) -> Result<(), ProviderError> {
        self.change(record, Change::Add).await
    }

    async fn remove(&self, record: &TxtValue) -> Result<(), ProviderError> {
        self.change(record, Change::Delete).await
    }
}

/// RFC 2136 §2.5.1 and §2.5.4.
fn update(zone: &Name, name: &Name, value: &str, change: &Change) -> Message {
    let mut message = Message::query();
    message.metadata.op_code = OpCode::Update;
    message.metadata.recursion_desired = false;
    message.add_query(Query::query(zone.clone(), RecordType::SOA));
    let text = RData::TXT(TXT::new(vec![value.to_owned()]));
    let mut record = Record::from_rdata(name.clone(), TTL, text);
    if matches!(change, Change::Delete) {
        record.dns_class = DNSClass::NONE;
        record.ttl = 0;
    }
    message.add_authority(record);
    message
}

fn signer(tsig: &Tsig, key: &str) -> Result<TSigner, ProviderError> {
    let fault = |reason: &str| ProviderError::Secret { what: "TSIG key".into(), reason: reason.into() };
    let algorithm = match tsig.algorithm {
        TsigAlgorithm::HmacSha256 => Algorithm::HmacSha256,
        TsigAlgorithm::HmacSha384 => Algorithm::HmacSha384,
        TsigAlgorithm::HmacSha512 => Algorithm::HmacSha512,
    };
    let secret = STANDARD.decode(key.trim()).map_err(|_| fault("it is not base64"))?;
    if secret.is_empty() {
        return Err(fault("it is empty"));
    }
    // Keys are compared in canonical form (RFC 8945 §4.3.3).
    let name = parse(&tsig.key_name)?.to_lowercase();
    TSigner::new(secret, algorithm, name, FUDGE).map_err(|_| fault("its algorithm is not supported"))
}

/// By the system's resolver: the primary may be known inside only.
async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, ProviderError> {
    let fault = |reason: String| refusal("name server", host, &reason);
    match timeout(PATIENCE, lookup_host((host, port))).await {
        Err(_) => Err(fault("its address is not known in time".into())),
        Ok(Err(error)) => Err(fault(error.to_string())),
        Ok(Ok(found)) => Ok(found.collect()),
    }
}

fn refusal(who: &str, name: &str, reason: &str) -> ProviderError {
    ProviderError::Refused { who: who.into(), name: name.into(), reason: reason.into() }
}
