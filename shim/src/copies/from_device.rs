//! From the device: the caller sends for chunks ahead, and those that have arrived are moved out by all.

use super::plan::Plan;
use super::ring::{Offer, Patience, Ring};
use super::{OnStream, Stop, is_exiting};
use crate::driver;
use crate::gate;

/// Carries a copy out; see the module above. On the program's stream it is behind earlier work by itself.
pub(super) fn carry(ring: &mut Ring, copy: &OnStream, plan: &Plan, threads: usize) -> Result<(), Stop> {
    if copy.is_apart() && (!ring.wait_for_mark().is_ok() || is_exiting()) {
        return Err(Stop::Untouched);
    }
    let offer = ring.begin(copy, plan, threads);
    let (chunks, slots) = (plan.chunks(), offer.route.direction.slots());
    let (mut sent, mut opened, mut moved) = (0, 0, 0);
    let mut patience = Patience::default();
    'copy: while moved < chunks {
        if is_exiting() {
            return Err(Stop::Exiting { done_bytes: plan.chunk(moved).0 });
        }
        let before = (sent, opened, moved);
        while sent < chunks && sent - moved < slots && ring.is_free(offer.route.slot(sent))? {
            gate::chunk(plan.chunk(sent).1, true);
            // It may have waited there.
            if is_exiting() {
                continue 'copy;
            }
            send_for(ring, &offer, copy, sent)?;
            sent += 1;
        }
        while opened < sent && ring.is_free(offer.route.slot(opened))? {
            offer.open(opened);
            opened += 1;
        }
        while moved < opened && offer.is_moved(moved) {
            moved += 1;
        }
        if offer.move_one() || before != (sent, opened, moved) {
            patience = Patience::default();
        } else if moved == opened {
            ring.wait_for(offer.route.slot(opened))?;
        } else {
            patience.wait();
        }
    }
    Ok(())
}

fn send_for(ring: &mut Ring, offer: &Offer, copy: &OnStream, chunk: usize) -> Result<(), Stop> {
    let slot = offer.route.slot(chunk);
    let (start, bytes) = offer.route.plan.chunk(chunk);
    let device = (copy.transfer.device + start) as u64;
    let status = driver::copy_from_device(ring.slot(slot), device, bytes, ring.stream_for(copy));
    match status.is_ok() {
        true => ring.sent(slot, copy),
        // The driver may answer for the whole of it.
        false if chunk == 0 => Err(Stop::Untouched),
        false => Err(Stop::Failed(status)),
    }
}
