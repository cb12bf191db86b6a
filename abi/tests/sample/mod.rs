//! A segment built by hand, for the tests of everything that reads segments: the bytes a shim could have written, and
//! the file, locked as by a living process or not.

#![allow(dead_code, unreachable_pub, reason = "shared by several test programs, none of which uses all of it")]

pub mod memory;
pub mod pool;

use aishim_abi::histogram;
use aishim_abi::layout::{
    self, HOOKS, Header, Histogram, HookKind, HookState, MAGIC, NAME_BYTES, SEGMENT_BYTES, Segment, Shard, VERSION,
    put_text,
};
use aishim_abi::reader::Which;
use aishim_abi::statistics::Statistic;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::Write;
use std::mem::offset_of;
use std::path::{Path, PathBuf};

/// Place of a field of the header.
macro_rules! header {
    ($field:ident) => {
        offset_of!(Segment, header) + offset_of!(Header, $field)
    };
}

/// A segment as bytes.
#[derive(Clone)]
pub struct Sample {
    pub bytes: Vec<u8>,
    pid: u32,
    start_ticks: u64,
}

/// The file of a process that lives for as long as this does.
pub struct Alive {
    pub path: PathBuf,
    _lock: File,
}

impl Sample {
    /// What a process has published that has not done anything yet.
    pub fn new(pid: u32, start_ticks: u64) -> Self {
        let mut sample = Self { bytes: vec![0; SEGMENT_BYTES], pid, start_ticks };
        sample.bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
        sample.u32(header!(version), VERSION);
        sample.u64(header!(segment_bytes), SEGMENT_BYTES as u64);
        sample.u64(header!(generation), 0x0123_4567_89ab_cdef);
        sample.u32(header!(pid), pid);
        sample.u32(header!(uid), rustix::process::getuid().as_raw());
        sample.u64(header!(start_ticks), start_ticks);
        sample.u64(header!(created_unix_ns), 1_700_000_000_000_000_000);
        sample.u32(header!(priority), 20);
        sample.u32(header!(driver_version), 13_000);
        sample.text(header!(library), 32, "0.1.0");
        sample.text(header!(command), 512, "python infer.py");
        sample
    }

    /// Writes four bytes at `offset`.
    pub fn u32(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }

    /// Writes eight bytes at `offset`.
    pub fn u64(&mut self, offset: usize, value: u64) {
        self.bytes[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
    }

    fn u64_at(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.bytes[offset..offset + 8].try_into().unwrap())
    }

    fn text(&mut self, offset: usize, len: usize, text: &str) {
        put_text(&mut self.bytes[offset..offset + len], text.as_bytes());
    }

    /// Another layout version.
    pub fn version(mut self, version: u32) -> Self {
        self.u32(header!(version), version);
        self
    }

    /// Another command line.
    pub fn command(mut self, command: &str) -> Self {
        self.text(header!(command), 512, command);
        self
    }

    /// Another priority.
    pub fn priority(mut self, priority: u32) -> Self {
        self.u32(header!(priority), priority);
        self
    }

    /// The moment of an orderly end.
    pub fn ended_unix_ns(mut self, moment: u64) -> Self {
        self.u64(header!(ended_unix_ns), moment);
        self
    }

    /// The only device.
    pub fn device(mut self, uuid: [u8; 16]) -> Self {
        self.u32(header!(device_count), 1);
        let at = header!(devices);
        self.bytes[at..at + 16].copy_from_slice(&uuid);
        self
    }

    /// The only name that was looked up and not known.
    pub fn unknown(mut self, name: &str) -> Self {
        self.u32(header!(unknown_count), 1);
        self.text(header!(unknown), NAME_BYTES, name);
        self
    }

    /// One more hook, with its calls (counted in shard 2) and errors.
    pub fn hook(mut self, name: &str, kind: HookKind, state: HookState, calls: u64, errors: u64) -> Self {
        let at = header!(hooks);
        let index = u32::from_ne_bytes(self.bytes[at..at + 4].try_into().unwrap()) as usize;
        assert!(index < HOOKS);
        self.u32(at, index as u32 + 1);
        let names = offset_of!(Segment, hook_names);
        self.text(names + index * NAME_BYTES, NAME_BYTES, name);
        self.bytes[offset_of!(Segment, hook_kinds) + index] = kind as u8;
        self.bytes[offset_of!(Segment, hook_states) + index] = state as u8;
        self.u64(shard(2) + offset_of!(Shard, calls) + 8 * index, calls);
        self.u64(offset_of!(Segment, errors) + 8 * index, errors);
        self
    }

    /// A counter or gauge.
    pub fn statistic(mut self, which: Statistic, value: u64) -> Self {
        self.u64(offset_of!(Segment, counters) + 8 * which as usize, value);
        self
    }

    /// `count` more values in a histogram, in a shard where the shim would count them in one.
    pub fn record(mut self, which: Which, value_ns: u64, count: u64) -> Self {
        let full = match which {
            Which::Launch => offset_of!(Segment, launch),
            Which::Gpu => offset_of!(Segment, gpu),
            Which::Request => offset_of!(Segment, request),
        };
        let (sum, max, buckets) = if which == Which::Launch && value_ns < histogram::WINDOW_LIMIT_NS {
            let shard = shard(3);
            (
                shard + offset_of!(Shard, launch_sum_ns),
                shard + offset_of!(Shard, launch_max_ns),
                offset_of!(Segment, launches) + 3 * size_of::<layout::Window>(),
            )
        } else {
            (
                full + offset_of!(Histogram, sum_ns),
                full + offset_of!(Histogram, max_ns),
                full + offset_of!(Histogram, buckets),
            )
        };
        let bucket = buckets + 8 * histogram::index_of(value_ns);
        self.u64(bucket, self.u64_at(bucket) + count);
        self.u64(sum, self.u64_at(sum) + value_ns * count);
        self.u64(max, self.u64_at(max).max(value_ns));
        self
    }

    /// Puts it into `directory` as the file of a process that lives until the result is dropped.
    pub fn alive(&self, directory: &Path) -> Alive {
        let (path, file) = self.written(directory);
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        Alive { path, _lock: file }
    }

    /// Puts it into `directory` as the file of a process that is no more. It was never locked: a process that another test starts
    /// at this moment would have a copy of the descriptor, and with it the lock, until it calls exec.
    pub fn dead(&self, directory: &Path) -> PathBuf {
        self.written(directory).0
    }

    fn written(&self, directory: &Path) -> (PathBuf, File) {
        let path = directory.join(format!("{}-{}.seg", self.pid, self.start_ticks));
        let mut file = File::create(&path).unwrap();
        file.write_all(&self.bytes).unwrap();
        (path, file)
    }
}

fn shard(index: usize) -> usize {
    offset_of!(Segment, shards) + index * size_of::<Shard>()
}
