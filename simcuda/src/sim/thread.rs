//! What the driver keeps per thread: the stack of contexts, the capture mode, an identity.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

const DEPTH: usize = 32;

/// No destructor anywhere, so that all of it works in a thread that is ending.
struct Thread {
    stack: [Cell<usize>; DEPTH],
    depth: Cell<usize>,
    capture_mode: Cell<u32>,
    in_host_function: Cell<bool>,
    id: Cell<u64>,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            stack: [const { Cell::new(0) }; DEPTH],
            depth: Cell::new(0),
            capture_mode: Cell::new(0),
            in_host_function: Cell::new(false),
            id: Cell::new(0),
        }
    };
}

/// The context on top of this thread's stack; 0 is none.
pub(crate) fn top() -> usize {
    THREAD.with(|thread| match thread.depth.get() {
        0 => 0,
        depth => thread.stack[depth - 1].get(),
    })
}

/// Pushes a context; false if the stack is full.
pub(crate) fn push(context: usize) -> bool {
    THREAD.with(|thread| {
        let depth = thread.depth.get();
        if depth == DEPTH {
            return false;
        }
        thread.stack[depth].set(context);
        thread.depth.set(depth + 1);
        true
    })
}

/// Pops the top; 0 if the stack was empty.
pub(crate) fn pop() -> usize {
    let context = top();
    THREAD.with(|thread| thread.depth.set(thread.depth.get().saturating_sub(1)));
    context
}

/// Replaces the top; 0 removes it.
pub(crate) fn replace(context: usize) {
    pop();
    if context != 0 {
        push(context);
    }
}

/// Sets this thread's capture mode and returns the one before.
pub(crate) fn exchange_capture_mode(mode: u32) -> u32 {
    THREAD.with(|thread| thread.capture_mode.replace(mode))
}

pub(crate) fn capture_mode() -> u32 {
    THREAD.with(|thread| thread.capture_mode.get())
}

/// A number that no other thread of this process has had.
pub(crate) fn id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    THREAD.with(|thread| {
        if thread.id.get() == 0 {
            thread.id.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        thread.id.get()
    })
}

/// True while this thread runs a function for `cuLaunchHostFunc`, which must not call the driver.
pub(crate) fn in_host_function() -> bool {
    THREAD.with(|thread| thread.in_host_function.get())
}

/// Marks the thread until the guard is dropped.
pub(crate) fn enter_host_function() -> HostFunctionGuard {
    THREAD.with(|thread| thread.in_host_function.set(true));
    HostFunctionGuard
}

pub(crate) struct HostFunctionGuard;

impl Drop for HostFunctionGuard {
    fn drop(&mut self) {
        THREAD.with(|thread| thread.in_host_function.set(false));
    }
}
