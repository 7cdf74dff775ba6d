//! A speaker in a network namespace, with a router to speak to.
//!
//! Flows in: what is wanted, in few words. Flows out: what the speaker saw. The speaker has a runtime of its own whose
//! threads, and so its child and its sockets, live in the namespace.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use edge_bgp::{Observed, Permit, Secret, SessionState, Speaker, Stopped, Tell, Wanted};
use edge_config::announce::{
    Asn, Attributes, Bgp, Engine, Families, Listen, NextHop, Offer, Password, Peer, PeerAddress, PeerAsn, Prefix,
};
use rustix::process::{Pid, test_kill_process};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};

use crate::edged::until;
use crate::netns::{Namespace, enter};

pub const GOBGPD: &str = "/usr/bin/gobgpd";

/// A thread inside the namespace that runs the speaker, and the ends of what it says.
pub struct Rig {
    speaker: Arc<Mutex<Option<Speaker>>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Option<Stopped>>>,
    observed: watch::Receiver<Arc<Observed>>,
    directory: TempDir,
}

impl Rig {
    pub fn new(namespace: &Namespace) -> Self {
        Self::with(namespace, Permit::unconditional())
    }

    /// With somebody who may forbid it to tell anything.
    pub fn with(namespace: &Namespace, permit: Permit) -> Self {
        let directory = tempfile::Builder::new().prefix("edge-bgp-").tempdir().unwrap();
        let path = directory.path().join("run");
        let name = namespace.name().to_owned();
        let (begun_in, begun) = std::sync::mpsc::channel();
        let (end, ended) = oneshot::channel();
        let speaker = Arc::new(Mutex::new(None));
        let shared = speaker.clone();
        // Everything that this thread starts is inside.
        let thread = std::thread::spawn(move || {
            enter(&name).unwrap();
            crate::pki::install_provider();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let speaker = Speaker::start(edge_bgp::speaker::Household::own(path), permit);
                begun_in.send(speaker.observed()).unwrap();
                *shared.lock().unwrap() = Some(speaker);
                let is_orderly = ended.await.is_ok();
                let speaker = shared.lock().unwrap().take();
                match speaker {
                    Some(speaker) if is_orderly => Some(speaker.stop(Duration::from_secs(20)).await),
                    _ => None,
                }
            })
        });
        let observed = begun.recv().unwrap();
        until("the speaker is there", || speaker.lock().unwrap().is_some().then_some(()));
        Self { speaker, end: Some(end), thread: Some(thread), observed, directory }
    }

    pub fn directory(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Wants this, and waits until the engine has been asked for all of it.
    pub fn set(&self, wanted: Wanted) -> Arc<Observed> {
        let generation = self.want(Some(wanted));
        self.until("the wanted set is in the engine", |seen| seen.generation == generation && seen.is_settled)
    }

    /// Wants this and waits for nothing.
    pub fn want(&self, wanted: Option<Wanted>) -> u64 {
        self.speaker.lock().unwrap().as_ref().unwrap().set(wanted)
    }

    pub fn seen(&self) -> Arc<Observed> {
        self.observed.borrow().clone()
    }

    pub fn until(&self, what: &str, condition: impl Fn(&Observed) -> bool) -> Arc<Observed> {
        let mut last = self.seen();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(what, || {
                last = self.seen();
                condition(&last).then(|| last.clone())
            })
        }));
        outcome.unwrap_or_else(|_| panic!("{what}: {last:#?}"))
    }

    pub fn established(&self, peer: &str) -> Arc<Observed> {
        self.until(&format!("{peer} is established"), |seen| session(seen, peer) == SessionState::Established)
    }

    /// Waits for a reason in words.
    pub fn error(&self, peer: &str, part: &str) -> String {
        let seen = self.until(&format!("{peer} says {part:?}"), |seen| {
            seen.peer(peer).and_then(|peer| peer.error.as_deref()).is_some_and(|error| error.contains(part))
        });
        seen.peer(peer).unwrap().error.clone().unwrap()
    }

    /// Ends in order.
    pub fn stop(mut self) -> Stopped {
        self.end.take().unwrap().send(()).unwrap();
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Rig {
    /// Ends as a crash does, except that the child is waited for.
    fn drop(&mut self) {
        let pid = self.seen().engine.pid;
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(pid) = pid.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            until("gobgpd has ended", || test_kill_process(pid).is_err().then_some(()));
        }
    }
}

pub fn session(seen: &Observed, peer: &str) -> SessionState {
    seen.peer(peer).map_or(SessionState::Absent, |peer| peer.session)
}

/// Whether a peer has been told of a prefix.
pub fn told(seen: &Observed, peer: &str, prefix: &str) -> bool {
    seen.prefix(&prefix.parse().unwrap()).is_some_and(|seen| seen.told.iter().any(|told| &*told.peer == peer))
}

/// A plan with one engine, as a child unless changed.
pub fn bgp(asn: u32, router_id: &str) -> Bgp {
    Bgp {
        engine: Engine::Child { program: GOBGPD.into() },
        asn: Asn::new(asn).unwrap(),
        router_id: router_id.parse().unwrap(),
        listen: Some(Listen { port: 179, addresses: Vec::new() }),
        peers: Vec::new(),
        prefixes: Vec::new(),
        graceful_shutdown: Duration::from_secs(5),
    }
}

pub fn peer(name: &str, address: &str, asn: u32) -> Peer {
    let address = address.parse().map_or_else(|_| PeerAddress::Interface(address.to_owned()), PeerAddress::Address);
    Peer {
        connect_retry: Duration::from_secs(1),
        families: Families { v4: true, v6: true },
        max_prefixes: 1000,
        ..Peer::plain(name, address, PeerAsn::Number(Asn::new(asn).unwrap()))
    }
}

/// A prefix that is offered to these peers with the same attributes.
pub fn prefix(text: &str, peers: &[&str]) -> Prefix {
    prefix_with(text, &[(peers, Attributes::default())])
}

pub fn prefix_with(text: &str, offers: &[(&[&str], Attributes)]) -> Prefix {
    Prefix {
        prefix: text.parse().unwrap(),
        vips: vec![text.split('/').next().unwrap().parse::<IpAddr>().unwrap()],
        next_hop: NextHop::default(),
        offers: offers
            .iter()
            .map(|(peers, attributes)| Offer {
                peers: peers.iter().map(|name| Arc::from(*name)).collect(),
                attributes: attributes.clone(),
            })
            .collect(),
    }
}

/// Everything announced; a password is the text behind the last slash of its file.
pub fn announced(bgp: &Bgp) -> Wanted {
    wanted(bgp, Tell::Announced)
}

pub fn wanted(bgp: &Bgp, tell: Tell) -> Wanted {
    Wanted::of(
        bgp,
        |password| match password {
            Password::File(path) => Ok(Secret::new(path.file_name().unwrap().to_string_lossy().into_owned())),
            Password::Secret(_) | Password::Inline(_) => Err("no such Secret".to_owned()),
        },
        |_| tell,
    )
}

/// The gobgpd of series 4, built if missing.
pub fn gobgpd4() -> Result<PathBuf, String> {
    let script = crate::edged::workspace().join("integration/run/gobgpd");
    let built = std::process::Command::new(script).output().map_err(|error| error.to_string())?;
    if built.status.success() {
        Ok(Path::new(String::from_utf8_lossy(&built.stdout).trim()).to_owned())
    } else {
        Err(String::from_utf8_lossy(&built.stderr).trim().to_owned())
    }
}
