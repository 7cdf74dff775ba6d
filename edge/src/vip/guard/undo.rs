//! What edged would have withdrawn, withdrawn by its guard.
//!
//! In: a charge. Out: what of it could not be undone, and why. gobgpd gets SIGTERM: it tells its peers (NOTIFICATION,
//! RFC 4271 §6.7), and they drop our routes at once, also those that agreed on graceful restart, which keep them when
//! gobgpd just vanishes (RFC 4724 §4.2). SIGKILL follows only where it does not end by itself: then the kernel closes its
//! sessions, which peers without graceful restart notice as fast. In somebody else's gobgpd our paths are deleted over its
//! API, and nothing else is touched. Addresses are taken from their interfaces, or the
//! kernel of a dead edge would go on answering ARP and NDP for them.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use edge_bgp::gobgp::client::{Client, Place};
use edge_bgp::plan::{Call, Path};
use edge_config::announce::Engine;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::time::timeout;

use crate::line::wait;
use crate::vip::netlink::{Listed, Netlink, NetlinkError};

/// From SIGTERM to SIGKILL.
const TERM_PATIENCE: Duration = Duration::from_millis(300);
/// From SIGKILL to the end.
const KILL_PATIENCE: Duration = Duration::from_millis(500);
/// Of everything that goes through a socket.
const DEADLINE: Duration = Duration::from_secs(2);

/// A gobgpd that is edged's own child.
#[derive(Debug)]
pub struct Gobgpd {
    pub pid: u32,
    /// Of that process and no other, whatever has its number by now.
    pub pidfd: OwnedFd,
}

/// What is to be undone.
#[derive(Debug, Default)]
pub struct Charge {
    pub gobgpd: Option<Gobgpd>,
    /// A file with a line `ADDRESS INTERFACE` for each address, as it is when it is needed.
    pub address_list: Option<PathBuf>,
    /// Those of it that could not be taken away yet.
    pub addresses: Vec<(IpAddr, String)>,
    /// Somebody else's gobgpd.
    pub engine: Option<Engine>,
}

impl Charge {
    pub fn is_empty(&self) -> bool {
        let Self { gobgpd, addresses, address_list, engine } = self;
        gobgpd.is_none() && addresses.is_empty() && address_list.is_none() && engine.is_none()
    }

    /// Undoes all of it; what is left can be tried again.
    pub fn undo(&mut self) -> Vec<String> {
        let began = Instant::now();
        let mut failed = Vec::new();
        // The quickest first: this one only has to be told.
        if let Some(gobgpd) = &self.gobgpd {
            // A stopped process ends when it is continued.
            for signal in [Signal::TERM, Signal::CONT] {
                // Gone already is what was wanted, and everything else is seen below.
                let _ = pidfd_send_signal(&gobgpd.pidfd, signal);
            }
        }
        if !self.addresses.is_empty() || self.address_list.is_some() || self.engine.is_some() {
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => failed.extend(runtime.block_on(self.through_sockets())),
                Err(error) => failed.push(format!("no runtime: {error}")),
            }
        }
        if let Some(gobgpd) = self.gobgpd.take()
            && let Err(error) = see_off(gobgpd.pidfd.as_fd(), TERM_PATIENCE.saturating_sub(began.elapsed()))
        {
            failed.push(format!("gobgpd, process {}: {error}", gobgpd.pid));
            self.gobgpd = Some(gobgpd);
        }
        failed
    }

    async fn through_sockets(&mut self) -> Vec<String> {
        let engine = self.engine.take();
        let withdrawal = async {
            let engine = engine?;
            match timeout(DEADLINE, withdraw(&engine)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some((engine, error.to_string())),
                Err(_) => Some((engine, "gobgpd does not answer".to_owned())),
            }
        };
        let (mut failed, left) = tokio::join!(self.take_addresses(), withdrawal);
        if let Some((engine, error)) = left {
            failed.push(error);
            self.engine = Some(engine);
        }
        failed
    }

    /// Takes the addresses from their interfaces as far as they are there and Edge's.
    async fn take_addresses(&mut self) -> Vec<String> {
        let mut failed = Vec::new();
        if self.addresses.is_empty() && self.address_list.is_none() {
            return failed;
        }
        let mut wanted: BTreeSet<(IpAddr, String)> = self.addresses.drain(..).collect();
        if let Some(path) = &self.address_list {
            match std::fs::read_to_string(path) {
                Ok(text) => wanted.extend(text.lines().filter_map(entry)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => failed.push(format!("{}: {error}", path.display())),
            }
        }
        let is_list_read = failed.is_empty();
        let work = async {
            let netlink = Netlink::open()?;
            let listed = netlink.list().await?;
            // 127.0.0.1 bears the kernel's mark wherever marks are kept.
            let marks = listed.iter().any(|found| found.protocol.is_some());
            let is_ours = |found: &&Listed| {
                let is_host = found.prefix == if found.address.is_ipv4() { 32 } else { 128 };
                is_host && (!marks || found.is_marked()) && wanted.contains(&(found.address, found.interface.clone()))
            };
            let removals = listed.iter().filter(is_ours).map(async |found| {
                let result = netlink.remove(found.address, &found.interface).await;
                (found.address, found.interface.clone(), result)
            });
            Ok::<_, NetlinkError>(futures_util::future::join_all(removals).await)
        };
        let left = match timeout(DEADLINE, work).await {
            Ok(Ok(results)) => {
                let mut left = Vec::new();
                for (address, interface, result) in results {
                    match result {
                        Ok(()) | Err(NetlinkError::Absent | NetlinkError::NoInterface(_)) => {}
                        Err(error) => {
                            failed.push(format!("{address} on {interface}: {error}"));
                            left.push((address, interface));
                        }
                    }
                }
                left
            }
            Ok(Err(error)) => {
                failed.push(format!("addresses: {error}"));
                wanted.into_iter().collect()
            }
            Err(_) => {
                failed.push("addresses: no answer from the kernel".to_owned());
                wanted.into_iter().collect()
            }
        };
        self.addresses = left;
        if is_list_read {
            self.address_list = None;
        }
        failed
    }
}

/// Withdraws what bears Edge's tag; what others have put there stays.
async fn withdraw(engine: &Engine) -> Result<(), edge_bgp::gobgp::client::Error> {
    if matches!(engine, Engine::Tcp { tls: Some(_), .. }) {
        crate::proxy::tls::install_provider();
    }
    let mut client = Client::connect(&Place::Other(engine.clone())).await?;
    let paths: Vec<Path> = client.read().await?.seen.paths.into_values().collect();
    if paths.is_empty() { Ok(()) } else { client.call(&Call::Withdraw(paths)).await }
}

/// `ADDRESS INTERFACE`.
fn entry(line: &str) -> Option<(IpAddr, String)> {
    let (address, interface) = line.split_once(' ')?;
    Some((address.parse().ok()?, interface.trim().to_owned()))
}

/// Waits for the end of a process that was told to end, and ends it where it does not.
fn see_off(pidfd: BorrowedFd<'_>, patience: Duration) -> Result<(), Errno> {
    let has_ended = |patience| Ok::<_, Errno>(wait(&[(pidfd, PollFlags::IN)], Some(patience))? > 0);
    if has_ended(patience)? {
        return Ok(());
    }
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => return Err(error),
    }
    if has_ended(KILL_PATIENCE)? { Ok(()) } else { Err(Errno::TIMEDOUT) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Child, Command};

    use rustix::process::{Pid, PidfdFlags, kill_process, pidfd_open};

    use super::*;

    fn charge(child: &Child) -> Charge {
        let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
        Charge { gobgpd: Some(Gobgpd { pid: child.id(), pidfd }), ..Charge::default() }
    }

    #[test]
    fn ends_a_process_gently_where_it_can_be() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let mut charge = charge(&child);
        assert_eq!(charge.undo(), Vec::<String>::new());
        assert!(charge.is_empty());
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn a_stopped_process_still_ends_gently_and_a_deaf_one_does_not() {
        let mut stopped = Command::new("sleep").arg("600").spawn().unwrap();
        kill_process(Pid::from_child(&stopped), Signal::STOP).unwrap();
        assert_eq!(charge(&stopped).undo(), Vec::<String>::new());
        assert_eq!(stopped.wait().unwrap().signal(), Some(libc::SIGTERM));

        // SIGTERM that is ignored stays ignored in what a shell becomes.
        let mut deaf = Command::new("sh")
            .args(["-c", "trap '' TERM; echo; exec sleep 600"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(deaf.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        assert_eq!(charge(&deaf).undo(), Vec::<String>::new());
        assert_eq!(deaf.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn a_process_that_is_gone_is_undone_and_never_taken_for_another() {
        let mut child = Command::new("true").spawn().unwrap();
        let mut charge = charge(&child);
        child.wait().unwrap();
        assert_eq!(charge.undo(), Vec::<String>::new());
    }

    #[test]
    fn an_engine_that_is_not_there_is_tried_again() {
        let engine = Engine::Unix { path: "/nonexistent/gobgpd.sock".into() };
        let mut charge = Charge { engine: Some(engine.clone()), ..Charge::default() };
        let failed = charge.undo();
        assert!(failed[0].contains("/nonexistent/gobgpd.sock"), "{failed:?}");
        assert_eq!(charge.engine, Some(engine));
    }

    #[test]
    fn lines_of_a_list() {
        let loopback = |text: &str| Some((text.parse().unwrap(), "eth0".to_owned()));
        assert_eq!(entry("192.0.2.1 eth0"), loopback("192.0.2.1"));
        assert_eq!(entry("2001:db8::1 eth0"), loopback("2001:db8::1"));
        for line in ["", "192.0.2.1", "eth0 192.0.2.1", "192.0.2.1/32 eth0"] {
            assert_eq!(entry(line), None, "{line}");
        }
    }

    #[test]
    fn an_address_or_interface_that_is_not_there_is_undone() {
        let addresses = vec![("192.0.2.77".parse().unwrap(), "nosuch0".to_owned())];
        let mut charge = Charge { addresses, address_list: Some("/nonexistent/list".into()), ..Charge::default() };
        assert_eq!(charge.undo(), Vec::<String>::new());
        assert!(charge.is_empty());
    }
}
