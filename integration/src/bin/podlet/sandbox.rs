//! The network of a Pod: a named network namespace and a veth pair to the bridge, made with `ip`.
//!
//! Flows in: a [`Slot`]. Flows out: a namespace that answers under its addresses. Works in the network namespace podlet
//! itself was started in, which must hold the bridge; forwarding beyond it is for whoever set that up. Start podlet by
//! `nsenter --net=…` and not by `ip netns exec`: the latter has mounts of its own, and the names made here would mean
//! nothing outside.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ipnet::IpNet;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::addresses::{Slot, interface, namespace_stem};

/// Generous, as the machine may be busy with builds.
const DEADLINE: Duration = Duration::from_secs(60);
const NAMES: &str = "/run/netns";

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("ip {line}: {text}")]
    Refused { line: String, text: String },
    #[error("ip {line}: no answer in {} s", DEADLINE.as_secs())]
    Silent { line: String },
    #[error("ip {line}: {error}")]
    Unable { line: String, error: io::Error },
}

/// A Pod's network namespace. Ends by [`Sandbox::remove`], or by [`sweep`] at the next start.
#[derive(Debug)]
pub struct Sandbox {
    pub namespace: String,
    interface: String,
}

/// Runs `ip` with these words, and a batch of lines on its standard input where there are any.
async fn ip(line: &str, batch: &str) -> Result<String, Fault> {
    let fault = |error| Fault::Unable { line: line.to_owned(), error };
    let mut child = Command::new("ip")
        .args(line.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(fault)?;
    let work = async {
        if let Some(mut input) = child.stdin.take() {
            // Without a batch nobody reads this; a batch that is cut short shows in the exit status.
            let _ = input.write_all(batch.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(DEADLINE, work)
        .await
        .map_err(|_| Fault::Silent { line: line.to_owned() })?
        .map_err(fault)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(Fault::Refused { line: line.to_owned(), text })
}

impl Sandbox {
    pub async fn create(
        prefix: &str,
        node: &str,
        bridge: &str,
        slot: &Slot,
        gateways: &[IpNet],
    ) -> Result<Self, Fault> {
        let sandbox = Self::named(prefix, node, slot);
        let outcome = sandbox.build(bridge, slot, gateways).await;
        if outcome.is_err() {
            sandbox.remove().await;
        }
        outcome.map(|()| sandbox)
    }

    fn named(prefix: &str, node: &str, slot: &Slot) -> Self {
        let interface = interface(node, slot.index);
        let address = slot.addresses.first().map_or_else(|| slot.index.to_string(), |net| net.addr().to_string());
        // The process id at the end is the mark by which the laboratory sweeps up after a dead owner.
        let namespace = format!("{}{address}-{}", namespace_stem(prefix, node), std::process::id());
        Self { namespace, interface }
    }

    async fn build(&self, bridge: &str, slot: &Slot, gateways: &[IpNet]) -> Result<(), Fault> {
        let Self { namespace, interface } = self;
        ip(&format!("netns add {namespace}"), "").await?;
        let outside = format!(
            "link add {interface} type veth peer name eth0 netns {namespace}\n\
             link set {interface} master {bridge}\n\
             link set {interface} up\n"
        );
        ip("-batch -", &outside).await?;
        let mut inside = "link set lo up\nlink set eth0 up\n".to_owned();
        for address in &slot.addresses {
            let family = if address.addr().is_ipv6() { " nodad" } else { "" };
            inside.push_str(&format!("addr add {address} dev eth0{family}\n"));
        }
        for gateway in gateways {
            inside.push_str(&format!("route add default via {} dev eth0\n", gateway.addr()));
        }
        ip(&format!("-n {namespace} -batch -"), &inside).await.map(drop)
    }

    /// Ends what still runs inside, then the namespace. The pair goes first and by name: the kernel tears a namespace
    /// down at its leisure, and until then the bridge would still know the address.
    pub async fn remove(&self) {
        kill_inside(&self.namespace).await;
        let _ = ip(&format!("link del {}", self.interface), "").await;
        let _ = ip(&format!("netns del {}", self.namespace), "").await;
    }

    /// Tells the namespace from that of podlet.
    pub fn holds(&self, pid: u32) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let named = std::fs::metadata(Path::new(NAMES).join(&self.namespace));
        let of_process = std::fs::metadata(format!("/proc/{pid}/ns/net"));
        match (named, of_process) {
            (Ok(named), Ok(of_process)) => (named.dev(), named.ino()) == (of_process.dev(), of_process.ino()),
            _ => false,
        }
    }
}

async fn kill_inside(namespace: &str) {
    let pids = ip(&format!("netns pids {namespace}"), "").await.unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Removes what a killed run of this node left behind.
pub async fn sweep(prefix: &str, node: &str, networks: &[IpNet]) -> usize {
    let stem = namespace_stem(prefix, node);
    let entries = std::fs::read_dir(NAMES).into_iter().flatten().flatten();
    let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let mut count = 0;
    for namespace in names.into_iter().filter(|name| name.starts_with(&stem)) {
        let index = address_in(&namespace, &stem).and_then(|address| {
            networks.iter().find(|network| network.contains(&address)).map(|network| index(network, address))
        });
        Sandbox { interface: interface(node, index.unwrap_or(0)), namespace }.remove().await;
        count += 1;
    }
    count
}

fn address_in(namespace: &str, stem: &str) -> Option<IpAddr> {
    namespace.strip_prefix(stem)?.rsplit_once('-')?.0.parse().ok()
}

fn index(network: &IpNet, address: IpAddr) -> u32 {
    match (network.network(), address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => u32::from(address).wrapping_sub(u32::from(base)),
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            u32::try_from(u128::from(address).wrapping_sub(u128::from(base))).unwrap_or(0)
        }
        _ => 0,
    }
}

/// The bridge's own addresses: those that podlet added, to be removed again.
#[derive(Debug)]
pub struct Gateways {
    bridge: String,
    added: Vec<IpNet>,
}

impl Gateways {
    /// Gives the bridge the first address of each Pod network, unless it has it.
    pub async fn add(bridge: &str, wanted: &[IpNet]) -> Result<Self, Fault> {
        let present = ip(&format!("-o addr show dev {bridge}"), "").await?;
        let mut added = Vec::new();
        ip(&format!("link set {bridge} up"), "").await?;
        for address in wanted {
            if present.split_whitespace().any(|word| word == address.to_string()) {
                continue;
            }
            let family = if address.addr().is_ipv6() { " nodad" } else { "" };
            ip(&format!("addr add {address} dev {bridge}{family}"), "").await?;
            added.push(*address);
        }
        Ok(Self { bridge: bridge.to_owned(), added })
    }

    pub async fn remove(self) {
        for address in &self.added {
            let _ = ip(&format!("addr del {address} dev {}", self.bridge), "").await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::Pool;

    #[test]
    fn a_left_over_name_leads_to_its_interface() {
        for networks in [["10.244.1.0/24"], ["fd00:1::/64"]] {
            let networks = networks.map(|text| text.parse::<IpNet>().unwrap());
            let slot = Pool::new(&networks).take().unwrap();
            let sandbox = Sandbox::named("edge-rig-", "n1", &slot);
            let address = address_in(&sandbox.namespace, "edge-rig-n1_").unwrap();
            assert_eq!(interface("n1", index(&networks[0], address)), sandbox.interface);
        }
    }
}
