//! Real processes under the real library, on the simulated GPU: what it counts, and programs that try to break it.
//!
//! A scenario is a C program in `programs/` and a test here, one file a topic. Each test expects of its program the
//! right result, the right exit code, and no word from the library unless it is a test of the library's words.

mod ahead;
mod aictl;
mod allocators;
mod block_content;
mod captures;
mod classes;
mod coordinator;
mod copies;
mod cudart;
mod descriptors;
mod direct_use;
mod endings;
mod fidelity;
mod forks;
mod gate;
mod headers;
mod hostile;
mod launches;
mod lookups;
mod many;
mod memory;
mod memory_work;
mod own_table;
mod panics;
mod pinned;
mod pool_map;
mod quiet;
mod records;
mod reuse;
mod reuse_rounds;
mod settings;
mod signals;
mod slabs;
mod soak;
mod threads;
