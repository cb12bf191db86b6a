//! A record of a program's pinned memory as text, a line for each event: when, which thread, what.
//!
//! ```text
//! # aishim trace 1
//! 0 71 alloc 7f0000000000 4096
//! 12 71 free 7f0000000000
//! 15 72 sync
//! ```
//!
//! Times are microseconds since the record began, threads are numbers, blocks are hexadecimal names: addresses, or
//! whatever they were renamed to. Lines that begin with `#` are comments.

use std::fmt;

/// The first line.
pub const HEADING: &str = "# aishim trace 1";

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in microseconds since the record began.
    pub at_us: u64,
    /// Which thread.
    pub thread: u32,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Memory was allocated.
    Alloc {
        /// Its name until it is freed.
        block: u64,
        /// Its size in bytes.
        bytes: u64,
    },
    /// It was freed.
    Free {
        /// Its name.
        block: u64,
    },
    /// The thread has waited for work on the GPU.
    Synchronise,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.at_us, self.thread)?;
        match self.what {
            What::Alloc { block, bytes } => write!(f, "alloc {block:x} {bytes}"),
            What::Free { block } => write!(f, "free {block:x}"),
            What::Synchronise => f.write_str("sync"),
        }
    }
}

/// Reads a record.
///
/// # Errors
/// The number of the first line that is none, and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Event>, String> {
    if text.lines().next() != Some(HEADING) {
        return Err(format!("line 1: it is not {HEADING:?}"));
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| event(line).ok_or_else(|| format!("line {}: {line:?} is no event", number + 1)))
        .collect()
}

fn event(line: &str) -> Option<Event> {
    let mut words = line.split_ascii_whitespace();
    let at_us = words.next()?.parse().ok()?;
    let thread = words.next()?.parse().ok()?;
    let what = match words.next()? {
        "alloc" => What::Alloc { block: name(words.next()?)?, bytes: words.next()?.parse().ok()? },
        "free" => What::Free { block: name(words.next()?)? },
        "sync" => What::Synchronise,
        _ => return None,
    };
    words.next().is_none().then_some(Event { at_us, thread, what })
}

fn name(word: &str) -> Option<u64> {
    u64::from_str_radix(word, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let events = [
            Event { at_us: 0, thread: 71, what: What::Alloc { block: 0x7f00_0000_0000, bytes: 4096 } },
            Event { at_us: 12, thread: 71, what: What::Free { block: 0x7f00_0000_0000 } },
            Event { at_us: u64::MAX, thread: u32::MAX, what: What::Synchronise },
        ];
        let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
        assert_eq!(parse(&format!("{HEADING}\n# a remark\n\n{lines}")).unwrap(), events);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        for bad in ["x", "1 2", "1 2 alloc 7f", "1 2 alloc g 1", "1 2 free 7 8", "-1 2 sync", "1 2 grow"] {
            let said = parse(&format!("{HEADING}\n1 2 sync\n{bad}\n")).unwrap_err();
            assert!(said.starts_with("line 3: ") && said.contains(bad), "{said}");
        }
        assert!(parse("").unwrap_err().starts_with("line 1"));
        assert!(parse("# aishim trace 2\n").unwrap_err().starts_with("line 1"));
    }
}
