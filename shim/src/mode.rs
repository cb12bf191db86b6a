//! One word that says whether anything out of the ordinary is the case; a launch reads it once.

use crate::hot::HOT;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// No context has been made yet: nothing is counted but what precedes a context.
pub(crate) const INACTIVE: u32 = 1;
/// Only forward: switched off, forked after a context, or a panic was caught.
pub(crate) const PASS_THROUGH: u32 = 2;
/// A stream capture is open somewhere in the process.
pub(crate) const CAPTURING: u32 = 4;
/// The process has begun to exit: no driver calls of ours any more.
pub(crate) const EXITING: u32 = 8;
/// What the program does with pinned memory is recorded.
pub(crate) const TRACING: u32 = 16;
/// A coordinator has put the process in an order with others on its GPU: launches look at the gate.
pub(crate) const IN_COMPANY: u32 = 32;

/// The present mode; 0 is the ordinary one.
#[inline]
pub(crate) fn mode() -> u32 {
    HOT.mode.load(Relaxed)
}

/// Whether nothing is out of the ordinary but, perhaps, that launches look at the gate.
#[inline]
pub(crate) fn is_ordinary() -> bool {
    mode() & !IN_COMPANY == 0
}

/// The mode in the one order that all threads agree on; pairs with [`set`] in captures, see `capture`.
pub(crate) fn mode_ordered() -> u32 {
    HOT.mode.load(SeqCst)
}

/// Whether the process has begun to exit, in the order that all threads agree on.
pub(crate) fn is_exiting() -> bool {
    mode_ordered() & EXITING != 0
}

/// Whether calls are only forwarded.
#[inline]
pub(crate) fn is_pass_through() -> bool {
    mode() & PASS_THROUGH != 0
}

/// Whether driver calls of our own are allowed at this moment.
pub(crate) fn may_call_driver() -> bool {
    mode() & (INACTIVE | PASS_THROUGH | EXITING) == 0
}

/// Sets a bit.
pub(crate) fn set(bit: u32) {
    HOT.mode.fetch_or(bit, SeqCst);
}

/// Clears a bit.
pub(crate) fn clear(bit: u32) {
    HOT.mode.fetch_and(!bit, SeqCst);
}
