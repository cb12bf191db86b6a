//! The coordinator: one order of launches for all processes on a GPU (docs/scheduling.md, docs/protocol.md).
//!
//! The daemon is the control plane alone. It decides who takes part and how important they may be, tells each client whose pages
//! matter, and writes the board; a launch looks at these pages and at the board and asks nobody. So the daemon may be slow, hang, die
//! or be replaced, and no program notices but for order.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`config`], [`glob`], `admission` | settings and rules, their patterns; who may what; whether a process is the one it says |
//! | `instance`, `listener`, `systemd`, `signals` | one daemon a directory, its socket, what the system wants of it |
//! | `server`, `connection`, `requests` | the loop, what a connection may cost, what each request does |
//! | `roster`, `peers` | who is there, with the board kept up; who has to be told of whom |
//! | [`order`], `gpus`, `watch` | the seam to the policies, what they are told, what is written down |
//! | [`cpu`], `telemetry` | nice values of clients' threads; what GPUs do, by NVML and by pages, on threads of their own |
//! | [`policy`], [`virtual_clock`] | the policies, pure; a model of a GPU that runs them |
//!
//! What a client could do to others, and why it does not:
//! * *flood the socket:* each round hears a few messages of each connection, 200 a second in all; beyond that the socket fills up and the flooder
//!   waits;
//! * *open connections and say nothing:* a process may have 8, a user 64, for 5 s;
//! * *not read:* what it is to be told is a set of slots, not a queue, and its socket takes a few messages;
//! * *lie about who it is:* the kernel says who connected, /proc the rest, and a pidfd that it is still that process;
//! * *leave its connection to a child, or its number to a stranger:* the pidfd tells when it has ended.

mod admission;
mod clock;
pub mod config;
mod connection;
pub mod cpu;
pub mod daemon;
pub mod glob;
mod gpus;
mod instance;
mod listener;
pub mod order;
mod peers;
pub mod policy;
mod requests;
mod roster;
mod server;
mod signals;
mod systemd;
mod telemetry;
pub mod virtual_clock;
mod watch;
