//! What each hook does before and after the driver's call. One room a topic; the table says who lives where.
//!
//! A handler gets the hook, the driver's call ready to be made, and the arguments it asked for in the table. It makes
//! the call itself, bare: nothing of ours that would have to be dropped or caught stands around it.

pub(crate) mod capture;
pub(crate) mod context;
pub(crate) mod device_memory;
pub(crate) mod host_memory;
pub(crate) mod launch;
pub(crate) mod lookup;
pub(crate) mod pointers;
pub(crate) mod streams;
pub(crate) mod synchronise;
pub(crate) mod work;
