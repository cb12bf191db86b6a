//! Benchmarks of aishim.
//!
//! * `launch-meter` (a binary): what the shim adds to one launch call, over a driver that does nothing (`null-driver`);
//! * `copy-meter` (a binary): the same of a small copy, alone and with the call that waits for it;
//! * `replay` (a binary): a record of a program's pinned memory, run through the pool; `traces/` has some;
//! * `benches/`: criterion benches;
//! * `gpu/`: what needs a GPU;
//! * `runs/`: raw results with the commands that made them.

pub mod between;
pub mod replay;
pub mod shown;
pub mod stamps;
