//! Our messages against what protoc makes of GoBGP's own files, and reading back what was written.

use std::net::IpAddr;

use proptest::prelude::*;
use prost::Message as _;

use super::convert;
use super::read;
use super::{Series, wire};
use crate::observed::SessionState;
use crate::plan::model::{
    Actions, Assignment, Class, Direction, Family, Path, PeerConfig, PeerKey, Rule, SetKind, Tag,
};
use crate::wanted::Secret;

fn golden(name: &str, series: Series) -> String {
    let wanted = format!("{name} {} ", series.number());
    let lines = include_str!("golden/messages.txt").lines();
    lines.filter_map(|line| line.strip_prefix(&wanted)).next().unwrap().to_owned()
}

fn hex(message: &impl prost::Message) -> String {
    message.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect()
}

const TAG: Tag = Tag { asn: 65101, high: 0xed6e_4401, low: 2 };

fn path(prefix: &str, next_hop: &str, is_leaving: bool) -> Path {
    Path { prefix: prefix.parse().unwrap(), next_hop: next_hop.parse().unwrap(), tag: TAG, is_leaving }
}

fn class() -> Class {
    let actions = Actions {
        communities: vec![65000 << 16 | 100],
        large_communities: vec![(65101, 1, 2)],
        local_pref: Some(50),
        med: Some(10),
        prepend: Some((65101, 2)),
        next_hop: Some("fd00::1".parse().unwrap()),
    };
    let neighbors: Vec<IpAddr> = vec!["10.0.0.2".parse().unwrap(), "fd00::4".parse().unwrap()];
    Class { name: "edge-c".to_owned(), tag: TAG, rules: vec![Rule { neighbors, actions }] }
}

fn peer() -> PeerConfig {
    PeerConfig {
        name: "tor".into(),
        key: PeerKey::Address("10.0.0.2".parse().unwrap()),
        neighbor: None,
        port: 1179,
        asn: 65000,
        local_asn: 65200,
        source: Some("10.0.0.1".parse().unwrap()),
        password: Some(Secret::new("secret".to_owned())),
        hold_time: 9,
        keepalive: 3,
        connect_retry: 5,
        multihop: Some(3),
        ttl_security: Some(254),
        graceful_restart: Some(120),
        families: vec![Family::V4, Family::V6],
        max_prefixes: 100,
        is_passive: true,
        is_held_back: false,
        is_restarting: true,
    }
}

#[test]
fn messages_are_those_of_gobgp_s_own_files() {
    assert_eq!(TAG.high, 3_983_426_561);
    for series in [Series::Three, Series::Four] {
        let check = |name: &str, bytes: String| assert_eq!(bytes, golden(name, series), "{name} {series:?}");
        let (v4, v6) = (path("203.0.113.10/32", "0.0.0.0", true), path("2001:db8::1/128", "::", false));
        match series {
            Series::Three => {
                check("path_v4", hex(&convert::path3(&v4, false)));
                check("path_v6", hex(&convert::path3(&v6, true)));
            }
            Series::Four => {
                check("path_v4", hex(&convert::path4(&v4, false)));
                check("path_v6", hex(&convert::path4(&v6, true)));
            }
        }
        check("policy", hex(&convert::policy(series, &class())));
        check("import", hex(&convert::import()));
        let assignment = Assignment { policies: vec!["edge-c".to_owned()], accepts: false };
        check("assignment", hex(&convert::assignment(Direction::Export, &assignment)));
        for set in class().sets() {
            let name = if set.kind == SetKind::Neighbors { "neighbors" } else { "tags" };
            check(name, hex(&convert::set(series, &set)));
        }
        let mut message = convert::peer(&peer());
        let conf = message.conf.as_mut().unwrap();
        assert!(conf.description.starts_with("edge-tor-"));
        conf.description = "edge-tor-DESCRIPTION".to_owned();
        check("peer", hex(&message));
    }
}

#[test]
fn what_was_written_is_read_back() {
    for ours in [
        path("203.0.113.10/32", "0.0.0.0", true),
        path("198.51.100.0/24", "192.0.2.1", false),
        path("2001:db8::1/128", "::", false),
        path("2001:db8::/64", "2001:db8::ff", true),
    ] {
        let three = wire::Path3::decode(&*convert::path3(&ours, false).encode_to_vec()).unwrap();
        let four = wire::Path4::decode(&*convert::path4(&ours, false).encode_to_vec()).unwrap();
        for read in [read::path3(three).unwrap(), read::path4(four).unwrap()] {
            assert_eq!(read::own_path(&read), Some(ours.clone()));
        }
        let mut foreign = convert::path4(&ours, false);
        foreign.neighbor_ip = "10.0.0.2".to_owned();
        assert_eq!(read::own_path(&read::path4(foreign).unwrap()), None, "a router sent it back to us");
    }
}

#[test]
fn the_state_of_a_session_is_read_in_either_series() {
    let cases = [
        (Series::Three, 0, 6, SessionState::Established),
        (Series::Four, 1, 6, SessionState::Established),
        (Series::Three, 1, 1, SessionState::AdminDown),
        (Series::Four, 2, 1, SessionState::AdminDown),
        (Series::Three, 0, 3, SessionState::Active),
        (Series::Four, 0, 0, SessionState::Idle),
        (Series::Four, 1, 77, SessionState::Idle),
    ];
    for (series, admin_state, session_state, expected) in cases {
        let mut message = convert::peer(&peer());
        message.state = Some(wire::PeerState { admin_state, session_state, ..wire::PeerState::default() });
        let status = read::peer(series, message).unwrap();
        assert_eq!(status.session, expected, "{series:?} {admin_state} {session_state}");
        assert!(peer().is_served_by(&status.there) && status.is_ours());
        assert_eq!(format!("{:?}", status.there.password), "Some([redacted])");
    }
    assert_eq!(read::peer(Series::Three, wire::Peer::default()), None);
}

#[test]
fn the_number_of_a_peer_is_in_its_capabilities() {
    // Capability 65 with AS 65000 as each series wraps it: an Any, and member 7 of a choice.
    let any =
        convert::any("FourOctetASNCapability", &wire::LargeCommunity { global_admin: 65000, ..Default::default() });
    let four: &[u8] = &[0x3a, 0x04, 0x08, 0xe8, 0xfb, 0x03];
    for (series, capability) in [(Series::Three, any.encode_to_vec()), (Series::Four, four.to_vec())] {
        let mut message = convert::peer(&peer());
        let remote_cap = vec![vec![0xff; 3], Vec::new(), capability];
        message.state = Some(wire::PeerState { remote_cap, ..wire::PeerState::default() });
        assert_eq!(read::peer(series, message).unwrap().asn, Some(65000), "{series:?}");
    }
}

proptest! {
    /// An engine is foreign ground: whatever it answers, nothing panics.
    #[test]
    fn no_answer_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for series in [Series::Three, Series::Four] {
            if let Ok(peer) = wire::Peer::decode(&*bytes) {
                let _ = read::peer(series, peer);
            }
        }
        let _ = wire::Path3::decode(&*bytes).map(|path| read::path3(path).map(|path| read::own_path(&path)));
        let _ = wire::Path4::decode(&*bytes).map(|path| read::path4(path).map(|path| read::own_path(&path)));
        let _ = wire::Global::decode(&*bytes).map(read::global);
    }
}
