//! Who is at the other end of a unix socket. The kernel says so; nothing the peer sends plays a part.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The supplementary groups of the process that connected (`SO_PEERGROUPS`, unix(7)), as they were when it did.
pub fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<libc::gid_t>> {
    // NGROUPS_MAX of Linux: the answer always fits.
    let mut groups = vec![0 as libc::gid_t; 65_536];
    let mut length = libc::socklen_t::try_from(std::mem::size_of_val(groups.as_slice())).unwrap_or(0);
    // JUSTIFICATION: neither std, tokio nor socket2 offers SO_PEERGROUPS, and without it a member of the socket's group
    // by a supplementary group could not be told from a stranger.
    // SAFETY: `groups` is writable for `length` bytes, the kernel writes at most that many and stores in `length` how
    // many; gid_t is a plain integer, for which every bit pattern is valid. The descriptor is open while borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(length as usize / std::mem::size_of::<libc::gid_t>());
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    #[test]
    fn own_groups() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let found = super::groups(a.as_fd()).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        let expected: Vec<u32> = line.split_whitespace().map(|group| group.parse().unwrap()).collect();
        assert_eq!(found, expected);
    }
}
