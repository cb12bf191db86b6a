//! The fence around our own code: no panic crosses into the program, and no cancellation stops us half-way.
//!
//! The driver's call that the program made stands outside of it: a thread cancelled in there unwinds through the
//! exported function, which holds nothing that would have to be dropped.

use crate::life;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `ours`; a panic turns the shim into pass-through for good and gives the default.
pub(crate) fn fenced<R: Default>(ours: impl FnOnce() -> R) -> R {
    let _uncancelled = Uncancelled::begin();
    #[cfg(feature = "panic-injection")]
    let ours = || {
        injection::strike();
        ours()
    };
    catch_unwind(AssertUnwindSafe(ours)).unwrap_or_else(|_| {
        life::panicked();
        R::default()
    })
}

/// Switches cancellation off while it lives: forced unwinding through `catch_unwind` would abort the process.
struct Uncancelled {
    before: libc::c_int,
}

unsafe extern "C" {
    fn pthread_setcancelstate(state: libc::c_int, old: *mut libc::c_int) -> libc::c_int;
}

/// `PTHREAD_CANCEL_DISABLE` of glibc's <pthread.h>.
const DISABLE: libc::c_int = 1;

impl Uncancelled {
    fn begin() -> Self {
        let mut before = 0;
        // SAFETY: pthread_setcancelstate(3) with a pointer to our own variable.
        unsafe { pthread_setcancelstate(DISABLE, &raw mut before) };
        Self { before }
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        // SAFETY: as above; the state is the one that was found.
        unsafe { pthread_setcancelstate(self.before, std::ptr::null_mut()) };
    }
}

#[cfg(feature = "panic-injection")]
pub(crate) mod injection {
    //! Test builds: a panic in our code of the hook that `PANIC_INJECTION` names.

    use crate::hook::Hook;
    use std::cell::Cell;

    thread_local! {
        static INSIDE: Cell<Option<Hook>> = const { Cell::new(None) };
    }

    /// The calling thread is in a hook.
    pub(crate) fn entered(hook: Hook) {
        INSIDE.set(Some(hook));
    }

    /// Panics where it is asked for.
    pub(crate) fn strike() {
        let asked = std::env::var_os("PANIC_INJECTION");
        let is_here = |hook: Hook| asked.is_some_and(|name| hook.symbol().to_str().is_ok_and(|s| name == s));
        assert!(!INSIDE.get().is_some_and(is_here), "injected");
    }
}
