//! What edged and its guard say to each other, over a [`Line`](crate::line::Line). A descriptor of gobgpd goes along
//! with its message, so the guard can never signal another process of the same number.

use std::path::PathBuf;

use edge_config::announce::Engine;
use serde::{Deserialize, Serialize};

/// From edged. Numbers ascend; each letter is answered by a [`Report`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    pub number: u64,
    /// How many undoings edged knows of.
    pub known: u64,
    pub order: Order,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    Beat,
    Failing { why: String },
    Charge(Charged),
    Farewell,
}

/// The whole of what is to be undone.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charged {
    pub charge: u64,
    /// The number of the process whose descriptor comes along.
    pub gobgpd: Option<u32>,
    pub address_list: Option<PathBuf>,
    pub engine: Option<Engine>,
}

/// From the guard.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Of the last letter.
    pub heard: u64,
    /// The charge in force.
    pub charge: u64,
    pub undone: u64,
    /// Of the last undoing: why, and what could not be undone.
    pub why: String,
    pub failed: Vec<String>,
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::line::{Line, Received, WireError};

    fn lines() -> (Line, Line) {
        let (near, far) = Line::pair().unwrap();
        (near, Line::from_descriptor(far).unwrap())
    }

    #[test]
    fn messages_keep_their_edges_and_descriptors() {
        let (near, far) = lines();
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        let wanted = || Charged {
            charge: 7,
            gobgpd: Some(42),
            address_list: Some("/run/edge/l2.addresses".into()),
            engine: Some(Engine::Tcp { address: "127.0.0.1:50051".parse().unwrap(), tls: None }),
        };
        let letter = |order| Letter { number: 1, known: 2, order };
        near.send(&letter(Order::Beat), &[]).unwrap();
        near.send(&letter(Order::Charge(wanted())), &[file.as_fd()]).unwrap();
        let Received::Message(first, none) = far.receive::<Letter>().unwrap() else { panic!() };
        assert_eq!((first, none.len()), (letter(Order::Beat), 0));
        let Received::Message(second, along) = far.receive::<Letter>().unwrap() else { panic!() };
        assert_eq!((second.order, along.len()), (Order::Charge(wanted()), 1));
        assert!(matches!(far.receive::<Letter>().unwrap(), Received::Nothing));
        far.send(&Report::default(), &[]).unwrap();
        drop(far);
        assert!(matches!(near.receive::<Report>().unwrap(), Received::Message(..)));
        assert!(matches!(near.receive::<Report>().unwrap(), Received::Closed));
        assert!(near.send(&letter(Order::Farewell), &[]).is_err());
    }

    #[test]
    fn who_does_not_listen_costs_a_moment_and_nonsense_an_error() {
        let (near, far) = lines();
        let report = Report { failed: vec!["x".repeat(40_000)], ..Report::default() };
        let sent = (0..100).take_while(|_| near.send(&report, &[]).is_ok()).count();
        assert!((1..100).contains(&sent), "{sent}");
        assert!(matches!(near.send(&Report { why: "x".repeat(70_000), ..report }, &[]), Err(WireError::Length(_))));
        near.send(&Report::default(), &[]).unwrap_err();
        while let Received::Message(_, _) = far.receive::<Report>().unwrap() {}
        near.send(&"nonsense", &[]).unwrap();
        assert!(matches!(far.receive::<Report>(), Err(WireError::Form(_))));
        assert!(Line::from_descriptor(std::fs::File::open("/dev/null").unwrap().into()).is_err());
    }
}
