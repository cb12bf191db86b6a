//! The socket in the runtime directory.

use aishim_abi::directory;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::path::{Path, PathBuf};

/// How many may wait to be accepted; a burst of programs that start at once finds room.
const QUEUE: i32 = 1024;

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    /// The name it has, which is taken away when it ends; none where systemd made it.
    path: Option<PathBuf>,
}

impl Listener {
    /// Listens in that directory, in the place of what an earlier daemon has left there: the caller holds its lock.
    ///
    /// It is bound under another name and renamed once it listens, so that nobody ever connects to one that does not, or that does not have
    /// its mode yet.
    pub(crate) fn bind(directory: &Path, is_for_all: bool) -> io::Result<Self> {
        let path = directory::socket(directory);
        let unfinished = directory.join(".aischedd.sock.new");
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let _ = rustix::fs::unlink(&unfinished);
        rustix::net::bind(&socket, &SocketAddrUnix::new(&unfinished)?)?;
        rustix::fs::chmod(&unfinished, Mode::from(if is_for_all { 0o666 } else { 0o600 }))?;
        rustix::net::listen(&socket, QUEUE)?;
        rustix::fs::rename(&unfinished, &path)?;
        Ok(Self { socket, path: Some(path) })
    }

    /// One that systemd has made, and keeps.
    pub(crate) fn activated(socket: OwnedFd) -> Self {
        Self { socket, path: None }
    }

    /// The next that wants to be let in; none where nobody does.
    pub(crate) fn accept(&self) -> rustix::io::Result<Option<OwnedFd>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(&self.socket, flags) {
            Ok(connection) => Ok(Some(connection)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = rustix::fs::unlink(path);
        }
    }
}
