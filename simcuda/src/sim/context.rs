//! Contexts: the primary one and those a program makes.

use super::stream::{Stream, StreamId, StreamKind};
use super::{Process, Sim, thread};
use crate::status::{R, Status};
use std::collections::HashMap;

/// A context.
pub(crate) struct Context {
    pub(crate) flags: u32,
    pub(crate) api_version: u32,
    pub(crate) id: u64,
    pub(crate) legacy: StreamId,
    pub(crate) per_thread: HashMap<u64, StreamId>,
    pub(crate) streams: Vec<StreamId>,
    pub(crate) limits: [usize; 8],
    pub(crate) bytes: u64,
    /// An error that ends the context, such as an access to memory that is not there.
    pub(crate) error: Option<Status>,
}

/// The device's primary context.
#[derive(Default)]
pub(crate) struct Primary {
    pub(crate) handle: Option<usize>,
    pub(crate) users: u32,
    pub(crate) flags: u32,
}

/// Stack, printf buffer, heap, sync depth, pending launches, L2 fetch granularity, persisting L2, shared memory.
const LIMITS: [usize; 8] = [1024, 7 << 20, 8 << 20, 2, 2048, 128, 0, 0];

impl Sim {
    /// Makes a context; the process is on the GPU from its first one on.
    pub(crate) fn create_context(&mut self, process: &'static Process, flags: u32, api_version: u32) -> R<usize> {
        process.join_gpu()?;
        let bytes = process.settings.context_bytes;
        if !process.gpu.take_memory(process.slot(), bytes) {
            return Err(Status::CUDA_ERROR_OUT_OF_MEMORY);
        }
        self.next_id += 1;
        let handle = self.contexts.insert(Context {
            flags,
            api_version,
            id: self.next_id,
            legacy: 0,
            per_thread: HashMap::new(),
            streams: Vec::new(),
            limits: LIMITS,
            bytes,
            error: None,
        });
        let legacy = self.add_stream(Stream::new(handle, StreamKind::Legacy, 0, 0));
        if let Some(context) = self.contexts.get_mut(handle) {
            context.legacy = legacy;
        }
        Ok(handle)
    }

    /// Takes a context down with all that is in it; its work is done.
    pub(crate) fn destroy_context(&mut self, process: &Process, handle: usize) {
        let Some(context) = self.contexts.remove(handle) else {
            return;
        };
        for id in &context.streams {
            self.abandon_capture_of(*id);
            self.streams.remove(id);
        }
        let streams = &self.streams;
        self.stream_handles.remove_where(|id| !streams.contains_key(id));
        self.events.remove_where(|event| event.context == handle);
        self.functions.remove_where(|function| function.context == handle);
        self.modules.remove_where(|module| module.context == handle);
        let freed = self.memory.free_context(handle);
        process.gpu.return_memory(process.slot(), freed + context.bytes);
        if self.contexts.is_empty() {
            process.leave_gpu();
        }
    }

    /// The context on top of the calling thread's stack, alive and well.
    pub(crate) fn current_handle(&self) -> R<usize> {
        match thread::top() {
            0 => Err(Status::CUDA_ERROR_INVALID_CONTEXT),
            handle => self.healthy(handle).map(|()| handle),
        }
    }

    /// Fails where the current context cannot be used, but not where there is none.
    pub(crate) fn check_no_dead_context(&self) -> R {
        match thread::top() {
            0 => Ok(()),
            handle => self.healthy(handle),
        }
    }

    pub(crate) fn current(&self) -> R<&Context> {
        self.context(self.current_handle()?)
    }

    pub(crate) fn context(&self, handle: usize) -> R<&Context> {
        self.contexts.get(handle).ok_or(Status::CUDA_ERROR_CONTEXT_IS_DESTROYED)
    }

    /// Fails if the context is gone or met an error.
    pub(crate) fn healthy(&self, handle: usize) -> R {
        self.context(handle)?.error.map_or(Ok(()), Err)
    }

    /// The primary context, made if need be.
    pub(crate) fn retain_primary(&mut self, process: &'static Process) -> R<usize> {
        let handle = match self.primary.handle {
            Some(handle) => handle,
            None => self.create_context(process, self.primary.flags, 3020)?,
        };
        self.primary.handle = Some(handle);
        self.primary.users += 1;
        Ok(handle)
    }

    /// One user less; the handle of the primary context if it was the last one.
    pub(crate) fn release_primary(&mut self) -> R<Option<usize>> {
        let users = self.primary.users.checked_sub(1).ok_or(Status::CUDA_ERROR_INVALID_CONTEXT)?;
        self.primary.users = users;
        Ok(if users == 0 { self.primary.handle.take() } else { None })
    }
}
