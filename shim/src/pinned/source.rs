//! Where the pool's slabs come from.
//!
//! While the driver page-locks memory, launches of the same process wait: up to 80 ms for a slab of 128 MiB that it
//! allocates (H100, benches/gpu/slab_stall.py). So what is done in one call should be short, with time for launches
//! between the calls. Candidates, as benches/gpu/slab_ways.c measures them:
//!
//! * *cuMemHostAlloc of the whole slab.* Simplest, and memory is the driver's own in all that a program may ask. What a
//!   launch waits for grows with the slab.
//! * *cuMemHostAlloc in small slabs.* Nothing else changes, but the ranges are not neighbours, so no block can be larger
//!   than one of them; and a table of so many slabs is searched in every free.
//! * *Memory of our own (mmap), all its pages made beforehand, and one cuMemHostRegister (built here).* Making the pages is
//!   nine tenths of the work, and no launch waits for it: 128 MiB then take 7 ms, 4 with huge pages.
//! * *The same in pieces, with pauses.* A launch would wait for one piece at most, but the driver refuses copies that reach
//!   from one registration into the next (error 1), so no block could lie across pieces. Pieces remain as a constant,
//!   [`PIECE_BYTES`], and a slab is one.
//!
//! A pause after each call leaves launches the rest of the time ([`PAUSES`]).
//!
//! What a program could notice: the driver knows such memory as registered. What it says of a byte is
//! corrected in `handlers::pointers`, as ever; SYNC_MEMOPS is set in each piece of a block; and who registers or
//! unregisters a block is answered for an address in the first slab, which is always allocated ([`super::stand_in`]).
//! The memory counts as the program's own in its resident set and in its control group. Where that has too little room
//! ([`headroom`]), the GPU cannot use the host's address of registered memory, or registering fails, slabs are allocated.
//!
//! A context that ends takes the registrations with it; the memory is unmapped then.

use super::stretch::Stretch;
use super::{headroom, is_passing};
use crate::cuda::{Status, host_alloc};
use crate::driver;
use crate::placement::{CurrentGpu, Kernel, Placement};
use aishim_pool::{MAX_SLAB_BYTES, PinnedSource};
use parking_lot::Mutex;
use std::ffi::{c_uint, c_void};
use std::path::Path;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

/// What is page-locked in one call: a whole slab, since no block may lie across two registrations.
const PIECE_BYTES: usize = MAX_SLAB_BYTES;

/// How many times what a call took the pause after it is.
const PAUSES: u32 = 1;

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
    /// What it has given back, and what was begun in vain, as far as it has not gone.
    leaving: Vec<Stretch>,
}

/// What a call of [`Source::touch_some`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touched {
    /// There are more pages to make.
    Some,
    /// All of a piece is there, for [`Source::lock_next`].
    Piece,
    /// There is no piece to lock: the slab can be [`reserve`](PinnedSource::reserve)d.
    Nothing,
}

/// What a call of [`Source::lock_next`] or [`Source::unlock_next`] came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Step {
    /// It could not be made at this moment.
    #[default]
    NotNow,
    /// One call was made, and launches should have so much time before the next.
    Made { pause: Duration },
    /// There is nothing left to do.
    Done,
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

    /// Makes some pages of the slab that the pool wants next, of `bytes`, and begins the slab where it has not been. No call
    /// of the driver.
    pub(super) fn touch_some(&self, bytes: Option<usize>) -> Touched {
        let mut memory = self.memory.lock();
        if memory.coming.as_ref().is_some_and(|coming| Some(coming.bytes()) != bytes) {
            memory.give_up();
        }
        let Some(bytes) = bytes.filter(|_| memory.is_wanted) else {
            return Touched::Nothing;
        };
        if memory.coming.is_none() {
            if !headroom::is_enough(Path::new("/"), bytes) {
                return Touched::Nothing;
            }
            memory.coming = Stretch::map(bytes, PIECE_BYTES);
        }
        let touched = memory.coming.as_mut().map(|coming| {
            if coming.is_locked() {
                return Ok(Touched::Nothing);
            }
            let is_there = self.placement.around(&Kernel, || coming.touch_some());
            is_there.map(|is_there| if is_there { Touched::Piece } else { Touched::Some })
        });
        touched.and_then(Result::ok).unwrap_or_else(|| {
            memory.do_without();
            Touched::Nothing
        })
    }

    /// Page-locks the piece that was touched.
    pub(super) fn lock_next(&self) -> Step {
        let touched = self.memory.lock().coming.as_ref().and_then(Stretch::next_to_lock);
        let Some(piece) = touched else {
            return Step::Done;
        };
        let (status, pause) = timed(|| driver::host_register(pointer(piece.start), piece.bytes, REGISTER_FLAGS));
        if is_passing(status.0.cast_signed()) {
            return Step::NotNow;
        }
        let mut memory = self.memory.lock();
        match &mut memory.coming {
            Some(coming) if status.is_ok() => coming.note_locked(piece),
            _ => memory.do_without(),
        }
        Step::Made { pause }
    }

    /// Gives one piece of what is leaving back. Waits for the GPU, as cuMemFreeHost does.
    pub(super) fn unlock_next(&self) -> Step {
        let leaving = self.memory.lock().leaving.last().map(Stretch::last_locked);
        let Some(piece) = leaving else {
            return Step::Done;
        };
        let (status, pause) = piece
            .map_or((Status::SUCCESS, Duration::ZERO), |piece| timed(|| driver::host_unregister(pointer(piece.start))));
        if is_passing(status.0.cast_signed()) {
            return Step::NotNow;
        }
        let mut memory = self.memory.lock();
        match (memory.leaving.last_mut(), piece) {
            (Some(leaving), Some(piece)) if status.is_ok() => leaving.note_unlocked(piece),
            (Some(_), None) => {
                if let Some(gone) = memory.leaving.pop() {
                    // SAFETY: no piece of it is page-locked, and the pool has no block in it: pool/src/growth.rs.
                    unsafe { gone.unmap() };
                }
            }
            // The driver may still let the GPU use it, so it stays mapped for good.
            _ => drop(memory.leaving.pop()),
        }
        Step::Made { pause }
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

    /// An address in each piece but the first that these addresses reach into.
    pub(super) fn joins(&self, from: usize, to: usize) -> Vec<usize> {
        let memory = self.memory.lock();
        let slab = memory.here.iter().find(|slab| slab.contains(from));
        slab.map(|slab| slab.joins(from, to).collect()).unwrap_or_default()
    }
}

impl Memory {
    /// No more slabs of this kind: the driver, or the kernel, has refused one.
    fn do_without(&mut self) {
        self.is_wanted = false;
        self.give_up();
    }

    fn give_up(&mut self) {
        self.leaving.extend(self.coming.take());
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

    /// What is registered is only set down here, for [`Source::unlock_next`].
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

fn timed(call: impl FnOnce() -> Status) -> (Status, Duration) {
    let begun = Instant::now();
    let status = call();
    (status, begun.elapsed() * PAUSES)
}

fn pointer(at: usize) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(at)
}
