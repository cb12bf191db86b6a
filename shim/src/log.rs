//! What the shim says: nothing, on stderr, unless something asked for cannot be done ([`once`]) or `AISHIM_LOG` asks
//! for more ([`info`]). Never on stdout. A line is put together in a buffer of fixed size and written with one write(2).

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

const LINE_BYTES: usize = 512;

/// Which file descriptor 2 was when the library was loaded; a program that closes it and opens something else must not
/// find our words in its file.
static STDERR_AT_START: AtomicU64 = AtomicU64::new(0);

/// Remembers what stderr is. Called by the constructor.
pub(crate) fn remember_stderr() {
    STDERR_AT_START.store(stderr_identity(), Relaxed);
}

/// Says something asked for that cannot be done.
#[cold]
pub(crate) fn once(message: fmt::Arguments<'_>) {
    if level() >= 1 {
        write_line(message);
    }
}

/// Says something at `AISHIM_LOG=info`.
#[cold]
pub(crate) fn info(message: fmt::Arguments<'_>) {
    if level() >= 3 {
        write_line(message);
    }
}

/// 0 off, 1 error (the default), 2 warn, 3 info, 4 debug.
fn level() -> u8 {
    static LEVEL: AtomicU8 = AtomicU8::new(u8::MAX);
    let known = LEVEL.load(Relaxed);
    if known != u8::MAX {
        return known;
    }
    let asked = std::env::var("AISHIM_LOG").unwrap_or_default();
    let level = match asked.as_str() {
        "off" => 0,
        "warn" => 2,
        "info" => 3,
        "debug" => 4,
        _ => 1,
    };
    LEVEL.store(level, Relaxed);
    level
}

fn write_line(message: fmt::Arguments<'_>) {
    if stderr_identity() != STDERR_AT_START.load(Relaxed) {
        return;
    }
    let mut line = Line {
        bytes: [0; LINE_BYTES],
        len: 0,
    };
    let _ = write!(line, "aishim: {message}");
    line.len = line.len.min(LINE_BYTES - 1);
    line.bytes[line.len] = b'\n';
    // SAFETY: write(2) of a buffer of our own; whatever it returns, there is nothing to be done about it.
    unsafe { libc::write(2, line.bytes.as_ptr().cast(), line.len + 1) };
}

fn stderr_identity() -> u64 {
    let mut status = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: fstat(2) fills the structure; on failure the zeroes stay, which are a value too.
    let status = unsafe {
        libc::fstat(2, status.as_mut_ptr());
        status.assume_init()
    };
    status.st_dev.rotate_left(32) ^ status.st_ino
}

struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.len + 1 < LINE_BYTES {
                self.bytes[self.len] = if byte.is_ascii_control() { b'?' } else { byte };
                self.len += 1;
            }
        }
        Ok(())
    }
}
