//! Stream capture: work noted down instead of done, and what must not be called meanwhile.
//!
//! Follows "Stream capture" in the CUDA driver API's pages on cuStreamBeginCapture and
//! cuThreadExchangeStreamCaptureMode.

use super::event::{Event, Mark};
use super::graph::{Graph, Node};
use super::stream::{StreamId, StreamKind, Ticket};
use super::work::Work;
use super::{Sim, thread};
use crate::status::{R, Status};

pub(crate) const GLOBAL: u32 = 0;
pub(crate) const RELAXED: u32 = 2;

/// What `cuStreamIsCapturing` tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CaptureStatus {
    None = 0,
    Active = 1,
    Invalidated = 2,
}

/// A capture under way.
pub(crate) struct Capture {
    mode: u32,
    thread: u64,
    origin: StreamId,
    pub(crate) status: CaptureStatus,
    /// The graph it fills; a capture into a graph of the program's leaves it where it is.
    pub(crate) graph: usize,
    into_existing: bool,
    streams: Vec<StreamId>,
    /// Node handles as last told by cuStreamGetCaptureInfo, which hands out a pointer to them.
    pub(crate) told: Vec<usize>,
}

impl Sim {
    /// cuStreamBeginCapture; `existing` is a graph to go on with, after the given nodes of it.
    pub(crate) fn begin_capture(&mut self, id: StreamId, mode: u32, existing: Option<(usize, Vec<usize>)>) -> R {
        let stream = self.streams.get(&id).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?;
        if mode > RELAXED {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        if stream.kind == StreamKind::Legacy {
            return Err(Status::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        if stream.capture.is_some() {
            return Err(Status::CUDA_ERROR_ILLEGAL_STATE);
        }
        let into_existing = existing.is_some();
        let (graph, tail) = existing.unwrap_or_else(|| (self.graphs.insert(Graph::default()), Vec::new()));
        self.next_id += 1;
        let capture = Capture {
            mode,
            thread: thread::id(),
            origin: id,
            status: CaptureStatus::Active,
            graph,
            into_existing,
            streams: vec![id],
            told: Vec::new(),
        };
        self.captures.insert(self.next_id, capture);
        self.enter_capture(id, self.next_id, tail);
        Ok(())
    }

    fn enter_capture(&mut self, id: StreamId, capture: u64, tail: Vec<usize>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.capture = Some(capture);
            stream.tail = tail;
        }
    }

    /// cuStreamEndCapture: the graph's handle.
    pub(crate) fn end_capture(&mut self, id: StreamId) -> R<usize> {
        let number = self.streams.get(&id).and_then(|stream| stream.capture).ok_or(Status::CUDA_ERROR_ILLEGAL_STATE)?;
        let capture = self.captures.get(&number).ok_or(Status::CUDA_ERROR_ILLEGAL_STATE)?;
        if capture.origin != id {
            return self.invalidate(number, Status::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != RELAXED && capture.thread != thread::id() {
            return Err(Status::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        }
        let (status, graph) = (capture.status, capture.graph);
        let joined = self.is_joined(number, id);
        let result = match status {
            CaptureStatus::Active if joined => Ok(graph),
            CaptureStatus::Active => Err(Status::CUDA_ERROR_STREAM_CAPTURE_UNJOINED),
            _ => Err(Status::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED),
        };
        self.leave_capture(number, result.is_err());
        result
    }

    fn leave_capture(&mut self, number: u64, discard: bool) {
        let Some(capture) = self.captures.remove(&number) else {
            return;
        };
        for id in capture.streams {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.capture = None;
                stream.tail = Vec::new();
            }
        }
        if discard && !capture.into_existing {
            self.graphs.remove(capture.graph);
        }
    }

    /// A stream that takes part in a capture goes away.
    pub(crate) fn abandon_capture_of(&mut self, id: StreamId) {
        let Some(number) = self.streams.get(&id).and_then(|stream| stream.capture) else {
            return;
        };
        if self.captures.get(&number).is_some_and(|capture| capture.origin == id) {
            self.leave_capture(number, true);
        } else if let Some(capture) = self.captures.get_mut(&number) {
            capture.status = CaptureStatus::Invalidated;
            capture.streams.retain(|other| *other != id);
        }
    }

    /// True if all that other streams captured is before something in the origin stream.
    fn is_joined(&self, number: u64, origin: StreamId) -> bool {
        let Some(capture) = self.captures.get(&number) else {
            return true;
        };
        let Some(graph) = self.graphs.get(capture.graph) else {
            return true;
        };
        let Some(stream) = self.streams.get(&origin) else {
            return true;
        };
        let mut reached = vec![false; graph.nodes.len()];
        let mut open = stream.tail.clone();
        while let Some(index) = open.pop() {
            if let Some(node) = graph.nodes.get(index).filter(|_| !std::mem::replace(&mut reached[index], true)) {
                open.extend(&node.after);
            }
        }
        let others = capture.streams.iter().filter(|id| **id != origin).filter_map(|id| self.streams.get(id));
        others.flat_map(|stream| &stream.tail).all(|index| reached.get(*index).copied().unwrap_or(true))
    }

    pub(crate) fn invalidate<T>(&mut self, number: u64, status: Status) -> R<T> {
        if let Some(capture) = self.captures.get_mut(&number) {
            capture.status = CaptureStatus::Invalidated;
        }
        Err(status)
    }

    /// Fails a call that is unsafe while the captures under way last, and invalidates those.
    pub(crate) fn check_unsafe_call(&mut self) -> R {
        if self.captures.is_empty() || thread::capture_mode() == RELAXED {
            return Ok(());
        }
        let (me, mode) = (thread::id(), thread::capture_mode());
        let mut hit = false;
        for capture in self.captures.values_mut() {
            let own = capture.thread == me && capture.mode != RELAXED;
            if own || (mode == GLOBAL && capture.mode == GLOBAL) {
                capture.status = CaptureStatus::Invalidated;
                hit = true;
            }
        }
        if hit { Err(Status::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }

    /// Fails use of the legacy stream while a blocking stream of its context is capturing, and invalidates that.
    pub(crate) fn check_legacy_use(&mut self, id: StreamId) -> R {
        if self.captures.is_empty() || self.streams.get(&id).is_none_or(|stream| stream.kind != StreamKind::Legacy) {
            return Ok(());
        }
        let context = self.streams[&id].context;
        let blocking = self.streams.values().filter(|stream| stream.context == context && stream.is_blocking());
        let numbers: Vec<_> = blocking.filter_map(|stream| stream.capture).collect();
        for number in &numbers {
            let _ = self.invalidate::<()>(*number, Status::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        }
        if numbers.is_empty() { Ok(()) } else { Err(Status::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT) }
    }

    /// Fails a call that has no meaning on a stream that is capturing, and invalidates the capture.
    pub(crate) fn check_not_capturing(&mut self, id: StreamId) -> R {
        match self.streams.get(&id).and_then(|stream| stream.capture) {
            Some(number) => self.invalidate(number, Status::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
            None => Ok(()),
        }
    }

    /// Fails a wait for a context in which something is capturing, and invalidates those captures.
    pub(crate) fn check_context_sync(&mut self, context: usize) -> R {
        let streams = self.streams.values().filter(|stream| stream.context == context);
        let numbers: Vec<_> = streams.filter_map(|stream| stream.capture).collect();
        for number in &numbers {
            let _ = self.invalidate::<()>(*number, Status::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        if numbers.is_empty() { self.check_unsafe_call() } else { Err(Status::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED) }
    }

    /// Gives `work` to a stream: queued, or noted down if the stream is capturing. The ticket is none for the latter.
    pub(crate) fn issue(&mut self, id: StreamId, work: Work) -> R<Option<Ticket>> {
        self.check_legacy_use(id)?;
        let stream = self.streams.get(&id).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?;
        let Some(number) = stream.capture else {
            return Ok(Some(self.push(id, work, Vec::new())));
        };
        let capture = self.captures.get(&number).ok_or(Status::CUDA_ERROR_ILLEGAL_STATE)?;
        if capture.status != CaptureStatus::Active {
            return Err(Status::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        let (graph, after) = (capture.graph, stream.tail.clone());
        self.next_id += 1;
        let handle = NODE_HANDLES + self.next_id as usize * 64;
        let graph = self.graphs.get_mut(graph).ok_or(Status::CUDA_ERROR_ILLEGAL_STATE)?;
        graph.nodes.push(Node { work, after, handle });
        let index = graph.nodes.len() - 1;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.tail = vec![index];
        }
        Ok(None)
    }

    /// cuEventRecord.
    pub(crate) fn record(&mut self, event: &std::sync::Arc<Event>, id: StreamId) -> R {
        self.check_legacy_use(id)?;
        let stream = self.streams.get(&id).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?;
        if stream.context != event.context {
            return Err(Status::CUDA_ERROR_INVALID_HANDLE);
        }
        if let Some(number) = stream.capture {
            if self.captures.get(&number).is_some_and(|capture| capture.status != CaptureStatus::Active) {
                return Err(Status::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            }
            *event.mark.lock() = Mark::Capture(number, stream.tail.clone());
            return Ok(());
        }
        let serial = event.begin_record();
        let ticket = self.push(id, Work::Record { event: event.clone(), serial }, Vec::new());
        *event.mark.lock() = Mark::Stream(ticket);
        Ok(())
    }

    /// cuStreamWaitEvent.
    pub(crate) fn wait_event(&mut self, id: StreamId, event: &Event) -> R {
        self.check_legacy_use(id)?;
        let capture = self.streams.get(&id).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?.capture;
        let mark = event.mark.lock().clone();
        match (mark, capture) {
            (Mark::Never, _) => Ok(()),
            (Mark::Stream(_), Some(number)) => self.invalidate(number, Status::CUDA_ERROR_STREAM_CAPTURE_ISOLATION),
            (Mark::Stream(ticket), None) => {
                if !self.is_done(ticket) {
                    self.push(id, Work::Marker, vec![ticket]);
                }
                Ok(())
            }
            (Mark::Capture(number, nodes), None) => self.join_capture(id, number, nodes),
            (Mark::Capture(number, nodes), Some(own)) if number == own => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.tail.extend(nodes);
                    stream.tail.sort_unstable();
                    stream.tail.dedup();
                }
                Ok(())
            }
            (Mark::Capture(..), Some(own)) => self.invalidate(own, Status::CUDA_ERROR_STREAM_CAPTURE_MERGE),
        }
    }

    fn join_capture(&mut self, id: StreamId, number: u64, nodes: Vec<usize>) -> R {
        let Some(capture) = self.captures.get_mut(&number) else {
            return Err(Status::CUDA_ERROR_CAPTURED_EVENT);
        };
        if self.streams.get(&id).is_some_and(|stream| stream.kind == StreamKind::Legacy) {
            return self.invalidate(number, Status::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        }
        capture.streams.push(id);
        self.enter_capture(id, number, nodes);
        Ok(())
    }

    /// A stream's capture: number, state and graph.
    pub(crate) fn capture_info(&self, id: StreamId) -> Option<(u64, &Capture)> {
        let number = self.streams.get(&id)?.capture?;
        Some((number, self.captures.get(&number)?))
    }
}

/// Node handles lie apart from all other handles.
const NODE_HANDLES: usize = 0x5cf0_0000_0000;
