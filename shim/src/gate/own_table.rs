//! A table of descriptors of the listening thread's own.
//!
//! What that thread opens (the socket, its page's memory, for a moment each page that it is passed) took numbers of the program's: a program
//! that closes descriptor 0 and opens a file, which it expects to be 0, got it wrong if one of ours was open in that moment; one that closes
//! what it has not opened cut us off; a forked child had copies. Candidates:
//!
//! * *Numbers far up* (F_DUPFD): each is the lowest free one for a moment before it is moved, and RLIMIT_NOFILE says how far up is.
//! * *A process of our own that listens:* the program would have a child that it has not made.
//! * **A thread with a table of its own:** close_range(0, ~0, `CLOSE_RANGE_UNSHARE`) leaves it with an empty one (Linux 5.9, close_range(2)).
//!   Nothing is copied first (as unshare(2) would), so that neither the end of a pipe nor a lock of the program's is kept for any time.
//!
//! Where there is no such call, or it is forbidden, the thread goes on in the program's table, and takes care as before
//! ([`client`](super::client)). For a system that only claims to be Linux the flag may be new: so the kernel has to say that it is one that has it.

use aishim_abi::versions::numbers;
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The first kernel with the call, and all of its flags that are used here.
const SINCE: (u32, u32) = (5, 9);

const EVERY: libc::c_uint = libc::c_uint::MAX;

static IS_OWN: AtomicBool = AtomicBool::new(false);

/// Gives the calling thread a table of its own, once and for good. It must not use a descriptor that was opened before.
pub(super) fn take() {
    if release().is_none_or(|release| release < SINCE) {
        return;
    }
    // SAFETY: close_range(2) with this flag changes nothing for other threads.
    let taken = unsafe { libc::syscall(libc::SYS_close_range, 0, EVERY, libc::CLOSE_RANGE_UNSHARE) } == 0;
    IS_OWN.store(taken, Relaxed);
    if taken {
        // Whatever writes to a standard stream here writes nowhere.
        for _ in 0..3 {
            // SAFETY: open(2) of a path that is a C string.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        }
    }
}

/// Whether the thread that listens has one.
pub(super) fn is_own() -> bool {
    IS_OWN.load(Relaxed)
}

/// The kernel's version, as far as it says.
fn release() -> Option<(u32, u32)> {
    let mut name = std::mem::MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: uname(2) fills the structure; zeroes are a value too.
    let name = unsafe { (libc::uname(name.as_mut_ptr()) == 0).then(|| name.assume_init()) }?;
    // SAFETY: the kernel ends it with a zero within the array.
    numbers(unsafe { CStr::from_ptr(name.release.as_ptr()) }.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_version_is_read() {
        assert_eq!(numbers("6.18.44-fc-v236-gpu"), Some((6, 18)));
        assert_eq!(numbers("5.10.0"), Some((5, 10)));
        assert_eq!(numbers("4.4.0"), Some((4, 4)), "a sandbox that is no Linux says so");
        assert_eq!((numbers(""), numbers("six")), (None, None));
    }

    #[test]
    fn what_a_thread_with_its_own_table_opens_is_no_number_of_others() {
        if release().is_none_or(|release| release < SINCE) {
            return eprintln!("this kernel has no close_range(2)");
        }
        let ours = std::fs::File::open("/dev/null").unwrap();
        let theirs = std::thread::spawn(|| {
            take();
            let opened: Vec<_> = (0..100).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
            opened.iter().map(std::os::fd::AsRawFd::as_raw_fd).min()
        });
        // They begin anew, and ours is open still.
        assert_eq!(theirs.join().unwrap(), Some(3));
        assert!(ours.metadata().is_ok());
    }
}
