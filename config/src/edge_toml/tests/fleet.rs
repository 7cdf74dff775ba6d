use std::path::PathBuf;
use std::time::Duration;

use super::faults;
use crate::edge_toml::decode;
use crate::settings::{FleetEdge, FleetSettings};

#[test]
fn fleet() {
    let text = r#"
[fleet]
listen = "192.0.2.2:7946"
secret_file = "fleet.key"
alone_after = "10m"
[[fleet.edge]]
name = "b"
address = "192.0.2.2:7946"
[[fleet.edge]]
name = "a"
address = "[2001:db8::1]:7946"
"#;
    let settings = decode(&"edge.toml".into(), text).unwrap().anchored("/etc/edge".as_ref());
    let edge = |name: &str, address: &str| FleetEdge { name: name.into(), address: address.parse().unwrap() };
    let expected = FleetSettings {
        listen: "192.0.2.2:7946".parse().unwrap(),
        secret_file: PathBuf::from("/etc/edge/fleet.key"),
        edges: vec![edge("a", "[2001:db8::1]:7946"), edge("b", "192.0.2.2:7946")],
        alone_after: Some(Duration::from_secs(600)),
        drift_after: Duration::from_secs(60),
    };
    assert_eq!(settings.fleet, Some(expected));
    assert_eq!(decode(&"edge.toml".into(), "").unwrap().fleet, None);
}

#[test]
fn faults_of_a_fleet() {
    assert_eq!(
        faults("[fleet]\nlisten = \"192.0.2.1\"\ncolour = \"red\"\n"),
        [
            "edge.toml:1:1: fleet.secret_file is missing",
            "edge.toml:1:1: fleet: has 0 [[fleet.edge]], expected 2 to 32, this edge included",
            "edge.toml:2:10: fleet.listen: \"192.0.2.1\" is no socket, expected one such as \"192.0.2.1:7946\"",
            "edge.toml:3:1: unknown key `fleet.colour`",
        ]
    );
    let text = r#"[fleet]
listen = "0.0.0.0:7946"
secret_file = "k"
alone_after = "1h"
edge = [
  { name = "a", address = "192.0.2.1:1" },
  { name = "a", address = "192.0.2.2:1" },
  { name = "b", address = "192.0.2.1:1" },
  { name = "C_", address = "0.0.0.0:1" },
]
"#;
    assert_eq!(
        faults(text),
        [
            "edge.toml:4:15: fleet.alone_after is for a fleet of two edges, and there are 4",
            "edge.toml:7:3: fleet.edge: \"a\" is the name of two edges",
            "edge.toml:8:3: fleet.edge: 192.0.2.1:1 is the address of \"a\" and \"b\"",
            "edge.toml:9:12: fleet.edge[3].name: \"C_\" is no DNS label",
            "edge.toml:9:28: fleet.edge[3].address: \"0.0.0.0:1\" is no address of one edge",
        ]
    );
    assert!(faults(&text.replace("1h", "5s"))[0].contains("fleet.alone_after: 5s is out of range"));
}
