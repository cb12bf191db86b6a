//! Benchmarks of aishim.
//!
//! * `launch-meter` (a binary): what the shim adds to one launch call, over a driver that does nothing (`null-driver`);
//! * `benches/`: criterion benches;
//! * `gpu/`: what needs a GPU;
//! * `runs/`: raw results with the commands that made them.

pub mod stamps;
