//! Waits until every name server of a zone shows a TXT value: a CA asks any of them, and some ask several.
//!
//! In: name, value, deadline. Out: how many servers show it, or what was seen instead. Servers that cannot be reached
//! from here at all do not hold it up as long as others answer; where none can, the resolver's view has to do.
//! Deployments behind firewalls often cannot ask foreign servers, and IPv6 may lead nowhere.

use std::fmt;
use std::time::Duration;

use hickory_proto::rr::{RData, RecordType};
use tokio::time::{Instant, sleep, timeout_at};

use super::resolver::{Answer, ResolveError, Resolver};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For all of it.
    pub deadline: Duration,
    /// Between two looks at all servers.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(180), pause: Duration::from_secs(2) }
    }
}

/// Looks at which a server has to be unreachable before it no longer counts.
const UNREACHABLE: u32 = 2;

/// How the servers of a zone stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub zone: Box<str>,
    /// Each server with what it shows, in the order of their names.
    pub servers: Vec<(Box<str>, State)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Shows,
    /// None, or others than the one that is waited for.
    Lacks {
        others: usize,
    },
    Silent(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropagationError {
    #[error("after {} s {shown}", waited.as_secs())]
    Late { waited: Duration, shown: Shown },
    #[error("after {} s the name servers of {name} are not known: {reason}", waited.as_secs())]
    Blind { waited: Duration, name: Box<str>, reason: ResolveError },
    #[error("after {} s no name server could be asked for {name}", waited.as_secs())]
    Slow { waited: Duration, name: Box<str> },
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, total) = (self.count(), self.servers.len());
        write!(f, "{count} of {total} name servers of {} show the TXT record", self.zone)?;
        for (server, state) in &self.servers {
            match state {
                State::Shows => {}
                State::Lacks { others: 0 } => write!(f, "; {server} shows none")?,
                State::Lacks { others } => write!(f, "; {server} shows {others} other values")?,
                State::Silent(reason) => write!(f, "; {server} was not asked: {reason}")?,
            }
        }
        Ok(())
    }
}

impl Shown {
    fn count(&self) -> usize {
        self.servers.iter().filter(|(_, state)| *state == State::Shows).count()
    }

    fn is_whole(&self, silent_counts: bool) -> bool {
        let good = |state: &State| match state {
            State::Shows => true,
            State::Lacks { .. } => false,
            State::Silent(_) => !silent_counts,
        };
        self.count() > 0 && self.servers.iter().all(|(_, state)| good(state))
    }

    fn is_silent(&self) -> bool {
        self.servers.iter().all(|(_, state)| matches!(state, State::Silent(_)))
    }
}

/// Waits until all servers show `value` at `name` (no alias), and says how they stand then.
pub async fn wait(resolver: &Resolver, name: &str, value: &str, patience: Patience) -> Result<Shown, PropagationError> {
    let start = Instant::now();
    let end = start + patience.deadline;
    let mut last: Option<Result<Shown, ResolveError>> = None;
    let mut looks = 0;
    while let Ok(seen) = timeout_at(end, look(resolver, name, value)).await {
        looks += 1;
        match seen {
            Ok(shown) if shown.is_whole(looks <= UNREACHABLE) => return Ok(shown),
            Ok(shown) if shown.is_silent() && looks > UNREACHABLE => {
                let resolved = resolver.lookup(name, RecordType::TXT).await;
                if resolved.is_ok_and(|answer| state(&answer, value) == State::Shows) {
                    return Ok(shown);
                }
                last = Some(Ok(shown));
            }
            seen => last = Some(seen),
        }
        if Instant::now() + patience.pause >= end {
            break;
        }
        sleep(patience.pause).await;
    }
    let waited = start.elapsed();
    Err(match last {
        Some(Ok(shown)) => PropagationError::Late { waited, shown },
        Some(Err(reason)) => PropagationError::Blind { waited, name: name.into(), reason },
        None => PropagationError::Slow { waited, name: name.into() },
    })
}

/// One look at all servers.
pub async fn look(resolver: &Resolver, name: &str, value: &str) -> Result<Shown, ResolveError> {
    let zone = resolver.zone(name).await?;
    let mut servers = Vec::with_capacity(zone.servers.len());
    for (server, answers) in resolver.all_of(&zone, name, RecordType::TXT).await? {
        // Every address that answers must show it: behind one name there may be several machines.
        let mut whole = State::Silent("it has no address".into());
        for answer in answers {
            whole = match (whole, answer) {
                (lacks @ State::Lacks { .. }, _) => lacks,
                (State::Shows, Err(_)) => State::Shows,
                (_, Ok(answer)) => state(&answer, value),
                (State::Silent(_), Err(error)) => State::Silent(error.to_string().into()),
            };
        }
        servers.push((server.name, whole));
    }
    Ok(Shown { zone: zone.name, servers })
}

fn state(answer: &Answer, value: &str) -> State {
    let texts = answer.records().iter().filter_map(|data| match data {
        RData::TXT(text) => Some(text.txt_data.concat()),
        _ => None,
    });
    let mut others = 0;
    for text in texts {
        if text == value.as_bytes() {
            return State::Shows;
        }
        others += 1;
    }
    State::Lacks { others }
}
