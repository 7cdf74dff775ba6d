//! Signals as events: SIGHUP reloads, SIGUSR1 reopens the access log, SIGTERM and SIGINT stop.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::Event;
use crate::history::Cause;

/// Sends events until the receiver is gone. Signals that arrive together are one event.
pub(super) fn watch(events: mpsc::Sender<Event>) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut reopen = signal(SignalKind::user_defined1())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                Some(()) = hangup.recv() => Event::Reload(Cause::Hangup, None, None),
                Some(()) = reopen.recv() => Event::ReopenLogs,
                Some(()) = terminate.recv() => Event::Stop,
                Some(()) = interrupt.recv() => Event::Stop,
                else => return,
            };
            if events.send(event).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
