//! A host and a GPU that do as they are told.

use std::{
    ptr::NonNull,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::SeqCst},
        mpsc::{Receiver, Sender, channel},
    },
};

use aishim_pool::{BLOCK_BYTES, GrowOutcome, Mark, PinnedSource, Pool, PoolConfig, WorkFence};

/// A pool with its doubles.
pub(crate) struct Bench {
    pub(crate) pool: Pool,
    pub(crate) host: Arc<FakeHost>,
    pub(crate) gpu: Arc<FakeGpu>,
}

impl Bench {
    /// A pool of slabs of so many blocks, none reserved.
    pub(crate) fn empty(slab_blocks: &[usize]) -> Self {
        let slab_bytes: Vec<usize> = slab_blocks.iter().map(|blocks| blocks * BLOCK_BYTES).collect();
        let config = PoolConfig::with_slabs(&slab_bytes).unwrap();
        let (host, gpu) = (Arc::new(FakeHost::new()), Arc::new(FakeGpu::default()));
        let pool = Pool::new(&config, Box::new(Arc::clone(&host)), Box::new(Arc::clone(&gpu)));
        Self { pool, host, gpu }
    }

    /// The same, all slabs reserved.
    pub(crate) fn full_grown(slab_blocks: &[usize]) -> Self {
        let bench = Self::empty(slab_blocks);
        for blocks in slab_blocks {
            assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Grown(blocks * BLOCK_BYTES)));
        }
        assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Complete));
        bench
    }

    /// An address of `blocks` blocks that must be had.
    pub(crate) fn alloc(&self, blocks: usize) -> *mut u8 {
        self.pool.alloc(blocks * BLOCK_BYTES, 0).unwrap().as_ptr()
    }
}

/// Gives out addresses that nothing lies behind, and keeps account of them.
pub(crate) struct FakeHost {
    next: AtomicUsize,
    held: Mutex<Vec<(usize, usize)>>,
    /// What `reserve` fails with, unless it is 0.
    pub(crate) error: AtomicI32,
    /// What is added to every address.
    pub(crate) skew_bytes: AtomicUsize,
    /// When set, `reserve` says that it has begun, and waits for a word before it goes on.
    pub(crate) gate: Mutex<Option<Gate>>,
}

impl FakeHost {
    fn new() -> Self {
        Self {
            next: AtomicUsize::new(1 << 40),
            held: Mutex::new(Vec::new()),
            error: AtomicI32::new(0),
            skew_bytes: AtomicUsize::new(0),
            gate: Mutex::new(None),
        }
    }

    pub(crate) fn held_slabs(&self) -> usize {
        self.held.lock().unwrap().len()
    }
}

impl PinnedSource for FakeHost {
    fn reserve(&self, bytes: usize) -> Result<NonNull<u8>, i32> {
        let gate = self.gate.lock().unwrap().take();
        if let Some(gate) = gate {
            gate.pass();
        }
        let error = self.error.load(SeqCst);
        if error != 0 {
            return Err(error);
        }
        let address = self.next.fetch_add(bytes, SeqCst) + self.skew_bytes.load(SeqCst);
        self.held.lock().unwrap().push((address, bytes));
        Ok(NonNull::new(std::ptr::without_provenance_mut(address)).unwrap())
    }

    fn release(&self, address: NonNull<u8>, bytes: usize) {
        let mut held = self.held.lock().unwrap();
        let slab = (address.as_ptr().addr(), bytes);
        let at = held.iter().position(|&known| known == slab).expect("released once, as reserved");
        held.swap_remove(at);
    }
}

/// Counts work submitted and work done, in order of submission.
#[derive(Default)]
pub(crate) struct FakeGpu {
    submitted: AtomicU64,
    done: AtomicU64,
    /// No mark can be made.
    pub(crate) is_capturing: AtomicBool,
    pub(crate) marks: AtomicU64,
    pub(crate) gate: Mutex<Option<Gate>>,
}

impl FakeGpu {
    /// Submits a piece of work; its number.
    pub(crate) fn submit(&self) -> u64 {
        self.submitted.fetch_add(1, SeqCst) + 1
    }

    pub(crate) fn submitted(&self) -> u64 {
        self.submitted.load(SeqCst)
    }

    /// The last piece of work that is done, with all before it.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(SeqCst)
    }

    pub(crate) fn finish(&self, number: u64) {
        self.done.fetch_max(number, SeqCst);
    }

    pub(crate) fn finish_all(&self) {
        self.finish(self.submitted());
    }
}

impl WorkFence for FakeGpu {
    fn mark(&self) -> Option<Mark> {
        let gate = self.gate.lock().unwrap().take();
        if let Some(gate) = gate {
            gate.pass();
        }
        self.marks.fetch_add(1, SeqCst);
        (!self.is_capturing.load(SeqCst)).then(|| self.submitted())
    }

    fn passed(&self, mark: Mark) -> bool {
        self.done() >= mark
    }
}

/// Where a double stops until the test lets it go on.
pub(crate) struct Gate {
    reached: Sender<()>,
    go_on: Receiver<()>,
}

/// The test's side of a gate. Forgotten, it leaves the thread in the call for ever.
pub(crate) struct GateKeeper {
    pub(crate) reached: Receiver<()>,
    pub(crate) go_on: Sender<()>,
}

impl Gate {
    pub(crate) fn new() -> (Self, GateKeeper) {
        let ((reached, was_reached), (open, go_on)) = (channel(), channel());
        (Self { reached, go_on }, GateKeeper { reached: was_reached, go_on: open })
    }

    fn pass(self) {
        self.reached.send(()).unwrap();
        // A keeper that is gone has failed its test: the thread goes on, so that the test can end.
        let _ = self.go_on.recv();
    }
}
