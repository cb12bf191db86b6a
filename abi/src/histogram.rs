//! The arithmetic of the histograms: HDR, 2 significant decimal digits, 1 ns to 1 h.
//!
//! The bucket layout is the one of HdrHistogram (Gil Tene) with `lowestDiscernibleValue = 1`,
//! `highestTrackableValue = 3.6e12` and `numberOfSignificantValueDigits = 2`, so that a reader can rebuild one with any
//! HdrHistogram library. Below 256 each value has a bucket of its own; above, every power of two is cut into 128.

/// Highest value that is told apart, 1 h in nanoseconds; what is longer is counted as this.
pub const HIGHEST_NS: u64 = 3_600_000_000_000;

/// log2 of the number of buckets into which each power of two is cut.
const HALF_BITS: u32 = 7;

/// Values below this have a bucket each.
const LINEAR: u64 = 1 << (HALF_BITS + 1);

/// Number of buckets from 0 to [`HIGHEST_NS`].
pub const BUCKETS: usize = index_of(HIGHEST_NS) + 1;

/// Values below this (2^20 ns, 1.05 ms) fall into the first [`WINDOW_BUCKETS`] buckets.
pub const WINDOW_LIMIT_NS: u64 = 1 << 20;

/// Number of buckets that hold every value below [`WINDOW_LIMIT_NS`].
pub const WINDOW_BUCKETS: usize = index_of(WINDOW_LIMIT_NS - 1) + 1;

/// The bucket that counts `value_ns`; values above [`HIGHEST_NS`] are counted in its bucket.
#[inline]
#[must_use]
pub const fn index_of(value_ns: u64) -> usize {
    let value = if value_ns > HIGHEST_NS { HIGHEST_NS } else { value_ns };
    // The position of the highest bit, at least that of the linear part, says how far to shift.
    let shift = u64::BITS - (value | (LINEAR - 1)).leading_zeros() - (HALF_BITS + 1);
    ((shift as usize) << HALF_BITS) + (value >> shift) as usize
}

/// The smallest value, in nanoseconds, that bucket `index` counts.
#[must_use]
pub const fn lowest_of(index: usize) -> u64 {
    let shift = shift_of(index);
    ((index - ((shift as usize) << HALF_BITS)) as u64) << shift
}

/// The largest value, in nanoseconds, that bucket `index` counts.
#[must_use]
pub const fn highest_of(index: usize) -> u64 {
    lowest_of(index) + (1 << shift_of(index)) - 1
}

const fn shift_of(index: usize) -> u32 {
    let group = (index >> HALF_BITS) as u32;
    if group == 0 { 0 } else { group - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_window_is_that_of_the_protocol() {
        assert_eq!(WINDOW_BUCKETS, 1792);
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(value in 0..HIGHEST_NS) {
            let index = index_of(value);
            prop_assert!(lowest_of(index) <= value && value <= highest_of(index));
            // Two significant digits: a bucket is at most 1/128 of its value wide.
            prop_assert!(highest_of(index) - lowest_of(index) <= value / 128);
        }

        #[test]
        fn buckets_are_those_of_hdrhistogram(value in 1..HIGHEST_NS) {
            let theirs = hdrhistogram::Histogram::<u64>::new_with_bounds(1, HIGHEST_NS, 2).unwrap();
            prop_assert_eq!(theirs.lowest_equivalent(value), lowest_of(index_of(value)));
            prop_assert_eq!(theirs.highest_equivalent(value), highest_of(index_of(value)));
        }
    }
}
