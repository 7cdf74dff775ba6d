//! The eyes of pre-flight: asks DNS what the judgement needs, each question of the resolver and of the zone itself.

use std::time::Duration;

use hickory_proto::rr::{RData, RecordType};
use tokio::time::timeout;

use super::judge::is_global;
use super::{Addresses, Caa, CaaStep, Facts, RecordPlace, Said, Seen, Sight, Wish, ZoneServers};
use crate::challenge::{ChallengeKind, Identifier};
use crate::dns::resolver::{Answer, Found, ResolveError, Resolver, parse, text};

/// Names have at most 127 labels; real ones end long before.
const CLIMB: usize = 32;

/// Looks at everything that the challenge depends on. Never fails: what cannot be found out is a fact as well.
pub async fn look(resolver: &Resolver, wish: Wish) -> Facts {
    let Identifier::Dns(name) = &wish.identifier else {
        return Facts { wish, addresses: None, caa: Vec::new(), record: None };
    };
    let name = name.clone();
    let addresses = async {
        if wish.kind == ChallengeKind::Dns01 {
            return None;
        }
        let four = see(resolver, &name, RecordType::A, |data| match data {
            RData::A(address) => Some(address.0),
            _ => None,
        });
        let six = see(resolver, &name, RecordType::AAAA, |data| match data {
            RData::AAAA(address) => Some(address.0),
            _ => None,
        });
        let (a, aaaa) = tokio::join!(four, six);
        Some(Addresses { a, aaaa })
    };
    let record = async { if wish.kind == ChallengeKind::Dns01 { Some(place(resolver, &name).await) } else { None } };
    let (addresses, caa, record) = tokio::join!(addresses, climb(resolver, &name), record);
    Facts { wish, addresses, caa, record }
}

/// The zone itself goes before the resolver: it has no cache, and it is whom the CA asks in the end.
async fn see<T>(resolver: &Resolver, name: &str, kind: RecordType, read: impl Fn(&RData) -> Option<T>) -> Seen<T> {
    let settings = resolver.settings();
    let patience = settings.patience * 2;
    let (resolved, own) = tokio::join!(resolver.lookup(name, kind), authority(resolver, name, kind, patience));
    let (answer, sight) = match (own, resolved) {
        (Some(own), _) if settings.sight == Sight::AsTheCa || is_global(own.server.ip()) => (Ok(own), Sight::AsTheCa),
        (_, Ok(resolved)) => (Ok(resolved), settings.sight),
        (Some(own), Err(_)) => (Ok(own), Sight::Inside),
        (None, Err(error)) => (Err(error), settings.sight),
    };
    seen(answer, sight, read)
}

async fn authority(resolver: &Resolver, name: &str, kind: RecordType, patience: Duration) -> Option<Answer> {
    timeout(patience, resolver.authority(name, kind)).await.ok()?.ok()
}

fn seen<T>(answer: Result<Answer, ResolveError>, sight: Sight, read: impl Fn(&RData) -> Option<T>) -> Seen<T> {
    match answer {
        Err(error) => {
            Seen { sight, server: "".into(), aliases: Vec::new(), said: Said::Failed(error.to_string().into()) }
        }
        Ok(answer) => {
            let said = match &answer.found {
                Found::NoName => Said::NoName,
                Found::NoRecord => Said::NoRecord,
                Found::Records(records) => {
                    let records: Vec<T> = records.iter().filter_map(read).collect();
                    if records.is_empty() { Said::NoRecord } else { Said::Records(records) }
                }
            };
            let server = answer.server.ip().to_string().into();
            Seen { sight, server, aliases: answer.aliases, said }
        }
    }
}

/// The relevant set: the name's own or, while there is none, its parent's (RFC 8659 §3).
async fn climb(resolver: &Resolver, name: &str) -> Vec<CaaStep> {
    let mut steps = Vec::new();
    let Ok(mut at) = parse(name) else { return steps };
    while !at.is_root() && steps.len() < CLIMB {
        let name = text(&at);
        let seen = see(resolver, &name, RecordType::CAA, |data| match data {
            RData::CAA(caa) => Some(Caa {
                critical: caa.issuer_critical,
                tag: caa.tag.as_str().into(),
                value: String::from_utf8_lossy(&caa.value).into(),
            }),
            _ => None,
        })
        .await;
        let done = matches!(seen.said, Said::Records(_) | Said::Failed(_));
        steps.push(CaaStep { name, seen });
        if done {
            break;
        }
        at = at.base_name();
    }
    steps
}

async fn place(resolver: &Resolver, name: &str) -> RecordPlace {
    let name: Box<str> = format!("_acme-challenge.{name}").into();
    // No record is there yet: the aliases are what counts.
    let seen: Seen<()> = see(resolver, &name, RecordType::TXT, |_| None).await;
    let target = seen.aliases.last().unwrap_or(&name).clone();
    let zone = async {
        let zone = resolver.zone(&target).await?;
        let mut servers = Vec::with_capacity(zone.servers.len());
        for (server, answers) in resolver.all_of(&zone, &zone.name, RecordType::SOA).await? {
            // One address that answers is enough; the last failure stands for all.
            let state = match answers.into_iter().reduce(|best, next| if best.is_ok() { best } else { next }) {
                None => Err("it has no address".into()),
                Some(Ok(_)) => Ok(()),
                Some(Err(error)) => Err(error.to_string().into()),
            };
            servers.push((server.name, state));
        }
        Ok::<_, ResolveError>(ZoneServers { name: zone.name, servers })
    };
    let zone = zone.await.map_err(|error| error.to_string().into());
    RecordPlace { name, sight: seen.sight, aliases: seen.aliases, zone }
}
