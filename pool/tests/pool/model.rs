//! The pool beside a model that knows every page: no overlap, no early reuse, exact answers and exact accounts.

use std::{collections::BTreeMap, sync::atomic::Ordering::SeqCst};

use aishim_pool::{BLOCK_BYTES, BlockInfo, FreeOutcome, GrowOutcome, Miss};
use proptest::{prelude::*, sample::Index};

use crate::doubles::Bench;

const SLAB_BLOCKS: [usize; 3] = [40, 300, 1100];

#[derive(Debug, Clone, Copy)]
enum Step {
    Alloc { bytes: usize, tag: u32 },
    Free(Index),
    FreeAgain(Index),
    FreeInside(Index, Index),
    FreeForeign(usize),
    Ask(Index, Index),
    Submit,
    Finish(Index),
    Capture(bool),
    Grow,
    GiveBack,
    Tend,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (bytes(), any::<u32>()).prop_map(|(bytes, tag)| Step::Alloc { bytes, tag }),
        9 => any::<Index>().prop_map(Step::Free),
        1 => any::<Index>().prop_map(Step::FreeAgain),
        1 => any::<(Index, Index)>().prop_map(|(which, at)| Step::FreeInside(which, at)),
        1 => any::<usize>().prop_map(Step::FreeForeign),
        2 => any::<(Index, Index)>().prop_map(|(which, at)| Step::Ask(which, at)),
        4 => Just(Step::Submit),
        3 => any::<Index>().prop_map(Step::Finish),
        1 => any::<bool>().prop_map(Step::Capture),
        1 => Just(Step::Grow),
        2 => Just(Step::GiveBack),
        1 => Just(Step::Tend),
    ]
}

fn bytes() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => Just(0),
        20 => 1..6 * BLOCK_BYTES,
        8 => 16 * BLOCK_BYTES..70 * BLOCK_BYTES,
        4 => 200 * BLOCK_BYTES..400 * BLOCK_BYTES,
        // Again and again the same, as large extents are cached by their exact size.
        4 => prop::sample::select(vec![260 * BLOCK_BYTES, 300 * BLOCK_BYTES, 520 * BLOCK_BYTES]),
        1 => 1000 * BLOCK_BYTES..1200 * BLOCK_BYTES,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_does_as_the_model(steps in prop::collection::vec(step(), 1..300)) {
        let mut model = Model::new();
        for step in steps {
            model.take(step)?;
            model.check_accounts()?;
        }
        model.check_that_all_comes_back()?;
    }
}

struct Model {
    bench: Bench,
    live: Vec<Live>,
    /// For each page that was ever freed, the work that was submitted by then.
    freed: BTreeMap<usize, u64>,
    dead: Vec<usize>,
    /// First page and pages of each reserved slab.
    slabs: Vec<(usize, usize)>,
    hits: u64,
    misses: u64,
    frees: u64,
    high_water_blocks: usize,
}

#[derive(Debug, Clone, Copy)]
struct Live {
    start: usize,
    bytes: usize,
    tag: u32,
}

impl Live {
    fn blocks(self) -> usize {
        blocks_for(self.bytes)
    }

    fn pages(self) -> std::ops::Range<usize> {
        let first = self.start / BLOCK_BYTES;
        first..first + self.blocks()
    }
}

impl Model {
    fn new() -> Self {
        Self {
            bench: Bench::empty(&SLAB_BLOCKS),
            live: Vec::new(),
            freed: BTreeMap::new(),
            dead: Vec::new(),
            slabs: Vec::new(),
            hits: 0,
            misses: 0,
            frees: 0,
            high_water_blocks: 0,
        }
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        let gpu = &self.bench.gpu;
        match step {
            Step::Alloc { bytes, tag } => self.alloc(bytes, tag)?,
            Step::Free(which) => self.free(which)?,
            Step::FreeAgain(which) => self.free_again(which)?,
            Step::FreeInside(which, at) => self.free_inside(which, at)?,
            Step::FreeForeign(address) => self.free_foreign(address)?,
            Step::Ask(which, at) => self.ask(which, at)?,
            Step::Submit => drop(gpu.submit()),
            Step::Finish(up_to) => gpu.finish(up_to.index(gpu.submitted() as usize + 1) as u64),
            Step::Capture(open) => gpu.is_capturing.store(open, SeqCst),
            Step::Grow => self.grow()?,
            Step::GiveBack => self.give_back()?,
            Step::Tend => self.bench.pool.tend(),
        }
        Ok(())
    }

    fn alloc(&mut self, bytes: usize, tag: u32) -> Result<(), TestCaseError> {
        let must_succeed = self.is_gpu_known_to_be_done() && self.has_run(blocks_for(bytes));
        let marks_before = self.bench.pool.stats().marks_made;
        let outcome = self.bench.pool.alloc(bytes, tag);
        if self.bench.pool.stats().marks_made != marks_before {
            prop_assert_eq!(
                self.bench.pool.wants_growth(),
                self.slabs.len() < SLAB_BLOCKS.len(),
                "it had to turn the clock"
            );
        }
        match outcome {
            Ok(address) => {
                let block = Live { start: address.as_ptr().addr(), bytes, tag };
                self.check_new(block)?;
                self.live.push(block);
                self.hits += 1;
                self.high_water_blocks = self.high_water_blocks.max(self.live_blocks());
            }
            Err(miss) => {
                self.misses += 1;
                prop_assert!(!must_succeed || bytes == 0, "{miss:?} for {bytes}");
                self.check_miss(miss, bytes)?;
            }
        }
        Ok(())
    }

    fn check_new(&self, block: Live) -> Result<(), TestCaseError> {
        prop_assert_eq!(block.start % BLOCK_BYTES, 0);
        for page in block.pages() {
            prop_assert!(self.slab_of(page).is_some(), "a page of no slab");
            prop_assert!(self.live_around(page * BLOCK_BYTES).is_none(), "two blocks share a page");
            let submitted = self.freed.get(&page).copied().unwrap_or(0);
            prop_assert!(submitted <= self.bench.gpu.done(), "the GPU may still use a page");
        }
        let (first, last) = (block.pages().start, block.pages().end - 1);
        prop_assert_eq!(self.slab_of(first), self.slab_of(last));
        Ok(())
    }

    fn check_miss(&self, miss: Miss, bytes: usize) -> Result<(), TestCaseError> {
        let blocks = blocks_for(bytes);
        let too_large = blocks > 1100;
        let grows = self.slabs.len() < SLAB_BLOCKS.len();
        let expected = match miss {
            Miss::ZeroBytes => bytes == 0,
            Miss::TooLarge => too_large,
            Miss::NotReserved => grows && !too_large,
            Miss::WaitingForGpu => self.bench.pool.stats().quarantined_bytes > 0,
            Miss::NoRoom => !too_large,
            _ => false,
        };
        prop_assert!(expected, "{miss:?} for {blocks} blocks");
        Ok(())
    }

    fn free(&mut self, which: Index) -> Result<(), TestCaseError> {
        if self.live.is_empty() {
            return Ok(());
        }
        self.free_block(which.index(self.live.len()))
    }

    fn free_block(&mut self, which: usize) -> Result<(), TestCaseError> {
        let block = self.live.swap_remove(which);
        for page in block.pages() {
            self.freed.insert(page, self.bench.gpu.submitted());
        }
        self.dead.push(block.start);
        self.frees += 1;
        prop_assert_eq!(self.free_at(block.start), FreeOutcome::Freed);
        prop_assert_eq!(self.free_at(block.start), FreeOutcome::AlreadyFree);
        Ok(())
    }

    fn free_again(&mut self, which: Index) -> Result<(), TestCaseError> {
        if self.dead.is_empty() {
            return Ok(());
        }
        let start = self.dead[which.index(self.dead.len())];
        let expected = match self.live_around(start) {
            Some(block) if block.start == start => return Ok(()),
            Some(_) => FreeOutcome::NotABlockStart,
            None if self.slab_of(start / BLOCK_BYTES).is_none() => FreeOutcome::NotOurs,
            None => FreeOutcome::AlreadyFree,
        };
        prop_assert_eq!(self.free_at(start), expected);
        Ok(())
    }

    fn free_inside(&mut self, which: Index, at: Index) -> Result<(), TestCaseError> {
        if self.live.is_empty() {
            return Ok(());
        }
        let block = self.live[which.index(self.live.len())];
        let offset = 1 + at.index(block.blocks() * BLOCK_BYTES - 1);
        prop_assert_eq!(self.free_at(block.start + offset), FreeOutcome::NotABlockStart);
        Ok(())
    }

    fn free_foreign(&mut self, address: usize) -> Result<(), TestCaseError> {
        if self.slab_of(address / BLOCK_BYTES).is_none() {
            prop_assert_eq!(self.free_at(address), FreeOutcome::NotOurs);
            prop_assert!(!self.bench.pool.contains(pointer(address)));
        }
        Ok(())
    }

    fn ask(&mut self, which: Index, at: Index) -> Result<(), TestCaseError> {
        if self.slabs.is_empty() {
            return Ok(());
        }
        let (first, pages) = self.slabs[which.index(self.slabs.len())];
        let address = first * BLOCK_BYTES + at.index(pages * BLOCK_BYTES);
        let expected = self
            .live_around(address)
            .filter(|block| address - block.start < block.bytes)
            .map(|block| BlockInfo { start: block.start, requested_bytes: block.bytes, tag: block.tag });
        prop_assert_eq!(self.bench.pool.block_of(pointer(address)), expected);
        prop_assert!(self.bench.pool.contains(pointer(address)));
        Ok(())
    }

    fn grow(&mut self) -> Result<(), TestCaseError> {
        let held = self.bench.host.held_slabs();
        let outcome = self.bench.pool.grow();
        if self.bench.host.held_slabs() == held {
            // A slab that was aside is in use again, or there is no more to be had.
            let last = self.slabs.last().map(|&(_, pages)| Ok(GrowOutcome::Grown(pages * BLOCK_BYTES)));
            let is_complete = held == SLAB_BLOCKS.len() && outcome == Ok(GrowOutcome::Complete);
            prop_assert!(is_complete || Some(outcome) == last, "{outcome:?}");
            return Ok(());
        }
        let blocks = SLAB_BLOCKS[self.slabs.len()];
        prop_assert_eq!(outcome, Ok(GrowOutcome::Grown(blocks * BLOCK_BYTES)));
        let placed = self.bench.pool.slabs().last().map(|slab| (slab.start / BLOCK_BYTES, slab.blocks as usize));
        prop_assert_eq!(placed.map(|(_, pages)| pages), Some(blocks));
        self.slabs.extend(placed);
        Ok(())
    }

    /// A slab that goes is the last, nothing lives in it, and the GPU is done with all that ever did.
    fn give_back(&mut self) -> Result<(), TestCaseError> {
        let held = self.bench.host.held_slabs();
        let gone = self.bench.pool.give_back_idle(0);
        prop_assert_eq!(self.bench.host.held_slabs(), held - usize::from(gone.is_some()));
        let Some(bytes) = gone else { return Ok(()) };
        let (first, pages) = self.slabs.pop().unwrap_or_default();
        prop_assert!(!self.slabs.is_empty(), "the first is kept");
        prop_assert_eq!(bytes, pages * BLOCK_BYTES);
        for page in first..first + pages {
            prop_assert!(self.live_around(page * BLOCK_BYTES).is_none(), "somebody has a block of it");
            let submitted = self.freed.get(&page).copied().unwrap_or(0);
            prop_assert!(submitted <= self.bench.gpu.done(), "the GPU may still use a page of it");
            prop_assert!(!self.bench.pool.contains(pointer(page * BLOCK_BYTES)));
        }
        Ok(())
    }

    fn check_accounts(&self) -> Result<(), TestCaseError> {
        let stats = self.bench.pool.stats();
        let reserved: usize = self.slabs.iter().map(|(_, pages)| pages).sum();
        prop_assert_eq!(stats.total_blocks, 1440);
        prop_assert_eq!(stats.capacity_bytes, 1440 * 4096);
        prop_assert_eq!(stats.reserved_bytes, (reserved * BLOCK_BYTES) as u64);
        prop_assert_eq!(stats.allocated_blocks, self.live_blocks() as u64);
        prop_assert_eq!(stats.allocated_bytes, (self.live_blocks() * BLOCK_BYTES) as u64);
        let requested: usize = self.live.iter().map(|block| block.bytes).sum();
        prop_assert_eq!(stats.requested_bytes, requested as u64);
        prop_assert_eq!(stats.high_water_bytes, (self.high_water_blocks * BLOCK_BYTES) as u64);
        prop_assert_eq!((stats.hits, stats.frees), (self.hits, self.frees));
        prop_assert_eq!(stats.misses.total(), self.misses);
        prop_assert!(stats.quarantined_bytes + stats.allocated_bytes <= stats.reserved_bytes);
        prop_assert!(stats.marks_passed <= stats.marks_made);
        prop_assert!(stats.marks_made <= stats.marks_passed + 2);
        Ok(())
    }

    /// With everything freed and the GPU done, each slab can be had in one piece.
    fn check_that_all_comes_back(&mut self) -> Result<(), TestCaseError> {
        while !self.live.is_empty() {
            self.free_block(self.live.len() - 1)?;
        }
        self.bench.gpu.is_capturing.store(false, SeqCst);
        self.bench.gpu.finish_all();
        self.bench.pool.tend();
        prop_assert_eq!(self.bench.pool.stats().quarantined_bytes, 0);
        let mut slabs: Vec<usize> = self.slabs.iter().map(|&(_, pages)| pages).collect();
        slabs.sort_unstable_by(|a, b| b.cmp(a));
        for blocks in slabs {
            prop_assert_eq!(blocks_for(blocks * BLOCK_BYTES), blocks);
            self.alloc(blocks * BLOCK_BYTES, 0)?;
        }
        prop_assert_eq!(self.live.len(), self.slabs.len());
        Ok(())
    }

    fn is_gpu_known_to_be_done(&self) -> bool {
        let gpu = &self.bench.gpu;
        !gpu.is_capturing.load(SeqCst) && gpu.done() == gpu.submitted()
    }

    /// Whether some slab has so many pages in a row that nothing lives in.
    fn has_run(&self, blocks: usize) -> bool {
        self.slabs.iter().any(|&(first, pages)| {
            let mut run = 0;
            (first..first + pages).any(|page| {
                run = if self.live_around(page * BLOCK_BYTES).is_some() { 0 } else { run + 1 };
                run >= blocks
            })
        })
    }

    fn live_around(&self, address: usize) -> Option<Live> {
        self.live.iter().copied().find(|block| block.pages().contains(&(address / BLOCK_BYTES)))
    }

    fn live_blocks(&self) -> usize {
        self.live.iter().map(|block| block.blocks()).sum()
    }

    fn slab_of(&self, page: usize) -> Option<usize> {
        self.slabs.iter().position(|&(first, pages)| (first..first + pages).contains(&page))
    }

    fn free_at(&self, address: usize) -> FreeOutcome {
        self.bench.pool.free(pointer(address))
    }
}

fn pointer(address: usize) -> *const u8 {
    std::ptr::without_provenance(address)
}

/// The rule for sizes, said another way than the pool says it: to 16 blocks exact, to 256 in eighths of a doubling.
fn blocks_for(bytes: usize) -> usize {
    let blocks = bytes.div_ceil(BLOCK_BYTES);
    let step = match blocks {
        17..=32 => 2,
        33..=64 => 4,
        65..=128 => 8,
        129..=256 => 16,
        _ => 1,
    };
    blocks.next_multiple_of(step)
}
