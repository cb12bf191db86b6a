//! The pool of page-locked host memory; it knows neither CUDA nor the shim.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod claim;
mod config;
mod epoch_stack;
mod extent_heap;
mod fence;
mod growth;
mod ledger;
mod page_map;
mod pool;
mod reuse_clock;
mod shard;
mod size_class;
mod slab_table;
mod source;
mod stats;
mod store;
mod sync;

pub use config::{
    BLOCK_BYTES, ConfigError, DEFAULT_CAPACITY_BYTES, MAX_CAPACITY_BYTES, MAX_SLAB_BYTES,
    MAX_SLABS, PoolConfig,
};
pub use fence::{Mark, WorkFence};
pub use growth::{GrowOutcome, StillAllocated};
pub use pool::{BlockInfo, FreeOutcome, Pool};
pub use source::PinnedSource;
pub use stats::{Miss, MissCounts, PoolStats};
