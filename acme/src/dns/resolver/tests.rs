use hickory_proto::rr::rdata::{A, CNAME, SOA};

use super::*;

#[test]
fn servers_of_resolv_conf() {
    for (text, expected) in [
        ("nameserver 9.9.9.9\nnameserver 2620:fe::fe # quad9\n", &["9.9.9.9:53", "[2620:fe::fe]:53"][..]),
        ("# nameserver 1.1.1.1\nsearch example.com\n  nameserver\t10.0.0.2\noptions ndots:5", &["10.0.0.2:53"]),
        ("nameserver fe80::1%eth0\nnameserver dns.example.com\nnameserver", &["127.0.0.1:53"]),
        ("", &["127.0.0.1:53"]),
    ] {
        let expected: Vec<SocketAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
        let settings = Settings::system(text);
        assert_eq!((settings.servers, settings.sight), (expected, Sight::Inside), "{text:?}");
    }
}

#[test]
fn names_as_text() {
    for (given, expected) in
        [("WWW.Example.com.", "www.example.com"), ("_acme-challenge.x.test", "_acme-challenge.x.test"), (".", ".")]
    {
        assert_eq!(&*text(&parse(given).unwrap()), expected);
    }
    for wrong in ["a..b", "ä.test", &"x".repeat(64)] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

fn name(text: &str) -> Name {
    parse(text).unwrap()
}

fn alias(from: &str, to: &str) -> Record {
    Record::from_rdata(name(from), 60, RData::CNAME(CNAME(name(to))))
}

fn address(of: &str) -> Record {
    Record::from_rdata(name(of), 60, RData::A(A::new(192, 0, 2, 1)))
}

fn soa(of: &str) -> Record {
    Record::from_rdata(name(of), 60, RData::SOA(SOA::new(name(of), name(of), 1, 1, 1, 1, 1)))
}

#[test]
fn answers_are_read() {
    let ok = ResponseCode::NoError;
    let gone = ResponseCode::NXDomain;
    for (case, code, answers, authorities, expected) in [
        ("plain", ok, vec![address("x.test")], vec![], "1 record, []"),
        ("alias within", ok, vec![alias("x.test", "y.test"), address("y.test")], vec![], "1 record, [\"y.test\"]"),
        ("in any order", ok, vec![address("y.test"), alias("x.test", "y.test")], vec![], "1 record, [\"y.test\"]"),
        ("alias to elsewhere", ok, vec![alias("x.test", "y.test")], vec![], "ask y.test, [\"y.test\"]"),
        ("alias to nothing", ok, vec![alias("x.test", "y.test")], vec![soa("test")], "no record, [\"y.test\"]"),
        ("alias to no name", gone, vec![alias("x.test", "y.test")], vec![soa("test")], "no name, [\"y.test\"]"),
        ("nothing", ok, vec![], vec![soa("test")], "no record, []"),
        ("nothing, and no SOA", ok, vec![], vec![], "no record, []"),
        ("no name", gone, vec![], vec![soa("test")], "no name, []"),
        ("somebody else's record", ok, vec![address("z.test")], vec![], "no record, []"),
        (
            "loop",
            ok,
            vec![alias("x.test", "y.test"), alias("y.test", "x.test")],
            vec![],
            "the aliases of x.test do not end",
        ),
        ("itself", ok, vec![alias("x.test", "X.test")], vec![], "the aliases of x.test do not end"),
    ] {
        let mut message = Message::error_msg(1, hickory_proto::op::OpCode::Query, code);
        message.add_answers(answers).add_authorities(authorities);
        let mut aliases = Vec::new();
        let found = match read(&message, &name("x.test"), RecordType::A, &mut aliases) {
            Err(error) => error.to_string(),
            Ok(Read::Alias(target)) => format!("ask {}, {aliases:?}", text(&target)),
            Ok(Read::Done(Found::Records(records))) => format!("{} record, {aliases:?}", records.len()),
            Ok(Read::Done(Found::NoRecord)) => format!("no record, {aliases:?}"),
            Ok(Read::Done(Found::NoName)) => format!("no name, {aliases:?}"),
        };
        assert_eq!(found, expected, "{case}");
    }
}

#[test]
fn a_chain_has_an_end() {
    let mut message = Message::response(1, hickory_proto::op::OpCode::Query);
    for step in 0..20 {
        message.add_answer(alias(&format!("n{step}.test"), &format!("n{}.test", step + 1)));
    }
    let end = read(&message, &name("n0.test"), RecordType::A, &mut Vec::new());
    assert!(matches!(end, Err(ResolveError::Aliases(_))));
}
