//! What each launching thread has of its own: a shard of the segment to count in, and its part of the sampling.
//!
//! The pointer to it lives in a thread-local of the initial-exec model, written in assembly because stable Rust has no
//! way to ask for that model: two instructions, where the model of a shared library would call `__tls_get_addr` on
//! every launch. A preloaded library's thread-locals are part of every thread's static block, so the model is right.

use crate::clock;
use crate::handlers::streams;
use crate::hook::Hook;
use crate::hot::HOT;
use crate::sampling::{Countdowns, Sampler};
use crate::segment::{self, bump, segment};
use aishim_abi::histogram::{WINDOW_LIMIT_NS, index_of};
use aishim_abi::layout::{SHARDS, Shard};
use aishim_abi::statistics::Statistic;
use std::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

std::arch::global_asm!(
    ".pushsection .tbss,\"awT\",@nobits",
    ".p2align 3",
    ".globl aishim_thread",
    ".hidden aishim_thread",
    ".type aishim_thread,@object",
    ".size aishim_thread,8",
    "aishim_thread:",
    ".zero 8",
    ".popsection",
);

/// A launching thread's own. What a launch touches comes first and shares a cache line.
#[repr(C, align(64))]
pub(crate) struct Thread {
    shard: &'static Shard,
    /// Launches until the next sample, by kernel.
    pub(crate) countdowns: &'static Countdowns,
    /// A bit for kernels whose next launch may be to be sampled.
    pub(crate) armed: u64,
    /// The stream last worked on, as a key of `streams`.
    pub(crate) last_stream: usize,
    /// Its request was open when so many had ended; see [`hot`](crate::hot).
    pub(crate) requests_ended: u32,
    /// The bucket in which the last launch was counted; the next one's is likely the same.
    last_bucket: u32,
    /// The shard is this thread's alone: additions need no lock.
    exclusive: bool,
    /// Sampling of GPU time.
    pub(crate) sampler: Sampler,
}

/// The calling thread's own, null before its first launch.
#[inline]
pub(crate) fn current() -> *mut Thread {
    let thread: *mut Thread;
    // SAFETY: reads the thread-local defined above, through the offset the loader put into our GOT.
    unsafe {
        std::arch::asm!(
            "mov {t}, qword ptr [rip + aishim_thread@GOTTPOFF]",
            "mov {t}, qword ptr fs:[{t}]",
            t = out(reg) thread,
            options(nostack, preserves_flags, readonly),
        );
    }
    thread
}

/// The same on the launch path. Only in the ordinary [`mode`](crate::mode), which [`prepare`] comes before.
#[inline]
pub(crate) fn current_hot() -> *mut Thread {
    let thread: *mut Thread;
    // SAFETY: the offset is that of the thread-local above, see `prepare`.
    unsafe {
        std::arch::asm!(
            "mov {t}, qword ptr fs:[{o}]",
            t = out(reg) thread,
            o = in(reg) HOT.thread_offset.load(Relaxed),
            options(nostack, preserves_flags, readonly),
        );
    }
    thread
}

/// Makes [`current_hot`] possible.
pub(crate) fn prepare() {
    let offset: usize;
    // SAFETY: reads the offset that the loader put into our GOT.
    unsafe {
        std::arch::asm!(
            "mov {o}, qword ptr [rip + aishim_thread@GOTTPOFF]",
            o = out(reg) offset,
            options(nostack, preserves_flags, readonly),
        );
    }
    HOT.thread_offset.store(offset, Relaxed);
}

fn set_current(thread: *mut Thread) {
    // SAFETY: as in `current`; writes only the thread-local.
    unsafe {
        std::arch::asm!(
            "mov {t}, qword ptr [rip + aishim_thread@GOTTPOFF]",
            "mov qword ptr fs:[{t}], {v}",
            t = out(reg) _,
            v = in(reg) thread,
            options(nostack, preserves_flags),
        );
    }
}

/// The calling thread's own, made now where it is missing.
#[cold]
pub(crate) fn current_or_new() -> *mut Thread {
    let existing = current();
    if !existing.is_null() {
        return existing;
    }
    let Some(sampler) = Sampler::new() else {
        return std::ptr::null_mut();
    };
    let (shard, exclusive) = claim_shard();
    let thread = Box::into_raw(Box::new(Thread {
        shard,
        exclusive,
        countdowns: sampler.table().countdowns(),
        armed: 0,
        last_stream: 0,
        requests_ended: 0,
        last_bucket: 0,
        sampler,
    }));
    // A thread whose end we would not be told keeps its shard for ever; it then uses the shared one instead.
    if !at_exit::tell(thread) {
        // SAFETY: made above and not yet seen by anybody else.
        unsafe { release(thread) };
        return std::ptr::null_mut();
    }
    set_current(thread);
    thread
}

fn claim_shard() -> (&'static Shard, bool) {
    // SAFETY: gettid(2) has no preconditions.
    let tid = unsafe { libc::gettid() }.cast_unsigned();
    let shards = &segment().shards;
    for shard in &shards[1..SHARDS] {
        // Acquire: the counts of the owner before us are seen before ours are added to them.
        if shard.owner_tid.compare_exchange(0, tid, Acquire, Relaxed).is_ok() {
            return (shard, true);
        }
    }
    (&shards[0], false)
}

/// # Safety
/// `thread` came from `Box::into_raw` and nobody uses it any more.
unsafe fn release(thread: *mut Thread) {
    // SAFETY: the caller's promise.
    let thread = unsafe { Box::from_raw(thread) };
    streams::thread_ends(&raw const *thread);
    if thread.exclusive {
        // Release: pairs with the claim above.
        thread.shard.owner_tid.store(0, Release);
    }
}

impl Thread {
    /// Brings what [`launched`](Self::launched) will touch into the cache while the driver is at work.
    #[inline]
    pub(crate) fn expect_launch(&self) {
        prefetch(&raw const self.shard.launch_sum_ns);
        prefetch(self.shard.launch.as_ptr().wrapping_add(self.last_bucket as usize));
    }

    /// Counts a call of `hook`.
    #[inline]
    pub(crate) fn count(&self, hook: Hook) {
        let cell = &self.shard.calls[hook as usize];
        if self.exclusive {
            bump(cell, 1);
        } else {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Counts a launch and what its call cost the host.
    #[inline]
    pub(crate) fn launched(&mut self, hook: Hook, ticks: u64) {
        let cost_ns = clock::ns(ticks);
        if self.exclusive && cost_ns < WINDOW_LIMIT_NS {
            let shard = self.shard;
            bump(&shard.calls[hook as usize], 1);
            let index = index_of(cost_ns);
            if let Some(bucket) = shard.launch.get(index) {
                bump(bucket, 1);
                self.last_bucket = index as u32;
            }
            bump(&shard.launch_sum_ns, cost_ns);
            if cost_ns > shard.launch_max_ns.load(Relaxed) {
                shard.launch_max_ns.store(cost_ns, Relaxed);
            }
        } else {
            self.launched_rarely(hook, cost_ns);
        }
    }

    /// A long launch, or one of a thread that found all shards taken.
    #[cold]
    fn launched_rarely(&self, hook: Hook, cost_ns: u64) {
        self.count(hook);
        segment::record(&segment().launch, cost_ns);
        if !self.exclusive {
            segment::add(Statistic::SharedShardLaunches, 1);
        }
    }
}

/// Asks for a cache line that will be needed.
#[inline]
pub(crate) fn prefetch<T>(at: *const T) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a hint; it does not fault, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

/// Counts a call outside of launches.
#[inline]
pub(crate) fn count(hook: Hook) {
    let thread = current();
    if thread.is_null() {
        segment().shards[0].calls[hook as usize].fetch_add(1, Relaxed);
    } else {
        // SAFETY: the calling thread's own, alive until the thread ends.
        unsafe { &*thread }.count(hook);
    }
}

/// In a forked child: the forking thread's counts belong to the parent.
pub(crate) fn forget() {
    at_exit::tell(std::ptr::null_mut());
    set_current(std::ptr::null_mut());
}

mod at_exit {
    //! Learning that a thread ends, through a key of pthread_key_create(3): Rust's own thread-locals with destructors
    //! would register through `__cxa_thread_atexit_impl`, which keeps the library loaded and allocates.

    use super::{AcqRel, Acquire, AtomicU32, Thread, current, release, set_current};
    use std::ffi::c_void;

    /// The key plus one; 0 while there is none.
    static KEY: AtomicU32 = AtomicU32::new(0);

    pub(super) fn tell(thread: *mut Thread) -> bool {
        let Some(key) = key() else { return false };
        // SAFETY: pthread_setspecific(3) with a key that was created and is never deleted.
        unsafe { libc::pthread_setspecific(key, thread.cast::<c_void>().cast_const()) == 0 }
    }

    fn key() -> Option<libc::pthread_key_t> {
        let known = KEY.load(Acquire);
        if known != 0 {
            return Some(known - 1);
        }
        let mut made = 0;
        // SAFETY: pthread_key_create(3) with a destructor of the right type.
        if unsafe { libc::pthread_key_create(&raw mut made, Some(ended)) } != 0 {
            return None;
        }
        match KEY.compare_exchange(0, made + 1, AcqRel, Acquire) {
            Ok(_) => Some(made),
            Err(other) => {
                // SAFETY: the key made above, which nobody has used.
                unsafe { libc::pthread_key_delete(made) };
                Some(other - 1)
            }
        }
    }

    extern "C" fn ended(thread: *mut c_void) {
        let thread = thread.cast::<Thread>();
        if current() == thread {
            set_current(std::ptr::null_mut());
        }
        // SAFETY: the value set for this thread, which is running its key destructors and nothing of ours.
        unsafe { release(thread) };
    }
}
