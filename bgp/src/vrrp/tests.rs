use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn arrival(source: &str, destination: IpAddr) -> Arrival {
    Arrival { source: ip(source), destination, hops: 255 }
}

fn advertisement(priority: u8, addresses: &[&str]) -> Advertisement {
    Advertisement {
        router: 51,
        priority,
        interval: Interval::from_centiseconds(30).unwrap(),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
    }
}

#[test]
fn an_ipv4_advertisement_is_these_bytes() {
    let packet = advertisement(200, &["10.0.0.100"]);
    let bytes = encode(&packet, ip("10.0.0.1"), Family::V4.group());
    assert_eq!(bytes[..6], [0x31, 51, 200, 1, 0, 30]);
    assert_eq!(bytes[8..], [10, 0, 0, 100]);
    // By hand: 3133+c801+001e+0a00+0064 and 0a00+0001+e000+0012+000c+0070, folded and inverted.
    let sum: u32 = 0x3133 + 0xc801 + 0x001e + 0x0a00 + 0x0064 + 0x0a00 + 0x0001 + 0xe000 + 0x0012 + 0x000c + 0x0070;
    assert_eq!(bytes[6..8], (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    let (read, rest) = decode(&bytes, &arrival("10.0.0.1", Family::V4.group())).unwrap();
    assert_eq!((read, rest), (packet, &[][..]));
}

#[test]
fn a_checksum_without_pseudo_header_is_right_in_ipv4_only() {
    for (source, address, is_right) in [("10.0.0.1", "10.0.0.100", true), ("fe80::1", "2001:db8::1", false)] {
        let packet = advertisement(9, &[address]);
        let group = Family::of(ip(source)).group();
        let mut bytes = encode(&packet, ip(source), group);
        bytes[6..8].fill(0);
        let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        bytes[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        assert_eq!(decode(&bytes, &arrival(source, group)).is_ok(), is_right, "{source}");
    }
}

#[test]
fn what_is_malformed_has_a_reason() {
    let group = Family::V4.group();
    let good = encode(&advertisement(100, &["10.0.0.100", "10.0.0.101"]), ip("10.0.0.1"), group);
    let repaired = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        // Wrong in one thing only: with a right checksum.
        bytes[6..8].fill(0);
        let mut sum: u32 =
            bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        bytes[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        bytes
    };
    let cases: Vec<(Vec<u8>, Discard)> = vec![
        (Vec::new(), Discard::Short),
        (good[..7].to_vec(), Discard::Short),
        (good[..15].to_vec(), Discard::Short),
        (repaired(&|bytes| bytes[0] = 0x21), Discard::Version),
        (repaired(&|bytes| bytes[0] = 0x32), Discard::Kind),
        (repaired(&|bytes| bytes[5] = 0), Discard::Interval),
        (
            repaired(&|bytes| {
                bytes[3] = 0;
                bytes.truncate(8);
            }),
            Discard::NoAddress,
        ),
        (
            {
                let mut bytes = good.clone();
                bytes[2] ^= 1;
                bytes
            },
            Discard::Checksum,
        ),
    ];
    for (bytes, why) in cases {
        assert_eq!(decode(&bytes, &arrival("10.0.0.1", group)), Err(why), "{bytes:x?}");
    }
}

proptest! {
    #[test]
    fn foreign_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), v6: bool) {
        let source = if v6 { "fe80::1" } else { "10.0.0.1" };
        let _ = decode(&bytes, &arrival(source, Family::of(ip(source)).group()));
        let mut verifier = Verifier::new(Key::new(b"k").unwrap());
        let split = bytes.len() / 2;
        let _ = verifier.check(&bytes, &bytes[split..], &arrival(source, ip(source)), 0);
    }

    #[test]
    fn what_is_written_is_read(router: u8, priority: u8, pace in 1u16..4096, v6: bool, last in prop::collection::vec(any::<u32>(), 1..74)) {
        let addresses = last.iter().map(|n| if v6 { IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, (n >> 16) as u16, *n as u16]) } else { IpAddr::from(n.to_be_bytes()) });
        let packet = Advertisement { router, priority, interval: Interval::from_centiseconds(pace).unwrap(), addresses: addresses.collect() };
        let arrival = arrival(if v6 { "fe80::7" } else { "192.0.2.1" }, if v6 { Family::V6 } else { Family::V4 }.group());
        let mut bytes = encode(&packet, arrival.source, arrival.destination);
        bytes.extend([1, 2, 3]);
        prop_assert_eq!(decode(&bytes, &arrival).unwrap(), (packet, &[1u8, 2, 3][..]));
    }
}

#[test]
fn more_addresses_than_a_packet_holds_are_not_told() {
    let many: Vec<IpAddr> = (0..300u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes())).collect();
    let packet = Advertisement { addresses: many, ..advertisement(1, &[]) };
    let bytes = encode(&packet, ip("10.0.0.1"), Family::V4.group());
    assert_eq!(decode(&bytes, &arrival("10.0.0.1", Family::V4.group())).unwrap().0.addresses.len(), 255);
}

#[test]
fn a_signature_holds_once_for_one_pair_of_addresses_and_one_minute() {
    let clock = 1_800_000_000_000_000;
    let (a, b) = (ip("10.0.0.1"), ip("10.0.0.2"));
    let mut signer = Signer::new(Key::new(b"secret").unwrap());
    let mut signed = || {
        let mut bytes = encode(&advertisement(100, &["10.0.0.100"]), a, b);
        signer.sign(&mut bytes, a, b, clock);
        bytes
    };
    let here = arrival("10.0.0.1", b);
    let check = |verifier: &mut Verifier, bytes: &[u8], here: &Arrival, clock| {
        let (_, trailer) = decode(bytes, here).unwrap();
        verifier.check(bytes, trailer, here, clock)
    };
    let mut verifier = Verifier::new(Key::new(b"secret").unwrap());
    let (first, second) = (signed(), signed());
    assert_eq!(check(&mut verifier, &second, &here, clock), Ok(()));
    assert_eq!(check(&mut verifier, &second, &here, clock), Err(Discard::Replay));
    assert_eq!(check(&mut verifier, &first, &here, clock), Err(Discard::Replay), "stamps go upwards");
    let third = signed();
    assert_eq!(check(&mut verifier, &third, &here, clock + 61_000_000), Err(Discard::Clock));
    assert_eq!(check(&mut verifier, &third, &here, clock - 61_000_000), Err(Discard::Clock));
    assert_eq!(check(&mut verifier, &third, &here, clock + 59_000_000), Ok(()));
    // Sums of IPv4 do not tell source from destination; the signature does.
    assert_eq!(check(&mut verifier, &signed(), &arrival("10.0.0.2", a), clock), Err(Discard::Signature));
    let mut other = Verifier::new(Key::new(b"another").unwrap());
    assert_eq!(check(&mut other, &signed(), &here, clock), Err(Discard::Signature));
    let plain = encode(&advertisement(100, &["10.0.0.100"]), a, b);
    assert_eq!(check(&mut verifier, &plain, &here, clock), Err(Discard::Unsigned));
    let mut long = signed();
    long.push(0);
    assert_eq!(check(&mut verifier, &long, &here, clock), Err(Discard::Unsigned));
    assert!(Key::new(b"").is_none());
    assert_eq!(format!("{:?}", Key::new(b"secret").unwrap()), "[redacted]");
}

fn settings() -> Settings {
    Settings {
        family: Family::V4,
        router: 51,
        interval: Duration::from_millis(300),
        preempt: true,
        preempt_delay: Duration::ZERO,
        addresses: vec![ip("10.0.0.100")],
    }
}

fn standing(priority: u8) -> Result<Standing, String> {
    Ok(Standing { local: ip("10.0.0.1"), priority })
}

/// A router that is active at `now`.
fn active(settings: Settings, priority: u8) -> (Router, Duration) {
    let mut router = Router::new(Duration::ZERO, settings.clone());
    let mut out = Vec::new();
    router.set(Duration::ZERO, settings, standing(priority), &mut out);
    let now = router.deadline().unwrap();
    router.tick(now, &mut out);
    assert_eq!(router.role(), Role::Active);
    assert!(matches!(out[..], [Action::Send(_), Action::Take]), "§6.4.2: the advertisement first, then the addresses");
    (router, now)
}

#[test]
fn who_hears_nobody_waits_three_intervals_and_the_skew() {
    let (router, now) = active(settings(), 128);
    assert_eq!(now, 900 * MS + 150 * MS);
    assert_eq!(router.transition().reason.to_string(), "nobody else was heard for 1050 ms");
}

#[test]
fn priority_zero_is_answered_after_the_skew() {
    let mut router = Router::new(Duration::ZERO, settings());
    let mut out = Vec::new();
    router.set(Duration::ZERO, settings(), standing(128), &mut out);
    router.received(100 * MS, ip("10.0.0.2"), &advertisement(200, &["10.0.0.100"]), &mut out);
    assert_eq!(router.leader().map(|leader| (leader.address, leader.priority)), Some((ip("10.0.0.2"), 200)));
    router.received(200 * MS, ip("10.0.0.2"), &advertisement(0, &["10.0.0.100"]), &mut out);
    assert_eq!(router.deadline(), Some(350 * MS));
    router.tick(350 * MS, &mut out);
    assert_eq!(router.transition().reason.to_string(), "10.0.0.2 gave the addresses up");
}

#[test]
fn an_active_router_yields_to_the_greater_address_of_its_own_priority() {
    for (other, yields) in [("10.0.0.2", true), ("10.0.0.0", false)] {
        let (mut router, now) = active(settings(), 100);
        let mut out = Vec::new();
        router.received(now + 20 * MS, ip(other), &advertisement(100, &["10.0.0.100"]), &mut out);
        let expected = if yields { Role::Backup } else { Role::Active };
        assert_eq!(router.role(), expected, "{other}");
        match yields {
            true => assert_eq!(out, [Action::Release(None)], "no farewell: somebody is there"),
            false => assert!(matches!(out[..], [Action::Send(_), Action::Reannounce])),
        }
    }
}

#[test]
fn a_packet_from_our_own_address_changes_nothing() {
    let (mut router, now) = active(settings(), 100);
    let mut out = Vec::new();
    router.received(now, ip("10.0.0.1"), &advertisement(254, &["10.0.0.100"]), &mut out);
    assert_eq!((router.role(), out.len()), (Role::Active, 0));
    assert_eq!(router.counters().discarded.get(&Discard::Own), Some(&1));
}

#[test]
fn the_pace_of_the_active_router_is_learned() {
    let mut router = Router::new(Duration::ZERO, settings());
    let mut out = Vec::new();
    router.set(Duration::ZERO, settings(), standing(128), &mut out);
    let slow =
        Advertisement { interval: Interval::from_centiseconds(200).unwrap(), ..advertisement(200, &["10.0.0.100"]) };
    router.received(MS, ip("10.0.0.2"), &slow, &mut out);
    assert_eq!(router.deadline(), Some(MS + 7000 * MS));
}

#[test]
fn preemption_waits_until_this_edge_was_fit_for_long_enough() {
    let settings = Settings { preempt_delay: Duration::from_secs(5), ..settings() };
    let mut router = Router::new(Duration::ZERO, settings.clone());
    let mut out = Vec::new();
    router.set(Duration::ZERO, settings, standing(200), &mut out);
    let lower = advertisement(100, &["10.0.0.100"]);
    let mut now = Duration::ZERO;
    while router.role() == Role::Backup {
        now += 300 * MS;
        router.tick(now, &mut out);
        router.received(now, ip("10.0.0.2"), &lower, &mut out);
        assert!(now < Duration::from_secs(7), "it takes over at last");
    }
    assert!(now >= Duration::from_secs(5), "{now:?}");
    assert_eq!(router.transition().reason.to_string(), "10.0.0.2 had a lower priority (100)");
}

#[test]
fn an_edge_that_cannot_serve_says_farewell_and_listens_no_more() {
    let (mut router, now) = active(settings(), 100);
    let mut out = Vec::new();
    router.set(now, settings(), Err("eth0 has no carrier".into()), &mut out);
    let [Action::Release(Some(farewell))] = &out[..] else { panic!("{out:?}") };
    assert_eq!(farewell.priority, 0);
    assert_eq!((router.role(), router.deadline()), (Role::Down, None));
    router.set(now, settings(), Err("eth0 does not exist".into()), &mut out);
    assert_eq!((out.len(), router.transition().reason.to_string().as_str()), (1, "eth0 does not exist"));
    router.received(now, ip("10.0.0.2"), &advertisement(1, &["10.0.0.100"]), &mut out);
    assert_eq!((out.len(), router.role()), (1, Role::Down));
    assert_eq!(router.leader().map(|leader| leader.address), Some(ip("10.0.0.2")), "seen all the same");
}

#[test]
fn a_changed_priority_is_told_at_once_and_changed_addresses_are_taken() {
    let (mut router, now) = active(settings(), 100);
    let mut out = Vec::new();
    router.set(now, settings(), standing(50), &mut out);
    assert!(matches!(&out[..], [Action::Send(packet)] if packet.priority == 50));
    out.clear();
    let more = Settings { addresses: vec![ip("10.0.0.100"), ip("10.0.0.101")], ..settings() };
    router.set(now, more.clone(), standing(50), &mut out);
    assert!(matches!(&out[..], [Action::Take, Action::Send(packet)] if packet.addresses.len() == 2));
    out.clear();
    router.set(now, more, standing(50), &mut out);
    assert_eq!(out, []);
}

#[test]
fn other_addresses_are_reported_until_they_agree() {
    let (mut router, now) = active(settings(), 200);
    let mut out = Vec::new();
    router.received(now, ip("10.0.0.2"), &advertisement(100, &["10.0.0.99"]), &mut out);
    let text = router.mismatch().map(ToString::to_string);
    assert_eq!(text.as_deref(), Some("10.0.0.2 advertises other addresses for this virtual router: 10.0.0.99"));
    router.received(now, ip("10.0.0.2"), &advertisement(100, &["10.0.0.100"]), &mut out);
    assert_eq!(router.mismatch(), None);
}
