//! keepalived in the edges' virtual router: somebody who follows RFC 9568 and shares no line with us.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use super::{LAN_VIP, Network};
use crate::cluster::process::{Process, Program};

/// VRID of the edges at `lan`.
pub(super) const ROUTER: u8 = 50;

pub(super) struct Neighbour {
    process: Process,
}

impl Neighbour {
    /// The last in line: it has the address only when no edge wants it.
    pub(super) fn start(network: &Network, directory: &Path) -> Self {
        let path = |name: &str| directory.join(format!("keepalived.{name}"));
        let text = format!(
            "global_defs {{ router_id neighbour\n vrrp_version 3 }}\n\
             vrrp_instance lan {{\n state BACKUP\n interface lan\n virtual_router_id {ROUTER}\n priority 10\n \
             advert_int 0.3\n virtual_ipaddress {{ {LAN_VIP}/32 dev lan }}\n}}\n"
        );
        std::fs::write(path("conf"), text).unwrap();
        let argument = |option: &str, name: &str| format!("--{option}={}", path(name).display());
        let program = Program::new("/usr/sbin/keepalived")
            .args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"])
            .args([argument("use-file", "conf"), argument("pid", "pid"), argument("vrrp_pid", "vrrp.pid")]);
        Self { process: Process::start("keepalived", network.neighbour.name(), &program, &path("log")) }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.process.stop(Duration::from_secs(3));
    }
}
