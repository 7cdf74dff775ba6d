//! Addresses on interfaces, in a network namespace of this test alone. Needs root; skips loudly without.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::{IpAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use edge::store::Store;
use edge::vip::{AddressState, Addresses};
use edge_config::settings::{BindVips, VipSettings};

const INSIDE: &str = "EDGE_VIP_NAMESPACE";

/// Starts this program again inside a new namespace, so that no interface of the machine is touched.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some_and(|name| name == test) {
        return true;
    }
    let mut command = Command::new("unshare");
    command.args(["-n", "--"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(INSIDE, test);
    let output = command.output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("unshare failed") => {
            eprintln!("SKIPPED {test}: no right to make a network namespace (needs root)");
        }
        Ok(output) => panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("SKIPPED {test}: unshare (Debian package util-linux): {error}"),
    }
    false
}

fn ip(line: &str) -> String {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn on(interface: &str) -> String {
    ip(&format!("-o address show dev {interface}"))
}

fn settings(interface: &str) -> VipSettings {
    VipSettings { bind: BindVips::Auto, interface: interface.into(), ..VipSettings::default() }
}

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

fn ours(interface: &str) -> AddressState {
    AddressState::Ours { interface: interface.into() }
}

fn present(interface: &str) -> AddressState {
    AddressState::Present { interface: Some(interface.into()) }
}

/// Nothing that a test waits for takes longer, on the slowest machine.
const LIMIT: Duration = Duration::from_secs(60);

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

#[test]
fn added_kept_and_removed() {
    if !inside("added_kept_and_removed") {
        return;
    }
    ip("link set lo up");
    ip("link add eth9 type veth peer name eth8");
    ip("link set eth9 up");
    ip("address add 192.0.2.50/24 dev eth9");
    ip("address add 192.0.2.51/32 dev lo");
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).store;
        let addresses = Addresses::start(store.clone());
        let wanted = set(&["192.0.2.50", "192.0.2.51", "192.0.2.52", "2001:db8::52", "127.0.0.9"]);
        let observed = addresses.set(&settings("lo"), wanted.clone()).await;
        let states: Vec<_> = observed.addresses.iter().map(|(address, state)| (address.to_string(), state)).collect();
        assert_eq!(
            states,
            [
                ("127.0.0.9".into(), &present("lo")),
                ("192.0.2.50".into(), &present("eth9")),
                ("192.0.2.51".into(), &present("lo")),
                ("192.0.2.52".into(), &ours("lo")),
                ("2001:db8::52".into(), &ours("lo")),
            ]
        );
        // Usable at once: no duplicate address detection.
        for address in &wanted {
            TcpListener::bind((*address, 0)).unwrap_or_else(|error| panic!("{address}: {error}"));
        }
        assert!(on("lo").contains("192.0.2.52/32") && on("lo").contains("2001:db8::52/128"), "{}", on("lo"));

        // Somebody removes one: it comes back, also when it goes while another is being put back.
        for _ in 0..20 {
            ip("address del 192.0.2.52/32 dev lo");
            until("the address is back", || on("lo").contains("192.0.2.52/32")).await;
            ip("-6 address del 2001:db8::52/128 dev lo");
            until("the IPv6 address is back", || on("lo").contains("2001:db8::52/128")).await;
        }

        // Fewer are wanted: only ours go.
        addresses.set(&settings("lo"), set(&["192.0.2.50", "192.0.2.51"])).await;
        assert!(!on("lo").contains("192.0.2.52") && !on("lo").contains("2001:db8::52"), "{}", on("lo"));
        assert!(on("lo").contains("192.0.2.51/32") && on("eth9").contains("192.0.2.50/24"));
        addresses.set(&settings("lo"), set(&[])).await;
        addresses.stop().await;
        assert!(on("lo").contains("192.0.2.51/32") && on("eth9").contains("192.0.2.50/24"));
        assert!(store.bound_addresses().is_empty());
    });
}

#[test]
fn a_crash_leaves_nothing_for_ever_and_an_administrator_is_respected() {
    if !inside("a_crash_leaves_nothing_for_ever_and_an_administrator_is_respected") {
        return;
    }
    ip("link set lo up");
    let directory = tempfile::tempdir().unwrap();
    // A runtime that ends without a stop is a crash, as far as addresses are concerned.
    block_on(async {
        let addresses = Addresses::start(Store::open(directory.path()).store);
        addresses.set(&settings("lo"), set(&["192.0.2.1", "192.0.2.2", "192.0.2.3"])).await;
    });
    assert!(on("lo").contains("192.0.2.1/32") && on("lo").contains("192.0.2.2/32"));
    // The administrator takes one over.
    ip("address del 192.0.2.2/32 dev lo");
    ip("address add 192.0.2.2/32 dev lo");
    block_on(async {
        let store = Store::open(directory.path()).store;
        assert_eq!(store.bound_addresses().len(), 3);
        let addresses = Addresses::start(store);
        let observed = addresses.set(&settings("lo"), set(&["192.0.2.1", "192.0.2.2"])).await;
        assert_eq!(observed.addresses.values().collect::<Vec<_>>(), [&ours("lo"), &present("lo")]);
        assert!(!on("lo").contains("192.0.2.3"), "what the crash left and nobody wants");
        addresses.stop().await;
    });
    assert!(!on("lo").contains("192.0.2.1") && on("lo").contains("192.0.2.2/32"), "{}", on("lo"));
}

#[test]
fn an_interface_that_comes_later_gets_its_addresses() {
    if !inside("an_interface_that_comes_later_gets_its_addresses") {
        return;
    }
    ip("link set lo up");
    block_on(async {
        let addresses = Addresses::start(Store::in_memory());
        let mut seen = addresses.observed();
        let observed = addresses.set(&settings("vip0"), set(&["192.0.2.7"])).await;
        let expected = "cannot add 192.0.2.7/32 to vip0: interface vip0 does not exist";
        assert_eq!(observed.addresses.values().next(), Some(&AddressState::Failed(expected.into())));
        ip("link add vip0 type veth peer name vip1");
        until("the address", || on("vip0").contains("192.0.2.7/32")).await;
        seen.wait_for(|observed| observed.is_bound("192.0.2.7".parse().unwrap())).await.unwrap();
        addresses.stop().await;
        assert!(!on("vip0").contains("192.0.2.7"));
    });
}

#[test]
fn a_thousand_addresses() {
    if !inside("a_thousand_addresses") {
        return;
    }
    ip("link set lo up");
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let addresses = Addresses::start(Store::open(directory.path()).store);
        let wanted: BTreeSet<IpAddr> = (0..1000u32).map(|n| std::net::Ipv4Addr::from(0x0a4a_0000 + n).into()).collect();
        let start = std::time::Instant::now();
        let observed = addresses.set(&settings("lo"), wanted).await;
        assert!(observed.addresses.values().all(|state| *state == ours("lo")));
        let added = start.elapsed();
        addresses.stop().await;
        eprintln!("1000 addresses: added in {added:?}, removed in {:?}", start.elapsed() - added);
        assert!(!on("lo").contains("10.74."));
    });
}

#[test]
fn without_the_right_there_is_a_reason() {
    if !inside("without_the_right_there_is_a_reason") {
        return;
    }
    ip("link set lo up");
    // A thread of its own gives up all rights; others keep theirs.
    let child = Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "unprivileged", "--nocapture"])
        .env("EDGE_VIP_UNPRIVILEGED", "1")
        .env_remove(INSIDE)
        .output();
    match child {
        Ok(output) => assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => eprintln!("SKIPPED without_the_right_there_is_a_reason: setpriv (util-linux): {error}"),
    }
}

#[test]
fn unprivileged() {
    if std::env::var_os("EDGE_VIP_UNPRIVILEGED").is_none() {
        return;
    }
    block_on(async {
        let addresses = Addresses::start(Store::in_memory());
        let observed = addresses.set(&settings("lo"), set(&["10.74.8.99", "127.0.0.5"])).await;
        let expected = "cannot add 10.74.8.99/32 to lo: operation not permitted (needs CAP_NET_ADMIN)";
        assert_eq!(
            observed.addresses.values().collect::<Vec<_>>(),
            [&AddressState::Failed(expected.into()), &present("lo")]
        );
    });
}
