//! The threads that help to move bytes. They never call the driver, and a copy that finds none of them awake is done by
//! its caller alone.
//!
//! Lock order: the board, then a job.

use super::job::Job;
use super::plan::MOST_THREADS;
use crate::life;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long a helper that finds nothing to do looks again before it sleeps: longer than a slot takes to come free, and
/// far shorter than anybody would notice.
const SPIN: Duration = Duration::from_micros(50);

/// Looks of an idle helper are so many pauses apart, a fraction of a microsecond.
const PAUSES: usize = 8;

/// A helper that has slept for so long leaves.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where copies that want help are, and who helps.
struct Board {
    jobs: Vec<Arc<Job>>,
    helpers: Vec<Helper>,
    /// Helpers started, also those who have not yet come to say so.
    started: usize,
    /// The processors that the last caller might run on, and the threads that are right for them.
    processors: Option<Processors>,
    threads: usize,
    /// More than these could not be started.
    most: usize,
}

struct Helper {
    thread: Thread,
    tid: libc::pid_t,
    asleep: bool,
}

/// Raised whenever pieces are opened, so that idle helpers have something to watch that is not a lock the others need.
/// No more than a hint: who has seen it change looks under the locks, and who reads it before such a look misses
/// nothing.
static OPENINGS: AtomicU32 = AtomicU32::new(0);

static BOARD: Mutex<Board> = Mutex::new(Board {
    jobs: Vec::new(),
    helpers: Vec::new(),
    started: 0,
    processors: None,
    threads: 1,
    most: MOST_THREADS - 1,
});

/// How many threads may move bytes for the calling thread, itself among them: the processors it may run on, and no more
/// than the quota of its control group. The quota is read where the processors have changed, which costs files; the
/// processors are asked for every time, which costs a system call.
pub(super) fn threads() -> usize {
    let Some(processors) = Processors::of_caller() else {
        return 1;
    };
    let mut board = BOARD.lock();
    if board.processors != Some(processors) {
        board.processors = Some(processors);
        board.threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MOST_THREADS);
        board.helpers.iter().for_each(|helper| processors.hold(helper.tid));
    }
    board.threads.min(board.most + 1)
}

/// Offers a copy's pieces, and sees to it that so many threads in all can take them.
pub(super) fn post(job: &Arc<Job>, threads: usize) {
    let missing = {
        let mut board = BOARD.lock();
        board.jobs.push(Arc::clone(job));
        let missing = (threads - 1).saturating_sub(board.started);
        board.started += missing;
        missing
    };
    let refused = (0..missing).filter(|_| !life::spawn("aishim-copy", help)).count();
    if refused > 0 {
        let mut board = BOARD.lock();
        board.started -= refused;
        board.most = board.started;
    }
}

/// Pieces have been opened for so many threads beside the caller.
pub(super) fn opened(count: usize) {
    OPENINGS.fetch_add(1, Relaxed);
    let mut woken: [Option<Thread>; MOST_THREADS] = [const { None }; MOST_THREADS];
    {
        let mut board = BOARD.lock();
        let asleep = board.helpers.iter_mut().filter(|helper| helper.asleep).take(count.min(MOST_THREADS));
        for (place, helper) in woken.iter_mut().zip(asleep) {
            helper.asleep = false;
            *place = Some(helper.thread.clone());
        }
    }
    woken.iter().flatten().for_each(Thread::unpark);
}

/// The copy needs no more help.
pub(super) fn withdraw(job: &Arc<Job>) {
    BOARD.lock().jobs.retain(|posted| !Arc::ptr_eq(posted, job));
}

/// A helper's life.
fn help() {
    // SAFETY: gettid(2) has no preconditions.
    let tid = unsafe { libc::gettid() };
    BOARD.lock().helpers.push(Helper { thread: std::thread::current(), tid, asleep: false });
    loop {
        let mut idle_since = Instant::now();
        while idle_since.elapsed() < SPIN {
            let openings = OPENINGS.load(Relaxed);
            while let Some(job) = job_with_pieces() {
                job.move_all();
                idle_since = Instant::now();
            }
            while OPENINGS.load(Relaxed) == openings && idle_since.elapsed() < SPIN {
                (0..PAUSES).for_each(|_| std::hint::spin_loop());
            }
        }
        if !sleep(tid) {
            return;
        }
    }
}

fn job_with_pieces() -> Option<Arc<Job>> {
    BOARD.lock().jobs.iter().find(|job| job.has_pieces()).cloned()
}

/// Sleeps until woken; false once it has been for too long. Who opens pieces looks for sleepers afterwards, and who
/// goes to sleep looks for pieces afterwards, both under the locks: one of the two sees the other.
fn sleep(tid: libc::pid_t) -> bool {
    let set_asleep = |asleep: bool| {
        let mut board = BOARD.lock();
        board.helpers.iter_mut().filter(|helper| helper.tid == tid).for_each(|helper| helper.asleep = asleep);
    };
    set_asleep(true);
    if job_with_pieces().is_some() {
        set_asleep(false);
        return true;
    }
    let since = Instant::now();
    std::thread::park_timeout(PATIENCE);
    let mut board = BOARD.lock();
    let stays = since.elapsed() < PATIENCE || !board.jobs.is_empty();
    if stays {
        board.helpers.iter_mut().filter(|helper| helper.tid == tid).for_each(|helper| helper.asleep = false);
    } else {
        board.helpers.retain(|helper| helper.tid != tid);
        board.started -= 1;
    }
    stays
}

/// A set of processors that a thread may run on: a `cpu_set_t`, as words that can be compared.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Processors([u64; size_of::<libc::cpu_set_t>() / 8]);

impl Processors {
    /// Those of the calling thread; none on a machine with more than the 1024 that a `cpu_set_t` holds.
    fn of_caller() -> Option<Self> {
        let mut set = Self([0; size_of::<libc::cpu_set_t>() / 8]);
        // SAFETY: sched_getaffinity(2) fills a set of ours of that size; words are aligned as well as it wants.
        let status = unsafe { libc::sched_getaffinity(0, size_of::<Self>(), (&raw mut set).cast()) };
        (status == 0).then_some(set)
    }

    /// Holds a helper to them: it was started under another set. Where that is refused it stays where it was.
    fn hold(&self, tid: libc::pid_t) {
        // SAFETY: sched_setaffinity(2) of a thread of ours with a set of that size; one that has just left is not
        // found.
        unsafe { libc::sched_setaffinity(tid, size_of::<Self>(), std::ptr::from_ref(self).cast()) };
    }
}
