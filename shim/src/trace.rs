//! A record of the program's pinned memory, where `AISHIM_TRACE` asks for one: what benches/traces are made of.
//!
//! Candidates for how to record: a second preloaded library that interposes the same calls (all of `dlsym`,
//! cuGetProcAddress and the static runtime over again); Python hooks (see what PyTorch asks its own allocator for, not
//! what reaches the driver, and nothing else's); and **this one**, chosen: two hooks and the synchronisations are here
//! already, and one more bit in the mode that they read anyway costs nothing where it is not set.
//!
//! Events are kept in memory and written when there are many and at exit, to `FILE.PID`, a line each; docs/protocol.md has
//! the format. A process that is killed loses what was not written yet.

use crate::{clock, log, mode};
use aishim_abi::trace::{Event, HEADING, What};
use parking_lot::Mutex;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// So many events are kept before they are written.
const KEPT: usize = 1 << 16;

struct Trace {
    file: PathBuf,
    begun_ns: u64,
    events: Vec<Event>,
}

static TRACE: Mutex<Option<Trace>> = Mutex::new(None);

/// Begins a record in `FILE.PID`.
pub(crate) fn begin(file: &Path) {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let file = PathBuf::from(name);
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&file);
    if let Err(e) = opened.and_then(|mut opened| writeln!(opened, "{HEADING}")) {
        log::once(format_args!(
            "nothing is recorded: {}: {e}; AISHIM_TRACE names a file that can be written",
            file.display()
        ));
        return;
    }
    *TRACE.lock() = Some(Trace { file, begun_ns: clock::monotonic_ns(), events: Vec::with_capacity(KEPT) });
    mode::set(mode::TRACING);
}

/// Notes what the calling thread has just done. The check stands here so that callers read as if there were none.
#[inline]
pub(crate) fn note(what: What) {
    if mode::mode() & mode::TRACING != 0 {
        record(what);
    }
}

#[cold]
fn record(what: What) {
    // SAFETY: gettid(2) has no preconditions.
    let thread = unsafe { libc::gettid() }.cast_unsigned();
    let now_ns = clock::monotonic_ns();
    let mut trace = TRACE.lock();
    let Some(trace) = trace.as_mut() else { return };
    trace.events.push(Event { at_us: now_ns.saturating_sub(trace.begun_ns) / 1000, thread, what });
    if trace.events.len() >= KEPT {
        let _ = trace.write();
    }
}

/// Writes what is left. A child that was forked meanwhile leaves it to its parent, and the lock alone: the thread that
/// held it may have stayed behind.
pub(crate) fn end() {
    if mode::mode() & (mode::TRACING | mode::PASS_THROUGH) != mode::TRACING {
        return;
    }
    mode::clear(mode::TRACING);
    let written = TRACE.lock().as_mut().map_or(Ok(()), Trace::write);
    if let Err(e) = written {
        log::once(format_args!("the record of pinned memory is not complete: {e}; AISHIM_TRACE needs room for it"));
    }
}

impl Trace {
    fn write(&mut self) -> io::Result<()> {
        let text: String = self.events.iter().map(|event| format!("{event}\n")).collect();
        self.events.clear();
        OpenOptions::new().append(true).open(&self.file)?.write_all(text.as_bytes())
    }
}
