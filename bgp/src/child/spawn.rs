//! Starting a process that dies with this one.

#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// Starts the command with SIGTERM as the signal of our death. The calling thread must outlive it: the kernel counts the
/// thread as the parent (prctl(2)).
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let parent = getpid();
    let before = move || {
        set_parent_process_death_signal(Some(Signal::TERM))?;
        // We may have died before the line above; then nobody would send the signal.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
    };
    // SAFETY: the closure runs between fork and exec and calls prctl(2) and getppid(2) only, both async-signal-safe; it
    // allocates nothing and takes no lock.
    // JUSTIFICATION: there is no other way to set the signal without losing the race with our own death.
    unsafe { command.pre_exec(before) };
    command.spawn()
}
