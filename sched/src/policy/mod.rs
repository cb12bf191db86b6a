//! Who may launch when: pure functions of (state, event, now) to decisions, without clock, thread or I/O.
//!
//! One [`Gpu`] for each GPU is told what its clients do ([`Event`]) and says what has to be written on the board
//! ([`Decision`]). The order between ranks is kept by the gates themselves, which look at each other's pages and need
//! nobody's word for it; what is decided here is whose turn it is among equals, and when the gates open for all.
//!
//! # Where things are
//!
//! | file | what it knows |
//! | --- | --- |
//! | `ids`, `event`, `decision` | the words |
//! | `gpu` | clients and parties, whether what is said of them can be true, the switch from policy to policy |
//! | `party` | members of one job as one party |
//! | `registry` | which policies there are: one line each |
//! | `priority`, `fair`, `off` | the policies |
//! | `turns` | turns among equals by GPU time used, which `priority` and `fair` share |
//! | `floor` | what those behind more important ones are promised |
//!
//! # Why it is built this way
//!
//! **A turn for each rank, not one for each GPU.** An inference job of rank 80 is on the GPU for a fifth of the time,
//! and three jobs of rank 20 share what it leaves. One turn for all would be with the 80 while it is active at all, at
//! the millisecond or so in which a coordinator sees anything; then the gaps between its requests are nobody's, or
//! everybody's at once. So each rank has a turn, and a gate waits for its own rank's turn *and* for more important
//! ones to be off the GPU.
//!
//! **Everybody, while no two want.** With one party that wants, the turn is everybody's: whoever comes next starts
//! without waiting for the coordinator, which makes an order as soon as it has seen both.
//!
//! **By GPU time used, not round robin.** Turns of 4 ms in a ring resonate with a request that comes each 8 ms: the
//! one's turns always fall into the request, the other's beside it. The least served is next (`turns` has the
//! algorithm and its source).
//!
//! **GPU time is what clients say.** A client that says too little would be the least served forever. What it says is
//! clipped to the time that has passed, and a turn costs at least a quarter of its length: it gains a factor of four,
//! no more.
//!
//! **A job's rank and weight are its lowest member's.** Members must be gated together or not at all, and a process
//! that joins a job by its name must not be lifted by it.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod decision;
mod event;
mod fair;
mod floor;
mod gpu;
mod ids;
mod off;
mod party;
mod priority;
mod registry;
mod turns;

pub use self::{
    decision::{Decision, Group, Turn},
    event::{Event, Member},
    floor::{FLOOR_NS, OPENING_AT_NS, PERIOD_NS},
    gpu::Gpu,
    ids::{ClientId, JobId, PartyId, Priority, Weight},
    priority::LONG_TURNS_BELOW,
    registry::Kind,
    turns::{LEAST_CHARGE, LONG_TURN_NS, TURN_NS},
};
