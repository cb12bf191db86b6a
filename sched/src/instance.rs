//! One daemon a runtime directory: the lock on `aischedd.lock`, in which stands who has it.

use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::path::Path;

/// The lock, held while it lives.
#[derive(Debug)]
pub(crate) struct Instance {
    _lock: OwnedFd,
}

/// Why there is no lock for us.
#[derive(Debug)]
pub(crate) enum InstanceError {
    /// Another daemon has it; its process id, if it could be read.
    Taken(Option<u32>),
    /// The file is another user's.
    Foreign(u32),
    /// It cannot be opened or locked.
    Io(io::Error),
}

impl fmt::Display for InstanceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(Some(pid)) => write!(f, "another aischedd, process {pid}, has it already"),
            Self::Taken(None) => f.write_str("another aischedd has it already"),
            Self::Foreign(uid) => write!(f, "its aischedd.lock belongs to user {uid}"),
            Self::Io(error) => write!(f, "aischedd.lock cannot be locked: {error}"),
        }
    }
}

impl<E: Into<io::Error>> From<E> for InstanceError {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}

impl Instance {
    /// Takes the lock of a directory.
    ///
    /// The file stays when the daemon ends: to remove it would let two hold a lock each, one on the file that was and one on the
    /// file that is.
    pub(crate) fn take(directory: &Path) -> Result<Self, InstanceError> {
        let path = directory.join("aischedd.lock");
        let file = open_own(&path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(InstanceError::Taken(holder(&file))),
            Err(e) => return Err(e.into()),
        }
        rustix::fs::ftruncate(&file, 0)?;
        rustix::io::pwrite(&file, format!("{}\n", std::process::id()).as_bytes(), 0)?;
        Ok(Self { _lock: file })
    }
}

/// The file, made where it is missing, as our own: in a directory that all may write, a stranger could have laid one there. Root
/// takes that away.
fn open_own(path: &Path) -> Result<OwnedFd, InstanceError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let us = rustix::process::geteuid().as_raw();
    for _ in 0..2 {
        // Made without O_EXCL it would not be opened if it is a stranger's and fs.protected_regular is set.
        let opened = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => rustix::fs::open(path, flags | OFlags::CREATE | OFlags::EXCL, Mode::from(0o644)),
            other => other,
        };
        let owner = match opened {
            Ok(file) => match rustix::fs::fstat(&file)?.st_uid {
                owner if owner == us => return Ok(file),
                owner => owner,
            },
            Err(Errno::EXIST) => continue,
            Err(e) => rustix::fs::lstat(path).map(|found| found.st_uid).ok().filter(|uid| *uid != us).ok_or(e)?,
        };
        if us != 0 {
            return Err(InstanceError::Foreign(owner));
        }
        rustix::fs::unlink(path)?;
    }
    Err(InstanceError::Io(Errno::EXIST.into()))
}

fn holder(file: &OwnedFd) -> Option<u32> {
    let mut text = [0; 16];
    let bytes = rustix::io::pread(file, &mut text, 0).ok()?;
    std::str::from_utf8(text.get(..bytes)?).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_learns_who_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = Instance::take(directory.path()).unwrap();
        let second = Instance::take(directory.path()).unwrap_err();
        assert!(second.to_string().contains(&std::process::id().to_string()), "{second}");
        drop(first);
        Instance::take(directory.path()).unwrap();
    }

    #[test]
    fn a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", directory.path().join("aischedd.lock")).unwrap();
        assert!(matches!(Instance::take(directory.path()), Err(InstanceError::Io(_))));
    }
}
