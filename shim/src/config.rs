//! What the environment asks of us. `aishim_abi::variables` is the list that `aictl doctor` and this module share.
//!
//! How large the pool may become was to be said in one variable or two. Candidates:
//!
//! * *One, the limit:* short, but who asks for 1 GiB so that a burst fits would have all of it reserved ahead of need, or
//!   at once with `AISHIM_POOL=eager`, and would see it page-locked for good.
//! * *Two, a size and a limit (chosen):* `AISHIM_POOL_MIB` is what a program is expected to need; it is reserved ahead of
//!   need. Up to `AISHIM_POOL_MAX_MIB` slabs come only for requests that found no room, and they are the first to go back.
//!   Who sets only the first has what the one variable would give.
//! * *A size and a factor:* nobody thinks of memory so.

use crate::log;
use aishim_abi::rank::Class;
use aishim_abi::variables::{self, Variable};
use std::ffi::{CStr, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// The settings of this process, read once when it makes its first context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The pool.
    pub(crate) pool: PoolSettings,
    /// Priority, 0 to 100.
    pub(crate) priority: u32,
    /// The same, where it was asked for.
    pub(crate) priority_wished: Option<u32>,
    /// `AISHIM_CLASS`.
    pub(crate) class: Class,
    /// `AISHIM_WEIGHT`, where it was asked for.
    pub(crate) weight_wished: Option<u32>,
    /// The job that the process is part of; empty for none.
    pub(crate) job: String,
    /// Whether launches that have to give way are queued behind a wait on the GPU.
    pub(crate) is_gate_on_gpu: bool,
    /// Whether a process of a job on several GPUs is held back.
    pub(crate) is_job_gated: bool,
    /// Whether copies of pageable memory are staged.
    pub(crate) copying: bool,
    /// Whether GPU time is sampled.
    pub(crate) sampling: bool,
    /// `AISHIM_DIR`.
    pub(crate) directory: Option<OsString>,
    /// `AISHIM_TRACE`, unless it is empty.
    pub(crate) trace: Option<PathBuf>,
}

/// What is asked of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolSettings {
    /// Size it grows to ahead of need, in bytes; 0 turns it off.
    pub(crate) bytes: usize,
    /// Size it may reach, in bytes.
    pub(crate) limit_bytes: usize,
    /// Whether it is reserved from the first context on.
    pub(crate) is_eager: bool,
    /// After how long without need a slab is given back, in milliseconds; 0 for never.
    pub(crate) idle_ms: u64,
    /// Whether its blocks are handed out zeroed.
    pub(crate) is_zeroed: bool,
}

const DEFAULT_POOL_MIB: u64 = 256;
const DEFAULT_POOL_IDLE_S: u64 = 60;

// The largest size that `AISHIM_POOL_MIB` and `AISHIM_POOL_MAX_MIB` take is one the pool can have.
const _: () = assert!(4095 << 20 <= aishim_pool::MAX_CAPACITY_BYTES);
const DEFAULT_PRIORITY: u64 = 20;

/// Whether `AISHIM=off`. Asked from `dlsym`, so it must not allocate.
pub(crate) fn is_off() -> bool {
    static ANSWER: AtomicU8 = AtomicU8::new(0);
    match ANSWER.load(Relaxed) {
        0 => {
            let off = raw(c"AISHIM").is_some_and(|v| v == b"off");
            ANSWER.store(1 + u8::from(off), Relaxed);
            off
        }
        answer => answer == 2,
    }
}

/// The value of an environment variable, without allocation.
fn raw(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: getenv(3) with a zero-terminated name. The value is used at once; a program that changes its environment
    // from another thread at this moment races with every getenv of its own libraries too.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: a zero-terminated string, see above.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) }.to_bytes())
}

impl Config {
    /// Reads the environment; what cannot be obeyed is said once, on one line each, and the default taken.
    pub(crate) fn from_environment() -> Self {
        complain();
        Self {
            pool: PoolSettings::from_environment(),
            priority: number(c"AISHIM_PRIORITY").unwrap_or_else(usual_priority) as u32,
            priority_wished: number(c"AISHIM_PRIORITY").map(|number| number as u32),
            class: class(),
            weight_wished: number(c"AISHIM_WEIGHT").map(|number| number as u32),
            job: job(),
            is_gate_on_gpu: raw(c"AISHIM_GATE").is_none_or(|v| v != b"wait"),
            is_job_gated: raw(c"AISHIM_GATE_JOBS").is_some_and(|v| v == b"on"),
            copying: raw(c"AISHIM_COPY").is_none_or(|v| v != b"off"),
            sampling: raw(c"AISHIM_SAMPLE").is_none_or(|v| v != b"off"),
            directory: raw(c"AISHIM_DIR").map(|v| OsString::from_vec(v.to_vec())),
            trace: raw(c"AISHIM_TRACE").filter(|v| !v.is_empty()).map(|v| PathBuf::from(OsStr::from_bytes(v))),
        }
    }
}

/// `AISHIM_CLASS`; a word that it does not take says nothing.
fn class() -> Class {
    let named = raw(c"AISHIM_CLASS").and_then(|value| std::str::from_utf8(value).ok()).and_then(Class::from_name);
    named.unwrap_or(Class::Unclassified)
}

/// The priority of a process that wishes none.
fn usual_priority() -> u64 {
    class().priority().map_or(DEFAULT_PRIORITY, |priority| priority.number().into())
}

/// `AISHIM_JOB`, else what torchrun calls its runs, which all of its processes have in common.
fn job() -> String {
    let named = |name| raw(name).filter(|value| !value.is_empty());
    match (named(c"AISHIM_JOB"), named(c"TORCHELASTIC_RUN_ID")) {
        (Some(job), _) => String::from_utf8_lossy(job).into_owned(),
        (None, Some(run)) => {
            torch_job(run, [c"MASTER_ADDR", c"MASTER_PORT"].map(|name| named(name).unwrap_or_default()))
        }
        (None, None) => String::new(),
    }
}

/// A run of torchrun that was given no id has this one, as any other of the kind (torch.distributed.run, `--rdzv-id`); where its processes meet is its own.
fn torch_job(run: &[u8], [address, port]: [&[u8]; 2]) -> String {
    let text = String::from_utf8_lossy;
    if run == b"none" { format!("none at {}:{}", text(address), text(port)) } else { text(run).into_owned() }
}

impl PoolSettings {
    fn from_environment() -> Self {
        let is_set_to = |word: &[u8]| raw(c"AISHIM_POOL").is_some_and(|v| v == word);
        let mib = number(c"AISHIM_POOL_MIB").unwrap_or(DEFAULT_POOL_MIB);
        let bytes = if is_set_to(b"off") { 0 } else { (mib as usize) << 20 };
        let limit_bytes = number(c"AISHIM_POOL_MAX_MIB").map_or(0, |mib| (mib as usize) << 20);
        Self {
            bytes,
            limit_bytes: limit_bytes.max(bytes),
            is_eager: is_set_to(b"eager"),
            idle_ms: number(c"AISHIM_POOL_IDLE_S").unwrap_or(DEFAULT_POOL_IDLE_S) * 1000,
            is_zeroed: number(c"AISHIM_POOL_ZERO") == Some(1),
        }
    }
}

/// The number in a variable, where it is one the variable takes.
fn number(name: &CStr) -> Option<u64> {
    let value = OsStr::from_bytes(raw(name)?);
    let variable = Variable::named(OsStr::from_bytes(name.to_bytes()))?;
    let accepted = variable.accepts(value).then_some(value)?;
    accepted.to_str()?.parse().ok()
}

/// Says what is set and cannot be obeyed: names that are not ours, values that their variable does not take.
fn complain() {
    for (name, value) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if variables::is_unknown(&name) {
            log::once(format_args!("{shown} is no variable of aishim and is ignored; `aictl doctor` lists them"));
        } else if let Some(variable) = Variable::named(&name).filter(|v| !v.accepts(&value)) {
            let value = value.to_string_lossy();
            let (values, default) = (variable.values, variable.default);
            log::once(format_args!("{shown}={value} is not {values}; the default is used, {default}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_torchrun_without_an_id_are_told_apart() {
        assert_eq!(torch_job(b"7", [b"localhost", b"29500"]), "7");
        assert_eq!(torch_job(b"none", [b"127.0.0.1", b"29500"]), "none at 127.0.0.1:29500");
    }
}
