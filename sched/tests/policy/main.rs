//! What a policy owes its clients.
//!
//! `conformance` holds every registered policy to what all promise, over random events; `promises` each to its own;
//! `decision_time` to the time a decision may take. `board` plays the coordinator: it applies decisions and judges
//! them.

mod board;
mod conformance;
mod decision_time;
mod promises;
