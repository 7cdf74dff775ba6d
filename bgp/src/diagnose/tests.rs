//! Log lines as gobgpd 3.10 and 4.8 write them, and what is made of them.

use edge_config::announce::{Asn, Families};

use super::*;
use crate::plan::model::{PeerKey, SeenPeer};
use crate::wanted::Secret;

fn peer() -> Peer {
    let address = PeerAddress::Address("10.7.0.2".parse().unwrap());
    Peer {
        families: Families { v4: true, v6: true },
        max_prefixes: 100,
        ..Peer::plain("tor", address, PeerAsn::Number(Asn::new(65002).unwrap()))
    }
}

fn status() -> PeerStatus {
    let address = "10.7.0.2".to_owned();
    PeerStatus {
        key: PeerKey::Address("10.7.0.2".parse().unwrap()),
        there: SeenPeer { address, description: "edge-tor-0".to_owned(), password: None },
        session: SessionState::Active,
        is_over_limit: false,
        asn: None,
        router_id: None,
        received: 0,
        hold_time: None,
        up_since: None,
        down_since: None,
        flaps: 0,
        notifications_received: 0,
        notifications_sent: 0,
        is_deferring: false,
        reason: 0,
        message: String::new(),
    }
}

#[test]
fn log_lines_become_causes() {
    let dial = |error: &str| {
        format!(
            r#"{{"Error":"dial tcp 0.0.0.0:0-\u003e10.7.0.2:179: {error}","Key":"10.7.0.2","Topic":"Peer","level":"debug","msg":"failed to connect"}}"#
        )
    };
    let notification = |code: u64, subcode: u64, reason: &str| {
        format!(
            r#"{{"time":"2026","level":"WARN","msg":"received notification","Topic":"Peer","Key":"10.7.0.2","Code":{code},"Subcode":{subcode},"Data":null,"Communicated-Reason":"{reason}"}}"#
        )
    };
    let cases = [
        (dial("connect: connection refused"), "connection refused"),
        (dial("connect: network is unreachable"), "no route to it from this host"),
        (dial("connect: no route to host"), "nobody answers for this address"),
        (dial("i/o timeout"), "more than one hop away (multihop), or the peer wants a password"),
        (dial("connect: invalid argument"), "invalid argument"),
        (r#"{"Data":"as number mismatch expected 65002, received 65099","Key":"10.7.0.2","Topic":"Peer","level":"warning","msg":"sent notification"}"#.to_owned(),
         "wrong AS: the peer says 65099; expected 65002"),
        (r#"{"level":"INFO","msg":"sent notification","Topic":"Peer","Key":"10.7.0.2","State":"BGP_FSM_ACTIVE","Code":2,"Subcode":2,"Data":null}"#.to_owned(),
         "wrong AS: the peer says another number; expected 65002"),
        (notification(2, 2, ""), "the peer refuses our AS: it expects another number than 65001"),
        (notification(6, 2, "gone\\u001b home"), "closed by the peer: administrative shutdown (NOTIFICATION 6/2): \"gone home\""),
        (notification(6, 5, ""), "connection rejected"),
        (notification(9, 9, ""), "unknown reason (NOTIFICATION 9/9)"),
        (r#"{"Key":"10.7.0.2","Topic":"Peer","level":"warning","msg":"hold timer expired"}"#.to_owned(),
         "hold timer expired: nothing was heard of the peer for 9 s"),
        (r#"{"Data":"hold timer expired","Key":"10.7.0.2","Topic":"Peer","level":"warning","msg":"sent notification"}"#.to_owned(),
         "fell silent before the session was up: as a rule it expects another TTL (multihop, ttl_security)"),
        (r#"{"level":"INFO","msg":"sent notification","Topic":"Peer","Key":"10.7.0.2","State":"BGP_FSM_OPENCONFIRM","Code":4,"Subcode":0,"Data":null}"#.to_owned(),
         "fell silent before the session was up"),
        (r#"{"Key":"10.7.0.2","Topic":"Peer","level":"debug","msg":"state changed","new":"BGP_FSM_IDLE","old":"BGP_FSM_OPENSENT","reason":{"Type":2}}"#.to_owned(),
         "took the call and closed it"),
        (r#"{"Key":"10.7.0.2","Topic":"Peer","level":"debug","msg":"state changed","new":"BGP_FSM_IDLE","old":"BGP_FSM_OPENSENT","reason":{"Type":10,"BGPNotification":null}}"#.to_owned(),
         "refuses our OPEN with a NOTIFICATION"),
        (r#"{"level":"DEBUG","msg":"outgoing connection IO error","Topic":"Peer","Key":"10.7.0.2","reason":"read-failed"}"#.to_owned(),
         "took the call and closed it"),
        (r#"{"Key":"10.7.0.2","Topic":"Peer","level":"info","msg":"Administrative shutdown(Prefix limit reached)"}"#.to_owned(),
         "more than 100 prefixes"),
    ];
    for (line, expected) in cases {
        let (address, note) = note(&line).unwrap_or_else(|| panic!("no note: {line}"));
        assert_eq!(address, "10.7.0.2");
        let (peer, status) = (peer(), status());
        let evidence = Evidence {
            peer: &peer,
            password: &PeerPassword::None,
            own_asn: 65001,
            status: Some(&status),
            note: Some(&note),
            md5: Md5::default(),
        };
        let said = diagnose(&evidence).unwrap();
        assert!(said.contains(expected) && !said.contains(char::is_control), "{line}: {said}");
    }
}

#[test]
fn lines_that_say_nothing_of_a_cause_are_passed_over() {
    for line in [
        "",
        "panic: runtime error",
        "[1,2]",
        r#"{"msg":7}"#,
        r#"{"Key":"10.7.0.2","msg":"try to connect","level":"debug"}"#,
        r#"{"Key":"10.7.0.2","msg":"state changed","old":"BGP_FSM_IDLE","reason":{"Type":7}}"#,
    ] {
        assert_eq!(note(line), None, "{line}");
    }
}

#[test]
fn a_closed_connection_hides_no_cause_and_a_session_that_is_up_has_none() {
    let mut notes = Notes::default();
    let address = || "10.7.0.2".to_owned();
    notes.add(address(), Note::Unreached("refused".to_owned()));
    notes.add(address(), Note::Closed);
    assert_eq!(notes.of("10.7.0.2"), Some(&Note::Closed));
    notes.add(address(), Note::WrongAsn("65099".to_owned()));
    notes.add(address(), Note::Closed);
    assert_eq!(notes.of("10.7.0.2"), Some(&Note::WrongAsn("65099".to_owned())));
    notes.add(address(), Note::Up);
    assert_eq!(notes.of("10.7.0.2"), None);
    for index in 0..2 * Notes::MOST {
        notes.add(format!("10.9.{}.{}", index / 256, index % 256), Note::Closed);
    }
    assert_eq!(notes.0.len(), Notes::MOST);
}

#[test]
fn the_kernel_counts_wrong_digests() {
    let text = |failure: u64, unexpected: u64| {
        format!(
            "TcpExt: SyncookiesSent TCPMD5NotFound TCPMD5Unexpected TCPMD5Failure\nTcpExt: 1 0 {unexpected} {failure}\nIpExt: X\nIpExt: 1\n"
        )
    };
    let before = Md5::parse(&text(3, 0)).unwrap();
    let say = |after: &str, password: PeerPassword| {
        let (peer, status) = (peer(), status());
        let md5 = Md5::parse(after).unwrap().since(before);
        let evidence =
            Evidence { peer: &peer, password: &password, own_asn: 65001, status: Some(&status), note: None, md5 };
        diagnose(&evidence)
    };
    let secret = || PeerPassword::Is(Secret::new("x".to_owned()));
    assert!(say(&text(5, 0), secret()).unwrap().contains("2 segments with a wrong digest"));
    assert!(say(&text(3, 1), PeerPassword::None).unwrap().contains("the peer 10.7.0.2 wants a password"));
    assert_eq!(say(&text(3, 0), secret()), None);
    assert_eq!(say(&text(9, 0), PeerPassword::None), None, "another session's");
    assert_eq!(Md5::parse("TcpExt: A\n"), None);
}

#[test]
fn what_the_engine_says_itself_is_used_where_there_is_no_log() {
    let say = |change: fn(&mut PeerStatus)| {
        let (peer, mut status) = (peer(), status());
        change(&mut status);
        diagnose(&Evidence {
            peer: &peer,
            password: &PeerPassword::None,
            own_asn: 65001,
            status: Some(&status),
            note: None,
            md5: Md5::default(),
        })
        .unwrap_or_default()
    };
    assert_eq!(say(|_| {}), "");
    assert!(say(|status| status.reason = 13).contains("wrong AS"));
    assert!(say(|status| status.reason = 2).contains("hold timer expired"));
    assert!(say(|status| status.notifications_received = 1).contains("refuses our OPEN"));
    assert!(say(|status| status.session = SessionState::AdminDown).contains("administratively down"));
    assert!(say(|status| status.is_over_limit = true).contains("max_prefixes"));
}

#[test]
fn a_password_that_is_not_there_is_the_reason() {
    let peer = peer();
    let password = PeerPassword::Missing("Secret net/tor: no member \"password\"".to_owned());
    let evidence =
        Evidence { peer: &peer, password: &password, own_asn: 1, status: None, note: None, md5: Md5::default() };
    assert_eq!(diagnose(&evidence).unwrap(), "not configured: Secret net/tor: no member \"password\"");
}
