//! Moving bytes, with ordinary stores or with such as go past the caches.
//!
//! An ordinary store first reads the line it will overwrite; a non-temporal one does not, and leaves nothing in the
//! caches. So it is the better one for memory that nobody reads soon, and the worse one for a ring that the bus reads
//! at once. benches/benches/mover.rs measures both, of this file.

use std::arch::x86_64::{__m256i, _mm_sfence, _mm256_loadu_si256, _mm256_stream_si256};

/// How bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stores {
    /// As memcpy does.
    Ordinary,
    /// Past the caches, where the processor has AVX2; else as memcpy does.
    NonTemporal,
}

/// What an AVX2 register holds.
const VECTOR_BYTES: usize = 32;

/// Vectors stored in one turn: two cache lines.
const UNROLLED: usize = 4;

/// Copies `bytes` from `from` to `to`. When it returns, another thread that is told so sees them.
///
/// # Safety
/// The source may be read, the destination written, and they do not overlap.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize, stores: Stores) {
    if stores == Stores::NonTemporal && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the caller's promise, and the processor has AVX2.
        unsafe { stream(from, to, bytes) };
    } else {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) };
    }
}

/// # Safety
/// As for [`copy`], on a processor with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn stream(from: *const u8, to: *mut u8, bytes: usize) {
    let head = to.align_offset(VECTOR_BYTES).min(bytes);
    let turns = (bytes - head) / (VECTOR_BYTES * UNROLLED);
    let body = turns * VECTOR_BYTES * UNROLLED;
    // SAFETY: head, body and the rest lie one behind the other within `bytes`, which the caller vouches for; the stores
    // of the body are aligned, since it begins where the head ends.
    unsafe {
        std::ptr::copy_nonoverlapping(from, to, head);
        let (mut source, mut target) = (from.add(head).cast::<__m256i>(), to.add(head).cast::<__m256i>());
        for _ in 0..turns {
            let vectors: [__m256i; UNROLLED] = std::array::from_fn(|i| _mm256_loadu_si256(source.add(i)));
            for (i, vector) in vectors.into_iter().enumerate() {
                _mm256_stream_si256(target.add(i), vector);
            }
            (source, target) = (source.add(UNROLLED), target.add(UNROLLED));
        }
        std::ptr::copy_nonoverlapping(from.add(head + body), to.add(head + body), bytes - head - body);
        // Non-temporal stores are not ordered with the stores by which others are told (Intel SDM vol. 1, 10.4.6.2).
        _mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_alignment_and_none_beside() {
        let source: Vec<u8> = (0..700_u32).map(|i| (i * 7 + 1) as u8).collect();
        for stores in [Stores::Ordinary, Stores::NonTemporal] {
            for (offset, bytes) in (0..40).flat_map(|o| [0, 1, 31, 32, 127, 128, 129, 600].map(|b| (o, b))) {
                let mut target = vec![0xee_u8; 700];
                // SAFETY: 40 + 600 bytes lie within both.
                unsafe { copy(source.as_ptr().add(40 - offset), target.as_mut_ptr().add(offset), bytes, stores) };
                assert_eq!(target[offset..offset + bytes], source[40 - offset..40 - offset + bytes]);
                let beside = target[..offset].iter().chain(&target[offset + bytes..]);
                assert!(beside.into_iter().all(|b| *b == 0xee), "{stores:?} {offset} {bytes}");
            }
        }
    }
}
