//! What there is to see of aishim on a machine: the segments of its processes and, through NVML, its GPUs.
//!
//! [`Snapshot::take`] looks once at everything and never fails as a whole: a segment that cannot be read is counted with
//! its reason, and without NVML the processes are there all the same. `aictl` prints snapshots; nothing here prints.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`snapshot`] | one look at everything |
//! | [`places`] | the directories in which segments may lie |
//! | [`process`] | one process under aishim, from its segment |
//! | [`pool_map`] | what lies where in its pool of pinned memory, from its map |
//! | [`skipped`] | files that are no segment of this version, by reason |
//! | [`summary`] | count, average, percentiles and drawing rows of a histogram |
//! | [`gpu`] | the GPUs and their processes, through NVML |
//! | [`meter`] | what a GPU does at this moment, through NVML, again and again |
//! | [`procfs`] | what /proc says about a process |
//! | [`user`] | names of users |

pub mod gpu;
pub mod meter;
pub mod places;
pub mod pool_map;
pub mod process;
pub mod procfs;
pub mod skipped;
pub mod snapshot;
pub mod summary;
pub mod user;

pub use gpu::{Board, Gpu};
pub use pool_map::PoolMap;
pub use process::{Process, State};
pub use snapshot::{Options, Snapshot};
pub use summary::Summary;
