//! The one answer to "where is the runtime directory?", asked by shim, aictl and aischedd alike.
//!
//! 1. `AISHIM_DIR`, where it is set and not empty;
//! 2. `/run/aishim`, where it exists and may be written: a system's daemon made it for all users;
//! 3. `/dev/shm/aishim-UID`, made with mode 0700: a user's own.

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the environment variable that sets the directory.
pub const VARIABLE: &str = "AISHIM_DIR";

/// The directory a system's daemon makes for all users.
pub const SYSTEM: &str = "/run/aishim";

/// Where the coordinator of a runtime directory listens.
#[must_use]
pub fn socket(directory: &Path) -> PathBuf {
    directory.join("aischedd.sock")
}

/// Where the runtime directory of user `uid` is, given the value of [`VARIABLE`]; it need not exist.
#[must_use]
pub fn path(variable: Option<OsString>, uid: u32) -> PathBuf {
    if let Some(directory) = variable.filter(|d| !d.is_empty()) {
        return PathBuf::from(directory);
    }
    let access = Access::WRITE_OK | Access::EXEC_OK;
    if rustix::fs::accessat(CWD, SYSTEM, access, AtFlags::EACCESS).is_ok() {
        return PathBuf::from(SYSTEM);
    }
    of_user(uid)
}

/// The directory of a user's own, `/dev/shm/aishim-UID`.
#[must_use]
pub fn of_user(uid: u32) -> PathBuf {
    PathBuf::from(format!("/dev/shm/aishim-{uid}"))
}

/// Makes the directory where it is missing (mode 0700) and refuses one that another user could have laid in our way.
///
/// # Errors
/// Any error of mkdir(2) and open(2); `PermissionDenied` where it belongs to another user and is not [`SYSTEM`].
pub fn prepare(directory: &Path, uid: u32) -> io::Result<()> {
    match rustix::fs::mkdir(directory, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Only the name in /dev/shm can be taken by a stranger; a directory the user named may well be a link.
    let flags = if directory == of_user(uid) { flags | OFlags::NOFOLLOW } else { flags };
    let handle = rustix::fs::open(directory, flags, Mode::empty())?;
    let owner = rustix::fs::fstat(&handle)?.st_uid;
    if owner != uid && directory == of_user(uid) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it belongs to user {owner}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_comes_first_and_empty_counts_as_unset() {
        assert_eq!(path(Some("/x/y".into()), 7), PathBuf::from("/x/y"));
        assert_eq!(path(Some("".into()), 7), path(None, 7));
    }

    #[test]
    fn a_missing_directory_is_made_private() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("made");
        let uid = rustix::process::geteuid().as_raw();
        prepare(&directory, uid).unwrap();
        prepare(&directory, uid).unwrap();
        let mode = std::fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
