//! Who is at the other end of a Unix socket (`SO_PEERCRED`, unix(7)).
//!
//! Not with rustix: its PID cannot be 0, and 0 is what the kernel answers where the other process is outside of our PID
//! namespace, as a system's daemon is for a program in a container.

use rustix::fd::{AsFd, AsRawFd};
use std::io;

/// Who connected, or listened, at the moment of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process id as we see it; none where it is outside of our PID namespace.
    pub pid: Option<u32>,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Who is at the other end of `socket`.
///
/// # Errors
/// Those of getsockopt(2).
pub fn of_peer(socket: impl AsFd) -> io::Result<Credentials> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: memory of ours of the size that is named; `ucred` is integers, any bits are a value.
    let failed =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut found).cast(), &raw mut bytes) };
    if failed != 0 || bytes as usize != size_of::<libc::ucred>() {
        return Err(io::Error::last_os_error());
    }
    let pid = u32::try_from(found.pid).ok().filter(|pid| *pid != 0);
    Ok(Credentials { pid, uid: found.uid, gid: found.gid })
}
