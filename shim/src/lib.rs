//! `libaishim.so`: the CUDA driver API, interposed under programs that know nothing of it.
//!
//! Start at `table`: a line there is a hook. A launch's way is `exports` -> `handlers::launch` -> the driver -> back.
//!
//! | module | what lives there |
//! | --- | --- |
//! | `table`, `hook` | what is interposed, and each hook by number |
//! | `exports` | every exported symbol, among them `dlsym` |
//! | `dlsym`, `driver` | how lookups are answered; the real driver's functions |
//! | `direct` | what `include/aishim.h` declares, for programs that know of us |
//! | `handlers/` | what hooks do before and after the driver's call, a room a topic |
//! | `segment`, `thread`, `clock`, `hot` | counting: the published segment, a thread's shard of it, time stamps; what every launch reads |
//! | `sampling` | GPU time by event pairs |
//! | `gate/` | the coordinator's client: what others are told of our work, and where launches wait for theirs |
//! | `behaviour/` | what kind of work the process seems to do |
//! | `copies/` | copies between pageable memory and the device, staged through page-locked memory by several threads |
//! | `pinned`, `gpu_fence`, `placement` | the pool of pinned memory in this process, when the GPU is done with a block, on which node slabs lie |
//! | `block_notes` | what a program has asked or set about single blocks |
//! | `ranges` | whose an address is |
//! | `trace` | a record of the program's pinned memory, where one is asked for |
//! | `life`, `mode`, `config`, `log`, `fence` | coming to life, forks, panics, the end; settings; the fence around our code |

#![cfg_attr(test, allow(dead_code, reason = "in unit tests nothing is exported, so nothing is reached"))]

mod behaviour;
mod block_notes;
#[cfg(feature = "bypass")]
mod bypass;
mod clock;
mod config;
mod copies;
mod cuda;
mod direct;
mod dlsym;
mod driver;
mod exports;
mod fence;
mod gate;
mod gpu_fence;
mod handlers;
mod hook;
#[cfg(test)]
mod hooks_doc;
mod hot;
mod life;
mod log;
mod mode;
mod open_slots;
mod pinned;
mod placement;
mod ranges;
mod sampling;
mod segment;
mod table;
mod thread;
mod trace;
