//! What systemd wants of a service, by hand: sockets that it listens on for us (sd_listen_fds(3)) and what we tell it
//! (sd_notify(3)).

use rustix::fd::{BorrowedFd, FromRawFd, OwnedFd};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// The first descriptor that is passed.
const FIRST: i32 = 3;

/// The socket that systemd listens on for us; none where it does not, and an error where it passed something else.
pub(crate) fn activated() -> Result<Option<OwnedFd>, String> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    let (pid, sockets) = (number("LISTEN_PID"), number("LISTEN_FDS").unwrap_or(0));
    if pid != Some(std::process::id()) || sockets == 0 {
        return Ok(None);
    }
    if sockets != 1 {
        return Err(format!("systemd passed {sockets} sockets; one is wanted"));
    }
    // SAFETY: only asked about; where nothing is open under that number, fcntl(2) says so.
    let is_open = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(FIRST) }).is_ok();
    if !is_open {
        return Err("LISTEN_FDS speaks of a socket, but none was passed".to_owned());
    }
    // SAFETY: it is open, and LISTEN_PID says that it was passed to this very process; nothing here has touched it before: this
    // is called once, and first.
    let socket = unsafe { OwnedFd::from_raw_fd(FIRST) };
    let is_stream = rustix::net::sockopt::socket_type(&socket).is_ok_and(|kind| kind == SocketType::STREAM);
    let listens = rustix::net::sockopt::socket_acceptconn(&socket).unwrap_or(false);
    let is_unix = rustix::net::sockopt::socket_domain(&socket).is_ok_and(|domain| domain == AddressFamily::UNIX);
    if !(is_stream && listens && is_unix) {
        return Err("systemd passed something that is no listening Unix stream socket".to_owned());
    }
    let prepared = rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)
        .and_then(|()| rustix::io::ioctl_fionbio(&socket, true));
    prepared.map_err(|e| format!("the socket that systemd passed: {e}"))?;
    Ok(Some(socket))
}

/// Tells systemd something, where it wants to be told.
pub(crate) fn notify(state: &str) {
    if let Some(address) = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty())
        && let Err(error) = send(&address, state)
    {
        tracing::warn!("systemd could not be told {state}: {error}");
    }
}

fn send(address: &OsStr, state: &str) -> rustix::io::Result<()> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    rustix::net::sendto(&socket, state.as_bytes(), SendFlags::NOSIGNAL, &address)?;
    Ok(())
}
