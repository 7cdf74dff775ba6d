//! This edged hands over to the program on disk. Until the successor has taken what the network knows, everything can
//! fail and nothing has changed; from there on this one only ends its connections.

use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::leave::Leaving;
use super::start::run_directory;
use super::{Event, Supervisor};
use crate::control::span::rfc3339;
use crate::control::world::Upgraded;
use crate::handover::message::Standing;
use crate::handover::successor::{Offer, Successor};
use crate::history::Cause;
use crate::vip::announcer::{Announcer, Begin, Released};
use crate::vip::guard::Guard;

type Reply = oneshot::Sender<Result<Upgraded, String>>;

/// How long our own guard may take to watch again, after a successor that failed at the last moment.
const WATCH: Duration = Duration::from_secs(3);
/// From look to look at what is left.
const DRAIN_LOOK: Duration = Duration::from_millis(250);
/// For connections that are told at the end that they end.
const LAST: Duration = Duration::from_secs(1);

/// How far it is, or how the last one failed.
pub(super) struct Upgrade {
    successors: mpsc::Sender<Result<Box<Successor>, String>>,
    running: Option<Running>,
    failed: Option<(SystemTime, String)>,
}

struct Running {
    began: Instant,
    since: SystemTime,
    reply: Reply,
}

/// A successor that has taken over, and what is to be done for it.
pub(super) struct Relief {
    successor: Box<Successor>,
    guard: Guard,
    running: Running,
    prepared: Instant,
}

impl Upgrade {
    pub(super) fn new(successors: mpsc::Sender<Result<Box<Successor>, String>>) -> Self {
        Self { successors, running: None, failed: None }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn notice(&self) -> Option<String> {
        match (&self.running, &self.failed) {
            (Some(running), _) => Some(format!("upgrade: a new edged gets ready since {}", rfc3339(running.since))),
            (None, Some((at, why))) => Some(format!("upgrade: failed at {}, this edged goes on: {why}", rfc3339(*at))),
            (None, None) => None,
        }
    }
}

impl Supervisor {
    pub(super) async fn upgrade(&mut self, is_forced: bool, reply: Reply) {
        let is_another = self.program.is_another();
        if !is_forced && is_another.as_ref().is_ok_and(|is_another| !is_another) {
            let reloaded = self.reload(Cause::Reload, None).await.map(Upgraded::Reloaded);
            // Whoever asked may be gone.
            let _ = reply.send(reloaded);
            return;
        }
        let offer = match self.why_not_now() {
            Some(why) => Err(why),
            None => is_another
                .and_then(|_| self.offer())
                .map_err(|error| format!("{}: {error}", self.program.path().display())),
        };
        let offer = match offer {
            Ok(offer) => offer,
            Err(why) => {
                let _ = reply.send(Err(why));
                return;
            }
        };
        tracing::info!(program = %self.program.path().display(), "upgrade: a new edged gets ready");
        self.upgrade.running = Some(Running { began: Instant::now(), since: SystemTime::now(), reply });
        self.upgrade.failed = None;
        let (program, successors) = (self.program.clone(), self.upgrade.successors.clone());
        tokio::spawn(async move {
            let prepared = Successor::prepare(program, offer).await.map(Box::new);
            // The supervisor is gone only when the daemon stops; the new one then ends as well.
            let _ = successors.send(prepared).await;
        });
        self.show();
    }

    fn why_not_now(&self) -> Option<String> {
        if self.upgrade.running.is_some() {
            Some("an upgrade is under way already".to_owned())
        } else if self.succession.as_ref().is_some_and(|succession| !succession.is_over()) {
            Some("this edged is still taking over itself".to_owned())
        } else if self.wanted.generation == 0 {
            Some("this edged serves nothing yet".to_owned())
        } else if self.leaving.as_ref().and_then(Leaving::due).is_some() {
            Some("this edge is on its way off the network".to_owned())
        } else {
            None
        }
    }

    fn offer(&self) -> std::io::Result<Offer> {
        let told = self.seen.stances.iter().filter(|(_, stance)| stance.is_told());
        let hold_down = self.wanted.compiled.snapshot.announce.hold_down;
        let held = self.gate.held(hold_down, Instant::now().into_std());
        let milliseconds = |left: Duration| u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let standing = Standing {
            announced: told.map(|(address, _)| *address).collect(),
            held: held.into_iter().map(|(address, left, after)| (address, milliseconds(left), after)).collect(),
            way: self.seen.reach.way,
        };
        Ok(Offer { sockets: self.proxy.hand()?, control: self.parts.spare.hand()?, standing })
    }

    /// Passes the announcements on to a successor that is ready. `Some`: it has them, and this edged is no longer the one.
    pub(super) async fn relieve(&mut self, successor: Result<Box<Successor>, String>) -> Option<Relief> {
        let running = self.upgrade.running.take()?;
        let prepared = Instant::now();
        let failed = match successor {
            Err(why) => why,
            Ok(successor) if self.leaving.as_ref().and_then(Leaving::due).is_some() => {
                successor.end().await;
                "this edge was told to leave the network meanwhile".to_owned()
            }
            Ok(mut successor) => match self.pass_on(&mut successor).await {
                Ok(guard) => return Some(Relief { successor, guard, running, prepared }),
                Err(why) => {
                    successor.end().await;
                    why
                }
            },
        };
        tracing::error!("upgrade: failed, this edged goes on: {failed}");
        self.upgrade.failed = Some((SystemTime::now(), failed.clone()));
        // Whoever asked may be gone.
        let _ = running.reply.send(Err(failed));
        self.show();
        None
    }

    /// The guard that is left still watches for this process.
    async fn pass_on(&mut self, successor: &mut Successor) -> Result<Guard, String> {
        let announcer = std::mem::replace(&mut self.announcer, Announcer::ended());
        let Some(Released { told, guard }) = announcer.release().await else {
            return Err("the thread that tells the network has ended; restart edged".to_owned());
        };
        let spare = told.try_clone();
        let outcome = successor.take(told).await;
        let Err(why) = outcome else { return Ok(guard) };
        let (tell, told) = oneshot::channel();
        let (watches, watched) = oneshot::channel();
        let directory = run_directory(&self.wanted.settings);
        let begin = Begin::After(told, watches);
        match Announcer::start(directory, self.parts.vitals.clone(), begin, self.parts.network.clone()) {
            Ok(announcer) => self.announcer = announcer,
            Err(error) => tracing::error!(%error, "nothing can be announced: no thread"),
        }
        // Its guard counts anew.
        self.seen.undone = 0;
        self.show();
        match spare {
            // It is gone only where the thread is.
            Ok(spare) => drop(tell.send(spare)),
            Err(error) => {
                tracing::error!(%error, "what the network was told is lost, and told anew");
                let _ = tell.send(Default::default());
            }
        }
        let _ = tokio::time::timeout(WATCH, watched).await;
        guard.stop().await;
        Err(why)
    }

    /// The rest of this edged's life.
    pub(super) async fn hand_over(mut self, relief: Relief) {
        let Relief { mut successor, guard, running, prepared } = relief;
        if let Some(succession) = &self.succession {
            succession.hand_on();
        }
        let told = self.notifier.hand_over(successor.pid());
        self.tell(told);
        let flows = self.proxy.retire().await;
        successor.datagrams(flows);
        guard.stop().await;
        let deadline = self.wanted.settings.proxy.drain_timeout;
        tracing::info!(process = successor.pid(), edged = %successor.edged, "upgrade: the new edged has taken over");

        let mut kept = self.kept();
        if let Some(reporting) = self.reporting {
            let leadership = reporting.leadership();
            reporting.stop().await;
            kept.tenure = leadership.tenure();
        }
        drop(self.kubernetes);
        if let Some(saver) = self.saver {
            saver.stop(&self.wanted.cluster, kept);
        }
        drop(self.history);
        drop(self.fleet);
        drop(self.certs);
        self.addresses.release().await;
        self.reach.release().await;
        self.store.close();
        self.parts.spare.is_taken();
        self.stop_api.send_replace(true);
        drop(self.dashboard);
        let answer = successor.over().await.map(|()| {
            let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            Upgraded::HandedOver {
                from: env!("CARGO_PKG_VERSION").into(),
                to: successor.edged.as_str().into(),
                process: successor.pid(),
                generation: successor.generation,
                preparing_ms: milliseconds(prepared.duration_since(running.began)),
                taking_ms: milliseconds(prepared.elapsed()),
                connections: self.proxy.connections(),
                drain_seconds: deadline.as_secs(),
            }
        });
        if let Err(why) = &answer {
            tracing::error!("upgrade: {why}");
        }
        let _ = running.reply.send(answer);

        let end = Instant::now() + deadline;
        while self.proxy.connections() > 0 && Instant::now() < end {
            successor.draining(self.proxy.connections(), end.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = tokio::time::sleep(DRAIN_LOOK) => {}
                () = successor.ended() => {
                    // Whoever starts edged anew must find nothing of it.
                    tracing::error!("upgrade: the new edged has ended; ending as well");
                    break;
                }
                Some(event) = self.inbox.signals.recv() => match event {
                    Event::Stop => break,
                    Event::ReopenLogs => {
                        if let Some(log) = self.proxy.log() {
                            log.reopen();
                        }
                    }
                    _ => {}
                },
            }
        }
        self.proxy.drain(LAST).await;
        self.proxy.stop();
        self.telemetry.stop();
        if let Some(api) = self.api
            && api.join().is_err()
        {
            tracing::error!("the thread of the control api panicked");
        }
        tracing::info!("upgrade: nothing is left here");
    }
}
