//! Tests: how seldom threads that each have blocks of their own meet in a cache line. See [`lines`](crate::lines).

#[path = "../examples/nothing/mod.rs"]
mod nothing;

use crate::{FreeOutcome, GrowOutcome, Mark, PinnedSource, Pool, PoolConfig, WorkFence, lines, shard};
use nothing::pool;

/// How many pairs of an allocation and its free had to fetch so many lines from other processors.
#[derive(Debug, Default)]
struct Pairs {
    fetched: Vec<u64>,
    /// How many pairs there were for each turn of the clock.
    a_turn: u64,
}

const THREADS: usize = 16;

/// How many pairs go by before they are counted: until the heap is empty and all memory in the threads' caches.
const FIRST_PAIRS: u64 = 80_000;
const PAIRS: u64 = 100_000;

/// What a pair costs that meets nobody, and what each line costs that comes from another processor.
const PAIR_NS: f64 = 100.0;
const FETCH_NS: f64 = 120.0;

/// A thread that ran out of blocks took a whole stack of another's. That one ran out in turn, and from then on everybody's
/// blocks, and what is known of them, lay on lines that another processor had: one pair of 64 KiB in 17 fetched three lines
/// and more, of 1 MiB one in ten, and of 16 KiB, where it takes longer to come to that, one in four in the end. A turn of the
/// clock gives a thread its own blocks back.
#[test]
fn one_pair_in_a_hundred_fetches_more_than_a_line() {
    for bytes in [1, 16 << 10, 64 << 10, 1 << 20] {
        let pairs = run(bytes);
        let share = pairs.share_above(1);
        println!(
            "{bytes:>8} bytes: {:.3} lines a pair; more than 0, 1, 2, 4, 8 lines: {:.2?} % of the pairs; a turn for {} of them",
            pairs.mean(),
            [0, 1, 2, 4, 8].map(|lines| 100.0 * pairs.share_above(lines)),
            pairs.a_turn,
        );
        assert!(share <= 0.01, "{bytes} bytes: {share}");
    }
}

/// Threads on processors of their own, each of which allocates and frees at its own pace and is now and then kept from it for a
/// while: whose turn it is is known by a clock of each.
fn run(bytes: usize) -> Pairs {
    let pool = pool();
    let shards = shard::take_own(THREADS);
    let mut pairs = Pairs::default();
    let mut clocks_ns = [0.0f64; THREADS];
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..FIRST_PAIRS + PAIRS {
        let (processor, _) = clocks_ns.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        lines::act_as(processor as u32);
        shard::act_in(shards[processor]);
        lines::fetches();
        pair(&pool, bytes);
        let fetches = lines::fetches();
        if round >= FIRST_PAIRS {
            pairs.note(fetches as usize);
        }
        let pace = 1.0 + processor as f64 / 40.0;
        let is_kept = dice.throw().is_multiple_of(20_000);
        clocks_ns[processor] += (PAIR_NS * pace + FETCH_NS * fetches as f64) * dice.around_one();
        clocks_ns[processor] += if is_kept { 200_000.0 } else { 0.0 };
    }
    shard::give_back(shards);
    pairs.a_turn = (FIRST_PAIRS + PAIRS) / pool.stats().marks_made;
    pairs
}

impl Pairs {
    fn note(&mut self, lines: usize) {
        if self.fetched.len() <= lines {
            self.fetched.resize(lines + 1, 0);
        }
        self.fetched[lines] += 1;
    }

    fn mean(&self) -> f64 {
        let fetches: u64 = (0..).zip(&self.fetched).map(|(lines, pairs): (u64, &u64)| lines * pairs).sum();
        fetches as f64 / self.total()
    }

    fn share_above(&self, lines: usize) -> f64 {
        self.fetched.iter().skip(lines + 1).sum::<u64>() as f64 / self.total()
    }

    fn total(&self) -> f64 {
        self.fetched.iter().sum::<u64>() as f64
    }
}

/// The same numbers each time (xorshift).
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0.75 to 1.25.
    fn around_one(&mut self) -> f64 {
        0.75 + (self.throw() % 1024) as f64 / 2048.0
    }
}

fn pair(pool: &Pool, bytes: usize) {
    let address = pool.alloc(bytes, 0).unwrap();
    assert_eq!(pool.free(address.as_ptr()), FreeOutcome::Freed);
}
