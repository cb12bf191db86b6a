//! What a histogram comes down to: count, average, percentiles, and rows to draw.

use aishim_abi::histogram::{self, HIGHEST_NS};
use aishim_abi::reader::HistogramCopy;
use hdrhistogram::Histogram;

/// No honest bucket counts more than this; what is above is cut, so that sums of buckets cannot overflow.
const MOST_IN_A_BUCKET: u64 = 1 << 50;

/// Summary of one histogram; all times are nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Values counted.
    pub count: u64,
    /// Sum of all values.
    pub sum_ns: u64,
    /// The figures that exist only where something was counted.
    pub figures: Option<Figures>,
    /// Buckets that count something, in order.
    pub buckets: Vec<Bucket>,
}

/// Average, percentiles and maximum, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Average.
    pub average_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// Largest value.
    pub max_ns: u64,
}

/// A range of values, both ends included, and how many fell into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Smallest value of the range, in nanoseconds.
    pub low_ns: u64,
    /// Largest value of the range, in nanoseconds.
    pub high_ns: u64,
    /// Values in it.
    pub count: u64,
}

impl Summary {
    /// Summarises `histogram`.
    #[must_use]
    pub fn of(histogram: &HistogramCopy) -> Self {
        let buckets: Vec<Bucket> = histogram
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(index, count)| Bucket {
                low_ns: histogram::lowest_of(index),
                high_ns: histogram::highest_of(index),
                count: (*count).min(MOST_IN_A_BUCKET),
            })
            .collect();
        let count = buckets.iter().map(|b| b.count).sum();
        Self { count, sum_ns: histogram.sum_ns, figures: figures(&buckets, count, histogram), buckets }
    }

    /// The counts in powers of two, from the first row with something in it to the last, those between included.
    #[must_use]
    pub fn powers_of_two(&self) -> Vec<Bucket> {
        // Row 0 is 0 to 1, row n is 2^n to 2^(n+1) - 1; no bucket of the histogram lies across two.
        let row_of = |b: &Bucket| b.low_ns.checked_ilog2().unwrap_or(0);
        let (Some(first), Some(last)) = (self.buckets.first(), self.buckets.last()) else {
            return Vec::new();
        };
        let first = row_of(first);
        let mut rows: Vec<Bucket> = (first..=row_of(last))
            .map(|n| Bucket { low_ns: if n == 0 { 0 } else { 1 << n }, high_ns: (2 << n) - 1, count: 0 })
            .collect();
        for bucket in &self.buckets {
            if let Some(row) = rows.get_mut((row_of(bucket) - first) as usize) {
                row.count += bucket.count;
            }
        }
        rows
    }
}

fn figures(buckets: &[Bucket], count: u64, of: &HistogramCopy) -> Option<Figures> {
    let last = buckets.last()?;
    // The maximum is written after the count: a reader in between knows it only by the last bucket.
    let max_ns = of.max_ns.max(last.low_ns);
    let hdr = hdr(buckets)?;
    let quantile = |q| hdr.value_at_quantile(q).min(max_ns);
    Some(Figures {
        average_ns: of.sum_ns / count,
        p50_ns: quantile(0.5),
        p90_ns: quantile(0.9),
        p99_ns: quantile(0.99),
        max_ns,
    })
}

fn hdr(buckets: &[Bucket]) -> Option<Histogram<u64>> {
    let mut hdr = Histogram::new_with_bounds(1, HIGHEST_NS, 2).ok()?;
    for bucket in buckets {
        hdr.record_n(bucket.low_ns, bucket.count).ok()?;
    }
    Some(hdr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aishim_abi::histogram::{BUCKETS, index_of};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn copy(values: &[u64]) -> HistogramCopy {
        let mut counts = vec![0; BUCKETS];
        for value in values {
            counts[index_of(*value)] += 1;
        }
        HistogramCopy { counts, sum_ns: values.iter().sum(), max_ns: values.iter().copied().max().unwrap_or(0) }
    }

    #[test]
    fn nothing_counted_has_no_figures() {
        let summary = Summary::of(&copy(&[]));
        assert_eq!(summary, Summary::default());
        assert!(summary.powers_of_two().is_empty());
    }

    #[test]
    fn rows_are_powers_of_two_without_gaps() {
        let rows = Summary::of(&copy(&[0, 1, 1, 2, 9, 9])).powers_of_two();
        let rows: Vec<_> = rows.iter().map(|r| (r.low_ns, r.high_ns, r.count)).collect();
        assert_eq!(rows, [(0, 1, 3), (2, 3, 1), (4, 7, 0), (8, 15, 2)]);
    }

    #[test]
    fn a_hostile_histogram_overflows_nothing() {
        let hostile = HistogramCopy { counts: vec![u64::MAX; BUCKETS], sum_ns: u64::MAX, max_ns: 0 };
        let summary = Summary::of(&hostile);
        assert_eq!(summary.count, BUCKETS as u64 * MOST_IN_A_BUCKET);
        let rows = summary.powers_of_two();
        assert_eq!(rows.iter().map(|r| r.count).sum::<u64>(), summary.count);
    }

    proptest! {
        #[test]
        fn percentiles_are_within_a_bucket_of_the_true_ones(
            mut values in vec(0..HIGHEST_NS, 1..300)
        ) {
            let figures = Summary::of(&copy(&values)).figures.unwrap();
            values.sort_unstable();
            let rank = |q: f64| values[((values.len() as f64 * q).ceil() as usize).max(1) - 1];
            for (found, q) in [(figures.p50_ns, 0.5), (figures.p90_ns, 0.9), (figures.p99_ns, 0.99)] {
                prop_assert_eq!(index_of(found), index_of(rank(q)));
            }
            prop_assert_eq!(figures.max_ns, *values.last().unwrap());
            prop_assert!(figures.p50_ns <= figures.p90_ns && figures.p99_ns <= figures.max_ns);
        }

        #[test]
        fn rows_count_everything(values in vec(0..HIGHEST_NS, 1..300)) {
            let rows = Summary::of(&copy(&values)).powers_of_two();
            for row in rows {
                let inside = values.iter().filter(|v| (row.low_ns..=row.high_ns).contains(v));
                prop_assert_eq!(row.count, inside.count() as u64);
            }
        }
    }
}
