//! Streams: queues of work, done in order, each entry after what it depends on in other streams.

use super::work::{Work, Worker};
use super::{Sim, thread};
use crate::clock::now_ns;
use crate::status::{R, Status};
use std::collections::VecDeque;

/// A stream's number, never reused; handles are.
pub(crate) type StreamId = u64;

/// A place in a stream: reached once `sequence` entries are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket {
    pub(crate) stream: StreamId,
    pub(crate) sequence: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StreamKind {
    Legacy,
    PerThread,
    Created { handle: usize },
}

pub(crate) const NON_BLOCKING: u32 = 1;

/// An entry of a stream's queue.
pub(crate) struct Entry {
    pub(crate) work: Work,
    after: Vec<Ticket>,
    enqueued_ns: u64,
}

/// A stream.
pub(crate) struct Stream {
    pub(crate) context: usize,
    pub(crate) kind: StreamKind,
    pub(crate) flags: u32,
    pub(crate) priority: i32,
    pub(crate) queue: VecDeque<Entry>,
    pub(crate) submitted: u64,
    pub(crate) completed: u64,
    /// The first entry is with a worker.
    pub(crate) busy: bool,
    pub(crate) destroyed: bool,
    pub(crate) last_end_ns: u64,
    /// The capture it takes part in, and the nodes that what comes next depends on.
    pub(crate) capture: Option<u64>,
    pub(crate) tail: Vec<usize>,
}

impl Stream {
    pub(crate) fn new(context: usize, kind: StreamKind, flags: u32, priority: i32) -> Self {
        Self {
            context,
            kind,
            flags,
            priority,
            queue: VecDeque::new(),
            submitted: 0,
            completed: 0,
            busy: false,
            destroyed: false,
            last_end_ns: 0,
            capture: None,
            tail: Vec::new(),
        }
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.completed < self.submitted
    }

    /// Ordered with the legacy stream.
    pub(crate) fn is_blocking(&self) -> bool {
        self.kind != StreamKind::Legacy && self.flags & NON_BLOCKING == 0
    }
}

impl Sim {
    /// The stream that `handle` names for the calling thread; `per_thread` is the meaning of 0.
    pub(crate) fn stream_id(&mut self, handle: usize, per_thread: bool) -> R<StreamId> {
        match (handle, per_thread) {
            (0 | 1, false) | (1, true) => Ok(self.current()?.legacy),
            (0, true) | (2, _) => self.per_thread_stream(),
            (handle, _) => {
                let id = *self.stream_handles.get(handle).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?;
                let context = self.streams[&id].context;
                self.healthy(context)?;
                Ok(id)
            }
        }
    }

    fn per_thread_stream(&mut self) -> R<StreamId> {
        let context = self.current_handle()?;
        let thread = thread::id();
        if let Some(&id) = self.context(context)?.per_thread.get(&thread) {
            return Ok(id);
        }
        let id = self.add_stream(Stream::new(context, StreamKind::PerThread, 0, 0));
        self.contexts.get_mut(context).ok_or(Status::CUDA_ERROR_INVALID_CONTEXT)?.per_thread.insert(thread, id);
        Ok(id)
    }

    pub(crate) fn add_stream(&mut self, stream: Stream) -> StreamId {
        self.next_id += 1;
        let id = self.next_id;
        if let Some(context) = self.contexts.get_mut(stream.context) {
            context.streams.push(id);
        }
        self.streams.insert(id, stream);
        id
    }

    /// Puts work at the end of a stream that is not capturing.
    pub(crate) fn push(&mut self, id: StreamId, work: Work, mut after: Vec<Ticket>) -> Ticket {
        self.add_default_stream_order(id, &mut after);
        let now = now_ns();
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ticket { stream: id, sequence: 0 };
        };
        stream.submitted += 1;
        let ticket = Ticket { stream: id, sequence: stream.submitted };
        stream.queue.push_back(Entry { work, after, enqueued_ns: now });
        if !stream.busy && stream.queue.len() == 1 {
            self.advance(id);
        }
        ticket
    }

    /// The legacy stream waits for all blocking streams of its context, and they for it.
    fn add_default_stream_order(&self, id: StreamId, after: &mut Vec<Ticket>) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let Some(context) = self.contexts.get(stream.context) else {
            return;
        };
        let mut wait_for = |other: StreamId| {
            if let Some(stream) = self.streams.get(&other).filter(|stream| stream.is_pending()) {
                after.push(Ticket { stream: other, sequence: stream.submitted });
            }
        };
        if stream.kind == StreamKind::Legacy {
            let blocking = |id: &&StreamId| self.streams.get(id).is_some_and(Stream::is_blocking);
            context.streams.iter().filter(blocking).for_each(|other| wait_for(*other));
        } else if stream.is_blocking() {
            wait_for(context.legacy);
        }
    }

    /// True once everything up to `ticket` is done.
    pub(crate) fn is_done(&self, ticket: Ticket) -> bool {
        self.streams.get(&ticket.stream).is_none_or(|stream| stream.completed >= ticket.sequence)
    }

    /// Moves a stream on as far as it goes without a worker, then the streams that waited for it.
    pub(crate) fn advance(&mut self, id: StreamId) {
        if self.advance_one(id) {
            self.settle();
        }
    }

    /// An entry of `id` that a worker had is done.
    pub(crate) fn finish(&mut self, id: StreamId, end_ns: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.busy = false;
        }
        self.count_completed(id, end_ns);
        self.advance_one(id);
        self.settle();
    }

    /// Tries the streams that wait for others until none of them moves.
    fn settle(&mut self) {
        loop {
            let mut progressed = false;
            for id in std::mem::take(&mut self.blocked) {
                progressed |= self.advance_one(id);
            }
            if !progressed {
                return;
            }
        }
    }

    /// True if an entry was completed.
    fn advance_one(&mut self, id: StreamId) -> bool {
        let mut progressed = false;
        while let Some(stream) = self.streams.get(&id).filter(|stream| !stream.busy) {
            let Some(entry) = stream.queue.front() else {
                self.forget_if_destroyed(id);
                break;
            };
            if !entry.after.iter().all(|ticket| self.is_done(*ticket)) {
                self.blocked.push(id);
                break;
            }
            if let Work::Wait { address, value, wide, flags } = entry.work
                && !super::memory_op::is_satisfied(address, value, wide, flags)
            {
                self.poll(id);
                break;
            }
            if let Some(worker) = entry.work.worker() {
                self.dispatch(id, worker);
                break;
            }
            let ready_ns = self.ready_ns(id);
            let Some(entry) = self.streams.get_mut(&id).and_then(|stream| stream.queue.pop_front()) else {
                break;
            };
            let end_ns = self.perform_inline(&entry.work, ready_ns);
            self.count_completed(id, end_ns);
            progressed = true;
        }
        progressed
    }

    fn dispatch(&mut self, id: StreamId, worker: Worker) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.busy = true;
        }
        self.ready[worker as usize].push(id);
        self.wake(worker);
    }

    fn poll(&mut self, id: StreamId) {
        self.polled.push(id);
        self.wake(Worker::Host);
    }

    /// When the first entry of a stream could start, in simulated time.
    pub(crate) fn ready_ns(&self, id: StreamId) -> u64 {
        let Some(stream) = self.streams.get(&id) else {
            return now_ns();
        };
        let Some(entry) = stream.queue.front() else {
            return now_ns();
        };
        let now = now_ns();
        let ends = entry.after.iter().filter_map(|ticket| self.streams.get(&ticket.stream));
        let last = ends.map(|other| other.last_end_ns.min(now)).max().unwrap_or(0);
        last.max(stream.last_end_ns).max(entry.enqueued_ns)
    }

    /// An entry of `id` ended.
    pub(crate) fn count_completed(&mut self, id: StreamId, end_ns: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.completed += 1;
            stream.last_end_ns = stream.last_end_ns.max(end_ns);
        }
        self.wake_waiting();
    }

    pub(crate) fn forget_if_destroyed(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if stream.destroyed && !stream.is_pending() {
            if let Some(context) = self.contexts.get_mut(stream.context) {
                context.streams.retain(|other| *other != id);
            }
            self.streams.remove(&id);
        }
    }
}
