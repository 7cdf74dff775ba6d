//! This edged takes the place of another one: it gets ready beside it and touches nothing, takes what the network knows,
//! and then, when the other has let go, store, certificates, Leases and the control socket.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::cluster::{Kept, Saver};
use super::rollback::Holding;
use super::start::{sealing, start_certs, who_decides};
use super::{StartError, Supervisor};
use crate::certs::Published;
use crate::certs::ordering::Means;
use crate::control::api::{self, Api, Sockets, Spare};
use crate::fleet::{self, Fleet};
use crate::handover::message::FromSuccessor;
use crate::handover::predecessor::{News, Predecessor, Speech};
use crate::history::{Bounds, Cause, Keeper};
use crate::kubernetes::{Counters, Leadership, Reporting};
use crate::notify::Notifier;
use crate::proxy::l4::udp::HandedFlow;
use crate::pulse::Vitals;
use crate::vip::announcer::Told;

/// Until our guard watches over what was told. Shorter than the predecessor waits.
const WATCH: Duration = Duration::from_secs(4);

/// What is begun when this edged is the one of its machine, and what is needed for it.
pub(super) struct Parts {
    pub(super) publish: mpsc::UnboundedSender<Published>,
    pub(super) api: Api,
    /// Until somebody answers there.
    pub(super) sockets: Option<Sockets>,
    pub(super) spare: Spare,
    pub(super) leadership: Arc<OnceLock<Leadership>>,
    pub(super) written: Arc<OnceLock<Arc<Counters>>>,
    pub(super) vitals: Vitals,
    pub(super) network: Arc<Notify>,
    /// systemd listens to the main process alone.
    pub(super) notifier: Option<Notifier>,
}

/// The edged before this one.
pub(super) struct Succession {
    speech: Speech,
    process: u32,
    edged: String,
    announced: Vec<IpAddr>,
    told: Option<oneshot::Sender<Told>>,
    entrusted: Option<oneshot::Receiver<()>>,
    /// Sessions of UDP, until datagrams are ours.
    flows: Vec<HandedFlow>,
    step: Step,
    /// Why this one is not ready, as it was said last.
    said: Option<String>,
    left: Option<(usize, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Preparing,
    Prepared,
    /// The network and new connections are ours.
    Taken,
    /// Everything is, but for its old connections.
    Over,
}

impl Succession {
    pub(super) fn new(
        predecessor: &Predecessor,
        told: oneshot::Sender<Told>,
        entrusted: oneshot::Receiver<()>,
    ) -> Self {
        Self {
            speech: predecessor.speech(),
            process: predecessor.process,
            edged: predecessor.edged.clone(),
            announced: predecessor.standing.announced.clone(),
            told: Some(told),
            entrusted: Some(entrusted),
            flows: Vec::new(),
            step: Step::Preparing,
            said: None,
            left: None,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.step == Step::Over
    }

    /// This edged has a successor itself, and its end is none of the predecessor's business any more.
    pub(super) fn hand_on(&self) {
        self.speech.say(&FromSuccessor::HandedOn);
    }

    pub(super) fn notice(&self) -> String {
        let Self { process, edged, .. } = self;
        match self.left {
            Some((connections, seconds)) => format!(
                "upgrade: edged {edged} (process {process}) before this one still has {connections} connections, for {seconds} s at most"
            ),
            None => format!("upgrade: took over from edged {edged} (process {process}), which is about to end"),
        }
    }
}

impl Supervisor {
    /// Tells the predecessor when everything is as good here as it is there.
    pub(super) fn report_readiness(&mut self) {
        let Some(succession) = self.succession.as_ref().filter(|succession| succession.step == Step::Preparing) else {
            return;
        };
        let why = self.why_not_ready(&succession.announced);
        let Some(succession) = &mut self.succession else { return };
        match why {
            None => {
                succession.step = Step::Prepared;
                succession.speech.say(&FromSuccessor::Prepared(self.wanted.generation));
            }
            Some(why) if succession.said.as_ref() != Some(&why) => {
                succession.speech.say(&FromSuccessor::Waiting(why.clone()));
                succession.said = Some(why);
            }
            Some(_) => {}
        }
    }

    fn why_not_ready(&self, announced: &[IpAddr]) -> Option<String> {
        if self.wanted.generation == 0 {
            return Some("it waits for the API server".to_owned());
        }
        if self.proxy.live() < self.wanted.generation {
            return Some("not every worker serves its generation".to_owned());
        }
        let is_wanted =
            |address: &&IpAddr| self.wanted.compiled.snapshot.vips.iter().any(|vip| vip.address == **address);
        let stance = |address: &IpAddr| match self.seen.stances.get(address) {
            Some(stance) if stance.is_told() => None,
            Some(stance) => Some(format!("{address} would be withdrawn: {stance}")),
            None => Some(format!("{address} was not looked at yet")),
        };
        announced.iter().filter(is_wanted).find_map(stance)
    }

    /// `false`: there is nothing to take over, and nothing to serve.
    pub(super) async fn take_news(&mut self, news: News) -> bool {
        let Some(step) = self.succession.as_ref().map(|succession| succession.step) else { return true };
        match (news, step) {
            (News::Told(told), Step::Prepared) => return self.take_network(told).await,
            (News::Flows(flows), Step::Taken) => {
                if let Some(succession) = &mut self.succession {
                    succession.flows.extend(flows);
                }
            }
            (News::Datagrams, Step::Taken) => self.serve_datagrams(),
            // It died in between: what it had is free as well.
            (News::Over | News::Ended, Step::Taken) => {
                self.serve_datagrams();
                self.take_rest().await;
            }
            (News::Draining { connections, seconds }, _) => {
                if let Some(succession) = &mut self.succession {
                    succession.left = Some((connections, seconds));
                }
                self.show();
            }
            (News::Ended, Step::Over) => {
                tracing::info!("the edged before this one has ended");
                (self.succession, self.inbox.predecessor) = (None, None);
                self.show();
            }
            (News::Ended, Step::Preparing | Step::Prepared) => {
                tracing::error!("the edged before this one has ended, or does without this one");
                return false;
            }
            (News::Told(_) | News::Flows(_) | News::Datagrams | News::Over, _) => {
                tracing::error!("the edged before this one hands over out of turn");
                return false;
            }
        }
        true
    }

    fn serve_datagrams(&mut self) {
        let flows = self.succession.as_mut().map(|succession| std::mem::take(&mut succession.flows));
        self.proxy.serve(flows.unwrap_or_default());
    }

    async fn take_network(&mut self, told: Told) -> bool {
        // Connections first: what is told must be served.
        self.proxy.begin();
        let Some(succession) = &mut self.succession else { return false };
        let (Some(tell), Some(entrusted)) = (succession.told.take(), succession.entrusted.take()) else { return false };
        let is_told = tell.send(told).is_ok();
        if !is_told || !matches!(tokio::time::timeout(WATCH, entrusted).await, Ok(Ok(()))) {
            tracing::error!("what the network was told cannot be taken over");
            return false;
        }
        succession.step = Step::Taken;
        succession.speech.say(&FromSuccessor::Taken);
        true
    }

    async fn take_rest(&mut self) {
        let (store, directory) = (self.store.clone(), self.wanted.settings.state_directory.clone());
        let sealing = sealing(&self.wanted.settings);
        let taken = tokio::task::spawn_blocking(move || store.take(&directory, sealing)).await;
        for notice in taken.unwrap_or_else(|error| vec![error.to_string()]) {
            tracing::warn!("store: {notice}");
            self.seen.store_notices.push(notice);
        }
        self.addresses.take_over().await;
        self.reach.take_over().await;
        for begun in [self.start_ordering(), self.start_writing(), self.start_answering()] {
            if let Err(error) = begun {
                tracing::error!("{error}");
                self.seen.store_notices.push(format!("upgrade: {error}; restart edged"));
            }
        }
        self.cause = (Cause::Start, None);
        self.note_applied();
        if self.leaving.is_some() {
            self.proxy.leave(true);
        }
        if let Some(notifier) = self.parts.notifier.take() {
            self.notifier = notifier;
        }
        let status = self.status_line();
        tracing::info!("took over: {status}");
        self.tell(self.notifier.ready(&status));
        if let Some(succession) = &mut self.succession {
            succession.step = Step::Over;
            succession.speech.say(&FromSuccessor::Serving);
        }
        self.show();
    }

    /// The channel to other edges, and who orders, anew: until now they only knew what the predecessor had on disk.
    fn start_ordering(&mut self) -> Result<(), StartError> {
        let settings = &self.wanted.settings;
        self.fleet = Fleet::start(fleet::Start {
            settings: settings.fleet.clone(),
            name: self.seen.edge.to_string(),
            who: who_decides(settings, &self.parts.leadership),
            tickets: self.tickets.clone(),
            store: self.store.clone(),
            changed: Arc::clone(&self.parts.network),
        })
        .map_err(StartError::Fleet)?;
        self.fleet.count(Arc::clone(self.proxy.ledger()));
        self.fleet.witness(Arc::clone(&self.parts.api.witness));
        self.parts.api.fleet = self.fleet.survey();
        let roads = Arc::clone(&self.roads);
        let means = Means { board: Arc::clone(self.proxy.board()), edges: self.fleet.edges(), roads };
        self.certs =
            start_certs(settings, &self.store, means, &self.parts.publish).map_err(StartError::Certificates)?;
        self.fleet.attach(Arc::new(self.certs.door()));
        self.certs.set(self.certs_wanted());
        Ok(())
    }

    /// What writes to the disk and to the API server beside the certificates.
    pub(super) fn start_writing(&mut self) -> Result<(), StartError> {
        let settings = &self.wanted.settings;
        let bounds = Bounds::of(&settings.history, self.held.as_ref().map(Holding::revision));
        let keeper = Keeper::start(&settings.state_directory, bounds, Arc::clone(&self.parts.network));
        self.history = Some(keeper.map_err(StartError::History)?);
        let (Some(kubernetes), Some(of_kubernetes)) = (&self.kubernetes, &settings.kubernetes) else { return Ok(()) };
        let kept = Kept::read(&self.store);
        let saver = Saver::start(&settings.state_directory, self.store.clone(), kept.clone());
        self.saver = Some(saver.map_err(StartError::Kubernetes)?);
        if of_kubernetes.write_status {
            let worlds = &self.parts.api.handle.world;
            let reporting = Reporting::start(kubernetes, worlds, of_kubernetes, &self.seen.edge, kept.tenure);
            // They are set once, here.
            let _ = self.parts.leadership.set(reporting.leadership());
            let _ = self.parts.written.set(reporting.counters());
            self.reporting = Some(reporting);
        }
        Ok(())
    }

    pub(super) fn start_answering(&mut self) -> Result<(), StartError> {
        let Some(sockets) = self.parts.sockets.take() else { return Ok(()) };
        let (stop_api, stopped) = watch::channel(false);
        self.stop_api = stop_api;
        self.api = Some(api::start(self.parts.api.clone(), sockets, stopped)?);
        self.dashboard.set(self.wanted.settings.dashboard.as_ref());
        Ok(())
    }
}
