//! Withdraws the VIPs of this edge when edged cannot do it itself any more: a small process beside it.
//!
//! In: what is announced and how it is undone; a beat every 100 ms while the supervisor and every worker live. Out: the
//! same undone within a second when edged dies (at once: the line closes), hangs or is frozen (after 600 ms of silence),
//! or says itself that a worker stands still (after 700 ms); and reports of that. It decides nothing else, and never
//! touches a process or an address that it was not told of.
//!
//! Why a process: gobgpd keeps what it was told when its client is gone, and the kernel of a dead edge still answers ARP
//! for addresses on its interfaces. PR_SET_PDEATHSIG would end gobgpd with edged, but only when edged *ends*: one that is
//! stopped, spins or waits for ever for a disk has not ended, and it is the dead thread, not the dead process, that counts.
//! A watchdog of systemd kills after 30 s and knows nothing of workers. A thread of edged stands still together with it.
//!
//! False alarms cost a withdrawal and the hold-down after it, so time counts only while the onlooker itself runs: a
//! paused virtual machine or a starved CPU delays both sides ([`vigil`], [`crate::pulse`]). The supervisor, which may
//! compile for seconds while traffic flows, has 20 s. Still, an edged that really gets no CPU for 0.6 s while its guard
//! does is withdrawn: nobody can tell that from a hang, and its clients could not either.
//!
//! An edged that wakes up again finds its [`Permit`] gone from the first instant, learns from the guard that everything
//! was undone ([`GuardObserved::undone`]), treats it as a withdrawal, and announces again after the hold-down, once it
//! has acknowledged it and the guard has the new charge. Until then the guard takes no charge from it.
//!
//! What the guard cannot do: if guard and edged are killed in the same instant, gobgpd lives on (systemd's KillMode
//! kills the whole unit, so there it does not); if the whole machine stands still, only the peers' timers and BFD help.
//!
//! Both ends are this program: the guard is started as `edge-guard --edged PID` from /proc/self/exe, so an upgrade of the
//! package under a running edged does not pair two versions.

mod keeper;
mod permit;
mod process;
mod undo;
mod vigil;
mod wire;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edge_config::announce::Engine;
use rustix::event::EventfdFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::watch;
use tokio::time::timeout;

use self::keeper::Keeper;
pub use self::permit::Permit;
use self::permit::Standing;
pub use self::process::if_asked;
use crate::pulse::Vitals;

/// What the guard is started from.
pub const OWN_PROGRAM: &str = "/proc/self/exe";
/// How long [`Guard::tell`] waits for a guard that does not answer.
const TELL: Duration = Duration::from_secs(3);

/// Everything that this edge announces, in the form of how it is undone.
#[derive(Debug, Clone, Default)]
pub struct Undo {
    /// The gobgpd that is a child of edged.
    pub gobgpd: Option<Arc<ChildProcess>>,
    /// Addresses that Edge has added: a file with a line `ADDRESS INTERFACE` for each, read when it is needed, since they
    /// come and go faster than the guard can be told. It names all that may be there.
    pub address_list: Option<PathBuf>,
    /// Somebody else's gobgpd, in which everything of Edge's is withdrawn.
    pub engine: Option<Engine>,
}

impl Undo {
    pub fn is_empty(&self) -> bool {
        let Self { gobgpd, address_list, engine } = self;
        gobgpd.is_none() && address_list.is_none() && engine.is_none()
    }
}

/// A child of edged, held so that its number can never mean another process.
#[derive(Debug)]
pub struct ChildProcess {
    pid: u32,
    pidfd: OwnedFd,
}

impl ChildProcess {
    /// To be called before anybody waits for the child: until then its number is its own.
    pub fn of(pid: u32) -> io::Result<Self> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { pid, pidfd: pidfd_open(number, PidfdFlags::empty())? })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }
}

impl AsFd for ChildProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// What is seen of the guard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuardObserved {
    /// The last time that it undid everything, acknowledged or not.
    pub undone: Option<Undone>,
    /// Who stands still, so that nothing may be announced.
    pub failing: Option<String>,
    /// Why there is no guard although there should be one.
    pub missing: Option<String>,
    /// Its process, for `edgectl status` and tests.
    pub process: Option<u32>,
    pub notices: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undone {
    /// Ascends.
    pub number: u64,
    pub why: String,
    /// What it could not undo.
    pub failed: Vec<String>,
}

/// Why the guard does not have what it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    /// It has undone everything; that has to be acknowledged first.
    #[error("the guard has withdrawn everything")]
    Undone,
    #[error("{0}")]
    Failing(String),
    /// Nobody guards. That is a notice and no reason to be silent.
    #[error("no guard: {0}")]
    Unguarded(String),
}

/// A handle to the thread that keeps the guard. One that is dropped without [`Guard::stop`] lets the thread be.
pub struct Guard {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Between the handle and the thread.
struct Shared {
    wanted: Mutex<Wanted>,
    wake: OwnedFd,
    standing: Arc<Standing>,
    observed: watch::Sender<Arc<GuardObserved>>,
    /// The charge that the guard's process has in force.
    applied: watch::Sender<u64>,
}

#[derive(Default)]
struct Wanted {
    number: u64,
    undo: Arc<Undo>,
    /// How many undoings were known when this was wished for.
    known: u64,
    is_over: bool,
}

impl Guard {
    /// Starts the thread. The process is started when there is something to undo; see [`OWN_PROGRAM`].
    pub fn start(program: &Path, vitals: Vitals) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            wanted: Mutex::default(),
            wake: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            standing: Arc::new(Standing::new(Instant::now())),
            observed: watch::channel(Arc::default()).0,
            applied: watch::channel(0).0,
        });
        let keeper = Keeper::new(Arc::clone(&shared), program.to_owned(), vitals);
        let thread =
            std::thread::Builder::new().name("guard".to_owned()).stack_size(256 << 10).spawn(move || keeper.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Makes the guard know the whole of what is to be undone. Announce what is in it when this has returned `Ok`, or
    /// when there is no guard to be had; take out of it what was withdrawn afterwards.
    pub async fn tell(&self, undo: Undo) -> Result<(), Untold> {
        let shared = &self.shared;
        if shared.standing.is_undone() {
            return Err(Untold::Undone);
        }
        if let Some(why) = &shared.observed.borrow().failing {
            return Err(Untold::Failing(why.clone()));
        }
        let is_empty = undo.is_empty();
        let mut applied = shared.applied.subscribe();
        let mut observed = shared.observed.subscribe();
        let number = {
            let mut wanted = shared.wanted();
            wanted.number += 1;
            wanted.undo = Arc::new(undo);
            wanted.known = shared.standing.known();
            wanted.number
        };
        shared.wake();
        if is_empty {
            // Nothing depends on it.
            return Ok(());
        }
        let told = async {
            loop {
                if *applied.borrow_and_update() >= number {
                    return Ok(());
                }
                if shared.standing.is_undone() {
                    return Err(Untold::Undone);
                }
                if let Some(why) = &observed.borrow_and_update().missing {
                    return Err(Untold::Unguarded(why.clone()));
                }
                tokio::select! {
                    _ = applied.changed() => {}
                    _ = observed.changed() => {}
                }
            }
        };
        let late = || Err(Untold::Unguarded("it does not answer".to_owned()));
        timeout(TELL, told).await.unwrap_or_else(|_| late())
    }

    /// Whoever announces asks this first, each time.
    pub fn permit(&self) -> Permit {
        Permit::new(&self.shared.standing)
    }

    pub fn observed(&self) -> watch::Receiver<Arc<GuardObserved>> {
        self.shared.observed.subscribe()
    }

    /// Edged knows of this undoing and has taken everything as withdrawn; the guard listens to it again.
    pub fn acknowledge(&self, undone: u64) {
        self.shared.standing.acknowledge(undone);
        self.shared.wake();
    }

    /// Ends the guard without a deed. Everything is withdrawn already, and workers may end from now on.
    pub async fn stop(mut self) {
        self.shared.wanted().is_over = true;
        self.shared.wake();
        let Some(thread) = self.thread.take() else { return };
        if let Ok(Err(_)) = tokio::task::spawn_blocking(move || thread.join()).await {
            tracing::error!("the thread of the guard panicked");
        }
    }
}

impl Shared {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A counter that is full has woken the thread already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn drain_wake(&self) {
        // Nothing in it is as good.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }
}
