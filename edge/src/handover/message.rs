//! What predecessor and successor say. [`Hello`], [`FromPredecessor::Welcome`] and [`FromPredecessor::Refused`] are the
//! same in every version.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use edge_config::snapshot::Transport;
use serde::{Deserialize, Serialize};

use crate::reach::Way;
use crate::vip::bfd::BfdHanded;
use crate::vip::l2::L2Handed;

/// The successor's first words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub oldest: u32,
    pub newest: u32,
    /// As `edged --version` says it.
    pub edged: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSuccessor {
    /// Why it could not take over at this moment.
    Waiting(String),
    /// Everything is ready, of this generation of its own.
    Prepared(u64),
    /// It ends.
    Refused(String),
    Taken,
    Serving,
    /// It has a successor of its own and ends: who drains goes on without it.
    HandedOn,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromPredecessor {
    Welcome {
        protocol: u32,
        edged: String,
        process: u32,
    },
    Refused(String),
    /// A descriptor for each comes along.
    Sockets(Vec<SocketName>),
    /// The control socket, and that of metrics where there is one, come along in this order.
    Control(ControlName),
    /// The end of what is offered at first.
    Offered(Standing),
    /// The descriptors of gobgpd come along where it is handed over: process, lifeline, words, log.
    Told(ToldName),
    /// Sessions of UDP; a descriptor for each comes along.
    Flows(Vec<FlowName>),
    /// Nobody else receives datagrams any more.
    Datagrams,
    Over,
    /// So many connections are left, which may take so many seconds.
    Draining {
        connections: usize,
        seconds: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketName {
    pub address: SocketAddr,
    pub is_udp: bool,
    pub index: usize,
}

impl SocketName {
    pub fn transport(&self) -> Transport {
        if self.is_udp { Transport::Udp } else { Transport::Tcp }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowName {
    pub local: SocketAddr,
    pub index: usize,
    pub client: SocketAddr,
    pub endpoint: SocketAddr,
    pub backend: String,
    pub is_answered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlName {
    pub path: PathBuf,
    pub metrics: Option<SocketAddr>,
}

/// What must not get worse.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// VIPs that the network is told of.
    pub announced: Vec<IpAddr>,
    /// VIPs that are held down: for how many more milliseconds, and what they failed of.
    pub held: Vec<(IpAddr, u64, String)>,
    /// How Pods are reached.
    pub way: Way,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldName {
    pub gobgpd: Option<GobgpdName>,
    pub l2: Vec<L2Handed>,
    pub bfd: Vec<BfdHanded>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GobgpdName {
    pub process: u32,
    pub program: PathBuf,
    pub socket: PathBuf,
    pub version: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An edged of any version must find these as they are.
    #[test]
    fn the_first_words_never_change() {
        let hello = Hello { oldest: 1, newest: 2, edged: "0.9.0".into() };
        let text = r#"{"oldest":1,"newest":2,"edged":"0.9.0"}"#;
        assert_eq!(serde_json::to_string(&hello).unwrap(), text);
        assert_eq!(
            serde_json::from_str::<Hello>(r#"{"oldest":1,"newest":2,"edged":"0.9.0","more":[]}"#).unwrap(),
            hello
        );
        let welcome = FromPredecessor::Welcome { protocol: 1, edged: "0.9.0".into(), process: 7 };
        let text = r#"{"Welcome":{"protocol":1,"edged":"0.9.0","process":7}}"#;
        assert_eq!(serde_json::to_string(&welcome).unwrap(), text);
        let refused = FromPredecessor::Refused("no".into());
        assert_eq!(serde_json::to_string(&refused).unwrap(), r#"{"Refused":"no"}"#);
    }
}
