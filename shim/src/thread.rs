//! What each launching thread has of its own: a shard of the segment to count in, and its part of the sampling.
//!
//! It lies in a thread-local of the initial-exec model, written in assembly because stable Rust has no way to ask for
//! that model: its place is known when the library is loaded, where the model of a shared library would call
//! `__tls_get_addr` on every launch. A preloaded library's thread-locals are part of every thread's static block, so the
//! model is right; and that block, which the C library and Python use all the time, is in the caches and the TLB. What a
//! launch touches besides is [`HOT`] and one page, the shard.

use crate::handlers::streams;
use crate::hook::Hook;
use crate::hot::HOT;
use crate::sampling::Sampler;
use crate::segment::{self, bump, segment};
use aishim_abi::histogram::{WINDOW_LIMIT_NS, index_of};
use aishim_abi::layout::{RECENT, Shard, Window};
use aishim_abi::statistics::Statistic;
use std::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed},
};

std::arch::global_asm!(
    ".pushsection .tbss,\"awT\",@nobits",
    ".p2align 6",
    ".globl aishim_thread",
    ".hidden aishim_thread",
    ".type aishim_thread,@object",
    ".size aishim_thread,{bytes}",
    "aishim_thread:",
    ".zero {bytes}",
    ".popsection",
    bytes = const size_of::<Thread>(),
);

/// A launching thread's own; what a launch touches. Zeroes, as the loader leaves it, are a thread that has not launched.
#[repr(C, align(64))]
pub(crate) struct Thread {
    /// None before the thread's first launch.
    shard: Option<&'static Shard>,
    /// The stream last worked on, as a key of `streams`.
    pub(crate) last_stream: usize,
    /// Its request was open when so many had ended; see [`hot`](crate::hot).
    pub(crate) requests_ended: u32,
    /// Launches so far, around the wrap: which place of the shard's `recent` is next.
    launches: u32,
    /// Launch calls below this are noted in the shard; none where the shard is not part of the segment.
    limit_ns: u64,
    /// Where they are counted then.
    window: Option<&'static Window>,
    /// Sampling of GPU time; there once the shard is.
    sampler: Option<Box<Sampler>>,
}

const _: () = assert!(size_of::<Thread>() == 64 && RECENT.is_power_of_two());

/// The calling thread's own, null before its first launch.
#[inline]
pub(crate) fn current() -> *mut Thread {
    let offset: usize;
    // SAFETY: reads the offset that the loader put into our GOT.
    unsafe {
        std::arch::asm!(
            "mov {o}, qword ptr [rip + aishim_thread@GOTTPOFF]",
            o = out(reg) offset,
            options(nostack, preserves_flags, pure, readonly),
        );
    }
    if_launching(at(offset))
}

/// The same on the launch path. Only in the ordinary [`mode`](crate::mode), which [`prepare`] comes before.
#[inline]
pub(crate) fn current_hot() -> *mut Thread {
    if_launching(at(HOT.thread_offset.load(Relaxed)))
}

/// Makes [`current_hot`] possible.
pub(crate) fn prepare() {
    HOT.thread_offset.store((own() as usize).wrapping_sub(at(0) as usize), Relaxed);
}

/// The calling thread's own, whether it has launched or not.
fn own() -> *mut Thread {
    let offset: usize;
    // SAFETY: as in `current`.
    unsafe {
        std::arch::asm!(
            "mov {o}, qword ptr [rip + aishim_thread@GOTTPOFF]",
            o = out(reg) offset,
            options(nostack, preserves_flags, pure, readonly),
        );
    }
    at(offset)
}

/// `offset` from the thread pointer, which the first word of a thread's control block holds (ELF Handling For
/// Thread-Local Storage, 3.4.6).
#[inline]
fn at(offset: usize) -> *mut Thread {
    let thread_pointer: usize;
    // SAFETY: reads a word that every thread has.
    unsafe {
        std::arch::asm!(
            "mov {p}, qword ptr fs:[0]",
            p = out(reg) thread_pointer,
            options(nostack, preserves_flags, pure, readonly),
        );
    }
    thread_pointer.wrapping_add(offset) as *mut Thread
}

#[inline]
fn if_launching(thread: *mut Thread) -> *mut Thread {
    // SAFETY: the thread-local above, which lives as long as the thread; only the thread itself refers to it.
    if unsafe { (*thread).shard.is_some() } { thread } else { std::ptr::null_mut() }
}

/// The calling thread's own, made now where it is missing.
#[cold]
pub(crate) fn current_or_new() -> *mut Thread {
    let thread = own();
    // SAFETY: as in `if_launching`.
    let this = unsafe { &mut *thread };
    if this.shard.is_some() {
        return thread;
    }
    // A thread whose end we would not be told would keep its shard for ever.
    if !at_exit::tell(thread) {
        return std::ptr::null_mut();
    }
    let Some(sampler) = Sampler::new() else {
        return std::ptr::null_mut();
    };
    let table = sampler.table();
    *this = Thread {
        shard: Some(table.shard()),
        window: table.window(),
        limit_ns: if table.window().is_some() { WINDOW_LIMIT_NS } else { 0 },
        last_stream: 0,
        requests_ended: 0,
        launches: 0,
        sampler: Some(Box::new(sampler)),
    };
    // What the owner before us has left there.
    this.count_recent();
    thread
}

impl Thread {
    /// Sampling of GPU time.
    #[inline]
    pub(crate) fn sampler(&mut self) -> Option<&mut Sampler> {
        self.sampler.as_deref_mut()
    }

    /// How long a launch of the stratum is expected to keep the GPU busy, in nanoseconds.
    #[inline]
    pub(crate) fn expected_ns(&self, stratum: usize) -> u64 {
        self.sampler.as_deref().map_or(0, |sampler| sampler.table().expected_ns(stratum))
    }

    /// Where its launches are counted.
    #[inline]
    pub(crate) fn shard(&self) -> Option<&'static Shard> {
        self.shard
    }

    /// Whether the request of a stream is known to be open: this thread has launched on that stream last, and nobody has
    /// ended a request since.
    #[inline]
    pub(crate) fn has_open(&self, key: usize) -> bool {
        self.last_stream == key && self.requests_ended == streams::requests_ended()
    }

    /// Counts a call of `hook`.
    #[inline]
    pub(crate) fn count(&self, hook: Hook) {
        match self.shard {
            Some(shard) if self.limit_ns != 0 => bump(&shard.calls[hook as usize], 1),
            _ => count_shared(hook),
        }
    }

    /// Counts a launch and what its call cost the host.
    #[inline]
    pub(crate) fn launched(&mut self, shard: &Shard, hook: Hook, cost_ns: u64) {
        if cost_ns >= self.limit_ns {
            return self.launched_rarely(hook, cost_ns);
        }
        bump(&shard.calls[hook as usize], 1);
        shard.recent[self.launches as usize % RECENT].store(cost_ns as u32 + 1, Relaxed);
        self.launches = self.launches.wrapping_add(1);
        if self.launches.is_multiple_of(RECENT as u32) {
            self.count_recent();
        }
    }

    /// Counts what has been noted. A process that is killed on the way may have calls counted twice in the sum, one in the
    /// buckets, and none not.
    #[cold]
    fn count_recent(&mut self) {
        let (Some(shard), Some(window)) = (self.shard, self.window) else {
            return;
        };
        let (mut sum_ns, mut max_ns) = (0, shard.launch_max_ns.load(Relaxed));
        for noted in &shard.recent {
            let cost_ns = u64::from(noted.load(Relaxed).saturating_sub(1));
            sum_ns += cost_ns;
            max_ns = max_ns.max(cost_ns);
        }
        bump(&shard.launch_sum_ns, sum_ns);
        shard.launch_max_ns.store(max_ns, Relaxed);
        for noted in &shard.recent {
            if let Some(cost_ns) = noted.load(Relaxed).checked_sub(1)
                && let Some(bucket) = window.get(index_of(cost_ns.into()))
            {
                bump(bucket, 1);
                noted.store(0, Relaxed);
            }
        }
    }

    /// A long launch, or one of a thread that found all shards taken.
    #[cold]
    fn launched_rarely(&self, hook: Hook, cost_ns: u64) {
        self.count(hook);
        segment::record(&segment().launch, cost_ns);
        if self.limit_ns == 0 {
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
        count_shared(hook);
    } else {
        // SAFETY: the calling thread's own, alive until the thread ends.
        unsafe { &*thread }.count(hook);
    }
}

#[inline]
fn count_shared(hook: Hook) {
    segment().shards[0].calls[hook as usize].fetch_add(1, Relaxed);
}

/// In a forked child: the forking thread's counts belong to the parent.
pub(crate) fn forget() {
    at_exit::tell(std::ptr::null_mut());
    let thread = own();
    // SAFETY: the calling thread's own; a write drops nothing of what belongs to the parent.
    unsafe { thread.write(std::mem::zeroed()) };
}

/// The calling thread ends.
fn release(thread: *mut Thread) {
    streams::thread_ends(thread);
    // SAFETY: the calling thread's own.
    let this = unsafe { &mut *thread };
    this.count_recent();
    this.shard = None;
    // Last: with it the shard becomes another thread's.
    drop(this.sampler.take());
}

mod at_exit {
    //! Learning that a thread ends, through a key of pthread_key_create(3): Rust's own thread-locals with destructors
    //! would register through `__cxa_thread_atexit_impl`, which keeps the library loaded and allocates.

    use super::{AcqRel, Acquire, AtomicU32, Thread, own, release};
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
        // A thread-local of the initial-exec model is there until the thread is gone.
        let thread = thread.cast::<Thread>();
        if thread == own() {
            release(thread);
        }
    }
}
