//! Memory that one process writes and others only read: a memfd, mapped by its maker and then sealed (memfd_create(2),
//! fcntl(2), "File Sealing"). With `mapping` and `credentials` the only unsafe code of this crate.
//!
//! The seals are what makes a descriptor from a stranger safe to map:
//! * `F_SEAL_SHRINK` and `F_SEAL_GROW`: its size, once looked at, stays; no load from it can be a SIGBUS;
//! * `F_SEAL_FUTURE_WRITE` (Linux 5.1): nobody it is passed to can write it, by a mapping or by write(2); the maker's own
//!   mapping, made before, stays writable;
//! * that there are seals at all says that it is memory: a file of a FUSE file system, whose server could let a load wait for ever, has
//!   none.
//!
//! A kernel older than 5.1 refuses the seal; such a process shares nothing and is not put in order.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::ptr::NonNull;

/// What a descriptor must have before it is mapped.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE);

/// Why a descriptor is not memory that this version can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedError {
    /// It cannot be looked at or mapped; the error number.
    Io(i32),
    /// It is no memfd, or one whose maker could still change its size or others its content.
    NotSealed,
    /// It has another size than it must have.
    WrongSize {
        /// The size found, in bytes.
        bytes: u64,
    },
    /// It does not begin with the magic number of what is read.
    NotOurs,
    /// Another version wrote it.
    OtherVersion {
        /// The version found.
        found: u32,
    },
    /// A field has a value that no writer of this version gives it.
    Corrupt {
        /// Which field.
        field: &'static str,
    },
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(errno) => write!(f, "cannot be mapped: {}", io::Error::from_raw_os_error(*errno)),
            Self::NotSealed => f.write_str("is not sealed memory"),
            Self::WrongSize { bytes } => write!(f, "has a wrong size, {bytes} bytes"),
            Self::NotOurs => f.write_str("is nothing of aishim's"),
            Self::OtherVersion { found } => write!(f, "has version {found}, which this aishim does not know"),
            Self::Corrupt { field } => write!(f, "is damaged: {field} has an impossible value"),
        }
    }
}

impl std::error::Error for SharedError {}

impl From<Errno> for SharedError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.raw_os_error())
    }
}

/// What may lie in shared memory.
///
/// # Safety
/// Made of atomic integers and padding bytes that nobody looks at, alone: other processes write it at any moment, and any bits are a value.
pub(crate) unsafe trait Shared: Sync {}

// SAFETY: atomic integers and arrays of them alone (their definitions).
unsafe impl Shared for crate::client_page::Page {}
// SAFETY: as above.
unsafe impl Shared for crate::board::Header {}
// SAFETY: as above.
unsafe impl Shared for crate::board::TurnRecord {}
// SAFETY: as above.
unsafe impl Shared for crate::board::EntryWords {}

/// A mapping of shared memory, unmapped when it is dropped.
#[derive(Debug)]
pub(crate) struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    /// None for addresses that are only reserved.
    descriptor: Option<OwnedFd>,
    /// Device and inode of the memfd: who it is.
    identity: (u64, u64),
}

// SAFETY: the mapping belongs to no thread; all that is handed out of it is `Shared`, hence atomic.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Makes memory of so many bytes, zeroed and allocated in full, which from here on nobody but this mapping can write.
    ///
    /// # Errors
    /// Whatever memfd_create, fallocate, mmap or fcntl say; EINVAL of the last where the kernel does not know the seals.
    pub(crate) fn create(name: &str, bytes: usize) -> io::Result<Self> {
        let descriptor = new_memfd(name)?;
        // On memory that is full this fails here, and not as a SIGBUS at a store.
        rustix::io::retry_on_intr(|| rustix::fs::fallocate(&descriptor, FallocateFlags::empty(), 0, bytes as u64))?;
        let memory = Self::map(descriptor, bytes, ProtFlags::READ | ProtFlags::WRITE)?;
        if let Some(descriptor) = &memory.descriptor {
            rustix::fs::fcntl_add_seals(descriptor, SEALS | SealFlags::SEAL)?;
        }
        Ok(memory)
    }

    /// Reserves addresses: zeroes that can be read, over which others' memory can be laid ([`lay`](Self::lay)) and taken away
    /// again ([`clear`](Self::clear)) while threads look at it. No load from them ever faults.
    ///
    /// # Errors
    /// That of mmap(2).
    pub(crate) fn reserve(bytes: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping where the kernel likes.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ, flags)? };
        let start = NonNull::new(start.cast()).ok_or(Errno::INVAL)?;
        Ok(Self { start, bytes, descriptor: None, identity: (0, 0) })
    }

    /// Lays somebody else's memory over the first `bytes` bytes from `offset` on of what was reserved, all of it checked as in
    /// [`open`](Self::open). Who looks meanwhile sees what was there before or what is there now.
    ///
    /// # Errors
    /// [`SharedError`] where it is not sealed or has another size, or there is no room.
    pub(crate) fn lay(&self, offset: usize, bytes: usize, descriptor: impl AsFd) -> Result<(), SharedError> {
        let found = sealed_bytes(&descriptor)?;
        if found != bytes as u64 {
            return Err(SharedError::WrongSize { bytes: found });
        }
        let at = self.within(offset, bytes).ok_or(Errno::INVAL)?;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: pages of this reservation alone (`within`), of which nothing but atomics is ever lent (`slice`).
        unsafe { rustix::mm::mmap(at.as_ptr().cast(), bytes, ProtFlags::READ, flags, descriptor, 0)? };
        Ok(())
    }

    /// Puts zeroes in the place of what was laid there.
    ///
    /// # Errors
    /// That of mmap(2).
    pub(crate) fn clear(&self, offset: usize, bytes: usize) -> io::Result<()> {
        let at = self.within(offset, bytes).ok_or(Errno::INVAL)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: as in `lay`.
        unsafe { rustix::mm::mmap_anonymous(at.as_ptr().cast(), bytes, ProtFlags::READ, flags)? };
        Ok(())
    }

    /// Whole pages of a reservation.
    fn within(&self, offset: usize, bytes: usize) -> Option<NonNull<u8>> {
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        let is_whole = offset.is_multiple_of(4096) && bytes.is_multiple_of(4096) && bytes != 0;
        if !fits || !is_whole || self.descriptor.is_some() {
            return None;
        }
        // SAFETY: within the mapping, checked above.
        Some(unsafe { self.start.add(offset) })
    }

    /// Maps somebody else's memory to read it.
    ///
    /// # Errors
    /// [`SharedError`] where it is not sealed or has a size that is not in `sizes`.
    pub(crate) fn open(descriptor: OwnedFd, sizes: RangeInclusive<usize>) -> Result<Self, SharedError> {
        let bytes = sealed_bytes(&descriptor)?;
        match usize::try_from(bytes) {
            Ok(size) if sizes.contains(&size) => Ok(Self::map(descriptor, size, ProtFlags::READ)?),
            _ => Err(SharedError::WrongSize { bytes }),
        }
    }

    fn map(descriptor: OwnedFd, bytes: usize, access: ProtFlags) -> rustix::io::Result<Self> {
        let identity = identity(&descriptor)?;
        // SAFETY: a new mapping where the kernel likes.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, &descriptor, 0)? };
        let start = NonNull::new(start.cast()).ok_or(Errno::INVAL)?;
        Ok(Self { start, bytes, descriptor: Some(descriptor), identity })
    }

    /// How long it is.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// `count` values from `offset` on; empty where that is not all within the memory.
    ///
    /// Of memory that [`open`](Self::open) has mapped, the values must only be loaded: a store is a SIGSEGV.
    pub(crate) fn slice<T: Shared>(&self, offset: usize, count: usize) -> &[T] {
        let end = size_of::<T>().checked_mul(count).and_then(|bytes| bytes.checked_add(offset));
        let fits = end.is_some_and(|end| end <= self.bytes) && offset.is_multiple_of(align_of::<T>());
        if !fits || align_of::<T>() > 4096 {
            return &[];
        }
        // SAFETY: within the mapping and aligned (the mapping begins on a page), both checked above; it lives as long as
        // `self`; its size cannot change, since it was sealed before it was handed to anybody; `T` is `Shared`.
        unsafe { std::slice::from_raw_parts(self.start.add(offset).cast().as_ptr(), count) }
    }

    /// The descriptor, to be passed on; none where the program has closed it behind our back and the number now stands for
    /// something else.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        let descriptor = self.descriptor.as_ref()?;
        let is_it = identity(descriptor).is_ok_and(|found| found == self.identity);
        is_it.then(|| descriptor.as_fd())
    }

    /// Puts private zero pages in the place of the mapping: in a child process, whose stores must not reach its parent's
    /// memory. Async-signal-safe: one mmap(2).
    ///
    /// # Errors
    /// That of mmap(2).
    pub(crate) fn disown(&self) -> io::Result<()> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: exactly the pages of this mapping; zero is a value of all that lies there.
        unsafe { rustix::mm::mmap_anonymous(self.start.as_ptr().cast(), self.bytes, access, flags)? };
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made; what `slice` hands out does not outlive `self`.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// The size of memory that has all the seals.
fn sealed_bytes(descriptor: impl AsFd) -> Result<u64, SharedError> {
    let seals = rustix::fs::fcntl_get_seals(&descriptor).map_err(|_| SharedError::NotSealed)?;
    if !seals.contains(SEALS) {
        return Err(SharedError::NotSealed);
    }
    // After the seals: now it stays.
    Ok(rustix::fs::fstat(&descriptor)?.st_size.cast_unsigned())
}

fn identity(descriptor: impl AsFd) -> rustix::io::Result<(u64, u64)> {
    let found = rustix::fs::fstat(descriptor)?;
    Ok((found.st_dev, found.st_ino))
}

/// Never a standard stream's number: a program that closed its own may write to 0 to 2 as if they were open.
fn new_memfd(name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Where vm.memfd_noexec forbids memory that could be executed, only this is let through; kernels before 6.3 do not know it.
    let made = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    }?;
    rustix::io::fcntl_dupfd_cloexec(&made, 3)
}
