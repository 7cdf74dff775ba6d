//! Tells when files may have changed: inotify, gathered for a moment, with a slow look as a safety net. Paths flow in,
//! a unit per change flows out; a receiver that is busy hears of many changes once. Directories that are renamed over,
//! removed and made again stay watched.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Changes that follow each other this closely are one.
const QUIET: Duration = Duration::from_millis(20);
/// A stream of changes is not gathered for longer.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often everything is looked at without any event.
const RESCAN: Duration = Duration::from_secs(10);

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Mutex<BTreeSet<PathBuf>>>,
    wake: SyncSender<Wake>,
}

enum Wake {
    Changed,
    /// The wanted paths are others.
    Paths,
    Stop,
}

impl Watcher {
    /// Watches nothing yet; sends a unit on `changed` whenever one of the watched paths may have changed.
    pub fn start(changed: mpsc::Sender<()>) -> std::io::Result<Self> {
        let shared = Arc::new(Mutex::new(BTreeSet::new()));
        let (wake, woken) = sync_channel(16);
        let loop_wake = wake.clone();
        let paths = shared.clone();
        thread::Builder::new()
            .name("file-watch".to_owned())
            .spawn(move || Loop::new(paths, loop_wake, changed).run(&woken))?;
        Ok(Self { shared, wake })
    }

    /// Watches these paths from now on, and no others; [`super::Loaded::watched`] has them.
    pub fn set(&self, paths: &[PathBuf]) {
        let wanted: BTreeSet<PathBuf> = paths.iter().cloned().collect();
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if *shared != wanted {
            *shared = wanted;
            drop(shared);
            // A full channel holds something that makes the loop look at the paths as well.
            let _ = self.wake.try_send(Wake::Paths);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut stop = Wake::Stop;
        // The loop drains the channel at least every `PATIENCE`.
        for _ in 0..100 {
            match self.wake.try_send(stop) {
                Err(TrySendError::Full(back)) => {
                    stop = back;
                    thread::sleep(Duration::from_millis(5));
                }
                _ => return,
            }
        }
    }
}

struct Loop {
    paths: Arc<Mutex<BTreeSet<PathBuf>>>,
    changed: mpsc::Sender<()>,
    inotify: Option<RecommendedWatcher>,
    /// What is watched, with the identity of the directory: a path may come to mean another one.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// What the last slow look found.
    seen: Vec<(PathBuf, Option<Look>)>,
}

type Look = (u64, u64, u64, i64, i64);

impl Loop {
    fn new(paths: Arc<Mutex<BTreeSet<PathBuf>>>, wake: SyncSender<Wake>, changed: mpsc::Sender<()>) -> Self {
        let wanted = Arc::clone(&paths);
        let on_event = move |event: notify::Result<Event>| {
            if matters(&event, &wanted) {
                let _ = wake.try_send(Wake::Changed);
            }
        };
        let inotify = match notify::recommended_watcher(on_event) {
            Ok(watcher) => Some(watcher),
            Err(fault) => {
                tracing::warn!(%fault, "files are not watched, only looked at every {RESCAN:?}");
                None
            }
        };
        Self { paths, changed, inotify, watched: BTreeMap::new(), seen: Vec::new() }
    }

    fn run(mut self, woken: &Receiver<Wake>) {
        loop {
            match woken.recv_timeout(RESCAN) {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Wake::Paths) => {
                    // A path may have changed between the load that named it and the watch that begins here.
                    if self.sync() && !self.tell() {
                        return;
                    }
                    self.seen = self.look();
                }
                Ok(Wake::Changed) => {
                    if self.gather(woken) {
                        return;
                    }
                    // Whoever waits for the change hears of it before the watch looks after itself.
                    if !self.tell() {
                        return;
                    }
                    if self.sync() && !self.tell() {
                        return;
                    }
                    self.seen = self.look();
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = self.look();
                    let is_new = self.sync();
                    if (is_new || now != self.seen) && !self.tell() {
                        return;
                    }
                    self.seen = now;
                }
            }
        }
    }

    /// Waits until it is quiet; whether to stop.
    fn gather(&self, woken: &Receiver<Wake>) -> bool {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match woken.recv_timeout(QUIET) {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return true,
                Ok(Wake::Changed | Wake::Paths) => {}
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        false
    }

    /// Whether anybody still listens. One unit in the channel is enough for any number of changes.
    fn tell(&self) -> bool {
        !matches!(self.changed.try_send(()), Err(mpsc::error::TrySendError::Closed(())))
    }

    fn wanted(&self) -> BTreeSet<PathBuf> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the watches what they should be; whether a directory was found that was not watched before.
    fn sync(&mut self) -> bool {
        let mut directories = BTreeMap::new();
        for path in self.wanted() {
            for directory in directories_of(&path) {
                if let Ok(metadata) = std::fs::metadata(&directory) {
                    directories.insert(directory, (metadata.dev(), metadata.ino()));
                }
            }
        }
        let Some(inotify) = &mut self.inotify else { return false };
        self.watched.retain(|path, identity| {
            let stays = directories.get(path) == Some(identity);
            if !stays {
                // The kernel may have dropped the watch with the directory.
                let _ = inotify.unwatch(path);
            }
            stays
        });
        let mut is_new = false;
        for (path, identity) in directories {
            if self.watched.contains_key(&path) {
                continue;
            }
            match inotify.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    is_new = true;
                    self.watched.insert(path, identity);
                }
                Err(fault) => {
                    tracing::warn!(path = %path.display(), %fault, "not watched, only looked at every {RESCAN:?}");
                }
            }
        }
        is_new
    }

    fn look(&self) -> Vec<(PathBuf, Option<Look>)> {
        let mut seen = Vec::new();
        for path in self.wanted() {
            let look = |path: &Path| {
                std::fs::metadata(path)
                    .ok()
                    .map(|found| (found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
            };
            if let Ok(entries) = std::fs::read_dir(&path) {
                let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
                entries.sort();
                seen.extend(entries.into_iter().map(|path| {
                    let found = look(&path);
                    (path, found)
                }));
            }
            let found = look(&path);
            seen.push((path, found));
        }
        seen
    }
}

/// Whether an event can change what is configured. A log that is written beside `edge.toml` must not hold up a reload.
fn matters(event: &notify::Result<Event>, wanted: &Mutex<BTreeSet<PathBuf>>) -> bool {
    let Ok(event) = event else {
        // An overflow or a lost watch: look again.
        return true;
    };
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(ModifyKind::Data(_)) => {
            let wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner);
            event.paths.iter().any(|path| {
                let is_text = path
                    .extension()
                    .is_some_and(|extension| ["yaml", "yml", "json", "toml"].iter().any(|known| extension == *known));
                is_text || wanted.contains(path) || path.strip_prefix(".").is_ok_and(|path| wanted.contains(path))
            })
        }
        // Reading the files must not look like a change of them.
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// The directories whose events tell of a path: itself where it is one, the directory of a file, of a link and of what
/// a link leads to, and for what is not there, the nearest directory that is.
fn directories_of(path: &Path) -> Vec<PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Some(PathBuf::from(".")),
        Some(parent) => Some(parent.to_owned()),
        None => None,
    };
    let mut directories = Vec::new();
    if path.is_dir() {
        directories.push(path.to_owned());
    }
    let mut above = parent(path);
    while let Some(directory) = above {
        if directory.is_dir() {
            directories.push(directory);
            break;
        }
        above = parent(&directory);
    }
    if let Ok(target) = path.canonicalize() {
        directories.extend(parent(&target));
    }
    directories
}
