use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn arp_frames_are_these_bytes() {
    let frames = announcement(ip("10.0.0.100"), OURS);
    let begin = "ffffffffffff0200000000010806000108000604";
    assert_eq!(hex(&frames[0]), format!("{begin}00010200000000010a0000640000000000000a000064"));
    assert_eq!(hex(&frames[1]), format!("{begin}00020200000000010a0000640200000000010a000064"));
    assert_eq!(hex(&probe(ip("10.0.0.100"), OURS)), format!("{begin}0001020000000001000000000000000000000a000064"));
}

#[test]
fn ndp_frames_are_these_bytes() {
    let [frame] = &announcement(ip("2001:db8::100"), OURS)[..] else { panic!("one frame") };
    let address = "20010db8000000000000000000000100";
    assert_eq!(
        hex(&frame[..54]),
        format!("33330000000102000000000186dd6000000000203aff{address}ff020000000000000000000000000001")
    );
    assert_eq!(hex(&frame[54..56]), "8800");
    assert_eq!(hex(&frame[58..]), format!("20000000{address}0201020000000001"));
    let frame = probe(ip("2001:db8::a1:b2c3"), OURS);
    assert_eq!(hex(&frame[..6]), "3333ffa1b2c3");
    assert_eq!(hex(&frame[22..54]), format!("{}ff0200000000000000000001ffa1b2c3", "00".repeat(16)));
}

#[test]
fn what_claims_an_address_is_seen_and_probes_are_not() {
    for address in ["10.0.0.100", "2001:db8::100"] {
        for frame in announcement(ip(address), OTHER) {
            assert_eq!(claim(&frame), Some(Claim { address: ip(address), mac: OTHER }));
            let mut short = frame.clone();
            short.truncate(frame.len() - 1);
            assert_eq!(claim(&short), None);
        }
        assert_eq!(claim(&probe(ip(address), OTHER)), None, "{address}");
    }
}

#[test]
fn a_neighbour_advertisement_must_be_whole_right_and_from_this_link() {
    let good = announcement(ip("2001:db8::100"), OTHER).remove(0);
    // Place, new byte: type of IP, next header, hop limit, code, checksum, option of no length.
    for (at, byte) in [(14, 0x40), (20, 17), (21, 254), (55, 1), (56, good[56] ^ 1), (79, 0), (79, 2)] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert_eq!(claim(&bad), None, "byte {at}");
    }
}

proptest! {
    #[test]
    fn foreign_frames_are_read_or_refused(mut frame in prop::collection::vec(any::<u8>(), 0..200), kind in 0..3) {
        let kinds = [ETHERTYPE_ARP, ETHERTYPE_IPV6];
        if let (Some(kind), Some(place)) = (kinds.get(kind as usize), frame.get_mut(12..14)) {
            place.copy_from_slice(&kind.to_be_bytes());
        }
        let _ = claim(&frame);
    }
}

/// Every moment at which something is due until `end`.
fn moments(schedule: &mut Schedule, end: Duration) -> Vec<u128> {
    let mut moments = Vec::new();
    while schedule.next() <= end {
        let now = schedule.next();
        assert!(schedule.is_due(now));
        assert!(!schedule.is_due(now), "once");
        moments.push(now.as_millis());
    }
    moments
}

#[test]
fn an_address_is_announced_in_a_burst_and_then_every_thirty_seconds() {
    let mut schedule = Schedule::start(Duration::ZERO);
    assert_eq!(moments(&mut schedule, Duration::from_secs(70)), [0, 200, 1100, 2200, 3300, 33300, 63300]);
    let now = Duration::from_secs(80);
    schedule.again(now);
    schedule.again(now + 500 * MS);
    assert_eq!(moments(&mut schedule, now + 4000 * MS), [80_000, 80_200, 81_100, 82_200, 83_300]);
}

#[test]
fn who_slept_announces_once() {
    let mut schedule = Schedule::start(Duration::ZERO);
    assert!(schedule.is_due(Duration::from_secs(2)));
    assert_eq!(schedule.next(), 2200 * MS);
}

#[test]
fn a_claim_that_lasts_is_reported_and_contradicted_every_ten_seconds() {
    let mut conflicts = Conflicts::default();
    conflicts.claimed(Duration::ZERO, OTHER);
    assert!(!conflicts.defend(MS));
    assert_eq!(conflicts.confirmed(MS).count(), 0);
    assert_eq!(conflicts.next(), Some(500 * MS));
    assert!(conflicts.defend(500 * MS));
    assert_eq!(conflicts.confirmed(500 * MS).map(|conflict| conflict.mac).collect::<Vec<_>>(), [OTHER]);
    conflicts.claimed(1000 * MS, OTHER);
    assert!(!conflicts.defend(1500 * MS));
    assert_eq!(conflicts.next(), Some(10_500 * MS));
    assert!(conflicts.defend(10_500 * MS));
    assert!(!conflicts.defend(30_000 * MS), "nobody claimed it again");
    assert!(!conflicts.defend(91_000 * MS));
    assert_eq!((conflicts.confirmed(91_000 * MS).count(), conflicts.next()), (0, None));
}

#[test]
fn claimants_are_bounded() {
    let mut conflicts = Conflicts::default();
    for last in 0..100 {
        conflicts.claimed(Duration::ZERO, Mac([2, 0, 0, 0, 1, last]));
    }
    assert_eq!(conflicts.confirmed(Duration::from_secs(1)).count(), 8);
}
