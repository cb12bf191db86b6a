//! The process's half of the coordinator: what it says of its work to others, and the gate at which its launches wait for theirs.
//!
//! Without a coordinator there is nothing of this: no thread, no page, and a launch looks at nothing more than before, since
//! [`mode::IN_COMPANY`] is a bit of the word it reads anyway. The bit is set while another process is on one of its GPUs under a policy
//! that orders anything. Then a launch takes the long way ([`launch`]): it looks at the board and at the pages of those more
//! important, which are mapped at addresses that never go away ([`situation`]); waits if it must ([`wait`]); and says on its own page until when
//! the GPU will be busy with what it has launched ([`activity`]). docs/scheduling.md has the design and what else was weighed.
//!
//! **Fail open.** Each wait ends by itself: a page means nothing 100 ms after it was last renewed, a turn ends by its time. When the
//! conversation with the coordinator ends, all that was known is forgotten and nobody waits ([`client`]).
//!
//! Memsets and copies within the device pass the gate as launches do; large copies from and to the host stay back while more important work is there ([`memory`]).
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`client`] | finding a coordinator, the thread that listens to it |
//! | [`own_table`] | that thread's descriptors, apart from the program's |
//! | [`situation`] | what is known: the board, who is more important, which GPUs, whose turn is ours |
//! | [`activity`] | the process's own page: until when the GPU is busy |
//! | [`shown`] | what people are shown of it, and what the process's behaviour suggests |
//! | [`habits`] | when it will be back, as its habits say |
//! | [`urgency`] | from when on somebody waits for what it has launched |
//! | [`wait`] | waiting at the gate |
//! | [`ahead`] | where the GPU waits and the program does not |
//! | [`mps`] | what is different under NVIDIA's MPS |
//! | [`memory`] | memsets and copies |
//! | [`backlog`] | how much of the process's own work is queued, and how much may be |

mod activity;
mod ahead;
mod backlog;
mod client;
mod habits;
mod memory;
mod mps;
mod own_table;
mod shown;
mod situation;
mod urgency;
mod wait;

pub(crate) use client::{configure, disown, first_context, look_again, process_ends};
pub(crate) use memory::{Kind as MemoryWork, chunk, on_device, with_host};

use crate::clock;
use crate::cuda::{STREAM_LEGACY, STREAM_PER_THREAD, Status, sys};
use crate::driver;
use crate::fence::fenced;
use crate::handlers::launch::{Launching, finish};
use crate::handlers::streams;
use crate::hook::Hook;
use crate::mode;
use crate::sampling;
use crate::segment;
use crate::thread::Thread;
use ahead::Joined;
use std::sync::atomic::Ordering::Relaxed;

/// A launch in company.
#[inline]
pub(crate) fn launch(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: usize,
    thread: *mut Thread,
    key: u64,
    measurable: impl FnOnce() -> bool,
) -> Status {
    let stratum = sampling::stratum_of(key);
    // SAFETY: the calling thread's own, and no reference to it is held across the driver's call.
    let own = unsafe { &*thread };
    let Some(shard) = own.shard() else { return sampling::launch(hook, call, stream, thread, key, measurable) };
    let (cost_ns, is_counted) = (own.expected_ns(stratum), sampling::is_counted(shard, stratum));
    let mut start = clock::now();
    let now_ns = activity::monotonic_ns(start);
    let admitted = admit(now_ns, cost_ns, streams::key(stream, hook));
    if admitted.has_waited {
        start = clock::now();
    }
    let status = if is_counted {
        let status = call();
        let call_ns = clock::ns(clock::now().wrapping_sub(start));
        finish(hook, status, stream, Launching { thread, shard }, start, call_ns);
        status
    } else {
        sampling::launch(hook, call, stream, thread, key, measurable)
    };
    if admitted.is_mark_due && status.is_ok() {
        fenced(|| backlog::mark(streams::key(stream, hook) as sys::CUstream, cost_ns));
    }
    status
}

/// The same for a launch that is out of the ordinary in other ways too: a thread's first, or one of a process whose memory is recorded.
#[cold]
pub(crate) fn enter(stream: usize, hook: Hook) {
    if mode::mode() & !mode::TRACING != mode::IN_COMPANY {
        return;
    }
    fenced(|| {
        let cost_ns = u64::from(sampling::usual_ns());
        let stream = streams::key(stream, hook);
        let now_ns = activity::monotonic_ns(clock::now());
        if admit(now_ns, cost_ns, stream).is_mark_due {
            backlog::mark(stream as sys::CUstream, cost_ns);
        }
    });
}

/// The program begins to wait for work of its own.
#[inline]
pub(crate) fn waits() {
    if mode::mode() & mode::IN_COMPANY != 0 {
        activity::hold();
    }
}

/// The program has waited for work of its own, which is done.
#[inline]
pub(crate) fn idle() {
    if mode::mode() & mode::IN_COMPANY != 0 {
        activity::fall_idle();
    }
}

/// How a launch was let on.
struct Admitted {
    has_waited: bool,
    is_mark_due: bool,
    /// Its cost stands on the page already.
    is_told: bool,
}

/// Lets a launch on, at once, or once it may where it has to wait on the processor; and tells others of it, unless it waits on the GPU.
#[inline]
fn admit(now_ns: u64, cost_ns: u64, stream: usize) -> Admitted {
    let told = Admitted { has_waited: false, is_mark_due: false, is_told: true };
    match go_ahead(now_ns, cost_ns, stream) {
        Some(Joined::Told) => told,
        Some(Joined::Queued) => {
            activity::queued(now_ns);
            Admitted { is_told: false, ..told }
        }
        None if !may_go(now_ns, cost_ns) => {
            fenced(|| wait::wait(cost_ns, stream as sys::CUstream));
            let is_mark_due = activity::launched(cost_ns, activity::monotonic_ns(clock::now()));
            Admitted { has_waited: true, is_mark_due, ..told }
        }
        Some(Joined::Released) | None => Admitted { is_mark_due: activity::launched(cost_ns, now_ns), ..told },
    }
}

/// What becomes of a launch that may be queued at once whatever others do, since the GPU waits.
#[inline]
fn go_ahead(now_ns: u64, cost_ns: u64, stream: usize) -> Option<Joined> {
    if !ahead::is_on() {
        return None;
    }
    if situation::is_unbounded(now_ns) {
        ahead::leave();
        return Some(Joined::Released);
    }
    // The default streams of each context have the same names.
    let context = || if segment::segment().header.device_count.load(Relaxed) > 1 { driver::context() } else { 0 };
    let key = match stream {
        STREAM_PER_THREAD => streams::per_thread_key() ^ context().rotate_left(16),
        STREAM_LEGACY => context() | STREAM_LEGACY,
        other => other,
    };
    ahead::join(stream, key, cost_ns)
}

/// A stream has gone, or one with its handle has come: whatever is launched on such a one stands in no group yet.
pub(crate) fn stream_ends() {
    ahead::leave();
}

/// A context has gone.
pub(crate) fn forget_context(context: usize) {
    backlog::forget_context(context);
    ahead::forget_context(context);
}

/// Whether a launch that keeps the GPU busy for so long may go on at once.
#[inline]
fn may_go(now_ns: u64, cost_ns: u64) -> bool {
    match situation::look(now_ns) {
        Ok(room) => backlog::has_room(cost_ns, room, now_ns, 0),
        Err(_) => false,
    }
}
