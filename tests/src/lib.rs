//! The harness of the end-to-end tests: programs in C, built when a test wants them, run as real processes under the
//! real library, with the simulated GPU as their driver.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`coordinator`] | a coordinator that decides what a test tells it |
//! | [`dist`] | where the libraries under test are |
//! | [`program`] | building a C program of `programs/`, once however many tests want it |
//! | [`sandbox`] | running one with directories of its own, and what is left of it afterwards |
//!
//! The libraries come from `AISHIM_DIST`, by default `dist/` in the workspace, which `make build` fills.

pub mod coordinator;
pub mod dist;
pub mod forbidden;
pub mod program;
pub mod sandbox;

pub use coordinator::Coordinator;
pub use program::{Program, Via};
pub use sandbox::{Outcome, Sandbox};
