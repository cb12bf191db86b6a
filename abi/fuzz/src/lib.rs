//! What must hold for every file, whoever wrote it: the reader answers with a typed error or with numbers that lie
//! within the layout. One function for each way in which a file can be wrong.

#![allow(unreachable_pub, reason = "a library to libFuzzer, a module to the tests")]

#[path = "../../tests/sample/mod.rs"]
pub mod sample;

use aishim_abi::histogram::{BUCKETS, HIGHEST_NS};
use aishim_abi::layout::{DEVICES, HOOKS, HookKind, HookState, SEGMENT_BYTES, UNKNOWN_NAMES, VERSION};
use aishim_abi::pool_layout::{self, Word};
use aishim_abi::pool_reader::{PoolMapCopy, State, Totals};
use aishim_abi::reader::{ReadError, SegmentCopy, Which};
use aishim_abi::statistics::{self, Statistic};
use aishim_abi::trace;
use sample::Sample;
use sample::pool::PoolSample;

/// The input is the file.
pub fn arbitrary(data: &[u8]) {
    examine(SegmentCopy::from_bytes(data));
}

/// The input is the version word of a segment and the bytes behind it.
pub fn versions(data: &[u8]) {
    let mut bytes = good().bytes;
    let len = data.len().min(SEGMENT_BYTES - 8);
    bytes[8..8 + len].copy_from_slice(&data[..len]);
    let version = u32::from_ne_bytes(bytes[8..12].try_into().unwrap_or_default());
    let read = SegmentCopy::from_bytes(&bytes);
    if version != VERSION {
        let expected = ReadError::OtherVersion { found: version };
        assert_eq!(read.as_ref().err(), Some(&expected));
    }
    examine(read);
}

/// The first four bytes of the input say where a segment is cut.
pub fn truncated(data: &[u8]) {
    let Some(word) = data.first_chunk::<4>() else {
        return;
    };
    let bytes = u32::from_le_bytes(*word) as usize % SEGMENT_BYTES;
    let read = SegmentCopy::from_bytes(&good().bytes[..bytes]);
    assert_eq!(read.err(), Some(ReadError::Truncated { bytes }));
}

/// Each ten bytes of the input are a place of a segment and what is written there.
pub fn scribbled(data: &[u8]) {
    let mut bytes = good().bytes;
    for write in data.chunks_exact(10) {
        // The header is an eighth of all targets, though it is a hundredth of the segment.
        let place = usize::from(u16::from_le_bytes([write[0], write[1]]));
        let at = if place < 8192 { place & 4088 } else { place * 8 % SEGMENT_BYTES };
        bytes[at..at + 8].copy_from_slice(&write[2..]);
    }
    examine(SegmentCopy::from_bytes(&bytes));
}

/// The input is a pool map; then it is places of a good one, eleven bytes each, and what is written there: header and
/// words alike, each second one at the end of the file.
pub fn pool_map(data: &[u8]) {
    examine_pool(PoolMapCopy::from_bytes(data));
    let mut bytes = good_pool().bytes;
    for write in data.chunks_exact(11) {
        let place = usize::from(u16::from_le_bytes([write[0], write[1]]));
        // The fields of the header are the first 384 bytes; they are half of all targets.
        let at = if write[2] & 1 == 0 { place % 384 } else { place % bytes.len() } & !7;
        bytes[at..at + 8].copy_from_slice(&write[3..]);
    }
    examine_pool(PoolMapCopy::from_bytes(&bytes));
    let cut = data.first_chunk::<2>().map_or(0, |word| usize::from(u16::from_le_bytes(*word)) % bytes.len());
    examine_pool(PoolMapCopy::from_bytes(&bytes[..cut]));
}

/// The input is a record of pinned memory: what is read of it is written and read again as the same.
pub fn trace_text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for text in [text.to_string(), format!("{}\n{text}", trace::HEADING)] {
        let Ok(events) = trace::parse(&text) else { continue };
        let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
        assert_eq!(trace::parse(&format!("{}\n{lines}", trace::HEADING)), Ok(events));
    }
}

/// A pool map with two slabs and blocks of every kind.
pub fn good_pool() -> PoolSample {
    PoolSample::new(4711, 123_456, 400)
        .slab(0, 0x7f00_0000_0000, 1, 100)
        .slab(1, 0x7f10_0000_0000, 102, 290)
        .safe_epoch(7)
        .word(1, Word::Allocated { blocks: 16, slack_bytes: 100, moment: 3 })
        .word(17, Word::Freed { blocks: 4, slack_bytes: 0, epoch: 8 })
        .word(21, Word::Freed { blocks: 4, slack_bytes: 0, epoch: 7 })
        .word(102, Word::Allocated { blocks: 290, slack_bytes: 0, moment: 0 })
}

/// Everything there is to ask of a pool map; panics where an answer lies outside of it.
pub fn examine_pool(read: Result<PoolMapCopy, ReadError>) {
    let map = match read {
        Ok(map) => map,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(map.pid() != 0 && map.block_bytes() >= 512);
    let _ = (map.start_ticks(), map.generation(), map.created(), map.created_monotonic());
    let slabs = map.slabs();
    let mut first_block = 0;
    for slab in &slabs {
        assert_eq!(slab.first_block, first_block);
        first_block += u64::from(slab.blocks);
        let mut at = 0;
        for extent in &slab.extents {
            assert!(extent.first_block == at && extent.blocks > 0);
            at += extent.blocks;
            if let State::Allocated { requested_bytes, .. } | State::WaitingForGpu { requested_bytes } = extent.state {
                assert!(requested_bytes <= 1 << 40);
            }
        }
        assert_eq!(at, slab.blocks);
    }
    let totals = Totals::of(&slabs);
    assert!(totals.blocks == first_block && totals.blocks <= pool_layout::WORDS as u64);
    assert_eq!(totals.allocated_blocks + totals.waiting_blocks + totals.free_blocks, totals.blocks);
    assert!(totals.fragmentation().is_none_or(|f| (0.0..1.0).contains(&f)));
}

/// A segment with something in every part of it.
pub fn good() -> Sample {
    Sample::new(4711, 123_456)
        .device([7; 16])
        .unknown("cuLaunchKernel_v9")
        .hook("cuLaunchKernel", HookKind::Launch, HookState::HandedOut, 42, 1)
        .hook("cuMemHostAlloc", HookKind::HostMemory, HookState::Known, 2, 0)
        .statistic(Statistic::PoolHits, 2)
        .record(Which::Launch, 3_400, 41)
        .record(Which::Launch, 2_000_000, 1)
        .record(Which::Gpu, 10_000, 3)
        .record(Which::Request, 1_500_000, 5)
}

/// Everything there is to ask of a segment; panics where an answer lies outside the layout.
pub fn examine(read: Result<SegmentCopy, ReadError>) {
    let segment = match read {
        Ok(segment) => segment,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert!(segment.pid() != 0 && segment.priority() <= 100);
    assert!(segment.devices().count() <= DEVICES);
    assert!(segment.unknown_names().count() <= UNKNOWN_NAMES);
    let names = segment.unknown_names().chain(segment.hooks().map(|h| h.name));
    let texts = names.chain([segment.command(), segment.library()]);
    assert!(texts.into_iter().all(|t| !t.contains(char::is_control)));
    assert!(segment.hooks().count() <= HOOKS);
    let _ = (segment.launches(), segment.created(), segment.ended());
    let _ = (segment.uid(), segment.start_ticks(), segment.generation());
    for which in [Which::Launch, Which::Gpu, Which::Request] {
        let histogram = segment.histogram(which);
        assert!(histogram.counts.len() == BUCKETS && histogram.max_ns <= HIGHEST_NS);
    }
    for statistic in statistics::ALL {
        let _ = segment.statistic(*statistic);
    }
}
