//! The shim's life in a process: nothing until the first context, then the segment and the rest; forks, panics, the end.

use crate::clock;
use crate::config::Config;
use crate::copies;
use crate::driver;
use crate::gate;
use crate::log;
use crate::mode;
use crate::pinned;
use crate::sampling;
use crate::segment::{self, Identity};
use crate::thread;
use crate::trace;
use aishim_abi::layout::PassThrough;
use aishim_abi::statistics::Statistic;
use aishim_abi::{directory, segment_file};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
};
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant, SystemTime};

/// Where the segment is, once it has been published.
static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();

/// A context has been made, so a child forked from here on is not one of its own.
static CONTEXT: AtomicBool = AtomicBool::new(false);

/// Held while the shim comes to life and while devices are noted.
static BIRTH: Mutex<()> = Mutex::new(());

/// Runs when the library is loaded.
#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = {
    extern "C" fn loaded() {
        load();
    }
    loaded
};

/// What comes before all else, once: one fstat(2), and the real dlsym. No thread, no file, no output. The loader runs the
/// constructors of the libraries that the program is linked to before ours, and one of them may make the first context.
fn load() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        crate::dlsym::resolve();
        log::remember_stderr();
        thread::prepare();
        // A panic that the fence catches is told by `panicked`, in our words and where they may go.
        std::panic::set_hook(Box::new(|_| {}));
        // Now and not with the first context: a child forked while that is being made finds our locks taken.
        // SAFETY: a function that stays where it is: the library is linked with -z nodelete.
        unsafe { libc::pthread_atfork(None, None, Some(forked)) };
        if crate::config::is_off() {
            mode::set(mode::PASS_THROUGH);
        }
    });
}

/// The directory in which this process publishes; none while it does not.
pub(crate) fn directory() -> Option<&'static Path> {
    DIRECTORY.get().map(PathBuf::as_path)
}

/// A context has been made on a device: the first one brings the shim to life.
pub(crate) fn context_made(device: i32) {
    CONTEXT.store(true, SeqCst);
    let _birth = BIRTH.lock();
    activate();
    used(device);
}

/// For a context that was made in a way we did not see: the first call that needs one finds it.
pub(crate) fn late_activation() {
    if mode::mode() & mode::INACTIVE != 0 && driver::context() != 0 {
        CONTEXT.store(true, SeqCst);
        let _birth = BIRTH.lock();
        activate();
        let mut device = 0;
        if driver::current_device(&raw mut device).is_ok() {
            used(device);
        }
    }
}

/// Notes that there is a context on a device. The lock of birth is held.
fn used(device: i32) {
    let mut uuid = [0; 16];
    if driver::device_uuid(&raw mut uuid, device).is_ok() {
        segment::device_used(uuid);
    }
    // Once it is known which GPU is used: that is said first of all.
    gate::first_context(device);
}

fn activate() {
    load();
    if mode::mode() & mode::INACTIVE == 0 || mode::is_pass_through() {
        return;
    }
    let config = Config::from_environment();
    clock::finish_calibration();
    if !config.sampling {
        sampling::disable();
    }
    publish(&config);
    gate::configure(&config);
    pinned::configure(&config.pool);
    if let Some(file) = &config.trace {
        trace::begin(file);
    }
    copies::configure(config.copying);
    // SAFETY: a function that stays where it is: the library is linked with -z nodelete.
    unsafe { libc::atexit(exiting) };
    mode::clear(mode::INACTIVE);
}

fn publish(config: &Config) {
    let uid = effective_uid();
    let at = directory::path(config.directory.clone(), uid);
    let mut driver_version = 0;
    let _ = driver::driver_version(&raw mut driver_version);
    let command = command_line();
    let identity = Identity {
        pid: std::process::id(),
        uid,
        start_ticks: start_ticks().unwrap_or(0),
        generation: generation().max(1),
        unix_ns: clock::unix_ns(),
        priority: config.priority,
        driver_version: driver_version.cast_unsigned(),
        command: &command,
    };
    match segment::publish(&identity, &at) {
        Ok(()) => {
            segment_file::sweep(&at, SystemTime::now());
            let _ = DIRECTORY.set(at);
        }
        // Asked for by name and not to be had: said once. Else the program simply runs unobserved.
        Err(e) if config.directory.is_some() => log::once(format_args!(
            "no figures are published: {}: {e}; AISHIM_DIR names a directory that can be written",
            at.display()
        )),
        Err(e) => log::info(format_args!("no figures are published: {}: {e}", at.display())),
    }
}

fn effective_uid() -> u32 {
    // SAFETY: geteuid(2) has no preconditions and always succeeds.
    unsafe { libc::geteuid() }
}

/// The command line with blanks for the zero bytes between arguments.
fn command_line() -> Vec<u8> {
    let mut command = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    while command.last() == Some(&0) {
        command.pop();
    }
    command.iter_mut().filter(|b| **b == 0).for_each(|b| *b = b' ');
    command
}

/// Field 22 of /proc/self/stat, proc(5); the second field, in parentheses, may itself hold blanks and parentheses.
fn start_ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A random number for this life, from getrandom(2).
fn generation() -> u64 {
    let mut random = [0_u8; 8];
    // SAFETY: getrandom(2) writes at most so many bytes to a buffer of ours; on failure the clock has to do.
    let got = unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), libc::GRND_NONBLOCK) };
    if got == 8 { u64::from_ne_bytes(random) } else { clock::unix_ns() }
}

/// A panic was caught in code of ours: from here on everything is only forwarded.
#[cold]
pub(crate) fn panicked() {
    mode::set(mode::PASS_THROUGH);
    segment::add(Statistic::Panics, 1);
    segment::set(Statistic::PassThrough, PassThrough::Panic as u64);
    // Other threads may have been on their way into code of ours.
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Relaxed) {
        log::once(format_args!("an internal error was caught; the program goes on without aishim"));
    }
}

/// In the child of a fork after a context existed: the context is the parent's and so is the segment. The driver
/// refuses such a child everything, and we stay out of its way.
extern "C" fn forked() {
    if !CONTEXT.load(SeqCst) {
        return;
    }
    mode::set(mode::PASS_THROUGH);
    thread::forget();
    gate::disown();
    copies::disown();
    pinned::disown();
    segment::disown();
}

/// exit(3): ours runs before the driver's handlers, which were registered before it. From here on no thread of ours
/// calls the driver.
extern "C" fn exiting() {
    mode::set(mode::EXITING);
    // Each behind a fence of its own: what waits for our threads must not be left out.
    for ends in
        [gate::process_ends, || sampling::settle_all(true), pinned::process_ends, trace::end, copies::process_ends]
    {
        crate::fence::fenced(ends);
    }
    // Last, as readers may rely on: the figures before it are the final ones.
    segment::ended(clock::unix_ns());
}

/// Starts a thread of ours: all signals blocked but the faults, so that the program's handlers run on its own threads.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> bool {
    let mut blocked = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the signal set functions fill the sets they are given, and pthread_sigmask(3) the old one.
    unsafe {
        libc::sigfillset(blocked.as_mut_ptr());
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL] {
            libc::sigdelset(blocked.as_mut_ptr(), fault);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, blocked.as_ptr(), before.as_mut_ptr());
    }
    let fenced = move || crate::fence::fenced(work);
    let started = std::thread::Builder::new().name(name.to_owned()).stack_size(256 << 10).spawn(fenced);
    // SAFETY: the set that was in force before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    started.is_ok()
}

/// Work in the background that calls the driver: one piece of it at a time, whose end a process that exits waits for.
pub(crate) struct Errand {
    is_under_way: AtomicBool,
}

impl Errand {
    pub(crate) const fn new() -> Self {
        Self { is_under_way: AtomicBool::new(false) }
    }

    /// Starts `work` on a thread of ours, unless there is some under way or no thread to be had.
    pub(crate) fn start(&'static self, name: &str, work: impl FnOnce() + Send + 'static) -> bool {
        // Pairs with the release in `Over`: what the last one did is seen by the next.
        if self.is_under_way.swap(true, AcqRel) {
            return false;
        }
        let started = spawn(name, move || {
            // Also after a panic: who ends the process waits for it.
            let _over = Over(self);
            work();
        });
        if !started {
            drop(Over(self));
        }
        started
    }

    /// Waits until none is under way. Bounded, since nothing of ours may keep a process from ending.
    pub(crate) fn wait(&self) {
        const PATIENCE: Duration = Duration::from_millis(500);
        let begun = Instant::now();
        // Pairs with the release in `Over`.
        while self.is_under_way.load(Acquire) && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// In a forked child, which has no such thread.
    pub(crate) fn forget(&self) {
        self.is_under_way.store(false, Relaxed);
    }
}

/// Says that an errand is done.
struct Over(&'static Errand);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.is_under_way.store(false, Release);
    }
}

/// Whether other processes under aishim live beside this one; looked up at most once a second.
pub(crate) fn others_present() -> bool {
    static LOOKED_NS: AtomicU64 = AtomicU64::new(0);
    static ANSWER: AtomicBool = AtomicBool::new(false);
    const AGAIN_NS: u64 = 1_000_000_000;
    let now = clock::monotonic_ns();
    let looked = LOOKED_NS.load(Relaxed);
    let due = looked == 0 || now.saturating_sub(looked) > AGAIN_NS;
    if due && LOOKED_NS.compare_exchange(looked, now, SeqCst, Relaxed).is_ok() {
        ANSWER.store(DIRECTORY.get().is_some_and(|d| has_others(d)), Relaxed);
    }
    ANSWER.load(Relaxed)
}

fn has_others(directory: &Path) -> bool {
    let segments = segment_file::list(directory).unwrap_or_default();
    segments.iter().filter(|p| p.extension().is_some_and(|e| e == "seg")).count() > 1
}
