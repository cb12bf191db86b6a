//! Copies and fills: from a call's arguments to work for a stream, with the driver's rules on when the call returns.
//!
//! Follows "API synchronization behavior" in the CUDA driver API.

use super::memory::Side;
use super::stream::StreamId;
use super::work::{Copy, Direction, Fill, Place, Work};
use super::{Process, Sim};
use crate::status::{R, Status};
use parking_lot::MutexGuard;

/// So much of a pageable source an asynchronous copy reads at once, whatever the stream still has to do, in bytes.
/// Measured on a real driver (580.159): the rest is read once the stream gets there, and the call waits for that.
const READ_AT_ONCE: usize = 2 << 20;

/// A side as the caller gave it: `None` for unified addresses.
pub(crate) struct Request {
    pub(crate) to: Place,
    pub(crate) from: Place,
    pub(crate) to_device: Option<bool>,
    pub(crate) from_device: Option<bool>,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
}

impl Request {
    /// `bytes` in a row.
    pub(crate) fn linear(to: usize, from: usize, bytes: usize) -> Self {
        let place = |address| Place { address, pitch: bytes, slice: bytes };
        Self { to: place(to), from: place(from), to_device: None, from_device: None, width: bytes, height: 1, depth: 1 }
    }

    /// Says which side is device memory, as the name of the call does.
    pub(crate) fn between(mut self, from_device: bool, to_device: bool) -> Self {
        (self.from_device, self.to_device) = (Some(from_device), Some(to_device));
        self
    }

    fn extent(&self, place: Place) -> usize {
        if self.width == 0 || self.height == 0 || self.depth == 0 {
            return 0;
        }
        let slices = (self.depth - 1).saturating_mul(place.slice);
        let rows = (self.height - 1).saturating_mul(place.pitch);
        slices.saturating_add(rows).saturating_add(self.width)
    }
}

/// When a copy's call returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Returns {
    /// As cuMemcpy: once it is done, but for copies within the device.
    Synchronous,
    /// As cuMemcpyAsync: at once, where the memory allows it.
    Asynchronous,
}

impl Sim {
    fn plan(&self, request: &Request) -> R<Copy> {
        let side = |place: Place, device: Option<bool>| {
            let side = self.memory.side(place.address, request.extent(place))?;
            // An address given as the device's may be page-locked host memory, which the device sees too.
            let wrong = device == Some(true) && side == Side::Pageable;
            if wrong { Err(Status::CUDA_ERROR_INVALID_VALUE) } else { Ok(side) }
        };
        let (from, to) = (side(request.from, request.from_device)?, side(request.to, request.to_device)?);
        let direction = match (from == Side::Device, to == Side::Device) {
            (false, true) => Direction::HostToDevice,
            (true, false) => Direction::DeviceToHost,
            (true, true) => Direction::DeviceToDevice,
            (false, false) => Direction::HostToHost,
        };
        Ok(Copy {
            to: request.to,
            from: request.from,
            width: request.width,
            height: request.height,
            depth: request.depth,
            direction,
            pageable: from == Side::Pageable || to == Side::Pageable,
            staged: None,
        })
    }
}

impl Process {
    /// Carries out a copy call on a stream.
    pub(crate) fn copy(&self, handle: usize, per_thread: bool, request: &Request, returns: Returns) -> R {
        let mut sim = self.sim();
        let id = sim.stream_id(handle, per_thread)?;
        let synchronous = returns == Returns::Synchronous;
        sim.check_legacy_use(id)?;
        if request.width == 0 || request.height == 0 || request.depth == 0 {
            return Ok(());
        }
        let mut copy = sim.plan(request)?;
        let capturing = sim.streams.get(&id).is_some_and(|stream| stream.capture.is_some());
        let to_device = copy.direction == Direction::HostToDevice && copy.pageable;
        let waits = match copy.direction {
            Direction::DeviceToDevice => false,
            _ if synchronous => true,
            // From pageable memory a large copy's call ends when its source was read; to it, when all is done.
            _ => copy.pageable && !(to_device && copy.bytes() <= READ_AT_ONCE),
        };
        if to_device && !synchronous && !capturing {
            self.send_first_part(&mut sim, id, &mut copy)?;
        }
        if copy.bytes() == 0 {
            return Ok(());
        }
        let ticket = self.submit(&mut sim, id, Work::Copy(copy))?;
        if let Some(ticket) = ticket.filter(|_| waits) {
            self.wait_for(&mut sim, ticket);
            let context = sim.streams.get(&id).map_or(0, |stream| stream.context);
            sim.healthy(context)?;
        }
        Ok(())
    }

    /// Reads what is read at once of a pageable source and issues that part; the rest stays in `copy`.
    fn send_first_part(&self, sim: &mut MutexGuard<'_, Sim>, id: StreamId, copy: &mut Copy) -> R {
        let first = copy.split_off(READ_AT_ONCE);
        if first.bytes() == 0 {
            return Ok(());
        }
        // SAFETY: the program promises that the source of the copy it calls for is readable.
        let staged = unsafe { first.staged() };
        self.submit(sim, id, Work::Copy(staged)).map(drop)
    }

    /// Carries out a fill call on a stream.
    pub(crate) fn fill(&self, handle: usize, per_thread: bool, fill: Fill, returns: Returns) -> R {
        let mut sim = self.sim();
        let id = sim.stream_id(handle, per_thread)?;
        sim.check_legacy_use(id)?;
        let aligned = fill.address.is_multiple_of(fill.element_bytes) && fill.pitch.is_multiple_of(fill.element_bytes);
        if fill.extent() == 0 {
            return Ok(());
        }
        let side = sim.memory.side(fill.address, fill.extent())?;
        if side == Side::Pageable || !aligned {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let ticket = self.submit(&mut sim, id, Work::Fill(fill))?;
        if let Some(ticket) = ticket.filter(|_| side == Side::Pinned && returns == Returns::Synchronous) {
            self.wait_for(&mut sim, ticket);
        }
        Ok(())
    }

    /// Issues work, waiting first while the stream's queue is full, as the driver's launches do.
    pub(crate) fn submit(&self, sim: &mut MutexGuard<'_, Sim>, id: StreamId, work: Work) -> R<Option<super::Ticket>> {
        let depth = self.settings.queue_depth as u64;
        let is_full =
            |sim: &Sim| sim.streams.get(&id).is_some_and(|stream| stream.submitted - stream.completed >= depth);
        if is_full(sim) {
            self.wait_until(sim, |sim| !is_full(sim));
        }
        sim.issue(id, work)
    }
}
