//! The pool of page-locked host memory; it knows neither CUDA nor the shim.
//!
//! Page-locking 4 KiB takes the driver half a millisecond, and freeing it waits for the GPU. A [`Pool`] reserves
//! memory in slabs through a [`PinnedSource`], hands it out in blocks of 4 KiB in some tens of nanoseconds, and takes
//! it back without waiting: a freed block is in quarantine until a [`WorkFence`] says that the GPU work submitted
//! before the free is done. What does not fit is a [`Miss`], and the caller goes to the driver.
//!
//! # Where things are
//!
//! | file | what it knows |
//! | --- | --- |
//! | `pool` | the road of an allocation, a free, a question |
//! | `slab_table` | addresses and block indices |
//! | `page_map` | what is allocated where; the judge of double and foreign frees |
//! | `store` | where free memory lies: `caches` (of `epoch_stack`s by `size_class`) in each `shard`, `extent_heap` |
//! | `reuse_clock` | when what was freed is safe; `claim` says who may ask the fence |
//! | `growth` | how slabs come and go |
//! | `ledger`, `stats` | the accounts |
//! | `witness` | who is told of each block |
//!
//! # Why it is built this way
//!
//! Three designs were weighed against what a pool like this is asked to reach: 100 ns for an allocation and its free
//! on one thread, 400 ns at p99 on 16, 1 us for 64 MiB, and no thread ever in the way of another.
//!
//! * *One lock around a two-level segregated fit.* Constant time at every size and exact merging, some 50 ns on one
//!   thread. On 16 threads the lock passes from core to core at each call and a holder that loses its processor stops
//!   all; and a free, which a driver's user does not expect to wait, would.
//! * *A bit for each block, claimed by compare and swap.* No lock at all, and a natural map to look at. But 64 MiB are
//!   256 words to claim one by one and to give back when the last is lost, runs must be searched for, and threads that
//!   look for the same first fit fight over the same words.
//! * *Caches in front of the first.* A freed block goes to a lock-free stack of its size in the thread's shard, and
//!   comes from there when its epoch is safe: three atomic exchanges on cache lines that are rarely shared. The lock is
//!   taken to refill, a few blocks at a time. A free takes no lock at any size.
//!
//! The third is what is here. Its price: sizes from 64 KiB to 1 MiB are rounded up by an eighth at most, and memory that
//! waits in caches is gathered only when a request would miss without it.
//!
//! With many threads it is not the locks that cost but the cache lines that one thread writes and another needs, so
//! what all read and few write ([`Apart`](apart::Apart)) stands by itself; a turn of the clock touches no other
//! thread's counters; a thread that runs out takes the whole stack of another, not one block of it; and a request that
//! nothing can serve is told so without a look at every cache (`store` says how that is known).
//!
//! Three more decisions follow from what the memory is. Nothing is written into blocks, since the GPU may own them:
//! all that is known lies in arrays beside them, 28 bytes a block. The quarantine is kept by epochs, not by events
//! on each block: a mark costs calls to the driver, so one is made for three eighths of what is free at a time,
//! or when a thread runs out. And because a thread may be cancelled in any call to the driver, the pool holds neither lock
//! nor destructor across one, its locks give up when they are not had in time, and a claim to call out grows stale.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod apart;
mod caches;
mod cells;
mod claim;
mod config;
mod epoch_stack;
mod extent_heap;
mod fence;
mod growth;
mod ledger;
#[cfg(all(test, not(loom)))]
mod lines;
#[cfg(all(test, not(loom)))]
mod lines_of_threads;
mod page_map;
mod patient_lock;
mod pool;
mod reuse_clock;
mod shard;
mod size_class;
mod slab_table;
mod source;
mod stats;
mod store;
mod sync;
mod witness;

pub use config::{
    BLOCK_BYTES, ConfigError, DEFAULT_CAPACITY_BYTES, MAX_CAPACITY_BYTES, MAX_SLAB_BYTES, MAX_SLABS, PoolConfig,
};
pub use fence::{Mark, WorkFence};
pub use growth::{GrowOutcome, StillAllocated};
pub use pool::{BlockInfo, FreeOutcome, Pool, SlabInfo};
pub use source::PinnedSource;
pub use stats::{Miss, MissCounts, PoolStats};
pub use witness::Witness;
