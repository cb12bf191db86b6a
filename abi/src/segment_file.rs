//! A segment's life as a file.
//!
//! * `.PID-TICKS.new` while it is made: locked, allocated in full, filled; then renamed to
//! * `PID-TICKS.seg`, which exists from then on in full and locked, and is mapped. The lock (flock(2), exclusive) belongs to the open
//!   file description; the mapping keeps that alive after the descriptor is closed, so it ends with the process,
//!   however that ends, and costs the program no descriptor;
//! * `PID-TICKS.ended` once somebody has found it unlocked; its modification time is the end of the process, or the
//!   moment it was found dead. It is removed [`KEEP_ENDED`] later by the next shim that starts in the directory.

use crate::layout::{MAGIC, SEGMENT_BYTES, Segment};
use crate::mapping;
use crate::pool_layout;
use crate::reader::SegmentCopy;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::process::Resource;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long the final figures of a process that ended are kept.
pub const KEEP_ENDED: Duration = Duration::from_secs(600);

/// A file that never became a segment is removed after this long.
const KEEP_UNFINISHED: Duration = Duration::from_secs(60);

/// Publishes `segment` as a file in `directory` and keeps its counts: from here on all processes that may read the file see it.
///
/// # Errors
/// Whatever mkdir, open, flock, fallocate, write, mmap or rename say; the segment is then as it was, private.
///
/// # Safety
/// `segment` is accessed through atomics alone from now on, by all threads, and stays where it is while the process
/// lives.
pub unsafe fn publish(segment: *mut Segment, directory: &Path, pid: u32, start_ticks: u64) -> io::Result<PathBuf> {
    let unfinished = directory.join(format!(".{pid}-{start_ticks}.new"));
    let finished = directory.join(format!("{pid}-{start_ticks}.seg"));
    let file = create(&unfinished, SEGMENT_BYTES)?;
    let filled = fill(&file, &mapping::words(segment));
    let named = filled.and_then(|()| Ok(rustix::fs::rename(&unfinished, &finished)?));
    if let Err(e) = named {
        let _ = rustix::fs::unlink(&unfinished);
        return Err(e);
    }
    // Last, since it cannot be undone without losing counts.
    // SAFETY: passed on from the caller; the file is as long as the segment.
    if let Err(e) = unsafe { mapping::map_over(&file, segment) } {
        let _ = rustix::fs::unlink(&finished);
        return Err(e.into());
    }
    Ok(finished)
}

/// Lets go of a published segment in a child process: what it counts from here on is its own and starts at zero.
///
/// # Safety
/// As for [`publish`]. Async-signal-safe: one mmap(2).
pub unsafe fn disown(segment: *mut Segment) -> io::Result<()> {
    // SAFETY: passed on from the caller.
    Ok(unsafe { mapping::map_private(segment) }?)
}

/// Creates a file that is to have so many bytes, as our own and nobody else's yet.
pub(crate) fn create(path: &Path, bytes: usize) -> io::Result<OwnedFd> {
    allowed_by_limit(bytes)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mode = Mode::RUSR | Mode::WUSR;
    let opened = match rustix::fs::open(path, flags, mode) {
        // Left by an earlier life of the same PID that was killed while it made its segment.
        Err(rustix::io::Errno::EXIST) => {
            rustix::fs::unlink(path)?;
            rustix::fs::open(path, flags, mode)?
        }
        other => other?,
    };
    Ok(above_standard_streams(&opened)?)
}

/// Refuses where RLIMIT_FSIZE is below the file's size: fallocate(2) would then not only fail but send SIGXFSZ, which ends a
/// program that does not expect it (setrlimit(2)).
fn allowed_by_limit(bytes: usize) -> io::Result<()> {
    match rustix::process::getrlimit(Resource::Fsize).current {
        Some(limit) if limit < bytes as u64 => Err(rustix::io::Errno::FBIG.into()),
        _ => Ok(()),
    }
}

/// A descriptor of 3 or more: a program that closed its standard streams may write to 0 to 2 as if they were open.
fn above_standard_streams(file: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(file, 3)
}

fn fill(file: &OwnedFd, words: &[u64]) -> io::Result<()> {
    allocate_locked(file, SEGMENT_BYTES)?;
    write_pages_in_use(file, words)
}

/// Locks a file as that of a living process and allocates it in full, before it is mapped: a tmpfs that fills up later
/// must not become a SIGBUS in the program.
pub(crate) fn allocate_locked(file: &OwnedFd, bytes: usize) -> io::Result<()> {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)?;
    let all = rustix::fs::FallocateFlags::empty();
    // Interrupted by a signal, as fallocate(2) may be, it is simply begun again.
    Ok(rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, all, 0, bytes as u64))?)
}

fn write_pages_in_use(file: &OwnedFd, words: &[u64]) -> io::Result<()> {
    const PAGE_WORDS: usize = 512;
    for (number, page) in words.chunks(PAGE_WORDS).enumerate() {
        if page.iter().all(|w| *w == 0) {
            continue;
        }
        let bytes: Vec<u8> = page.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let mut done = 0;
        while done < bytes.len() {
            let at = (number * PAGE_WORDS * 8 + done) as u64;
            done += rustix::io::pwrite(file, &bytes[done..], at)?;
        }
    }
    Ok(())
}

/// What a file of the runtime directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A segment whose process lives.
    Alive,
    /// A segment whose process has ended, and when (or when that was noticed).
    Ended(SystemTime),
}

/// Whether the process of the segment file at `path` lives. A process found dead is noted (the file renamed) where we may.
///
/// # Errors
/// Those of [`open`] and fstat(2): it may have gone, or not be ours to read.
pub fn probe(path: &Path) -> io::Result<(Entry, PathBuf)> {
    probe_open(&open(path)?, path)
}

/// As [`probe`], of a file that [`open`] has opened at `path`.
///
/// # Errors
/// Those of fstat(2).
pub fn probe_open(file: &OwnedFd, path: &Path) -> io::Result<(Entry, PathBuf)> {
    // The lock decides, not the name: a process that calls exec(2) publishes under its old name, and an observer that
    // still held the earlier file may have renamed the new one.
    if rustix::fs::flock(file, FlockOperation::NonBlockingLockShared).is_err() {
        return Ok((Entry::Alive, path.to_owned()));
    }
    if is_named(path, "seg") && begins_with(file, &MAGIC) {
        return Ok(note_end(file, path));
    }
    Ok((Entry::Ended(modified(file)?), path.to_owned()))
}

fn note_end(file: &OwnedFd, path: &Path) -> (Entry, PathBuf) {
    let stamped = SegmentCopy::read(file).ok().and_then(|s| s.ended());
    let now = SystemTime::now();
    // A moment to come would keep the file for ever.
    let ended = stamped.unwrap_or(now).min(now);
    let since_epoch = ended.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: since_epoch.as_secs().cast_signed(),
            tv_nsec: since_epoch.subsec_nanos().into(),
        },
    };
    let renamed = path.with_extension("ended");
    // Both fail on somebody else's file; then the next observer with the right to it notes the end.
    let noted = rustix::fs::futimens(file, &times).is_ok() && rustix::fs::rename(path, &renamed).is_ok();
    (Entry::Ended(ended), if noted { renamed } else { path.to_owned() })
}

/// Removes what ended more than [`KEEP_ENDED`] ago (or would end that far in the future, where the clock was set back) and notes what has ended since; returns how many files went.
pub fn sweep(directory: &Path, now: SystemTime) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    // Pool maps last, so that they go in the same sweep as their segment.
    let (maps, others): (Vec<_>, Vec<_>) = entries.flatten().map(|e| e.path()).partition(|p| is_pool_map(p));
    others.iter().chain(&maps).filter(|path| sweep_one(path, now)).count()
}

fn is_pool_map(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "pool")
}

fn sweep_one(path: &Path, now: SystemTime) -> bool {
    // A clock that was set back must not keep a file for ever: a moment to come counts as far away as one that passed.
    let age = |t: SystemTime| now.duration_since(t).unwrap_or_else(|e| e.duration());
    let Some(file) = is_ours(path).then(|| open(path).ok()).flatten() else {
        return false;
    };
    if is_named(path, "pool") {
        let has_segment = ["seg", "ended"].iter().any(|e| path.with_extension(e).exists());
        return !has_segment && is_ownerless(&file) && begins_with(&file, &pool_layout::MAGIC) && is_unlinked(path);
    }
    if is_unfinished(path) {
        // The age comes first: our lock on a file that is just being made would turn its maker away.
        let old = modified(&file).is_ok_and(|m| age(m) > KEEP_UNFINISHED);
        return old && is_ownerless(&file) && is_unlinked(path);
    }
    match probe_open(&file, path) {
        Ok((Entry::Ended(when), at)) if age(when) > KEEP_ENDED => begins_with(&file, &MAGIC) && is_unlinked(&at),
        _ => false,
    }
}

/// Whether a name is one that we give. The directory may be one that a user named and keeps other things in: what is not
/// named as ours, or does not begin as a segment, is neither renamed nor removed.
fn is_ours(path: &Path) -> bool {
    ["seg", "ended", "pool"].iter().any(|e| is_named(path, e)) || is_unfinished(path)
}

fn is_named(path: &Path, ending: &str) -> bool {
    let stem = path.file_stem().and_then(|s| s.to_str());
    path.extension().is_some_and(|e| e == ending) && stem.is_some_and(is_pid_and_ticks)
}

/// A segment or a pool map in the making.
fn is_unfinished(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.strip_prefix('.'));
    path.extension().is_some_and(|e| e == "new" || e == "pool") && stem.is_some_and(is_pid_and_ticks)
}

fn is_pid_and_ticks(stem: &str) -> bool {
    let is_number = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    stem.split_once('-').is_some_and(|(pid, ticks)| is_number(pid) && is_number(ticks))
}

fn is_ownerless(file: &OwnedFd) -> bool {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockShared).is_ok()
}

fn is_unlinked(path: &Path) -> bool {
    rustix::fs::unlink(path).is_ok()
}

fn begins_with(file: &OwnedFd, magic: &[u8; MAGIC.len()]) -> bool {
    let mut start = [0; MAGIC.len()];
    rustix::io::pread(file, &mut start, 0) == Ok(start.len()) && start == *magic
}

/// The segment files of `directory`, living and ended, by their names alone.
///
/// # Errors
/// Those of opendir(3).
pub fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let is_segment = |p: &PathBuf| is_named(p, "seg") || is_named(p, "ended");
    let entries = std::fs::read_dir(directory)?;
    Ok(entries.flatten().map(|e| e.path()).filter(is_segment).collect())
}

/// Opens a file of the runtime directory for reading; never blocks on a FIFO laid there, never follows a link.
///
/// # Errors
/// Those of open(2) and fstat(2); `InvalidInput` where it is no regular file.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    Ok(file)
}

fn modified(file: &OwnedFd) -> io::Result<SystemTime> {
    let status = rustix::fs::fstat(file)?;
    let seconds = u64::try_from(status.st_mtime).unwrap_or(0);
    #[allow(clippy::cast_possible_truncation, reason = "nanoseconds are below 10^9")]
    let nanoseconds = status.st_mtime_nsec as u32;
    Ok(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds))
}
