//! A clock that is wrong, or jumps, at rest and in the middle of an order: nothing that serves is dropped, next to nothing
//! is ordered, and the page says whose clock is wrong.
//!
//! libfaketime (Debian package faketime) stands between edged and the clock of the day; timers run on as they are.

use std::path::PathBuf;
use std::time::Duration;

use edge_integration::acme::small::{Fault, Place, Small};
use edge_integration::edged::until_within;
use edge_integration::lab::{Lab, skip};

use super::bench::{PATIENCE, PORT_80, https, shop};
use super::trouble::{leaf, why, with_small};

const NAME: &str = "shop.example.com";
const WRONG: &str = "the clock of this machine is";

fn library() -> Option<PathBuf> {
    let machines = std::fs::read_dir("/usr/lib").ok()?.flatten();
    machines.map(|machine| machine.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())
}

/// An edged whose clock is set by a file.
struct Clocked {
    lab: Lab,
    kicks: u32,
}

impl Clocked {
    fn start(mut lab: Lab, library: &std::path::Path) -> Self {
        lab.write_file("clock", "+0");
        let preload = format!("LD_PRELOAD={}", library.display());
        let file = format!("FAKETIME_TIMESTAMP_FILE={}", lab.path("clock").display());
        let fixed = ["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"];
        let before = [&["env", &preload, &file], fixed.as_slice()].concat();
        lab.start_by(&before, &[80, 443]);
        Self { lab, kicks: 0 }
    }

    /// Sets the clock, and has edged plan anew, which it does within a minute by itself.
    fn set(&mut self, offset: &str) {
        self.lab.write_file("clock", offset);
        self.kicks += 1;
        let kick = self.kicks;
        self.lab.manifest(
            "kick.yaml",
            &format!(
                "apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {{name: kick}}\n\
                 spec: {{secretName: kick-{kick}, dnsNames: [kick.internal], issuerRef: {{name: x, kind: x, group: edge.internal}}}}\n"
            ),
        );
        until_within(PATIENCE, "edged has planned anew", || {
            let list = self.lab.edged().ctl(&["cert", "list"]).text();
            list.contains(&format!("kick-{kick}")).then_some(())
        });
    }

    fn status(&mut self) -> String {
        self.lab.edged().ctl(&["status"]).text()
    }

    /// Waits until the page says this of the clock; `None`: nothing.
    fn says(&mut self, expected: Option<&str>) {
        until_within(PATIENCE, &format!("the page says of the clock: {expected:?}"), || {
            let page = self.status();
            match expected {
                Some(expected) => page.contains(expected).then_some(()),
                None => (!page.contains(WRONG)).then_some(()),
            }
        });
    }
}

#[test]
fn at_rest_a_clock_that_jumps_costs_next_to_nothing() {
    let Some(library) = library() else {
        return skip("clock", "no libfaketime (Debian package faketime)");
    };
    let small = Small::start();
    let lab = with_small(&small);
    let _origin = shop(&lab, &[PORT_80, &https("shop", NAME)].concat(), &[NAME]);
    let mut clocked = Clocked::start(lab, &library);
    let at = clocked.lab.at(443);
    let first = leaf(at, &small, NAME);
    assert_eq!(small.orders(), 1);
    for (offset, expected, most) in [
        // Steps of NTP.
        ("+3s", None, 1),
        ("-3s", None, 1),
        ("-20d", Some("20 d behind that of issuers.small"), 1),
        ("+0", None, 1),
        ("-800d", Some("behind that of issuers.small"), 1),
        ("+0", None, 1),
        // It looks due: one more, and no other for a day.
        ("+62d", Some("62 d ahead of that of issuers.small"), 2),
        ("+62d", Some("62 d ahead of that of issuers.small"), 2),
        ("+0", None, 2),
        // It looks as if it had ended long ago, and so does whatever comes: one try, and no other for a day.
        ("+800d", Some("800 d ahead of that of issuers.small"), 3),
        ("+800d", Some("800 d ahead of that of issuers.small"), 3),
        ("+0", None, 3),
    ] {
        clocked.set(offset);
        clocked.says(expected);
        // Long enough for a storm.
        std::thread::sleep(Duration::from_millis(1_500));
        assert!(small.orders() <= most, "{offset}: {} orders", small.orders());
        // Clients have the right time, and what they get is good.
        let now = leaf(at, &small, NAME);
        assert!(small.orders() > 1 || now == first, "{offset}: another certificate");
    }
    why(clocked.lab.edged(), NAME, "nothing is wrong");
    assert!(!clocked.lab.edged().log().contains("panicked"), "{}", clocked.lab.edged().log());
}

#[test]
fn in_the_middle_of_an_order_a_clock_that_jumps_makes_no_second_one() {
    let Some(library) = library() else {
        return skip("clock", "no libfaketime (Debian package faketime)");
    };
    for (offset, expected, most) in [
        ("+2s", None, 1),
        ("-2s", None, 1),
        ("+62d", Some("62 d ahead of that of issuers.small"), 1),
        // What comes begins in the future, and is not taken: another one once the clock is right.
        ("-20d", Some("20 d behind that of issuers.small"), 2),
    ] {
        let small = Small::start();
        // Seconds for one answer.
        small.fault(Place::Finalize, 1, Fault::Dribbles(Duration::from_millis(25)));
        let lab = with_small(&small);
        let _origin = shop(&lab, &[PORT_80, &https("shop", NAME)].concat(), &[NAME]);
        let mut clocked = Clocked::start(lab, &library);
        let asked = || (small.asked(Place::Finalize) > 0).then_some(());
        until_within(PATIENCE, "the order is being finalized", asked);
        clocked.set(offset);
        clocked.says(expected);
        if most == 1 {
            leaf(clocked.lab.at(443), &small, NAME);
        } else {
            why(clocked.lab.edged(), NAME, "behind that of issuers.small");
        }
        assert_eq!(small.orders(), 1, "{offset}");
        clocked.set("+0");
        clocked.says(None);
        leaf(clocked.lab.at(443), &small, NAME);
        assert!(small.orders() <= most, "{offset}: {} orders", small.orders());
    }
}
