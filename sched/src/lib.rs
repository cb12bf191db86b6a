//! The coordinator: one order of launches for all processes on a GPU (docs/scheduling.md).

pub mod policy;
pub mod virtual_clock;
