//! The daemon as a process, and clients as processes: what they are told, and what happens to those that end, lie, or misbehave.

mod admission;
mod churn;
mod client;
mod cost;
mod cpu;
mod endings;
mod harness;
mod hostile;
mod ranks;
mod service;
