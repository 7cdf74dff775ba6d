//! Whether a container listens: read from its network namespace, so that no connection disturbs it.
//!
//! Flows in: the text of `/proc/PID/net/{tcp,tcp6,udp,udp6}`. Flows out: sets of ports. Most Pods of the rig declare no
//! port; such a container is ready once what it listens to has stopped changing.

use std::collections::BTreeSet;
use std::path::Path;

use k8s_openapi::api::core::v1::Container;

/// A bound port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    Tcp(u16),
    Udp(u16),
}

/// `TCP_LISTEN`, and the state of a UDP socket that is bound and not connected, in the kernel's tables.
const TCP_LISTEN: &str = "0A";
const UDP_BOUND: &str = "07";

/// What a container is to listen to before it is ready; `None` where its spec declares nothing.
pub fn declared(container: &Container) -> Option<Port> {
    let port = container.ports.as_ref()?.first()?;
    let number = u16::try_from(port.container_port).ok()?;
    match port.protocol.as_deref() {
        None | Some("TCP") => Some(Port::Tcp(number)),
        Some("UDP") => Some(Port::Udp(number)),
        Some(_) => None,
    }
}

/// All ports listened to in the network namespace of a process.
pub fn ports(pid: u32) -> BTreeSet<Port> {
    let net = Path::new("/proc").join(pid.to_string()).join("net");
    let mut found = BTreeSet::new();
    for (table, state, port) in [
        ("tcp", TCP_LISTEN, Port::Tcp as fn(u16) -> Port),
        ("tcp6", TCP_LISTEN, Port::Tcp),
        ("udp", UDP_BOUND, Port::Udp),
        ("udp6", UDP_BOUND, Port::Udp),
    ] {
        // A process that is gone listens to nothing; without IPv6 there is no such table.
        let text = std::fs::read_to_string(net.join(table)).unwrap_or_default();
        found.extend(in_state(&text, state).map(port));
    }
    found
}

/// Local ports of a table's sockets in one state.
fn in_state<'a>(table: &'a str, state: &'a str) -> impl Iterator<Item = u16> + 'a {
    table.lines().skip(1).filter_map(move |line| {
        let mut columns = line.split_whitespace();
        let local = columns.nth(1)?;
        (columns.nth(1)? == state).then_some(())?;
        u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 13 1 0 20 4 30 10 -1
";
    const UDP6: &str =
        "  sl  local_address                         remote_address                        st tx_queue rx_queue
  100: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000
";

    #[test]
    fn tables() {
        assert_eq!(in_state(TCP, TCP_LISTEN).collect::<Vec<_>>(), [3000]);
        assert_eq!(in_state(UDP6, UDP_BOUND).collect::<Vec<_>>(), [53]);
        assert_eq!(in_state("", TCP_LISTEN).count(), 0);
        assert_eq!(in_state("head\n garbage : here\n\n", TCP_LISTEN).count(), 0);
    }

    #[test]
    fn own_sockets() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let found = ports(std::process::id());
        assert!(found.contains(&Port::Tcp(tcp.local_addr().unwrap().port())));
        assert!(found.contains(&Port::Udp(udp.local_addr().unwrap().port())));
    }

    #[test]
    fn first_declared_port() {
        let cases = [
            (json!({"name": "a"}), None),
            (json!({"name": "a", "ports": [{"containerPort": 80}, {"containerPort": 81}]}), Some(Port::Tcp(80))),
            (json!({"name": "a", "ports": [{"containerPort": 53, "protocol": "UDP"}]}), Some(Port::Udp(53))),
            (json!({"name": "a", "ports": [{"containerPort": 5, "protocol": "SCTP"}]}), None),
        ];
        for (container, expected) in cases {
            assert_eq!(declared(&serde_json::from_value(container).unwrap()), expected);
        }
    }
}
