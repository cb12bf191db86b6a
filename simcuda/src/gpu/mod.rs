//! The simulated GPU that all processes of the machine share: a small file in shared memory, mapped by each of them.
//!
//! Nothing in it is ever locked, so no process that dies can leave it locked: the engines are single words changed by
//! compare-and-swap that say until when they are taken, and a process's share is a slot tagged with its pid and start
//! time, void once that process is gone.

mod engine;
mod slots;

pub(crate) use engine::Engine;
use slots::Slot;
pub(crate) use slots::{Client, SlotIndex};

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

const MAGIC: u64 = u64::from_le_bytes(*b"simcuda2");
const SLOTS: usize = 128;

/// The file's layout.
#[repr(C)]
struct Layout {
    magic: AtomicU64,
    memory_bytes: AtomicU64,
    /// The compute engine: who has it, and until when it is taken; `engine.rs` says how the two are packed.
    compute: AtomicU64,
    slice_start_ns: AtomicU64,
    last_owner: AtomicU64,
    /// The copy engines, to the device and from it: until when each is taken, in nanoseconds.
    copy_free_ns: [AtomicU64; 2],
    slots: [Slot; SLOTS],
}

/// This process's view of the shared GPU.
pub(crate) struct SharedGpu {
    layout: &'static Layout,
}

impl SharedGpu {
    /// Maps the shared GPU, making it if nobody uses one. Where no shared file can be had (no permission, full disk)
    /// the GPU is this process's own.
    pub(crate) fn open(memory_bytes: u64) -> Self {
        let shared = open_shared(memory_bytes).or_else(|| map_layout(None));
        let layout = shared.unwrap_or_else(|| Box::leak(Box::new(Layout::zeroed())));
        if layout.magic.load(Ordering::Acquire) != MAGIC {
            layout.initialise(memory_bytes);
        }
        Self { layout }
    }

    /// Device memory of the GPU, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.layout.memory_bytes.load(Ordering::Relaxed)
    }

    /// Device memory in use by all living processes, in bytes.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.living().map(|slot| slot.memory_bytes.load(Ordering::Relaxed)).sum()
    }

    /// Takes `bytes` of device memory for `slot`; false if the GPU has not that much left.
    pub(crate) fn take_memory(&self, slot: SlotIndex, bytes: u64) -> bool {
        if bytes > self.memory_bytes() {
            return false;
        }
        let own = &self.layout.slots[slot.0].memory_bytes;
        own.fetch_add(bytes, Ordering::Relaxed);
        if self.used_bytes() <= self.memory_bytes() {
            return true;
        }
        own.fetch_sub(bytes, Ordering::Relaxed);
        false
    }

    /// Device memory of a slot's process, in bytes.
    pub(crate) fn memory_of(&self, slot: SlotIndex) -> u64 {
        self.layout.slots[slot.0].memory_bytes.load(Ordering::Relaxed)
    }

    /// Gives `bytes` back.
    pub(crate) fn return_memory(&self, slot: SlotIndex, bytes: u64) {
        self.layout.slots[slot.0].memory_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Layout {
    fn zeroed() -> Self {
        // SAFETY: the layout is made of AtomicU64 alone, for which all-zero bytes are a value.
        unsafe { std::mem::zeroed() }
    }

    fn initialise(&self, memory_bytes: u64) {
        self.memory_bytes.store(memory_bytes, Ordering::Relaxed);
        self.compute.store(engine::IDLE, Ordering::Relaxed);
        self.magic.store(MAGIC, Ordering::Release);
    }
}

/// The directory of the shared file: `SIMCUDA_DIR`, else one of the user's own in shared memory.
fn directory() -> PathBuf {
    // SAFETY: geteuid(2) cannot fail.
    let uid = unsafe { libc::geteuid() };
    std::env::var_os("SIMCUDA_DIR").map_or_else(|| format!("/dev/shm/simcuda-{uid}").into(), PathBuf::from)
}

fn open_shared(memory_bytes: u64) -> Option<&'static Layout> {
    let directory = directory();
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).ok()?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(directory.join("gpu0"))
        .ok()?;
    // SAFETY: the descriptor is open; the lock goes with it, so a process killed here releases it.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
    // SAFETY: the descriptor is open. The space is taken now, so that a full tmpfs cannot be a SIGBUS later.
    if unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, size_of::<Layout>() as libc::off_t) } != 0 {
        return None;
    }
    let layout = map_layout(Some(&file))?;
    let known = layout.magic.load(Ordering::Acquire) == MAGIC;
    if !known || slots::living(layout).next().is_none() {
        // Nobody uses it: the first process's settings hold for those that come while it lives.
        layout.initialise(memory_bytes);
    }
    // Said and not left to the closing of the file: the mapping keeps its open file description, and so the lock.
    // SAFETY: the descriptor is open.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) };
    Some(layout)
}

fn map_layout(file: Option<&File>) -> Option<&'static Layout> {
    let (kind, descriptor) = match file {
        Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
        None => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
    };
    // SAFETY: a fresh mapping of a length that the file has; nothing else refers to it.
    let address = unsafe {
        libc::mmap(std::ptr::null_mut(), size_of::<Layout>(), libc::PROT_READ | libc::PROT_WRITE, kind, descriptor, 0)
    };
    if address == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the mapping is page-aligned, as large as a Layout, made of atomics, and never unmapped.
    Some(unsafe { &*address.cast::<Layout>() })
}
