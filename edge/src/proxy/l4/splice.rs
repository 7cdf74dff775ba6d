//! splice(2): bytes move from socket to socket through a pipe without ever being copied to user space.
//!
//! A pipe is only held while bytes are in it; empty ones wait in a pool of the worker's thread.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Asked for in one call unless the receiver is known to keep up; a pipe of the usual size holds as much.
pub(super) const USUAL: usize = 64 * 1024;
/// What a pipe shall hold. Bytes in it are charged to no socket, so a tunnel that is stuck must not hold so much.
const LARGE: usize = 256 * 1024;
/// Empty pipes kept per thread; two file descriptors each.
const RETAINED: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

/// A pipe with a known number of bytes in it.
#[derive(Debug)]
pub(super) struct Pipe {
    /// `None` only while it is being dropped.
    ends: Option<Ends>,
    held: usize,
}

#[derive(Debug)]
struct Ends {
    out: OwnedFd,
    into: OwnedFd,
    /// Bytes that fit, when every slot holds a page.
    size: usize,
}

impl Pipe {
    /// An empty pipe, from the pool if there is one.
    pub fn take() -> io::Result<Self> {
        let pooled = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
        let ends = match pooled {
            Some(ends) => ends,
            None => Ends::new()?,
        };
        Ok(Self { ends: Some(ends), held: 0 })
    }

    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// What can be asked for in one call, where the receiver keeps up.
    pub fn size(&self) -> usize {
        self.ends.as_ref().map_or(USUAL, |ends| ends.size)
    }

    /// Moves at most that much of what a socket has into the pipe; 0 is the end. The pipe must be empty, so that "would
    /// block" means the socket.
    pub fn fill(&mut self, from: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        let ends = self.ends.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let count = splice(from.as_raw_fd(), ends.into.as_raw_fd(), most, 0)?;
        self.held += count;
        Ok(count)
    }

    /// Moves bytes from the pipe to a socket. With `more` to come the socket may keep what fills no segment.
    pub fn drain(&mut self, to: BorrowedFd<'_>, more: bool) -> io::Result<usize> {
        let ends = self.ends.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let flags = if more { libc::SPLICE_F_MORE } else { 0 };
        let count = splice(ends.out.as_raw_fd(), to.as_raw_fd(), self.held, flags)?;
        self.held = self.held.saturating_sub(count);
        Ok(count)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else { return };
        // Bytes of one connection must never reach another.
        if !self.is_empty() {
            return;
        }
        // At thread exit the pool may be gone; then the pipe is simply closed.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < RETAINED {
                pool.push(ends);
            }
        });
    }
}

impl Ends {
    fn new() -> io::Result<Self> {
        let mut fds = [-1; 2];
        // SAFETY: `fds` has room for the two descriptors that pipe2(2) writes.
        // JUSTIFICATION: the standard library's pipes are blocking and cannot be told otherwise without a second call.
        if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: pipe2(2) succeeded, so both descriptors are open, and nobody else knows them.
        // JUSTIFICATION: this is how a raw descriptor gets an owner that closes it.
        let (out, into) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
        // SAFETY: F_SETPIPE_SZ takes an integer and gives the kernel no pointer.
        // JUSTIFICATION: the size of a pipe can be set in no other way. A user who has too many large ones is refused,
        // and the pipe stays as it is.
        let size = unsafe { libc::fcntl(out.as_raw_fd(), libc::F_SETPIPE_SZ, LARGE as libc::c_int) };
        Ok(Self { out, into, size: usize::try_from(size).unwrap_or(USUAL) })
    }
}

fn splice(from: i32, to: i32, count: usize, flags: libc::c_uint) -> io::Result<usize> {
    let flags = flags | libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: both descriptors are borrowed from their owners for the length of the call; null offsets are right for
    // pipes and sockets.
    // JUSTIFICATION: neither the standard library nor tokio has splice(2), which halves the cost of a tunnel.
    let moved = unsafe { libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), count, flags) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pool() -> usize {
        POOL.with(|pool| pool.borrow().len())
    }

    #[test]
    fn bytes_pass_and_empty_pipes_are_used_again() {
        let ((mut a, from), (to, mut b)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        from.set_nonblocking(true).unwrap();
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(pipe.fill(from.as_fd(), USUAL).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        a.write_all(b"hello").unwrap();
        assert_eq!(pipe.fill(from.as_fd(), USUAL).unwrap(), 5);
        assert!(!pipe.is_empty());
        assert_eq!(pipe.drain(to.as_fd(), false).unwrap(), 5);
        let mut read = [0; 5];
        b.read_exact(&mut read).unwrap();
        assert_eq!((&read, pipe.is_empty()), (b"hello", true));
        drop(a);
        assert_eq!(pipe.fill(from.as_fd(), USUAL).unwrap(), 0);
        drop(pipe);
        assert_eq!(pool(), 1);
        let again = Pipe::take().unwrap();
        assert_eq!(pool(), 0);
        drop(again);
    }

    #[test]
    fn a_pipe_with_bytes_in_it_is_not_used_again() {
        let (mut a, from) = UnixStream::pair().unwrap();
        a.write_all(b"secret").unwrap();
        let mut pipe = Pipe::take().unwrap();
        pipe.fill(from.as_fd(), USUAL).unwrap();
        drop(pipe);
        assert_eq!(pool(), 0);
    }

    #[test]
    fn the_pool_is_bounded() {
        let pipes: Vec<_> = (0..RETAINED + 5).map(|_| Pipe::take().unwrap()).collect();
        drop(pipes);
        assert_eq!(pool(), RETAINED);
    }
}
