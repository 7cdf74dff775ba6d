//! Router advertisements of an edge, for a router whose session is by the name of the interface: FRR learns the other
//! end's address from them alone (RFC 4861 §4.2). An edge that is no router sends none; radvd does it in a real one.

#![allow(clippy::unwrap_used)]

use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket, sockopt};

use crate::netns::{Namespace, enter};

const EVERY: Duration = Duration::from_secs(2);
/// Type 134; a hop limit of 64 and a lifetime of zero, which is no default router. The kernel adds the checksum.
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Sends them until it is dropped.
pub(super) struct Advertiser(#[expect(dead_code, reason = "its end is the sign to stop")] Sender<()>);

impl Advertiser {
    pub(super) fn start(space: &Namespace, interface: &str) -> Self {
        let (stop, stopped) = channel();
        let (space, interface) = (space.name().to_owned(), interface.to_owned());
        std::thread::spawn(move || {
            enter(&space).unwrap();
            let socket = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
            // Others are not believed.
            sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
            let index = rustix::net::netdevice::name_to_index(&socket, &interface).unwrap();
            let everybody = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(EVERY) {
                // Not while the interface is down.
                let _ = sendto(&socket, &ADVERTISEMENT, SendFlags::empty(), &everybody);
            }
        });
        Self(stop)
    }
}
