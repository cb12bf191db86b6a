//! Traces of clients run on a model of one GPU, in virtual time: what the policies make of up to 1,024 clients.
//!
//! What comes out is a model's result. It shows whether a policy does what it promises with many clients, in which
//! order of size, and what breaks it; what a real GPU makes of it, only a real GPU shows.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `trace`, `parse` | what clients do, as text |
//! | `generate` | the traces in sched/traces/, from a seed |
//! | `device` | the GPU |
//! | `client` | a process: launches, waits for the GPU, thinks |
//! | `gates` | docs/scheduling.md's gate |
//! | `coordinator` | what looks at the clients once in a while and runs the policy |
//! | `run` | one after another in virtual time |
//! | `report` | the table |
//!
//! # The model
//!
//! * The GPU runs one kernel at a time, to its end. Contexts that have work share it in slices of 2 ms, one after
//!   another; a slice that is over ends with the kernel that is running; a context without work hands over at once;
//!   each change costs 10 us.
//! * A process has one thread. A launch costs it time; after the last one of a request it waits for the GPU. Then it
//!   thinks, or waits for the next arrival. The latency of a request counts from its scheduled arrival.
//! * A gate knows each kernel's GPU time exactly, but not when the GPU comes to it: `busy_until_ns` is too early when
//!   others' work is in between, as on a real GPU. Who is woken launches 30 us later.
//! * The coordinator sees who wants and what was used once in a millisecond, and ends turns on time.
//!
//! Not in the model: MPS, copies, the time that decisions take, errors of the estimate, kernels that spin on others,
//! and everything that two contexts do to each other's caches.

mod client;
mod coordinator;
mod device;
mod gates;
mod generate;
mod parse;
mod report;
mod run;
mod trace;

pub use self::{
    generate::{Recipe, recipes},
    parse::BadTrace,
    report::{ClassResult, table},
    run::{Model, Outcome, run},
    trace::{Arrivals, Request, Trace, Workload},
};
