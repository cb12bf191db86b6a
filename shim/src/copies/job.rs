//! The pieces of one copy, which the caller and its helpers take and give back.
//!
//! The caller opens chunks, in order, as their slots allow; whoever is free takes the next piece of what is open. A
//! lock guards it all, held for a few instructions and never while bytes are moved.

use super::mover::{self, Stores};
use super::plan::{self, Direction, Plan, SLOT_BYTES, SLOTS};
use parking_lot::Mutex;

/// Where a copy's bytes are and go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) direction: Direction,
    /// Address in the program's memory.
    pub(super) host: usize,
    /// Address of the ring.
    pub(super) ring: usize,
    /// The slot of chunk 0; the others follow it around the ring.
    pub(super) first_slot: usize,
    pub(super) plan: Plan,
    /// So many threads may move pieces at the same time.
    pub(super) threads: usize,
}

/// One piece, in the hands of one thread.
#[derive(Debug)]
pub(super) struct Piece {
    from: usize,
    to: usize,
    bytes: usize,
    slot: usize,
    stores: Stores,
}

/// The pieces of the copy for which a ring is being used.
pub(super) struct Job(Mutex<State>);

#[derive(Default)]
struct State {
    route: Option<Route>,
    /// Bytes of the copy, from its start, that have been taken, and that may be.
    taken: usize,
    open: usize,
    /// Threads with a piece in hand.
    moving: usize,
    /// Bytes of the chunk in each slot that have been moved.
    moved: [usize; SLOTS],
}

impl Route {
    pub(super) fn slot(&self, chunk: usize) -> usize {
        (self.first_slot + chunk) % self.direction.slots()
    }

    /// Large copies with stores that leave the ring in the cache, from which the bus reads it.
    fn stores_into_ring(&self) -> Stores {
        if self.plan.bytes < plan::PAST_CACHES_BYTES { Stores::NonTemporal } else { Stores::Ordinary }
    }

    /// The piece that begins `start` bytes into the copy.
    fn piece(&self, start: usize) -> Piece {
        let index = start / self.plan.chunk_bytes;
        let (chunk_start, chunk_bytes) = self.plan.chunk(index);
        let within = start - chunk_start;
        let slot = self.slot(index);
        let (host, ring) = (self.host + start, self.ring + slot * SLOT_BYTES + within);
        let bytes = self.plan.piece_bytes.min(chunk_bytes - within);
        match self.direction {
            Direction::ToDevice => Piece { from: host, to: ring, bytes, slot, stores: self.stores_into_ring() },
            Direction::FromDevice => Piece { from: ring, to: host, bytes, slot, stores: FROM_RING },
        }
    }
}

/// Out of the ring past the cache, in which the program's memory would only push out the ring.
const FROM_RING: Stores = Stores::NonTemporal;

impl Piece {
    /// Moves its bytes.
    fn carry(&self) {
        // SAFETY: the program promises that its side of the copy is there until the call returns, and the caller does
        // not return while a piece is in hand; the other side is a part of a slot that no other piece covers, in memory
        // of ours that lives as long as its context. The two are different allocations.
        unsafe { mover::copy(self.from as *const u8, self.to as *mut u8, self.bytes, self.stores) };
    }
}

impl State {
    /// The route of the next piece, if one is open and not too many threads have one in hand.
    fn next(&self) -> Option<Route> {
        self.route.filter(|route| self.moving < route.threads && self.taken < self.open)
    }

    fn take(&mut self) -> Option<Piece> {
        let piece = self.next()?.piece(self.taken);
        self.taken += piece.bytes;
        self.moving += 1;
        Some(piece)
    }

    fn finish(&mut self, piece: &Piece) {
        self.moving -= 1;
        self.moved[piece.slot] += piece.bytes;
    }
}

impl Job {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Another copy begins; nothing of it is open yet. Nobody has a piece of the last one any more, see
    /// [`close`](Self::close).
    pub(super) fn begin(&self, route: Route) {
        *self.0.lock() = State { route: Some(route), ..State::default() };
    }

    /// The next chunk's pieces may be taken.
    pub(super) fn open(&self, chunk: usize) {
        let mut state = self.0.lock();
        if let Some(route) = state.route {
            let (start, bytes) = route.plan.chunk(chunk);
            state.moved[route.slot(chunk)] = 0;
            state.open = start + bytes;
        }
    }

    /// Moves one piece, if there is one to take.
    pub(super) fn move_one(&self) -> bool {
        let piece = self.exchange(None);
        if let Some(piece) = &piece {
            piece.carry();
            self.0.lock().finish(piece);
        }
        piece.is_some()
    }

    /// Moves pieces until there is none to take.
    pub(super) fn move_all(&self) {
        let mut piece = self.exchange(None);
        while let Some(in_hand) = piece {
            in_hand.carry();
            piece = self.exchange(Some(in_hand));
        }
    }

    /// Gives back a piece that has been moved, and takes another.
    fn exchange(&self, moved: Option<Piece>) -> Option<Piece> {
        let mut state = self.0.lock();
        if let Some(piece) = moved {
            state.finish(&piece);
        }
        state.take()
    }

    /// Whether the calling thread would get a piece.
    pub(super) fn has_pieces(&self) -> bool {
        self.0.lock().next().is_some()
    }

    /// Whether all of an open chunk has been moved.
    pub(super) fn is_moved(&self, chunk: usize) -> bool {
        let state = self.0.lock();
        state.route.is_some_and(|route| state.moved[route.slot(chunk)] == route.plan.chunk(chunk).1)
    }

    /// No more pieces of this copy; returns whether nobody has one in hand any more.
    pub(super) fn close(&self) -> bool {
        let mut state = self.0.lock();
        state.open = state.taken;
        state.moving == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copies::plan::RING_BYTES;

    fn route(direction: Direction, host: &[u8], ring: &[u8], threads: usize) -> Route {
        let plan = Plan::new(host.len());
        Route { direction, host: host.as_ptr() as usize, ring: ring.as_ptr() as usize, first_slot: 5, plan, threads }
    }

    fn host(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|i| (i / 7) as u8 ^ (i >> 13) as u8).collect()
    }

    #[test]
    fn several_threads_move_every_byte_once() {
        let (host, ring) = (host((3 << 20) / 2 + 77), vec![0_u8; RING_BYTES]);
        let job = Job::new();
        let route = route(Direction::ToDevice, &host, &ring, 3);
        job.begin(route);
        assert!(!job.has_pieces() && !job.move_one(), "nothing is open yet");
        let chunks = route.plan.chunks();
        assert!(chunks <= SLOTS);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !job.is_moved(chunks - 1) {
                        job.move_one();
                        job.move_all();
                    }
                });
            }
            (0..chunks).for_each(|chunk| job.open(chunk));
        });
        while !job.close() {}
        for chunk in 0..chunks {
            assert!(job.is_moved(chunk));
            let (start, bytes) = route.plan.chunk(chunk);
            let slot = route.slot(chunk) * SLOT_BYTES;
            assert_eq!(ring[slot..slot + bytes], host[start..start + bytes]);
        }
    }

    #[test]
    fn no_more_threads_than_the_copy_has_take_pieces() {
        let (host, ring) = (host(1 << 20), vec![0_u8; RING_BYTES]);
        let job = Job::new();
        job.begin(route(Direction::FromDevice, &host, &ring, 2));
        job.open(0);
        let (first, second) = (job.exchange(None), job.exchange(None));
        assert!(first.is_some() && second.is_some());
        assert!(!job.has_pieces() && job.exchange(None).is_none());
        let third = job.exchange(first);
        assert!(third.is_some(), "as soon as one is given back");
        assert!(!job.close());
        assert!(job.exchange(second).is_none(), "closed");
        assert!(job.exchange(third).is_none());
        assert!(job.close());
    }
}
