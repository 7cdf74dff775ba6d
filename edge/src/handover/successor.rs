//! The predecessor's side: starts a successor, offers it everything, and watches what becomes of it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use edge_config::snapshot::Transport;
use tokio::time::{Instant, sleep, timeout_at};

use super::channel::{Channel, ChannelError};
use super::message::{
    ControlName, FlowName, FromPredecessor, FromSuccessor, GobgpdName, Hello, SocketName, Standing, ToldName,
};
use super::{Program, VERSIONS};
use crate::line::MOST_ALONG;
use crate::proxy::l4::udp::HandedFlow;
use crate::proxy::listening::HandedSocket;
use crate::vip::announcer::Told;

/// Until its first word.
const HELLO: Duration = Duration::from_secs(10);
/// Until it is ready in every respect. Shorter than who waits for the answer of a reload does.
const PREPARE: Duration = Duration::from_secs(40);
/// Until it watches over what it was told. Nobody speaks to the network meanwhile: much shorter than a peer's patience.
const TAKE: Duration = Duration::from_secs(5);
/// Until it has opened the store.
const SERVE: Duration = Duration::from_secs(20);
/// Until a process that was told to end is forced to.
const END: Duration = Duration::from_millis(500);

/// The control API's sockets.
pub struct HandedControl {
    pub name: ControlName,
    pub descriptors: Vec<OwnedFd>,
}

/// Everything that is offered at first.
pub struct Offer {
    pub sockets: Vec<HandedSocket>,
    pub control: HandedControl,
    pub standing: Standing,
}

/// A successor that is ready.
#[derive(Debug)]
pub struct Successor {
    channel: Channel,
    process: Child,
    /// As it says of itself.
    pub edged: String,
    /// Its generation.
    pub generation: u64,
    has_handed_on: bool,
}

impl Successor {
    /// Starts it and waits until it is ready. An error has changed nothing, and nothing is left of the process.
    pub async fn prepare(program: Program, offer: Offer) -> Result<Self, String> {
        let started = program.start().and_then(|(process, line)| Ok((process, Channel::new(line)?)));
        let (mut process, channel) =
            started.map_err(|error| format!("{}: cannot be started: {error}", program.path().display()))?;
        match converse(&channel, offer).await {
            Ok((edged, generation)) => Ok(Self { channel, process, edged, generation, has_handed_on: false }),
            Err(why) => {
                let ended = end(&mut process, matches!(why, Failure::Ended(_))).await;
                Err(match (why, ended) {
                    (Failure::Said(why), _) => why,
                    (Failure::Ended(when), Some(status)) => {
                        format!("the new edged ended {when}: {status}; see its log")
                    }
                    (Failure::Ended(when), None) => format!("the new edged hung up {when}"),
                })
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Passes the announcements on; `Ok` when it watches over them and accepts connections.
    pub async fn take(&mut self, told: Told) -> Result<(), String> {
        let Told { gobgpd, l2, bfd } = told;
        let mut along = Vec::new();
        let gobgpd = gobgpd.map(|handed| {
            let edge_bgp::child::Descriptors { process, lifeline, words, log } = handed.descriptors;
            along.extend([process, lifeline, words, log]);
            let (program, socket, version) = (handed.program, handed.socket, handed.version);
            GobgpdName { process: handed.pid, program, socket, version }
        });
        let failed = |error: ChannelError| format!("the new edged does not take over: {error}");
        self.channel.send(&FromPredecessor::Told(ToldName { gobgpd, l2, bfd }), &along).map_err(failed)?;
        match self.channel.within(TAKE).await.map_err(failed)? {
            (FromSuccessor::Taken, _) => Ok(()),
            (said, _) => Err(format!("the new edged does not take over: it says {said:?}")),
        }
    }

    /// Datagrams are its own now, with their sessions. Those that cannot be told begin anew.
    pub fn datagrams(&self, mut flows: Vec<HandedFlow>) {
        while !flows.is_empty() {
            let some = flows.split_off(flows.len().saturating_sub(MOST_ALONG));
            let (names, along): (Vec<FlowName>, Vec<OwnedFd>) = some.into_iter().map(named).unzip();
            if let Err(error) = self.channel.send(&FromPredecessor::Flows(names), &along) {
                tracing::warn!(%error, "upgrade: sessions of UDP begin anew");
                break;
            }
        }
        // One that is gone is noticed in a moment.
        let _ = self.channel.send(&FromPredecessor::Datagrams, &[]);
    }

    /// Says that the rest is its own, too; `Ok` when it has it.
    pub async fn over(&mut self) -> Result<(), String> {
        let failed = |error: ChannelError| format!("the new edged has the traffic, but {error}");
        self.channel.send(&FromPredecessor::Over, &[]).map_err(failed)?;
        match self.channel.within(SERVE).await.map_err(failed)? {
            (FromSuccessor::Serving, _) => Ok(()),
            (said, _) => Err(format!("the new edged has the traffic, but says {said:?}")),
        }
    }

    /// Tells what is left here.
    pub fn draining(&self, connections: usize, left: Duration) {
        // Who does not listen does not want to know.
        let _ = self.channel.send(&FromPredecessor::Draining { connections, seconds: left.as_secs() }, &[]);
    }

    /// Waits until it has ended, which it should not but by handing over itself. Dropping the future loses nothing.
    pub async fn ended(&mut self) {
        while !self.has_handed_on {
            match self.channel.next().await {
                Ok((FromSuccessor::HandedOn, _)) => self.has_handed_on = true,
                Err(ChannelError::Ended | ChannelError::Io(_)) => return,
                _ => {}
            }
        }
        std::future::pending().await
    }

    /// It has failed; nothing is left of it afterwards.
    pub async fn end(mut self) {
        end(&mut self.process, false).await;
    }
}

fn named(flow: HandedFlow) -> (FlowName, OwnedFd) {
    let HandedFlow { local, index, client, endpoint, backend, answered, socket } = flow;
    let backend = backend.to_string();
    (FlowName { local, index, client, endpoint, backend, is_answered: answered }, socket)
}

#[derive(Debug)]
enum Failure {
    /// When.
    Ended(&'static str),
    Said(String),
}

impl Failure {
    fn of(error: ChannelError, when: &'static str) -> Self {
        match error {
            ChannelError::Ended => Self::Ended(when),
            error => Self::Said(format!("the new edged: {error}, {when}")),
        }
    }
}

async fn converse(channel: &Channel, offer: Offer) -> Result<(String, u64), Failure> {
    let (hello, _) = channel.within::<Hello>(HELLO).await.map_err(|e| Failure::of(e, "before its first word"))?;
    let Hello { oldest, newest, edged } = hello;
    let protocol = *VERSIONS.end().min(&newest);
    if protocol < oldest || !VERSIONS.contains(&protocol) {
        let why = format!(
            "edged {edged} speaks versions {oldest} to {newest} of the handover, edged {} speaks {} to {}: restart edged instead",
            env!("CARGO_PKG_VERSION"),
            VERSIONS.start(),
            VERSIONS.end()
        );
        let _ = channel.send(&FromPredecessor::Refused(why.clone()), &[]);
        return Err(Failure::Said(why));
    }
    tell(channel, protocol, offer).map_err(|error| Failure::of(error, "while it was told"))?;
    let deadline = Instant::now() + PREPARE;
    let mut waits = None;
    loop {
        let said = match timeout_at(deadline, channel.next()).await {
            Ok(said) => said.map_err(|error| Failure::of(error, "before it was ready"))?.0,
            Err(_) => {
                let why = waits.unwrap_or_else(|| "it does not say why".to_owned());
                return Err(Failure::Said(format!(
                    "the new edged was not ready within {} s: {why}",
                    PREPARE.as_secs()
                )));
            }
        };
        match said {
            FromSuccessor::Waiting(why) => waits = Some(why),
            FromSuccessor::Prepared(generation) => return Ok((edged, generation)),
            FromSuccessor::Refused(why) => return Err(Failure::Said(format!("the new edged refuses: {why}"))),
            said => return Err(Failure::Said(format!("the new edged says {said:?} before it is ready"))),
        }
    }
}

fn tell(channel: &Channel, protocol: u32, offer: Offer) -> Result<(), ChannelError> {
    let Offer { mut sockets, control, standing } = offer;
    let edged = env!("CARGO_PKG_VERSION").to_owned();
    channel.send(&FromPredecessor::Welcome { protocol, edged, process: std::process::id() }, &[])?;
    while !sockets.is_empty() {
        let some = sockets.split_off(sockets.len().saturating_sub(MOST_ALONG));
        let name = |socket: &HandedSocket| -> SocketName {
            let (address, index): (SocketAddr, usize) = (socket.address, socket.index);
            SocketName { address, is_udp: socket.transport == Transport::Udp, index }
        };
        let names = some.iter().map(name).collect();
        let along: Vec<OwnedFd> = some.into_iter().map(|socket| socket.descriptor).collect();
        channel.send(&FromPredecessor::Sockets(names), &along)?;
    }
    channel.send(&FromPredecessor::Control(control.name), &control.descriptors)?;
    channel.send(&FromPredecessor::Offered(standing), &[])
}

/// Ends a process; how, where it has done so by itself.
async fn end(process: &mut Child, ends_itself: bool) -> Option<ExitStatus> {
    let patience = Instant::now() + END;
    while ends_itself && Instant::now() < patience {
        if let Ok(Some(status)) = process.try_wait() {
            return Some(status);
        }
        sleep(Duration::from_millis(5)).await;
    }
    // It may have ended just now.
    let _ = process.kill();
    process.wait().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::Line;

    fn offer() -> Offer {
        let name = ControlName { path: "/run/edge/edged.sock".into(), metrics: None };
        let socket = |index| HandedSocket {
            address: "192.0.2.1:80".parse().unwrap(),
            transport: Transport::Tcp,
            index,
            descriptor: std::fs::File::open("/dev/null").unwrap().into(),
        };
        let control = HandedControl { name, descriptors: Vec::new() };
        Offer { sockets: (0..MOST_ALONG + 1).map(socket).collect(), control, standing: Standing::default() }
    }

    /// The conversation with a successor that behaves so.
    fn with(successor: impl AsyncFnOnce(Channel)) -> Result<(String, u64), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (near, far) = Line::pair().unwrap();
            let (near, far) = (Channel::new(near).unwrap(), Channel::new(Line::from_descriptor(far).unwrap()).unwrap());
            tokio::join!(converse(&near, offer()), successor(far)).0
        })
    }

    fn hello(oldest: u32, newest: u32) -> Hello {
        Hello { oldest, newest, edged: "9.9.9".into() }
    }

    #[test]
    fn one_that_gets_ready_is_told_everything() {
        let outcome = with(async |channel: Channel| {
            // It may speak more than this one does.
            channel.send(&hello(1, 9), &[]).unwrap();
            let (mut sockets, mut is_welcome) = (0, false);
            loop {
                match channel.next::<FromPredecessor>().await.unwrap() {
                    (FromPredecessor::Welcome { protocol, .. }, _) => is_welcome = protocol == 1,
                    (FromPredecessor::Sockets(names), along) => {
                        assert_eq!(names.len(), along.len());
                        sockets += along.len();
                    }
                    (FromPredecessor::Control(name), _) => assert_eq!(name, offer().control.name),
                    (FromPredecessor::Offered(_), _) => break,
                    (said, _) => panic!("{said:?}"),
                }
            }
            assert!(is_welcome);
            assert_eq!(sockets, MOST_ALONG + 1);
            channel.send(&FromSuccessor::Waiting("a moment".into()), &[]).unwrap();
            channel.send(&FromSuccessor::Prepared(7), &[]).unwrap();
        });
        assert!(matches!(outcome, Ok((edged, 7)) if edged == "9.9.9"));
    }

    #[test]
    fn one_that_cannot_is_refused_or_believed() {
        let outcome = with(async |channel: Channel| {
            channel.send(&hello(7, 9), &[]).unwrap();
            let (said, _) = channel.next::<FromPredecessor>().await.unwrap();
            assert!(matches!(said, FromPredecessor::Refused(why) if why.contains("restart edged instead")));
        });
        assert!(matches!(outcome, Err(Failure::Said(why)) if why.contains("edged 9.9.9 speaks versions 7 to 9")));
        let outcome = with(async |channel: Channel| {
            channel.send(&hello(1, 1), &[]).unwrap();
            channel.send(&FromSuccessor::Refused("edge.toml:1:1: no".into()), &[]).unwrap();
            // Until it was told everything.
            while !matches!(channel.next().await, Ok((FromPredecessor::Offered(_), _))) {}
        });
        assert!(matches!(outcome, Err(Failure::Said(why)) if why.ends_with("refuses: edge.toml:1:1: no")));
        let outcome = with(async |channel: Channel| drop(channel));
        assert!(matches!(outcome, Err(Failure::Ended("before its first word"))));
    }
}
