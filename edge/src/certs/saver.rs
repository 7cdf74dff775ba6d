//! Writes issued certificates to the store, on a thread of its own.
//!
//! In: certificates, as they are made. Out: what could not be written. A newer version of one that still waits replaces
//! it, so the queue is never longer than the list of certificates; and all that wait are written with one flush.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edge_config::names::CertId;

use crate::store::{Store, StoredCertificate};

/// What the end waits for a disk.
const LAST_WAIT: Duration = Duration::from_secs(10);

pub(super) struct Saver {
    queue: Arc<Queue>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<CertId, StoredCertificate>,
    /// A batch is on its way to the disk.
    writing: bool,
    /// Why the last batch is not on disk.
    trouble: Option<String>,
    stop: bool,
}

impl Saver {
    pub(super) fn start(store: Store) -> Self {
        let queue = Arc::new(Queue::default());
        let inbox = queue.clone();
        let thread = std::thread::Builder::new().name("edge-saver".into()).spawn(move || inbox.run(&store));
        if let Err(error) = &thread {
            queue.lock().trouble = Some(format!("certificates are not saved: no thread: {error}"));
        }
        Self { queue, thread: thread.ok() }
    }

    pub(super) fn save(&self, id: CertId, certificate: StoredCertificate) {
        self.queue.lock().waiting.insert(id, certificate);
        self.queue.changed.notify_all();
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.queue.lock().trouble.clone()
    }

    /// Waits until everything is written (or has failed), at most as long as the end would. Whether that came true.
    fn settle(&self) -> bool {
        let busy = |state: &mut State| state.writing || !state.waiting.is_empty();
        let wait = if self.thread.is_some() { LAST_WAIT } else { Duration::ZERO };
        let waited = self.queue.changed.wait_timeout_while(self.queue.lock(), wait, busy);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.writing && state.waiting.is_empty()
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        let is_idle = self.settle();
        self.queue.lock().stop = true;
        self.queue.changed.notify_all();
        // A thread that still hangs in the disk ends with the process.
        if let Some(thread) = self.thread.take().filter(|_| is_idle) {
            // A panic there was printed by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Queue {
    fn run(&self, store: &Store) {
        loop {
            let mut state = self.lock();
            while state.waiting.is_empty() && !state.stop {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.waiting.is_empty() {
                return;
            }
            let batch: Vec<_> = std::mem::take(&mut state.waiting).into_iter().collect();
            state.writing = true;
            drop(state);
            let result = store.put_certificates(&batch);
            let mut state = self.lock();
            state.writing = false;
            state.trouble = result.err().map(|error| error.to_string());
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
