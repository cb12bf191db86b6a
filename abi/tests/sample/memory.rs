//! Memory as somebody could pass it to us.

use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, SealFlags};

/// Memory with these bytes, under these seals.
pub fn memory(bytes: &[u8], seals: SealFlags) -> OwnedFd {
    let made = rustix::fs::memfd_create("case", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    assert_eq!(rustix::io::write(&made, bytes), Ok(bytes.len()));
    rustix::fs::fcntl_add_seals(&made, seals).unwrap();
    made
}

/// Memory with these bytes, sealed as it must be.
pub fn sealed(bytes: &[u8]) -> OwnedFd {
    memory(bytes, SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE)
}
