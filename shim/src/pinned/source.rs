//! Where the pool's slabs come from.
//!
//! While the driver page-locks memory, launches of the same process wait: up to 87 ms for 128 MiB that it allocates. So
//! what is done in one call should be short, with time for launches between the calls. Candidates, as
//! benches/gpu/slab_ways.c measures them (H100; benches/runs/2026-11-25-h100-b/slab_ways.txt):
//!
//! * *cuMemHostAlloc of the whole slab.* Simplest, and memory is the driver's own in all that a program may ask. What a
//!   launch waits for grows with the slab: 14 ms for 16 MiB, 5 for 4.
//! * *cuMemHostAlloc in small slabs.* Nothing else changes, but the ranges are not neighbours, so no block can be larger
//!   than one of them; and a table of so many slabs is searched in every free.
//! * *Memory of our own (mmap), all its pages made beforehand, and one cuMemHostRegister (built here).* Making the pages is
//!   nine tenths of the work, and no launch waits for it: 128 MiB then take 7 ms, 16 MiB 1.2 ms; with huge pages two
//!   thirds of that. (The memory measured was private; why ours is shared is said in `stretch`.)
//! * *The same in pieces smaller than a slab.* A launch would wait for one piece at most, 0.5 ms for 2 MiB. But the driver
//!   refuses every copy that reaches from one registration into the next (error 1), so no block may lie across two: a
//!   slab is one registration, and slabs are of 64 MiB at most where that makes enough of them (`PoolConfig`).
//!
//! The first slab, which the first request waits for, is small and allocated: 4 MiB take the driver 3 to 5 ms. Of the
//! others pages are made some at a time, and after each call of the driver launches have some time (`keeper`).
//!
//! What a program could notice: the driver knows such memory as registered. What it says of a byte is
//! corrected in `handlers::pointers`, as ever; and who registers or unregisters a block is answered for an address in the
//! first slab, which is always allocated ([`super::stand_in`]). The memory counts as the program's own in its resident set
//! and in its control group. Where that has too little room ([`headroom`]), the GPU cannot use the host's address of
//! registered memory, or registering fails, slabs are allocated.
//!
//! A context that ends takes the registrations with it; the memory is unmapped then.

use super::stretch::Stretch;
use super::{headroom, is_passing};
use crate::cuda::host_alloc;
use crate::driver;
use crate::placement::{CurrentGpu, Kernel, Placement};
use aishim_pool::PinnedSource;
use parking_lot::Mutex;
use std::ffi::{c_uint, c_void};
use std::path::Path;
use std::ptr::NonNull;

/// `CU_MEMHOSTREGISTER_PORTABLE` and `CU_MEMHOSTREGISTER_DEVICEMAP`.
const REGISTER_FLAGS: u32 = 3;

/// The source of one context's pool.
pub(super) struct Source {
    placement: Placement,
    /// Held while pages are made, so that they stay mapped, but not in calls of the driver.
    memory: Mutex<Memory>,
}

/// The memory that is not the driver's own. It changes only on the background thread, and where a context ends, which the
/// background thread's calls of the driver keep waiting (`GROWING`).
#[derive(Default)]
struct Memory {
    /// The driver takes it.
    is_wanted: bool,
    /// The slab that is to come next, as far as it has come.
    coming: Option<Stretch>,
    /// Slabs that the pool has.
    here: Vec<Stretch>,
    /// What it has given back, and what was page-locked in vain, as far as it has not gone.
    leaving: Vec<Stretch>,
}

impl Source {
    /// For the GPU of the current context.
    pub(super) fn find() -> Self {
        let is_wanted = can_register(&CurrentGpu);
        let memory = Mutex::new(Memory { is_wanted, ..Memory::default() });
        Self { placement: Placement::find(Path::new("/sys"), &CurrentGpu), memory }
    }

    /// Whether a slab has been begun that the pool does not have yet.
    pub(super) fn is_coming(&self) -> bool {
        self.memory.lock().coming.is_some()
    }

    /// Whether something is still to be given back to the driver.
    pub(super) fn is_leaving(&self) -> bool {
        !self.memory.lock().leaving.is_empty()
    }

    /// Makes some pages of the slab that the pool wants next, of `bytes`, and begins the slab where it has not been; false
    /// when there are none to make, and the driver's part is next. No call of the driver.
    pub(super) fn touch_some(&self, bytes: Option<usize>) -> bool {
        let mut memory = self.memory.lock();
        if memory.coming.as_ref().is_some_and(|coming| Some(coming.bytes()) != bytes) {
            memory.give_up();
        }
        let Some(bytes) = bytes.filter(|_| memory.is_wanted) else {
            return false;
        };
        let made = memory.coming.as_ref().map_or(0, Stretch::touched_bytes);
        if made == bytes {
            return false;
        }
        if memory.coming.is_none() {
            if !headroom::take(bytes) {
                return false;
            }
            memory.coming = Stretch::map(bytes);
        }
        let touched = memory.coming.as_mut().map(|coming| self.placement.around(&Kernel, || coming.touch_some()));
        let is_made = matches!(touched, Some(Ok(())));
        if !is_made {
            memory.do_without();
        }
        is_made
    }

    /// Page-locks the slab that is coming, if its pages are there; false where the driver could not do so at this moment.
    pub(super) fn lock(&self) -> bool {
        let is_ready = |coming: &&Stretch| coming.is_touched() && !coming.is_locked();
        let slab = self.memory.lock().coming.as_ref().filter(is_ready).map(|coming| (coming.start(), coming.bytes()));
        let Some((start, bytes)) = slab else {
            return true;
        };
        let status = driver::host_register(start.as_ptr().cast(), bytes, REGISTER_FLAGS);
        if is_passing(status.0.cast_signed()) {
            return false;
        }
        let mut memory = self.memory.lock();
        match &mut memory.coming {
            Some(coming) if status.is_ok() => coming.note_locked(true),
            _ => memory.do_without(),
        }
        true
    }

    /// Takes a step with what is leaving: unlocks a slab, which waits for the GPU as cuMemFreeHost does, or unmaps it.
    /// False where the driver could not do so at this moment.
    pub(super) fn leave(&self) -> bool {
        let mut memory = self.memory.lock();
        let Some(leaving) = memory.leaving.pop() else {
            return true;
        };
        if !leaving.is_locked() {
            // SAFETY: it is not page-locked, and the pool has no block in it: pool/src/growth.rs.
            unsafe { leaving.unmap() };
            return true;
        }
        let start = leaving.start();
        memory.leaving.push(leaving);
        drop(memory);
        let status = driver::host_unregister(start.as_ptr().cast());
        if is_passing(status.0.cast_signed()) {
            return false;
        }
        let mut memory = self.memory.lock();
        match memory.leaving.last_mut() {
            Some(leaving) if status.is_ok() => leaving.note_locked(false),
            // The driver may still let the GPU use it, so it stays mapped for good.
            _ => drop(memory.leaving.pop()),
        }
        true
    }

    /// The context has ended, and with it all registrations; the pool has no address any more.
    pub(super) fn forget(&self) {
        let mut memory = self.memory.lock();
        memory.is_wanted = false;
        let gone = std::mem::take(&mut *memory);
        for stretch in gone.coming.into_iter().chain(gone.here).chain(gone.leaving) {
            // SAFETY: the context in which it was page-locked has ended, and with it all work of the GPU there. A program
            // that still uses a block has lost it by ending the context, as it would have lost the driver's own memory.
            unsafe { stretch.unmap() };
        }
    }

    /// Whether the slab at this address is registered, not allocated.
    pub(super) fn is_registered(&self, at: usize) -> bool {
        self.memory.lock().here.iter().any(|slab| slab.contains(at))
    }
}

impl Memory {
    /// No more slabs of this kind: the driver, or the kernel, has refused one.
    fn do_without(&mut self) {
        self.is_wanted = false;
        self.give_up();
    }

    fn give_up(&mut self) {
        match self.coming.take() {
            Some(locked) if locked.is_locked() => self.leaving.push(locked),
            // SAFETY: it is not page-locked, and the pool has not heard of it.
            Some(unlocked) => unsafe { unlocked.unmap() },
            None => {}
        }
    }
}

impl PinnedSource for Source {
    fn reserve(&self, bytes: usize) -> Result<NonNull<u8>, i32> {
        let mut memory = self.memory.lock();
        if let Some(ready) = memory.coming.take_if(|coming| coming.bytes() == bytes && coming.is_locked()) {
            let start = ready.start();
            memory.here.push(ready);
            return Ok(start);
        }
        drop(memory);
        let mut allocated: *mut c_void = std::ptr::null_mut();
        let flags = host_alloc::PORTABLE | host_alloc::DEVICEMAP;
        let status = self.placement.around(&Kernel, || driver::host_alloc(&raw mut allocated, bytes, flags));
        if !status.is_ok() {
            return Err(status.0.cast_signed());
        }
        NonNull::new(allocated.cast()).ok_or(0)
    }

    /// What is registered is only set down here, for [`Source::leave`].
    fn release(&self, address: NonNull<u8>, _bytes: usize) {
        let mut memory = self.memory.lock();
        if let Some(at) = memory.here.iter().position(|slab| slab.start() == address) {
            let slab = memory.here.swap_remove(at);
            memory.leaving.push(slab);
            return;
        }
        drop(memory);
        let _ = driver::host_free(address.as_ptr().cast());
    }
}

/// Whether registered memory serves as allocated memory does: there is such memory, and the GPU has it at the host's
/// addresses.
fn can_register(gpu: &CurrentGpu) -> bool {
    /// `CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM` and
    /// `CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED`; CUDA Driver API, cuDeviceGetAttribute.
    const NEEDED: [c_uint; 2] = [91, 99];
    NEEDED.iter().all(|&attribute| gpu.attribute(attribute) == Some(1))
}
