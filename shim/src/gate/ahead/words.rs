//! The memory in which the GPU is told what may run, and tells what is done.

use crate::cuda::{MemoryOp, host_alloc, sys};
use crate::driver;
use crate::handlers::capture::RelaxedThread;
use std::ptr::null_mut;
use std::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// Streams whose groups are told apart; of more, those used longest ago lose their place.
pub(super) const TAILS: usize = 8;

/// Contexts with words; launches in others wait on the processor.
const MOST: usize = 4;

/// Memory that the GPU reads and writes.
#[repr(C, align(4096))]
pub(super) struct Words {
    /// Groups up to this number may run, compared as the GPU does, cyclically.
    pub(super) open: AtomicU32,
    pub(super) _line: [u32; 15],
    /// For each place in `Queue::tails` the number of a group that is done, and with it all before it on that stream.
    pub(super) done: [AtomicU32; TAILS],
}

/// Words that the GPU of a context sees, and where it sees them.
#[derive(Clone, Copy)]
pub(super) struct Mapped {
    pub(super) words: &'static Words,
    device: u64,
}

impl Mapped {
    /// Words for the current context; none where it cannot wait for memory. Shared, or a fork would part the processor's page from the GPU's. Never unmapped.
    pub(super) fn make() -> Option<Self> {
        /// `CU_MEMHOSTREGISTER_PORTABLE` and `_DEVICEMAP` have the same numbers: a stream may be another context's than the current one.
        const FLAGS: u32 = host_alloc::PORTABLE | host_alloc::DEVICEMAP;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: mmap(2) of fresh memory, at no address in particular.
        let mapped = unsafe { libc::mmap(null_mut(), size_of::<Words>(), protection, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: madvise(2) of what was just mapped: a child has no use for it.
        unsafe { libc::madvise(mapped, size_of::<Words>(), libc::MADV_DONTFORK) };
        let _relaxed = RelaxedThread::begin();
        let mut device = 0;
        let is_registered = can_wait() && driver::host_register(mapped, size_of::<Words>(), FLAGS).is_ok();
        if !is_registered || !driver::host_device_pointer(&raw mut device, mapped, 0).is_ok() {
            if is_registered {
                let _ = driver::host_unregister(mapped);
            }
            // SAFETY: munmap(2) of what was just mapped, which nobody knows of.
            unsafe { libc::munmap(mapped, size_of::<Words>()) };
            return None;
        }
        // SAFETY: a page of zeroes, which are values of all fields, aligned to a page, and never unmapped from here on.
        Some(Self { words: unsafe { &*mapped.cast::<Words>() }, device })
    }

    /// Without a GPU.
    #[cfg(test)]
    pub(super) fn of(words: &'static Words) -> Self {
        Self { words, device: 0 }
    }

    /// Puts on the stream, in the place `tail`, that its group `before` is done, and a wait until `number` may run; false where the driver refuses.
    pub(super) fn put(&self, stream: sys::CUstream, tail: usize, before: u32, number: u32) -> bool {
        let done = self.device + (std::mem::offset_of!(Words, done) + tail * size_of::<u32>()) as u64;
        driver::put_memory_ops(stream, &mut [MemoryOp::write(done, before), MemoryOp::wait(self.device, number)])
    }
}

/// The contexts that have words. Written under the queue's lock; found without it by a process that ends, where whoever has the lock may never give it back.
static PLACES: [Place; MOST] =
    [const { Place { context: AtomicUsize::new(0), words: AtomicPtr::new(null_mut()), device: AtomicU64::new(0) } };
        MOST];

struct Place {
    /// 0 where the place is free.
    context: AtomicUsize,
    words: AtomicPtr<Words>,
    device: AtomicU64,
}

fn place(context: usize) -> Option<&'static Place> {
    PLACES.iter().find(|place| place.context.load(Relaxed) == context)
}

impl Place {
    fn mapped(&self) -> Option<Mapped> {
        // SAFETY: null, or words of some context, which are never unmapped. Pairs with the release in `keep`.
        let words = unsafe { self.words.load(Acquire).as_ref() };
        words.map(|words| Mapped { words, device: self.device.load(Relaxed) })
    }
}

/// The words of a context, where it has some.
pub(super) fn of(context: usize) -> Option<Mapped> {
    place(context)?.mapped()
}

/// Whether a context without words may have some.
pub(super) fn has_room_for(context: usize) -> bool {
    context != 0 && place(0).is_some()
}

/// These are a context's words from now on.
pub(super) fn keep(context: usize, mapped: Mapped) {
    if let Some(free) = place(0) {
        free.context.store(context, Relaxed);
        free.device.store(mapped.device, Relaxed);
        // Pairs with the acquire in `Place::mapped`.
        free.words.store(std::ptr::from_ref(mapped.words).cast_mut(), Release);
    }
}

/// The context has none any more; which they were.
pub(super) fn forget(context: usize) -> Option<&'static Words> {
    let place = place(context)?;
    let mapped = place.mapped()?;
    place.words.store(null_mut(), Relaxed);
    place.context.store(0, Relaxed);
    Some(mapped.words)
}

/// Lets groups up to that number run, in all contexts.
pub(super) fn open_all(number: u32) {
    for mapped in PLACES.iter().filter_map(Place::mapped) {
        // Pairs with the GPU's read: nothing of ours has to be seen before it.
        mapped.words.open.store(number, Release);
    }
}

/// Whether the GPU of the current context can wait for memory.
fn can_wait() -> bool {
    /// `CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS`, of the calls' second version; the attribute of 32 bits is that of the first.
    const CAN_USE_STREAM_MEM_OPS: u32 = 122;
    let (mut device, mut can) = (0, 0);
    driver::current_device(&raw mut device).is_ok()
        && driver::device_attribute(&raw mut can, CAN_USE_STREAM_MEM_OPS, device).is_ok()
        && can == 1
}
