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
    let mut line = Line { bytes: [0; LINE_BYTES], len: 0 };
    let _ = write!(line, "aishim: {message}");
    line.len = line.len.min(LINE_BYTES - 1);
    line.bytes[line.len] = b'\n';
    write_harmlessly(&line.bytes[..=line.len]);
}

/// Writes to stderr unless that would block, as a full pipe does, and without the signal that a broken pipe or a limit
/// on file sizes sends to the writer (pipe(7), setrlimit(2)): the program that it would end has written nothing.
fn write_harmlessly(line: &[u8]) {
    let mut stderr = libc::pollfd { fd: 2, events: libc::POLLOUT, revents: 0 };
    // SAFETY: poll(2) of one descriptor, which need not be open.
    let ready = unsafe { libc::poll(&raw mut stderr, 1, 0) };
    if ready != 1 || stderr.revents != libc::POLLOUT {
        return;
    }
    let mut signals = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the signal set functions fill the sets they are given, and pthread_sigmask(3) the old one; write(2) is of
    // a slice. A signal that the write has sent is this thread's and blocked, so sigtimedwait(2) takes it away.
    unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGPIPE);
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGXFSZ);
        libc::pthread_sigmask(libc::SIG_BLOCK, signals.as_ptr(), before.as_mut_ptr());
        if libc::write(2, line.as_ptr().cast(), line.len()) < 0 {
            let at_once = std::mem::zeroed::<libc::timespec>();
            libc::sigtimedwait(signals.as_ptr(), std::ptr::null_mut(), std::ptr::from_ref(&at_once));
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
    }
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
