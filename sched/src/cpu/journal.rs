//! What was changed and how it was before, on disk before it is changed: whoever comes after a kill -9 puts it back.
//!
//! A line each in `aischedd.nice` of the runtime directory, behind a first line with the boot, since PIDs and start times mean nothing
//! after another one:
//!
//! ```text
//! aischedd nice 1 0c1e2f5a-...
//! thread PID PROCESS_START TID THREAD_START NICE_BEFORE NICE_SET
//! group AUTOGROUP NICE_BEFORE NICE_SET
//! ```
//!
//! It is not synchronised to the disk: what the crash of a machine loses is of processes that died with it. A line that was
//! cut is of a change that was never made. Anything else that makes no sense is an error, and then none of it counts. In a directory that all may
//! write somebody else could lay the file there, so it counts only as our own (`open`).

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

/// What the first line begins with.
const MAGIC: &str = "aischedd nice 1 ";

/// Name of the file.
const NAME: &str = "aischedd.nice";

/// More than any daemon writes, in bytes.
const MOST_BYTES: u64 = 64 << 20;

/// How a thread or an autogroup was, and what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// A thread.
    Thread {
        /// Its process.
        pid: u32,
        /// When that began, in clock ticks since boot.
        process_start: u64,
        /// Its own id.
        tid: u32,
        /// When it began, likewise.
        thread_start: u64,
        /// Its nice value without us.
        before: i32,
        /// What we gave it.
        set: i32,
    },
    /// All of a session (sched(7), "The autogroup feature").
    Group {
        /// Its number.
        id: u64,
        /// Its nice value without us.
        before: i32,
        /// What we gave it.
        set: i32,
    },
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thread { pid, process_start, tid, thread_start, before, set } => {
                write!(f, "thread {pid} {process_start} {tid} {thread_start} {before} {set}")
            }
            Self::Group { id, before, set } => write!(f, "group {id} {before} {set}"),
        }
    }
}

/// Why a file is no journal of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalError {
    /// It does not begin as one, or another version wrote it.
    NotOurs,
    /// It is of another boot of the machine.
    OtherBoot,
    /// It is longer than any.
    TooLong,
    /// A line that makes no sense; counted from 1.
    BadLine {
        /// Which.
        line: usize,
    },
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOurs => f.write_str("it is no list of nice values, or of another version"),
            Self::OtherBoot => f.write_str("it is from before the machine was started"),
            Self::TooLong => f.write_str("it is too long"),
            Self::BadLine { line } => write!(f, "line {line} makes no sense"),
        }
    }
}

impl std::error::Error for JournalError {}

/// What stands in a journal of this boot.
///
/// # Errors
/// [`JournalError`] says what is wrong with it.
pub fn parse(bytes: &[u8], boot: &str) -> Result<Vec<Record>, JournalError> {
    if bytes.len() as u64 > MOST_BYTES {
        return Err(JournalError::TooLong);
    }
    // What has no end was cut while it was written.
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let text = bytes.get(..whole).and_then(|whole| std::str::from_utf8(whole).ok()).ok_or(JournalError::NotOurs)?;
    if text.is_empty() && MAGIC.as_bytes().starts_with(bytes.get(..bytes.len().min(MAGIC.len())).unwrap_or_default()) {
        return Ok(Vec::new());
    }
    let mut lines = text.lines();
    match lines.next().and_then(|first| first.strip_prefix(MAGIC)) {
        None => return Err(JournalError::NotOurs),
        Some(other) if other != boot => return Err(JournalError::OtherBoot),
        Some(_) => {}
    }
    lines.enumerate().map(|(n, line)| record(line).ok_or(JournalError::BadLine { line: n + 2 })).collect()
}

fn record(line: &str) -> Option<Record> {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["thread", pid, process_start, tid, thread_start, before, set] => Some(Record::Thread {
            pid: id(pid)?,
            process_start: process_start.parse().ok()?,
            tid: id(tid)?,
            thread_start: thread_start.parse().ok()?,
            before: nice(before)?,
            set: nice(set)?,
        }),
        ["group", id, before, set] => {
            Some(Record::Group { id: id.parse().ok()?, before: nice(before)?, set: nice(set)? })
        }
        _ => None,
    }
}

/// A process or thread id. 0 would be ourselves.
fn id(word: &str) -> Option<u32> {
    word.parse().ok().filter(|id| (1..=i32::MAX.cast_unsigned()).contains(id))
}

fn nice(word: &str) -> Option<i32> {
    word.parse().ok().filter(|nice| (-20..=19).contains(nice))
}

/// The journal of a running daemon. There is a file only while something is changed.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    boot: String,
    file: Option<(File, u64)>,
    lines: usize,
}

impl Journal {
    /// That of a runtime directory, whose lock the caller holds; and what an earlier daemon has left to be put back.
    pub(crate) fn open(directory: &Path) -> (Self, Result<Vec<Record>, String>) {
        let path = directory.join(NAME);
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.trim().to_owned();
        let left = match read_own(&path) {
            Ok(None) => Ok(Vec::new()),
            Ok(Some(bytes)) => match parse(&bytes, &boot) {
                Err(JournalError::OtherBoot) => Ok(Vec::new()),
                other => other.map_err(|e| format!("{}: {e}", path.display())),
            },
            Err(e) => Err(format!("{}: {e}", path.display())),
        };
        (Self { path, boot, file: None, lines: 0 }, left)
    }

    /// How many lines it has.
    pub(crate) fn lines(&self) -> usize {
        self.lines
    }

    /// Writes down what is about to be done.
    pub(crate) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let text = text(records.iter().copied());
        let (file, bytes) = match &mut self.file {
            Some(open) => open,
            none => {
                let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                // One that could not even be begun.
                let _ = rustix::fs::unlink(&self.path);
                let mut file = File::from(rustix::fs::open(&self.path, flags, Mode::from(0o600))?);
                let first = format!("{MAGIC}{}\n", self.boot);
                file.write_all(first.as_bytes())?;
                self.lines = 0;
                none.insert((file, first.len() as u64))
            }
        };
        if let Err(error) = file.write_all(text.as_bytes()) {
            // Half a line must not stand before whole ones.
            rustix::fs::ftruncate(&*file, *bytes)?;
            return Err(error);
        }
        *bytes += text.len() as u64;
        self.lines += records.len();
        Ok(())
    }

    /// Puts `records` in the place of all that stands there; none: no file.
    pub(crate) fn rewrite(&mut self, records: &[Record]) -> io::Result<()> {
        if records.is_empty() {
            (self.file, self.lines) = (None, 0);
            return match rustix::fs::unlink(&self.path) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(e) => Err(e.into()),
            };
        }
        let new = self.path.with_extension("nice.new");
        let _ = rustix::fs::unlink(&new);
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(&new, flags, Mode::from(0o600))?);
        let text = format!("{MAGIC}{}\n{}", self.boot, text(records.iter().copied()));
        file.write_all(text.as_bytes())?;
        rustix::fs::rename(&new, &self.path)?;
        (self.file, self.lines) = (Some((file, text.len() as u64)), records.len());
        Ok(())
    }
}

fn text(records: impl Iterator<Item = Record>) -> String {
    records.fold(String::new(), |mut text, record| {
        let _ = writeln!(text, "{record}");
        text
    })
}

/// The file's bytes, where there is one of our own; a stranger's, or what is no file, is an error, and counts for nothing.
fn read_own(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => File::from(other?),
    };
    let about = rustix::fs::fstat(&file)?;
    let is_file = FileType::from_raw_mode(about.st_mode) == FileType::RegularFile;
    let is_ours = about.st_uid == rustix::process::geteuid().as_raw();
    if !is_file || !is_ours || about.st_nlink != 1 || about.st_mode & 0o022 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not our own"));
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREAD: Record = Record::Thread { pid: 7, process_start: 100, tid: 8, thread_start: 101, before: 0, set: -5 };
    const GROUP: Record = Record::Group { id: 511, before: 0, set: 5 };

    #[test]
    fn what_was_written_is_read_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, left) = Journal::open(directory.path());
        assert_eq!(left, Ok(Vec::new()));
        journal.append(&[THREAD]).unwrap();
        journal.append(&[GROUP]).unwrap();
        assert_eq!(Journal::open(directory.path()).1, Ok(vec![THREAD, GROUP]));
        journal.rewrite(&[GROUP]).unwrap();
        journal.append(&[THREAD]).unwrap();
        assert_eq!((Journal::open(directory.path()).1, journal.lines()), (Ok(vec![GROUP, THREAD]), 2));
        journal.rewrite(&[]).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_cut_line_was_never_done_and_a_bad_one_is_named() {
        let good = format!("{MAGIC}b\n{THREAD}\n");
        assert_eq!(parse(good.as_bytes(), "b"), Ok(vec![THREAD]));
        for end in 0..good.len() {
            assert_eq!(parse(&good.as_bytes()[..end], "b"), Ok(Vec::new()), "cut at {end}");
        }
        assert_eq!(parse(good.as_bytes(), "c"), Err(JournalError::OtherBoot));
        assert_eq!(parse(b"aischedd nice 2 b\n", "b"), Err(JournalError::NotOurs));
        for line in ["thread 0 1 1 1 0 0", "thread 1 1 1 1 0", "group 1 -21 0", "group 1 0 20", "group -1 0 0", "", "x"]
        {
            let bad = format!("{good}{line}\n");
            assert_eq!(parse(bad.as_bytes(), "b"), Err(JournalError::BadLine { line: 3 }), "{line}");
        }
    }

    #[test]
    fn a_file_that_others_can_write_or_that_is_a_link_counts_for_nothing() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        assert!(Journal::open(directory.path()).1.unwrap_err().contains("not our own"));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(Journal::open(directory.path()).1.is_err());
    }
}
