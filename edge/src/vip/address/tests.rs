//! What needs no right; adding and removing is tested in `tests/vip.rs`, in a network namespace.

use super::*;

fn settings(bind: BindVips) -> VipSettings {
    VipSettings { bind, interface: "edge-no-such".into(), ..VipSettings::default() }
}

async fn state(bind: BindVips, address: &str) -> AddressState {
    let address: IpAddr = address.parse().unwrap();
    let addresses = Addresses::start(Store::in_memory());
    let observed = addresses.set(&settings(bind), BTreeSet::from([address])).await;
    assert_eq!(*observed, **addresses.observed().borrow());
    addresses.stop().await;
    observed.addresses[&address].clone()
}

#[tokio::test]
async fn what_is_local_already_needs_nobody() {
    for bind in [BindVips::Auto, BindVips::Never] {
        for address in ["127.0.0.1", "127.0.0.77", "127.255.255.254"] {
            let found = state(bind, address).await;
            assert_eq!(found, AddressState::Present { interface: Some("lo".into()) }, "{address}");
        }
    }
}

#[tokio::test]
async fn what_is_not_local_has_a_reason() {
    let never = state(BindVips::Never, "192.0.2.99").await;
    assert_eq!(
        never,
        AddressState::Failed("192.0.2.99 is on no interface, and edge.toml says [vips] bind = \"never\"".into())
    );
    let nowhere = state(BindVips::Auto, "192.0.2.99").await;
    let expected = "cannot add 192.0.2.99/32 to edge-no-such: interface edge-no-such does not exist";
    assert_eq!(nowhere, AddressState::Failed(expected.into()));
}

#[test]
fn a_network_on_lo_covers_its_addresses() {
    let listed = |address: &str, prefix, interface: &str| Listed {
        address: address.parse().unwrap(),
        prefix,
        interface: interface.into(),
        protocol: None,
        duplicate: false,
        tentative: false,
    };
    for (held, address, covered) in [
        (listed("127.0.0.1", 8, "lo"), "127.1.2.3", true),
        (listed("127.0.0.1", 8, "lo"), "128.0.0.1", false),
        (listed("10.0.0.1", 24, "eth0"), "10.0.0.2", false),
        (listed("10.0.0.1", 0, "lo"), "8.8.8.8", true),
        (listed("10.0.0.1", 32, "lo"), "10.0.0.2", false),
        (listed("10.0.0.1", 33, "lo"), "10.0.0.2", false),
        (listed("2001:db8::1", 64, "lo"), "2001:db8::2", false),
    ] {
        assert_eq!(held.covers(address.parse().unwrap()), covered, "{held:?} {address}");
    }
}
