//! A pool map: what its reader makes of it, and its life as a file.

mod sample;

use aishim_abi::pool_file::{Identity, PoolMap};
use aishim_abi::pool_layout::{Header, SLABS, WORDS, Word, map_bytes};
use aishim_abi::pool_reader::{Extent, PoolMapCopy, State, Totals};
use aishim_abi::reader::ReadError;
use aishim_abi::segment_file::{self, KEEP_ENDED};
use rustix::fs::{FlockOperation, flock};
use sample::Sample;
use sample::pool::PoolSample;
use std::mem::offset_of;
use std::path::Path;
use std::time::{Duration, SystemTime};

const PID: u32 = 4711;
const TICKS: u64 = 77;

fn publish(directory: &Path, words: u32) -> PoolMap {
    let identity = Identity {
        pid: PID,
        start_ticks: TICKS,
        generation: 5,
        unix_ns: 1_700_000_000_000_000_000,
        monotonic_ns: 9_000,
        block_bytes: 4096,
    };
    PoolMap::publish(directory, &identity, words).unwrap()
}

fn read(directory: &Path) -> PoolMapCopy {
    let path = directory.join(format!("{PID}-{TICKS}.pool"));
    PoolMapCopy::read(segment_file::open(&path).unwrap()).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_seen_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let map = publish(directory.path(), 200);
    let empty = read(directory.path());
    assert_eq!((empty.pid(), empty.start_ticks(), empty.generation(), empty.block_bytes()), (PID, TICKS, 5, 4096));
    assert_eq!(empty.created_monotonic(), Duration::from_micros(9));
    assert_eq!(empty.slabs(), []);
    map.set_slabs([(0, 0x10_0000, 1, 100), (2, 0x90_0000, 102, 50)].into_iter());
    map.set_allocated(1, 3, 3 * 4096 - 96, 9_000 + (15 << 27));
    map.set_freed(20, 10, 10 * 4096, 2);
    map.set_safe(1);
    let slabs = read(directory.path()).slabs();
    assert_eq!((slabs[0].number, slabs[0].start, slabs[0].first_block, slabs[0].blocks), (0, 0x10_0000, 0, 100));
    assert_eq!((slabs[1].number, slabs[1].start, slabs[1].first_block, slabs[1].blocks), (2, 0x90_0000, 100, 50));
    let allocated = State::Allocated { requested_bytes: 12_192, since_created: Duration::from_nanos(15 << 27) };
    let waiting = State::WaitingForGpu { requested_bytes: 40_960 };
    let extent = |first_block, blocks, state| Extent { first_block, blocks, state };
    let expected =
        [extent(0, 3, allocated), extent(3, 16, State::Free), extent(19, 10, waiting), extent(29, 71, State::Free)];
    assert_eq!(slabs[0].extents, expected);
    let totals = Totals::of(&slabs);
    assert_eq!((totals.allocated_blocks, totals.waiting_blocks, totals.free_blocks), (3, 10, 137));
    assert_eq!((totals.largest_free_blocks, totals.fragmentation()), (71, Some(1.0 - 71.0 / 137.0)));
    map.set_safe(2);
    assert_eq!(read(directory.path()).slabs()[0].extents.len(), 2, "what is safe is free");
    map.clear();
    assert_eq!(read(directory.path()).slabs(), []);
}

#[test]
fn a_child_that_lets_go_leaves_the_file_alone() {
    let directory = tempfile::tempdir().unwrap();
    let map = publish(directory.path(), 200);
    map.set_slabs(std::iter::once((0, 0x10_0000, 1, 100)));
    map.disown().unwrap();
    map.set_allocated(1, 3, 3 * 4096, 0);
    map.clear();
    assert_eq!(Totals::of(&read(directory.path()).slabs()).free_blocks, 100);
}

#[test]
fn the_map_is_locked_while_it_is_mapped_and_leaves_nothing_unfinished() {
    let directory = tempfile::tempdir().unwrap();
    let map = publish(directory.path(), 200);
    assert_eq!(names(directory.path()), [format!("{PID}-{TICKS}.pool")]);
    let file = segment_file::open(&directory.path().join(format!("{PID}-{TICKS}.pool"))).unwrap();
    assert!(flock(&file, FlockOperation::NonBlockingLockShared).is_err());
    map.disown().unwrap();
    assert!(flock(&file, FlockOperation::NonBlockingLockShared).is_ok());
}

#[test]
fn a_directory_that_is_missing_is_an_error() {
    let identity = Identity { pid: 1, start_ticks: 1, generation: 1, unix_ns: 0, monotonic_ns: 0, block_bytes: 4096 };
    assert!(PoolMap::publish(Path::new("/no/such/folder"), &identity, 9).is_err());
}

#[test]
fn a_map_goes_with_its_segment_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let segment = Sample::new(PID, TICKS).dead(directory);
    PoolSample::new(PID, TICKS, 100).file(directory);
    let orphan = PoolSample::new(1, 1, 100).file(directory);
    let locked = std::fs::File::open(PoolSample::new(2, 2, 100).file(directory)).unwrap();
    flock(&locked, FlockOperation::NonBlockingLockExclusive).unwrap();
    std::fs::write(directory.join("3-3.pool"), "somebody's notes").unwrap();
    std::fs::write(directory.join("swimming.pool"), "more notes").unwrap();
    assert_eq!(segment_file::sweep(directory, SystemTime::now()), 1, "{}", orphan.display());
    let kept = ["2-2.pool", "3-3.pool", "4711-77.ended", "4711-77.pool", "swimming.pool"];
    assert_eq!(names(directory), kept);
    assert!(!segment.exists());
    segment_file::sweep(directory, SystemTime::now() + KEEP_ENDED + Duration::from_secs(1));
    assert_eq!(names(directory), ["2-2.pool", "3-3.pool", "swimming.pool"]);
}

#[test]
fn a_map_that_was_never_finished_goes_after_a_minute() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(".7-7.pool"), "").unwrap();
    assert_eq!(segment_file::sweep(directory.path(), SystemTime::now()), 0);
    assert_eq!(segment_file::sweep(directory.path(), SystemTime::now() + Duration::from_secs(61)), 1);
}

fn good() -> PoolSample {
    PoolSample::new(PID, TICKS, 300).slab(0, 0x10_0000, 1, 100).slab(1, 0x90_0000, 102, 100)
}

#[test]
fn every_field_that_is_an_index_is_checked() {
    let words = [
        ("words", offset_of!(Header, words), 0),
        ("words", offset_of!(Header, words), WORDS as u32 + 1),
        ("map_bytes", offset_of!(Header, map_bytes), 1),
        ("block_bytes", offset_of!(Header, block_bytes), 0),
        ("block_bytes", offset_of!(Header, block_bytes), 4097),
        ("pid", offset_of!(Header, pid), 0),
    ];
    for (field, offset, value) in words {
        let mut sample = good();
        sample.u32(offset, value);
        assert_eq!(PoolMapCopy::from_bytes(&sample.bytes).err(), Some(ReadError::Corrupt { field }));
    }
    assert!(PoolMapCopy::from_bytes(&good().bytes).is_ok());
}

#[test]
fn slabs_that_cannot_be_are_damage() {
    let cases = [
        good().slab(0, 0x10_0000, 0, 100),
        good().slab(0, 0x10_0000, 1, 0),
        good().slab(0, 0x10_0000, 1, u32::MAX),
        good().slab(1, 0x90_0000, 100, 100),
        good().slab(1, 0x90_0000, 1, 100),
        good().slab(1, 0x90_0000, 201, 101),
        good().slab(SLABS - 1, 0x99_0000, 150, 10),
        good().slab(0, u64::MAX - 4096, 1, 100),
    ];
    for sample in cases {
        let read = PoolMapCopy::from_bytes(&sample.bytes);
        assert_eq!(read.err(), Some(ReadError::Corrupt { field: "slabs" }));
    }
}

#[test]
fn what_a_word_says_ends_with_its_slab() {
    let sample = good()
        .word(91, Word::Allocated { blocks: 100, slack_bytes: 0, moment: 0 })
        .word(102, Word::Allocated { blocks: 10, slack_bytes: 0, moment: 0 })
        .word(105, Word::Allocated { blocks: 99, slack_bytes: 0, moment: 0 });
    let slabs = PoolMapCopy::from_bytes(&sample.bytes).unwrap().slabs();
    assert_eq!(slabs[0].extents.last().map(|e| (e.first_block, e.blocks)), Some((90, 10)));
    assert_eq!(slabs[1].extents.iter().map(|e| e.blocks).collect::<Vec<_>>(), [10, 90]);
}

#[test]
fn other_files_and_versions_are_told_apart() {
    assert_eq!(PoolMapCopy::from_bytes(&Sample::new(1, 1).bytes).err(), Some(ReadError::NotASegment));
    let mut sample = good();
    sample.u32(offset_of!(Header, version), 2);
    assert_eq!(PoolMapCopy::from_bytes(&sample.bytes).err(), Some(ReadError::OtherVersion { found: 2 }));
    for bytes in [0, 15, 4095, 4096, map_bytes(300) - 1] {
        let read = PoolMapCopy::from_bytes(&good().bytes[..bytes]);
        assert_eq!(read.err(), Some(ReadError::Truncated { bytes }));
    }
}
