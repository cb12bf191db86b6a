//! Files of a runtime directory that are no segment this version can read, by reason.

use aishim_abi::reader::ReadError;
use std::io;
use std::path::{Path, PathBuf};

/// Why a file was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It belongs to somebody else.
    NotYours,
    /// It could not be read.
    Unreadable,
    /// It went away while we looked.
    Vanished,
    /// It ends too early.
    Truncated,
    /// It is something else.
    NotASegment,
    /// Another version of the library wrote it.
    OtherVersion,
    /// A field has an impossible value.
    Corrupt,
    /// The directory holds more than can be looked at.
    TooMany,
}

/// A file that was left out.
#[derive(Clone, Debug)]
pub struct Skipped {
    /// Which file.
    pub file: PathBuf,
    /// The kind of trouble.
    pub reason: Reason,
    /// The same in words, to follow the file's name in a sentence.
    pub detail: String,
}

impl Reason {
    /// Key in machine-readable output.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::NotYours => "not_yours",
            Self::Unreadable => "unreadable",
            Self::Vanished => "vanished",
            Self::Truncated => "truncated",
            Self::NotASegment => "not_a_segment",
            Self::OtherVersion => "other_version",
            Self::Corrupt => "corrupt",
            Self::TooMany => "too_many",
        }
    }
}

impl Skipped {
    pub(crate) fn unopened(file: &Path, error: &io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::PermissionDenied => Reason::NotYours,
            io::ErrorKind::NotFound => Reason::Vanished,
            _ => Reason::Unreadable,
        };
        let detail = match reason {
            Reason::NotYours => "belongs to another user and is not yours to read".to_owned(),
            _ => format!("cannot be opened: {error}"),
        };
        Self::new(file, reason, detail)
    }

    pub(crate) fn unread(file: &Path, error: &ReadError) -> Self {
        let reason = match error {
            ReadError::Io(_) => Reason::Unreadable,
            ReadError::Truncated { .. } => Reason::Truncated,
            ReadError::NotASegment => Reason::NotASegment,
            ReadError::OtherVersion { .. } => Reason::OtherVersion,
            ReadError::Corrupt { .. } => Reason::Corrupt,
        };
        Self::new(file, reason, error.to_string())
    }

    pub(crate) fn one_too_many(file: &Path) -> Self {
        let detail = "was not looked at: the directory holds too many files".to_owned();
        Self::new(file, Reason::TooMany, detail)
    }

    fn new(file: &Path, reason: Reason, detail: String) -> Self {
        Self { file: file.to_owned(), reason, detail }
    }

    pub(crate) fn has_vanished(&self) -> bool {
        self.reason == Reason::Vanished
    }

    /// Whether the file's name says that process `pid` wrote it.
    #[must_use]
    pub fn is_of(&self, pid: u32) -> bool {
        let name = self.file.file_name().and_then(|n| n.to_str());
        let writer = name.and_then(|n| n.split_once('-')).map(|(pid, _)| pid);
        writer.and_then(|w| w.parse().ok()) == Some(pid)
    }
}
