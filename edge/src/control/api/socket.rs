//! The unix socket as a file: bound without a moment in which it has the wrong mode, replaced only when nobody serves it,
//! removed only when it is still ours.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::ApiError;
use crate::control::peer;

/// Whose the socket is, and which file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    uid: u32,
    gid: u32,
    inode: u64,
}

pub fn bind(path: &Path) -> Result<(UnixListener, Owner), ApiError> {
    let failed = |error| ApiError::Bind(path.to_owned(), error);
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ApiError::NotASocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(ApiError::Taken(path.to_owned())),
            // Nobody listens: what an edged left that could not clean up.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
        }
        Err(error) => return Err(failed(error)),
    }
    // Bound beside its place and moved there with the right mode: nobody can connect in between, and rename(2) replaces
    // the old one in one step.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = Path::new(&temporary);
    let _ = std::fs::remove_file(temporary);
    let listener = UnixListener::bind(temporary).map_err(failed)?;
    let placed = (|| {
        listener.set_nonblocking(true)?;
        std::fs::set_permissions(temporary, std::fs::Permissions::from_mode(0o660))?;
        let found = std::fs::metadata(temporary)?;
        std::fs::rename(temporary, path)?;
        Ok(Owner { uid: found.uid(), gid: found.gid(), inode: found.ino() })
    })();
    match placed {
        Ok(owner) => Ok((listener, owner)),
        Err(error) => {
            let _ = std::fs::remove_file(temporary);
            Err(failed(error))
        }
    }
}

/// Of a socket that another edged has bound.
pub fn owner(path: &Path) -> Result<Owner, ApiError> {
    let found = std::fs::metadata(path).map_err(|error| ApiError::Bind(path.to_owned(), error))?;
    Ok(Owner { uid: found.uid(), gid: found.gid(), inode: found.ino() })
}

pub fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes the socket unless another edged has put its own there.
pub fn remove(path: &Path, owner: Owner) {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.ino() == owner.inode) {
        let _ = std::fs::remove_file(path);
    }
}

/// Root, the user who runs edged, and members of the socket's group.
pub fn may_change(stream: &tokio::net::UnixStream, owner: Owner) -> bool {
    let Ok(credentials) = stream.peer_cred() else { return false };
    credentials.uid() == 0
        || credentials.uid() == owner.uid
        || credentials.gid() == owner.gid
        || peer::groups(stream.as_fd()).is_ok_and(|groups| groups.contains(&owner.gid))
}

/// Who connected, as a number.
pub fn user(stream: &tokio::net::UnixStream) -> Option<u32> {
    stream.peer_cred().ok().map(|credentials| credentials.uid())
}
