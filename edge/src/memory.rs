//! How the kernel backs the daemon's memory.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long};
use std::io;
use std::ops::Range;
use std::path::Path;

// Links the allocator that `mi_collect` belongs to.
use mimalloc as _;

unsafe extern "C" {
    /// Of mimalloc.
    fn mi_collect(force: bool);
    fn mi_option_set(option: c_int, value: c_long);
}

/// `mi_option_purge_delay` of mimalloc 3, in milliseconds.
const PURGE_DELAY: c_int = 15;

/// Gives pages back to the kernel soon after they became free. The allocator waits for a second, and within a second a
/// start, a list of thousands of objects or a page of metrics frees several times of what stays: measured with 5,000 routes,
/// 128 MiB at most instead of 94. Called first thing, before threads start.
pub fn free_pages_soon() {
    // SAFETY: it takes two integers; an option that does not exist is ignored.
    // JUSTIFICATION: the allocator's crate wraps it for another version of the allocator only.
    unsafe { mi_option_set(PURGE_DELAY, 10) }
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

/// Takes the program's text out of the page table. The start and every great change go through most of it once, and the
/// kernel maps sixteen pages around each one that is touched, so that nearly all of it counts as resident from then on;
/// what is in use comes back from the page cache at its next use, within microseconds. Measured with 5,000 routes at rest:
/// the program's file holds 18.8 MiB of what is resident instead of 24.5.
pub fn forget_text() {
    for range in text() {
        // SAFETY: the range is a mapping of a file that is executed and so cannot be written (ETXTBSY), readable and not
        // writable, so no page of it differs from the file: every one comes back as it was.
        // JUSTIFICATION: std does not wrap it, and there is no other way to say that pages may go.
        let _ = unsafe { libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED) };
    }
}

/// Where the program's text is.
fn text() -> Vec<Range<usize>> {
    let (maps, program) = (std::fs::read_to_string("/proc/self/maps"), std::fs::read_link("/proc/self/exe"));
    let (Ok(maps), Ok(program)) = (maps, program) else { return Vec::new() };
    maps.lines().filter_map(|line| text_of(line, &program)).collect()
}

/// The range of a line of /proc/PID/maps, if it is text of the program.
fn text_of(line: &str, program: &Path) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    if rights != "r-xp" || Path::new(words.nth(3)?) != program {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

/// Keeps memory in small pages. The allocator asks for huge ones, and a daemon with many small, spread-out lives then
/// holds several times of what it uses: measured idle, 60 MB instead of 15. Called first thing, before threads start.
pub fn keep_pages_small() -> io::Result<()> {
    // SAFETY: PR_SET_THP_DISABLE takes integers only and gives the kernel no pointer.
    // JUSTIFICATION: the switch exists as this system call only, and std does not wrap it.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" {
        fn mi_option_get(option: c_int) -> c_long;
    }

    #[test]
    fn text_is_what_is_executed_of_the_program() {
        let program = Path::new("/usr/bin/edged");
        let of = |line| text_of(line, program);
        let line = "55d0a000-55d0c000 r-xp 00001000 fe:00 1234                       /usr/bin/edged";
        assert_eq!(of(line), Some(0x55d0_a000..0x55d0_c000));
        for other in [
            "55d0a000-55d0c000 r--p 00001000 fe:00 1234 /usr/bin/edged",
            "55d0a000-55d0c000 rwxp 00001000 fe:00 1234 /usr/bin/edged",
            "55d0a000-55d0c000 r-xp 00001000 fe:00 1234 /usr/lib/libc.so.6",
            "55d0a000-55d0c000 r-xp 00000000 00:00 0",
            "55d0a000 r-xp 00001000 fe:00 1234 /usr/bin/edged",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        let here = text_of as fn(&'static str, &'static Path) -> Option<Range<usize>> as usize;
        assert!(text().iter().any(|range| range.contains(&here)), "this test is text of its program");
        forget_text();
    }

    /// The numbers of options change with the versions of the allocator.
    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: it takes an integer.
        // JUSTIFICATION: nobody wraps it.
        let value = || unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(value(), 1000);
        free_pages_soon();
        assert_eq!(value(), 10);
    }
}
