//! What the processes of aishim share: the layouts of what they publish, who may read it, where it lives, and what they say
//! to their coordinator.
//!
//! A process under `libaishim.so` publishes one *segment*: a file in the runtime directory which it alone writes,
//! through a shared mapping, with relaxed atomics. Everybody else copies the file with `pread` and believes nothing in
//! it before [`reader`] has checked it. `docs/protocol.md` is this crate in prose.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`layout`] | the bytes: header, counters, histograms, shards; offsets asserted at compile time |
//! | [`variables`] | every environment variable that aishim reads, declared once |
//! | [`statistics`] | every counter, declared once with key, unit and description |
//! | [`histogram`] | the arithmetic of an HDR histogram of 2 significant digits, 1 ns to 1 h |
//! | [`directory`] | the one answer to "where is the runtime directory?" |
//! | [`segment_file`] | a segment's life as a file: create, lock, end, sweep |
//! | [`reader`] | a validated private copy of somebody else's segment |
//! | [`pool_layout`], [`pool_file`], [`pool_reader`] | the same for the map of a process's pool of pinned memory |
//! | [`trace`] | a record of a program's pinned memory, as text |
//! | [`rank`] | the terms of order: priority, weight, class, policy, GPU |
//! | [`client_page`] | what a process says of itself to those who wait for it, and how that is believed |
//! | [`board`], [`board_writer`], [`board_reader`] | what the coordinator says to all |
//! | [`message`], [`channel`] | what clients, aictl and coordinator say to each other, and how it travels |
//! | [`versions`] | what others' versions say in numbers |
//! | `mapping`, `memfd`, [`credentials`] | the only unsafe code: files and sealed memory mapped; who is at the other end |

pub mod board;
pub mod board_reader;
pub mod board_writer;
pub mod channel;
pub mod client_page;
pub mod credentials;
pub mod directory;
pub mod histogram;
pub mod layout;
mod mapping;
mod memfd;
pub mod message;
pub mod pool_file;
pub mod pool_layout;
pub mod pool_reader;
pub mod rank;
pub mod reader;
pub mod segment_file;
pub mod statistics;
pub mod trace;
pub mod variables;
pub mod versions;

pub use memfd::SharedError;
