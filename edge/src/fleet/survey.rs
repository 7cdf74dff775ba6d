//! All edges at once: how each stands, and in what its configuration differs from that of this edge. An edge that does not
//! answer in time is one that says nothing; it never keeps the others from being heard.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;

use super::core::{Core, Peer};
use super::message::{After, Answer, Ask, Nothing, PAGE};
use super::standing::{Difference, KeyPage, Keys, MOST_KEYS, Standing};

/// For one edge to say how it stands.
const STANDING: Duration = Duration::from_secs(3);
/// For all that it is asked of its configuration.
const KEYS: Duration = Duration::from_secs(5);

/// What is known of one edge.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    pub edge: String,
    pub address: std::net::SocketAddr,
    /// When it last answered anything.
    pub last_exchange: Option<SystemTime>,
    /// What runs there, as far as it was heard of.
    pub version: Option<String>,
    pub said: Said,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Standing {
        standing: Box<Standing>,
        /// Against this edge: `None`: they are the same, or one of the two cannot say.
        difference: Option<Result<Difference, String>>,
    },
    /// It does not know the question.
    Older,
    /// Why it says nothing.
    Nothing(String),
}

pub(super) async fn ask(core: &Arc<Core>) -> Vec<Word> {
    join_all(core.peers.iter().map(|peer| word(core, peer))).await
}

async fn word(core: &Arc<Core>, peer: &Arc<Peer>) -> Word {
    let answer = tokio::time::timeout(STANDING, peer.call(Ask::Standing(Nothing {}))).await;
    let said = match answer {
        Err(_) => Said::Nothing(format!("no answer within {STANDING:?}")),
        Ok(Err(why)) => Said::Nothing(why),
        Ok(Ok(Answer::Standing(standing))) => {
            let difference = difference(core, peer, standing.hash.as_deref()).await;
            Said::Standing { standing, difference }
        }
        Ok(Ok(Answer::Done(done))) => Said::Nothing(done.error.unwrap_or_default()),
        Ok(Ok(Answer::Unknown)) => Said::Older,
        Ok(Ok(_)) => Said::Nothing("it gave another answer than it was asked for".to_owned()),
    };
    let state = peer.state();
    Word {
        edge: peer.name.to_string(),
        address: peer.address,
        last_exchange: state.last_exchange,
        version: state.version.clone(),
        said,
    }
}

async fn difference(core: &Arc<Core>, peer: &Arc<Peer>, there: Option<&str>) -> Option<Result<Difference, String>> {
    let here = core.configuration().await?;
    if there? == here.0 {
        return None;
    }
    let keys = tokio::time::timeout(KEYS, keys(peer)).await;
    let keys = keys.unwrap_or_else(|_| Err(format!("it has not said within {KEYS:?} what its configuration is")));
    Some(keys.map(|there| Difference::of(&here.1, &there, &peer.name)))
}

/// Everything that another edge is configured with.
pub(super) async fn keys(peer: &Peer) -> Result<Keys, String> {
    let mut all = Keys::new();
    let mut after = None;
    loop {
        let page = match peer.call(Ask::Keys(After { after: after.clone() })).await? {
            Answer::Keys(page) => page,
            Answer::Done(done) => return Err(done.error.unwrap_or_default()),
            _ => return Err("it cannot say what its configuration is".to_owned()),
        };
        let last = page.keys.keys().next_back().cloned();
        // A page that does not go on would be asked for without end.
        if page.more && last <= after {
            return Err("what it says of its configuration does not end".to_owned());
        }
        all.extend(page.keys);
        if all.len() > MOST_KEYS {
            return Err(format!("it has more than {MOST_KEYS} objects and settings"));
        }
        if !page.more {
            return Ok(all);
        }
        after = last;
    }
}

/// The keys after one of them.
pub(super) fn page(keys: &Keys, after: Option<&str>) -> KeyPage {
    let begin = match after {
        Some(after) => std::ops::Bound::Excluded(after),
        None => std::ops::Bound::Unbounded,
    };
    let mut rest = keys.range::<str, _>((begin, std::ops::Bound::Unbounded));
    let keys = rest.by_ref().take(PAGE).map(|(key, hash)| (key.clone(), hash.clone())).collect();
    KeyPage { keys, more: rest.next().is_some() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_end_and_hold_everything() {
        let all: Keys = (0..2500).map(|number| (format!("k{number:05}"), String::new())).collect();
        let (mut found, mut after, mut pages) = (Keys::new(), None, 0);
        loop {
            let page = page(&all, after.as_deref());
            pages += 1;
            after = page.keys.keys().next_back().cloned();
            found.extend(page.keys);
            if !page.more {
                break;
            }
        }
        assert_eq!((found, pages), (all, 3));
        assert_eq!(page(&Keys::new(), None), KeyPage { keys: Keys::new(), more: false });
    }
}
