//! A child process whose parent is no more than a window to it: signals go in, the exit status comes out.
//!
//! All signals that can be handed on are blocked and taken one by one with sigwaitinfo(2). What the terminal sends goes to
//! the whole foreground process group and so has reached the child already; it is recognised by its origin, the kernel.

use std::io::{self, IsTerminal};
use std::mem::MaybeUninit;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

/// Signals that are not handed on: they cannot be, or they are this process's own doing.
const OWN: &[i32] = &[
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGABRT,
    libc::SIGPIPE,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// Runs `command` to its end.
///
/// Errors are those of starting it.
pub(crate) fn run(mut command: Command) -> io::Result<ExitStatus> {
    let signals = forwarded();
    let mask = block(&signals);
    let parent = std::process::id();
    // SAFETY: the closure calls nothing but async-signal-safe functions, as it must between fork and exec.
    unsafe { command.pre_exec(move || prepare(&mask, parent)) };
    let child = command.spawn()?;
    Ok(accompany(child.id().cast_signed(), &signals))
}

/// In the child, before the program starts: the signal mask that we were started with, and an end when we are killed.
fn prepare(mask: &libc::sigset_t, parent: u32) -> io::Result<()> {
    // SAFETY: `mask` is an initialised set; the other pointer may be null (sigprocmask(2)).
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
    // SAFETY: takes no pointers (PR_SET_PDEATHSIG(2const)).
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: takes no pointers and always succeeds.
    let orphaned = unsafe { libc::getppid() } != parent.cast_signed();
    if orphaned {
        return Err(io::Error::from_raw_os_error(libc::EOWNERDEAD));
    }
    Ok(())
}

fn accompany(child: libc::pid_t, signals: &libc::sigset_t) -> ExitStatus {
    loop {
        let (signal, from_kernel) = next(signals);
        if signal == libc::SIGCHLD {
            if let Some(status) = look(child) {
                return status;
            }
        } else if !(from_kernel && is_of_terminal(signal)) {
            send(child, signal);
        }
    }
}

/// The exit status of the child where it has ended; where the terminal has stopped it, we stop with it.
fn look(child: libc::pid_t) -> Option<ExitStatus> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a place for an int (waitpid(2)).
        let waited = unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG | libc::WUNTRACED) };
        if waited != child {
            return None;
        }
        if !libc::WIFSTOPPED(status) {
            return Some(ExitStatus::from_raw(status));
        }
        // The shell waits for us, not for the child: it takes the terminal back when we stop. A child that was stopped
        // by other means may be continued by the same, of which we would learn nothing while stopped.
        if is_of_terminal(libc::WSTOPSIG(status)) && at_terminal() {
            send(std::process::id().cast_signed(), libc::SIGSTOP);
            send(child, libc::SIGCONT);
        }
    }
}

fn is_of_terminal(signal: i32) -> bool {
    use libc::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, SIGWINCH};
    matches!(signal, SIGINT | SIGQUIT | SIGTSTP | SIGTTIN | SIGTTOU | SIGHUP | SIGWINCH | SIGCONT)
}

fn at_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}

fn forwarded() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the set it is given a place for (sigsetops(3)).
    let mut set = unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    };
    for signal in OWN {
        // SAFETY: the set is initialised.
        unsafe { libc::sigdelset(&raw mut set, *signal) };
    }
    set
}

/// Blocks `signals` and returns the mask that was in force.
fn block(signals: &libc::sigset_t) -> libc::sigset_t {
    let mut before = MaybeUninit::uninit();
    // SAFETY: `signals` is initialised, and SIG_BLOCK with a place for the old mask fills it (sigprocmask(2)). A parent
    // that ignored SIGCHLD would make the child's status vanish; the default keeps it (waitpid(2)).
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::sigprocmask(libc::SIG_BLOCK, signals, before.as_mut_ptr());
        before.assume_init()
    }
}

/// Waits for one of `signals`; tells which, and whether the kernel sent it of its own accord.
fn next(signals: &libc::sigset_t) -> (i32, bool) {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: both point to what sigwaitinfo(2) asks for.
        let signal = unsafe { libc::sigwaitinfo(signals, info.as_mut_ptr()) };
        if signal > 0 {
            // SAFETY: zeros are a valid siginfo_t, and the call has filled it.
            let info = unsafe { info.assume_init() };
            return (signal, info.si_code == libc::SI_KERNEL);
        }
        // Interrupted by being stopped and continued (signal(7)).
    }
}

fn send(process: libc::pid_t, signal: i32) {
    // SAFETY: takes no pointers. The child is not reaped before its end was seen, so that its PID is its own.
    unsafe { libc::kill(process, signal) };
}
