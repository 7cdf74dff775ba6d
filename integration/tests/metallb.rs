//! MetalLB's objects as the only word about BGP: peers with a password, BFD and graceful restart, communities by name,
//! advertisements by pool and peer. What counts is what the routers have.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::PathBuf;

use edge_integration::datacentre::{self, DataCentre, PASSWORD, Plan, VIP};
use edge_integration::edged::until;
use edge_integration::lab;
use serde_json::Value;

/// Of MetalLB's pool.
const METAL: &str = "203.0.113.5";

fn objects() -> String {
    format!(
        r#"apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {{ name: metal, namespace: metallb-system, labels: {{ zone: dmz }} }}
spec: {{ addresses: ["203.0.113.0/24"], autoAssign: false }}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {{ name: tor1, namespace: metallb-system }}
spec:
  myASN: 65101
  peerASN: 65001
  peerAddress: 10.1.1.2
  holdTime: 9s
  keepaliveTime: 3s
  bfdProfile: fast
  passwordSecret: {{ name: tor }}
  enableGracefulRestart: true
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {{ name: tor2, namespace: metallb-system }}
spec: {{ myASN: 65101, peerASN: 65002, peerAddress: 10.2.1.2, holdTime: 9s, keepaliveTime: 3s, bfdProfile: fast }}
---
apiVersion: metallb.io/v1beta1
kind: BFDProfile
metadata: {{ name: fast, namespace: metallb-system }}
spec: {{ transmitInterval: 300, receiveInterval: 300, detectMultiplier: 3 }}
---
apiVersion: v1
kind: Secret
metadata: {{ name: tor, namespace: metallb-system }}
type: kubernetes.io/basic-auth
stringData: {{ password: {PASSWORD} }}
---
apiVersion: metallb.io/v1beta1
kind: Community
metadata: {{ name: names, namespace: metallb-system }}
spec: {{ communities: [{{ name: blue, value: "65101:7" }}, {{ name: wide, value: "large:65101:1:2" }}] }}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {{ name: dmz, namespace: metallb-system }}
spec: {{ ipAddressPoolSelectors: [{{ matchLabels: {{ zone: dmz }} }}], peers: [tor1], communities: [blue, wide] }}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {{ name: summary, namespace: metallb-system }}
spec: {{ ipAddressPools: [metal], peers: [tor2], aggregationLength: 24 }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: metal, namespace: default }}
spec:
  gatewayClassName: edge
  addresses: [{{ type: IPAddress, value: {METAL} }}]
  listeners: [{{ name: http, port: 80, protocol: HTTP }}]
"#
    )
}

struct Site {
    centre: DataCentre,
    file: PathBuf,
}

impl Site {
    /// What bgpd of a router has of a prefix from the edge.
    fn path(&self, router: u8, prefix: &str) -> Option<Value> {
        let table = self.centre.router(router).json(&format!("show bgp ipv4 unicast {prefix} json"));
        let from = format!("10.{router}.1.1");
        table["paths"].as_array()?.iter().find(|path| path["peer"]["peerId"] == from.as_str()).cloned()
    }

    fn neighbour(&self, router: u8) -> Value {
        let name = format!("10.{router}.1.1");
        self.centre.router(router).json(&format!("show bgp neighbors {name} json"))[&name].clone()
    }

    fn change(&mut self, from: &str, to: &str) {
        let text = std::fs::read_to_string(&self.file).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(&self.file, text.replacen(from, to, 1)).unwrap();
        assert_eq!(self.centre.edge("a").ctl(&["reload"]).code, Some(0));
    }
}

#[test]
fn metallb_s_objects_are_enough() {
    if let Err(why) = datacentre::available() {
        return lab::skip("metallb_s_objects", &why);
    }
    // The router that a `[bgp]` section would have described to us speaks only with the password, and with BFD.
    let more = "\n[vips]\nhold_down = \"0s\"\n\n[bgp]\ngraceful_shutdown = \"0s\"\n".to_owned();
    let plan = Plan { has_announcements: false, has_password: true, has_bfd: true, more, ..Plan::plain(1) };
    let mut centre = DataCentre::start(plan);
    let file = centre.edge("a").directory().join("manifests/metallb.yaml");
    std::fs::write(&file, objects()).unwrap();
    assert_eq!(centre.edge("a").ctl(&["reload"]).code, Some(0));
    let mut site = Site { centre, file };

    let path = until("tor1 has the VIP", || site.path(1, &format!("{METAL}/32")));
    assert_eq!(path["community"]["string"], "65101:7", "{path}");
    assert_eq!(path["largeCommunity"]["string"], "65101:1:2", "{path}");
    let path = until("tor2 has the network", || site.path(2, "203.0.113.0/24"));
    assert_eq!(path.get("community"), None, "{path}");
    assert_eq!(site.path(1, "203.0.113.0/24"), None, "tor1 was told of the network, too");
    assert_eq!(site.path(2, &format!("{METAL}/32")), None, "tor2 was told of the VIP, too");
    let routes = [(1, format!("{METAL}/32")), (2, "203.0.113.0/24".to_owned())];
    for (router, prefix) in &routes {
        let gateways = [site.centre.edge("a").next_hop(*router)];
        until(&format!("tor{router}'s kernel"), || {
            (site.centre.router(*router).gateways(prefix) == gateways).then_some(())
        });
        until(&format!("tor{router} has BFD"), || {
            site.centre.router(*router).ask("show bfd peers brief").contains(" up").then_some(())
        });
    }
    assert_eq!(
        site.centre.router(1).gateways(&format!("{VIP}/32")),
        [] as [std::net::IpAddr; 0],
        "of no advertisement"
    );
    let first = site.neighbour(1);
    assert_eq!((&first["bgpTimerHoldTimeMsecs"], &first["remoteAs"]), (&9000.into(), &65101.into()));
    let restart = &first["neighborCapabilities"]["gracefulRestart"];
    assert_eq!(restart, "advertisedAndReceived", "{first}");

    // What changes is told, and costs no session.
    let lost = |site: &Site, router: u8| site.neighbour(router)["connectionsDropped"].as_u64().unwrap();
    let before = [lost(&site, 1), lost(&site, 2)];
    site.change("65101:7", "65101:8");
    until("tor1 has the other community", || {
        (site.path(1, &format!("{METAL}/32"))?["community"]["string"] == "65101:8").then_some(())
    });
    assert_eq!([lost(&site, 1), lost(&site, 2)], before);

    // A peer that is gone is one session; the secret of another is never shown.
    let text = std::fs::read_to_string(&site.file).unwrap();
    let without: Vec<&str> = text.split("---\n").filter(|object| !object.contains("peerAddress: 10.2.1.2")).collect();
    std::fs::write(&site.file, without.join("---\n")).unwrap();
    assert_eq!(site.centre.edge("a").ctl(&["reload"]).code, Some(0));
    until("tor2 has nothing", || site.centre.router(2).gateways("203.0.113.0/24").is_empty().then_some(()));
    assert_eq!(lost(&site, 1), before[0]);
    assert!(site.path(1, &format!("{METAL}/32")).is_some());
    for command in [&["status", "--all"][..], &["why", METAL], &["-o", "json", "why", METAL], &["get", "bgppeer"]] {
        let said = site.centre.edge("a").ctl(command).text();
        assert!(!said.contains(PASSWORD), "{command:?} shows the password: {said}");
    }
}
