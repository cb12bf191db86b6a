//! The pool against a model, under threads, and with sources and fences that misbehave. No test needs a GPU: the
//! memory is addresses that nobody touches.
#![cfg(not(loom))]

mod closing;
mod doubles;
mod faults;
mod model;
mod questions;
mod shrinking;
mod threads;
