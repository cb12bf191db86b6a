//! What the processes of aishim share: the layout of a segment, who may read it, and where it lives.
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
//! | `mapping` | the only unsafe code: mapping files over and into the writer's memory |

pub mod directory;
pub mod histogram;
pub mod layout;
mod mapping;
pub mod pool_file;
pub mod pool_layout;
pub mod pool_reader;
pub mod reader;
pub mod segment_file;
pub mod statistics;
pub mod trace;
pub mod variables;
