//! How the kernel backs the daemon's memory.
#![allow(unsafe_code)]

use std::io;

// Links the allocator that `mi_collect` belongs to.
use mimalloc as _;

unsafe extern "C" {
    /// Of mimalloc.
    fn mi_collect(force: bool);
}

/// Returns what this thread's part of the allocator holds and nobody uses. A reload needs a multiple of its text for a
/// moment, and nothing else on the control thread would come to give it back.
pub fn give_back() {
    // SAFETY: mi_collect may be called at any time by any thread and takes no pointer.
    // JUSTIFICATION: the allocator's crate does not wrap it.
    unsafe { mi_collect(true) }
}

/// The same for what has been free for a moment, without a search for more: cheap enough for a worker to do now and then.
/// What thousands of connections used at once is otherwise kept for the next time, however long they idle.
pub fn give_back_what_lies_idle() {
    // SAFETY: as above.
    // JUSTIFICATION: as above.
    unsafe { mi_collect(false) }
}

/// Keeps memory in small pages. The allocator asks for huge ones, and a daemon with many small, spread-out lives then
/// holds several times of what it uses: measured idle, 60 MB instead of 15. Called first thing, before threads start.
pub fn keep_pages_small() -> io::Result<()> {
    // SAFETY: PR_SET_THP_DISABLE takes integers only and gives the kernel no pointer.
    // JUSTIFICATION: the switch exists as this system call only, and std does not wrap it.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
