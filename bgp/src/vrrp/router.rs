//! One election: the state machine of RFC 9568 §6.4, with our health, delayed preemption and reasons.
//!
//! In: [`Router::set`], [`Router::received`], [`Router::tick`], each with `now`. Out: [`Action`]s in their order, and
//! [`Router::deadline`], the moment of the next tick. Whoever drives it reads waiting packets before it ticks, or a
//! thread that slept would take addresses from a living router.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::Family;
use super::packet::{Advertisement, Discard, Interval, fitting};
use super::reason::{Mismatch, Reason};

/// What is configured, alike on every edge but for the priority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub family: Family,
    pub router: u8,
    pub interval: Duration,
    pub preempt: bool,
    /// How long this edge must have been fit before it preempts.
    pub preempt_delay: Duration,
    /// In order; those of the other family are ignored.
    pub addresses: Vec<IpAddr>,
}

/// What makes this edge eligible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The address that advertisements are sent from.
    pub local: IpAddr,
    /// 1 to 254.
    pub priority: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Takes no part (the RFC's Initialize).
    Down,
    Backup,
    Active,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Backup => "backup",
            Self::Active => "active",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Send(Advertisement),
    /// Put the addresses on the interface and announce them.
    Take,
    /// Take them off; when they are gone, send this.
    Release(Option<Advertisement>),
    /// Somebody claimed to be active in vain: neighbours may have believed it.
    Reannounce,
}

/// The active router as far as this one knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    pub address: IpAddr,
    pub priority: u8,
    /// When it was heard last.
    pub heard: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    pub at: Duration,
    pub from: Role,
    pub to: Role,
    pub reason: Reason,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    pub sent: u64,
    pub received: u64,
    /// Advertisements with priority 0.
    pub farewells_sent: u64,
    pub farewells_received: u64,
    pub became_active: u64,
    pub discarded: BTreeMap<Discard, u64>,
}

#[derive(Debug)]
pub struct Router {
    settings: Settings,
    standing: Result<Standing, String>,
    role: Role,
    transition: Transition,
    /// Since when the standing is good.
    fit_since: Duration,
    /// The next advertisement of an active router, the end of patience of a backup.
    timer: Option<Duration>,
    /// From when a backup counts its patience.
    waiting_since: Duration,
    /// What the active router said of its own pace (§6.1 Active_Adver_Interval).
    learned: Interval,
    leader: Option<Leader>,
    given_up: Option<IpAddr>,
    last_sent: Option<Duration>,
    mismatch: Option<Mismatch>,
    counters: Counters,
    /// Another process of this machine was active until now.
    resumes: bool,
}

/// The least time between answers to lower claims.
const ANSWER: Duration = Duration::from_millis(10);

impl Router {
    /// Takes no part until [`Router::set`] says so.
    pub fn new(now: Duration, settings: Settings) -> Self {
        Self {
            learned: Interval::nearest(settings.interval),
            settings,
            standing: Err(String::new()),
            role: Role::Down,
            transition: Transition { at: now, from: Role::Down, to: Role::Down, reason: Reason::New },
            fit_since: now,
            timer: None,
            waiting_since: now,
            leader: None,
            given_up: None,
            last_sent: None,
            mismatch: None,
            counters: Counters::default(),
            resumes: false,
        }
    }

    /// One that another process of this machine has left as active a moment ago: it leads as soon as it is fit to, before
    /// anybody's patience ends.
    pub fn resume(now: Duration, settings: Settings) -> Self {
        Self { resumes: true, ..Self::new(now, settings) }
    }

    /// The whole wish: what is configured, and the standing of this edge or why it has none.
    pub fn set(
        &mut self,
        now: Duration,
        settings: Settings,
        standing: Result<Standing, String>,
        out: &mut Vec<Action>,
    ) {
        let changed = self.settings != settings;
        let moved = changed && self.settings.addresses != settings.addresses;
        self.settings = settings;
        let before = std::mem::replace(&mut self.standing, standing);
        match (&before, &self.standing) {
            (_, Err(reason)) => {
                let reason = reason.clone();
                // The text alone may change.
                if self.role != Role::Down || before.is_ok() || matches!(self.transition.reason, Reason::New) {
                    self.stop(now, reason, out);
                } else {
                    self.transition.reason = Reason::Unfit(reason);
                }
            }
            (Err(_), Ok(_)) => {
                self.fit_since = now;
                self.learned = Interval::nearest(self.settings.interval);
                (self.leader, self.given_up) = (None, None);
                if std::mem::take(&mut self.resumes) {
                    self.enter(now, Role::Active, Reason::Resumed);
                    self.counters.became_active += 1;
                    self.advertise(now, out);
                    out.push(Action::Take);
                    self.timer = Some(now + self.pace());
                } else {
                    self.enter(now, Role::Backup, Reason::Eligible);
                    self.wait(now);
                }
            }
            (Ok(before), Ok(standing)) if changed || before != standing => match self.role {
                Role::Active => {
                    if moved {
                        out.push(Action::Take);
                    }
                    // A priority that fell is told at once, so that a better one can take over.
                    self.advertise(now, out);
                    self.timer = Some(now + self.pace());
                }
                Role::Backup => self.timer = Some(self.waiting_since + self.patience()),
                Role::Down => {}
            },
            (Ok(_), Ok(_)) => {}
        }
    }

    /// An advertisement of this VRID and family that passed every check of its form.
    pub fn received(&mut self, now: Duration, source: IpAddr, packet: &Advertisement, out: &mut Vec<Action>) {
        let Ok(standing) = self.standing else { return self.overheard(now, source, packet) };
        if source == standing.local {
            return self.discarded(Discard::Own);
        }
        self.overheard(now, source, packet);
        let heard = Leader { address: source, priority: packet.priority, heard: now };
        match self.role {
            Role::Down => {}
            // §6.4.2 (345) to (385)
            Role::Backup if packet.priority == 0 => {
                self.given_up = Some(source);
                self.waiting_since = now;
                self.timer = Some(now + self.skew());
            }
            Role::Backup if !self.may_preempt(now) || packet.priority >= standing.priority => {
                self.learned = packet.interval;
                self.leader = Some(heard);
                self.given_up = None;
                self.wait(now);
            }
            // A lower one is not listened to: patience ends in spite of it.
            Role::Backup => {
                self.leader = Some(heard);
                self.given_up = None;
            }
            // §6.4.3: a router that leaves could have confused others; tell them at once.
            Role::Active if packet.priority == 0 => {
                self.advertise(now, out);
                self.timer = Some(now + self.pace());
            }
            Role::Active
                if packet.priority > standing.priority
                    || (packet.priority == standing.priority && source > standing.local) =>
            {
                self.learned = packet.interval;
                self.leader = Some(heard);
                self.given_up = None;
                self.enter(now, Role::Backup, Reason::Outranked { leader: source, priority: packet.priority });
                self.wait(now);
                out.push(Action::Release(None));
            }
            // §6.4.3: assert the active state, for the sender and for learning bridges.
            Role::Active => {
                if self.last_sent.is_none_or(|last| last + ANSWER <= now) {
                    self.advertise(now, out);
                }
                out.push(Action::Reannounce);
            }
        }
    }

    /// When [`Router::tick`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        self.timer
    }

    pub fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        let Some(due) = self.timer.filter(|due| *due <= now) else { return };
        match self.role {
            Role::Down => self.timer = None,
            Role::Backup => {
                let waited = now.saturating_sub(self.waiting_since);
                let reason = match (self.given_up.take(), self.leader.take(), &self.standing) {
                    (Some(leader), ..) => Reason::GivenUp { leader },
                    (_, Some(leader), Ok(standing))
                        if leader.heard > self.waiting_since && leader.priority < standing.priority =>
                    {
                        Reason::Preempted { leader: leader.address, priority: leader.priority }
                    }
                    (_, Some(leader), _) => Reason::Silent { leader: leader.address, waited },
                    (None, None, _) => Reason::Alone { waited },
                };
                self.enter(now, Role::Active, reason);
                self.counters.became_active += 1;
                self.advertise(now, out);
                out.push(Action::Take);
                self.timer = Some(now + self.pace());
            }
            Role::Active => {
                self.advertise(now, out);
                // Without drift, unless a whole interval was slept through.
                let next = due + self.pace();
                self.timer = Some(if next > now { next } else { now + self.pace() });
            }
        }
    }

    /// Counts a packet that was meant for this router but not used.
    pub fn discarded(&mut self, why: Discard) {
        *self.counters.discarded.entry(why).or_default() += 1;
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn standing(&self) -> &Result<Standing, String> {
        &self.standing
    }

    pub fn role(&self) -> Role {
        self.role
    }

    /// The last change of role.
    pub fn transition(&self) -> &Transition {
        &self.transition
    }

    /// The active router if it is another one and was heard.
    pub fn leader(&self) -> Option<Leader> {
        self.leader.filter(|_| self.role != Role::Active)
    }

    pub fn mismatch(&self) -> Option<&Mismatch> {
        self.mismatch.as_ref()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How long a backup of this standing waits for the active router (§6.1 Active_Down_Interval).
    pub fn patience(&self) -> Duration {
        self.learned.duration() * 3 + self.skew()
    }

    /// §6.1 Skew_Time: the greater the priority, the sooner.
    fn skew(&self) -> Duration {
        let priority = self.standing.as_ref().map_or(1, |standing| standing.priority);
        self.learned.duration() * (256 - u32::from(priority)) / 256
    }

    fn pace(&self) -> Duration {
        Interval::nearest(self.settings.interval).duration()
    }

    fn may_preempt(&self, now: Duration) -> bool {
        self.settings.preempt && now >= self.fit_since + self.settings.preempt_delay
    }

    fn wait(&mut self, now: Duration) {
        self.waiting_since = now;
        self.timer = Some(now + self.patience());
    }

    fn enter(&mut self, now: Duration, to: Role, reason: Reason) {
        self.transition = Transition { at: now, from: self.role, to, reason };
        self.role = to;
    }

    fn stop(&mut self, now: Duration, reason: String, out: &mut Vec<Action>) {
        if self.role == Role::Active {
            let farewell = self.advertisement(0);
            self.counters.farewells_sent += 1;
            self.last_sent = Some(now);
            out.push(Action::Release(Some(farewell)));
        }
        self.enter(now, Role::Down, Reason::Unfit(reason));
        self.timer = None;
        (self.leader, self.given_up) = (None, None);
    }

    fn advertise(&mut self, now: Duration, out: &mut Vec<Action>) {
        let Ok(standing) = self.standing else { return };
        self.counters.sent += 1;
        self.last_sent = Some(now);
        out.push(Action::Send(self.advertisement(standing.priority)));
    }

    fn advertisement(&self, priority: u8) -> Advertisement {
        Advertisement {
            router: self.settings.router,
            priority,
            interval: Interval::nearest(self.settings.interval),
            addresses: fitting(self.settings.family, &self.settings.addresses),
        }
    }

    /// What is noted of a packet whatever the role is.
    fn overheard(&mut self, now: Duration, source: IpAddr, packet: &Advertisement) {
        self.counters.received += 1;
        if packet.priority == 0 {
            self.counters.farewells_received += 1;
        }
        let mut theirs = packet.addresses.clone();
        theirs.sort_unstable();
        let mut ours = fitting(self.settings.family, &self.settings.addresses);
        ours.sort_unstable();
        if theirs != ours {
            self.mismatch = Some(Mismatch { source, theirs });
        } else if self.mismatch.as_ref().is_some_and(|mismatch| mismatch.source == source) {
            self.mismatch = None;
        }
        if self.role == Role::Down {
            self.leader =
                (packet.priority != 0).then_some(Leader { address: source, priority: packet.priority, heard: now });
        }
    }
}
