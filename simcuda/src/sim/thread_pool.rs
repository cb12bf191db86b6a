//! The threads that stand for the GPU's engines and for the driver's caller of host functions.

use super::stream::StreamId;
use super::work::{self, Work, Worker};
use super::{Process, Sim, memory_op};
use crate::clock::now_ns;
use std::time::Duration;

const WORKERS: [(Worker, &str); 4] = [
    (Worker::Compute, "sim-compute"),
    (Worker::CopyToDevice, "sim-copy-in"),
    (Worker::CopyFromDevice, "sim-copy-out"),
    (Worker::Host, "sim-host"),
];
const POLL: Duration = Duration::from_micros(100);

/// Starts the workers; the program's signals are not theirs.
pub(super) fn start(process: &'static Process) -> std::io::Result<()> {
    let before = block_signals();
    let started = WORKERS.iter().try_for_each(|&(worker, name)| {
        let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(256 << 10);
        thread.spawn(move || run(process, worker)).map(drop)
    });
    // SAFETY: restores the mask that block_signals saw.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    started
}

fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets are plain data that the calls fill; the faults stay deliverable, since a fault is the thread's
    // own.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE] {
            libc::sigdelset(&raw mut all, fault);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
}

fn run(process: &'static Process, worker: Worker) {
    // SAFETY: prctl(2) PR_SET_TIMERSLACK concerns this thread alone; sleeps end within a microsecond of their time.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000) };
    loop {
        let (id, work, ready_ns) = next(process, worker);
        let end_ns = work::perform(&work, ready_ns, process);
        // Dropped outside the lock: the work may own a staged copy or a whole graph.
        drop(work);
        process.with_sim(|sim| sim.finish(id, end_ns));
    }
}

fn next(process: &Process, worker: Worker) -> (StreamId, Work, u64) {
    let mut sim = process.sim();
    loop {
        if let Some(taken) = sim.take_ready(worker) {
            return taken;
        }
        if worker == Worker::Compute {
            process.yield_compute();
        }
        if worker == Worker::Host && !sim.polled.is_empty() {
            process.wake[worker as usize].wait_for(&mut sim, POLL);
            sim.poll_waits();
        } else {
            process.wake[worker as usize].wait(&mut sim);
        }
    }
}

impl Sim {
    /// The most important stream that is ready, the longest waiting of these; its first entry is taken out.
    fn take_ready(&mut self, worker: Worker) -> Option<(StreamId, Work, u64)> {
        let priority = |id: &StreamId| self.streams.get(id).map_or(0, |stream| stream.priority);
        let candidates = self.ready[worker as usize].iter().enumerate();
        let (index, &id) = candidates.min_by_key(|(index, id)| (priority(id), *index))?;
        self.ready[worker as usize].remove(index);
        let ready_ns = self.ready_ns(id);
        let entry = self.streams.get_mut(&id)?.queue.pop_front()?;
        Some((id, entry.work, ready_ns))
    }

    /// Looks whether memory that streams wait for has the value they want.
    fn poll_waits(&mut self) {
        for id in std::mem::take(&mut self.polled) {
            self.advance(id);
        }
    }

    /// Work that takes no time, done by whoever finds it ready. Returns when it ended, in simulated time.
    pub(crate) fn perform_inline(&mut self, work: &Work, ready_ns: u64) -> u64 {
        match *work {
            Work::Record { ref event, serial } => {
                let cost_ns = if event.is_timed() { self.event_cost_ns() } else { 0 };
                event.complete(serial, ready_ns + cost_ns);
                self.wake_waiting();
                return ready_ns + cost_ns;
            }
            Work::Write { address, value, wide } => memory_op::write(address, value, wide),
            Work::Release { address } => self.release_pooled(address),
            _ => {}
        }
        ready_ns.min(now_ns())
    }

    fn event_cost_ns(&self) -> u64 {
        super::PROCESS.get().map_or(0, |process| process.settings.costs.take(process.settings.costs.event_ns))
    }
}
