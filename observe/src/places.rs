//! The directories in which segments may lie.

use crate::snapshot::Options;
use aishim_abi::directory;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use std::path::{Path, PathBuf};

/// Where users without a system-wide directory have theirs.
const SHARED_MEMORY: &str = "/dev/shm";

/// A directory to look into.
pub(crate) struct Place {
    /// Its name.
    pub(crate) directory: PathBuf,
    /// The path by which it is reached: that of a handle, where its name could be pointed elsewhere by its owner.
    pub(crate) reach: PathBuf,
    _handle: Option<OwnedFd>,
}

/// The runtime directory first, then those of others where they are asked for.
pub(crate) fn all(options: &Options) -> Vec<Place> {
    let mut places: Vec<Place> = first(&options.directory).into_iter().collect();
    if options.everybody {
        let system = Path::new(directory::SYSTEM);
        if options.directory != system {
            places.push(Place::plain(system));
        }
        let others = of_users(Path::new(SHARED_MEMORY));
        places.extend(others.into_iter().filter(|p| p.directory != options.directory));
    }
    places
}

fn first(directory: &Path) -> Option<Place> {
    let uid = rustix::process::geteuid().as_raw();
    if directory == directory::of_user(uid) {
        return Place::of_user(directory.to_owned(), uid);
    }
    Some(Place::plain(directory))
}

impl Place {
    fn plain(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), reach: directory.to_owned(), _handle: None }
    }

    /// A directory that belongs to the user it is named after; everything else in /dev/shm could be a trap for root.
    fn of_user(directory: PathBuf, uid: u32) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, &directory, flags, Mode::empty()).ok()?;
        if rustix::fs::fstat(&handle).ok()?.st_uid != uid {
            return None;
        }
        Some(Self {
            directory,
            reach: PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd())),
            _handle: Some(handle),
        })
    }
}

fn of_users(parent: &Path) -> Vec<Place> {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut uids: Vec<u32> =
        entries.flatten().filter_map(|e| e.file_name().to_str()?.strip_prefix("aishim-")?.parse().ok()).collect();
    uids.sort_unstable();
    uids.dedup();
    uids.into_iter().filter_map(|uid| Place::of_user(parent.join(format!("aishim-{uid}")), uid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_the_user_they_are_named_after_count() {
        let parent = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let ours = parent.path().join(format!("aishim-{uid}"));
        std::fs::create_dir(&ours).unwrap();
        std::fs::write(ours.join("1-1.seg"), "x").unwrap();
        std::fs::create_dir(parent.path().join(format!("aishim-{}", uid + 1))).unwrap();
        std::os::unix::fs::symlink("/", parent.path().join(format!("aishim-{}", uid + 2))).unwrap();
        std::fs::write(parent.path().join("aishim-x"), "").unwrap();
        let places = of_users(parent.path());
        assert_eq!(places.len(), 1);
        assert_eq!(places[0].directory, ours);
        let files = aishim_abi::segment_file::list(&places[0].reach).unwrap();
        assert_eq!(files.len(), 1);
    }

    #[test]
    fn a_directory_that_was_named_stands_alone() {
        let options = Options { directory: PathBuf::from("/somewhere"), everybody: false, nvml: None, pools: false };
        let places = all(&options);
        assert_eq!(places.len(), 1);
        assert_eq!(places[0].reach, options.directory);
    }
}
