//! To the device: chunks are moved into free slots, by all, and sent off in order, by the caller.

use super::plan::{LEAST_BEHIND_WORK, Plan};
use super::ring::{Offer, Patience, Ring};
use super::{OnStream, Stop, is_exiting};
use crate::driver;
use crate::gate;

/// Carries a copy out; see the module above.
pub(super) fn carry(ring: &mut Ring, copy: &OnStream, plan: &Plan, threads: usize) -> Result<(), Stop> {
    wait_for_earlier_work(ring, copy)?;
    let offer = ring.begin(copy, plan, threads);
    let last = send_all(ring, &offer, copy, plan)?;
    drop(offer);
    if copy.transfer.synchronous || copy.is_apart() {
        ring.wait_for(last)?;
    }
    Ok(())
}

/// Nothing has been read yet, so a stream whose state is an error is left to the driver's own call, which will say so.
fn wait_for_earlier_work(ring: &Ring, copy: &OnStream) -> Result<(), Stop> {
    let is_idle = ring.is_mark_passed().map_err(|_| Stop::Untouched)?;
    let returns_at_once = !copy.transfer.synchronous && copy.transfer.bytes < LEAST_BEHIND_WORK;
    if is_idle {
        return Ok(());
    }
    if returns_at_once || !ring.wait_for_mark().is_ok() || is_exiting() {
        return Err(Stop::Untouched);
    }
    Ok(())
}

/// Returns the slot of the last chunk.
fn send_all(ring: &mut Ring, offer: &Offer, copy: &OnStream, plan: &Plan) -> Result<usize, Stop> {
    let chunks = plan.chunks();
    let slots = offer.route.direction.slots();
    let (mut opened, mut sent) = (0, 0);
    let mut patience = Patience::default();
    while sent < chunks {
        if is_exiting() {
            return Err(Stop::Exiting { done_bytes: plan.chunk(sent).0 });
        }
        let mut progress = false;
        while opened < chunks && opened - sent < slots && ring.is_free(offer.route.slot(opened))? {
            offer.open(opened);
            opened += 1;
            progress = true;
        }
        if sent < opened && offer.is_moved(sent) {
            send(ring, offer, copy, sent)?;
            sent += 1;
            progress = true;
        } else {
            progress |= offer.move_one();
        }
        if progress {
            patience = Patience::default();
        } else if sent == opened {
            ring.wait_for(offer.route.slot(opened))?;
        } else {
            patience.wait();
        }
    }
    Ok(offer.route.slot(chunks - 1))
}

fn send(ring: &mut Ring, offer: &Offer, copy: &OnStream, chunk: usize) -> Result<(), Stop> {
    let slot = offer.route.slot(chunk);
    let (start, bytes) = offer.route.plan.chunk(chunk);
    let device = (copy.transfer.device + start) as u64;
    gate::chunk(bytes, false);
    // It may have waited there.
    if is_exiting() {
        return Err(Stop::Exiting { done_bytes: start });
    }
    let status = driver::copy_to_device(device, ring.slot(slot), bytes, ring.stream_for(copy));
    match status.is_ok() {
        true => ring.sent(slot, copy),
        // The driver may answer for the whole of it.
        false if chunk == 0 => Err(Stop::Untouched),
        false => Err(Stop::Failed(status)),
    }
}
