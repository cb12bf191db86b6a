//! The fuzz targets, driven by random input without libFuzzer, and the corners that random input would not find.

#[path = "../fuzz/src/lib.rs"]
mod cases;

use aishim_abi::histogram::index_of;
use aishim_abi::layout::{SEGMENT_BYTES, Segment, Shard, VERSION};
use aishim_abi::reader::{HistogramCopy, ReadError, SegmentCopy, Which};
use cases::good;
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::Write;
use std::mem::offset_of;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn arbitrary(data in vec(any::<u8>(), 0..9000), magic in any::<bool>()) {
        cases::arbitrary(&data);
        // With the right beginning, so that what comes after it is reached.
        if magic {
            let mut file = good().bytes;
            file[12..12 + data.len()].copy_from_slice(&data);
            cases::arbitrary(&file);
        }
    }

    #[test]
    fn versions(version in any::<u32>(), data in vec(any::<u8>(), 0..4000)) {
        let bytes: Vec<u8> = version.to_ne_bytes().into_iter().chain(data).collect();
        cases::versions(&bytes);
    }

    #[test]
    fn truncated(bytes in any::<[u8; 4]>()) {
        cases::truncated(&bytes);
    }

    #[test]
    fn scribbled(data in vec(any::<u8>(), 0..2000)) {
        cases::scribbled(&data);
    }

    #[test]
    fn pool_map(data in vec(any::<u8>(), 0..3000), magic in any::<bool>()) {
        cases::pool_map(&data);
        // With the right beginning, so that what comes after it is reached.
        if magic {
            let mut file = cases::good_pool().bytes;
            file[12..12 + data.len()].copy_from_slice(&data);
            cases::pool_map(&file);
        }
    }

    #[test]
    fn client_page(data in vec(any::<u8>(), 0..400), magic in any::<bool>()) {
        let head = if magic { &b"AISHIMCP\x01\0\0\0"[..] } else { &[] };
        cases::client_page(&[head, &data].concat());
    }

    #[test]
    fn board(data in vec(any::<u8>(), 0..9000), slots in any::<Option<u8>>()) {
        cases::board(&data);
        // With the right beginning and size, so that what comes after it is reached.
        if let Some(slots) = slots {
            let mut bytes = [b"AISHIMBD\x01\0\0\0", &[slots, 0, 0, 0][..], &data].concat();
            bytes.resize(aishim_abi::board::board_bytes(slots.into()), 0);
            cases::board(&bytes);
        }
    }

    #[test]
    fn messages(data in vec(any::<u8>(), 0..600), code in 0_u8..48, good in any::<bool>()) {
        cases::messages(&data);
        // Small numbers, so that whole messages are reached.
        if good {
            let body = data.iter().map(|byte| if byte % 4 > 0 { 0 } else { byte % 8 });
            cases::messages(&[code].into_iter().chain(body).collect::<Vec<_>>());
        }
    }

    #[test]
    fn trace_text(words in vec("[0-9a-f]{1,4}|alloc|free|sync|#|[ \n]", 0..60)) {
        cases::trace_text(words.join(" ").as_bytes());
    }

    #[test]
    fn scribbled_with_impossible_numbers(places in vec(any::<[u8; 2]>(), 0..400)) {
        let writes = places.iter().flat_map(|p| p.iter().copied().chain([0xff; 8]));
        cases::scribbled(&writes.collect::<Vec<u8>>());
    }
}

#[test]
fn a_good_segment_is_read() {
    let read = SegmentCopy::from_bytes(&good().bytes);
    assert!(read.is_ok());
    cases::examine(read);
}

#[test]
fn calls_that_are_only_noted_are_counted() {
    let before = SegmentCopy::from_bytes(&good().bytes).unwrap().histogram(Which::Launch);
    let mut sample = good();
    let recent = offset_of!(Segment, shards) + 5 * size_of::<Shard>() + offset_of!(Shard, recent);
    for (place, noted) in [(0, 1 + 300_u32), (63, 1), (7, u32::MAX)] {
        let at = recent + 4 * place;
        sample.bytes[at..at + 4].copy_from_slice(&noted.to_ne_bytes());
    }
    let after = SegmentCopy::from_bytes(&sample.bytes).unwrap().histogram(Which::Launch);
    let total = |histogram: &HistogramCopy| histogram.counts.iter().sum::<u64>();
    assert_eq!(total(&after), total(&before) + 3);
    assert_eq!(after.sum_ns, before.sum_ns + 300 + u64::from(u32::MAX) - 1);
    assert_eq!(after.counts[index_of(300)], before.counts[index_of(300)] + 1);
    assert_eq!(after.counts[0], before.counts[0] + 1);
}

#[test]
fn older_and_newer_versions_are_told_apart_from_damage() {
    for found in [0, VERSION - 1, VERSION + 1, u32::MAX] {
        // Another version's segment may be shorter than ours.
        for bytes in [16, 4096, SEGMENT_BYTES] {
            let sample = good().version(found);
            let read = SegmentCopy::from_bytes(&sample.bytes[..bytes]);
            assert_eq!(read.err(), Some(ReadError::OtherVersion { found }));
        }
    }
}

#[test]
fn a_file_cut_at_any_page_or_field_is_truncated() {
    let sample = good();
    let pages = (0..SEGMENT_BYTES).step_by(4096);
    let boundaries = pages.flat_map(|p| [p.saturating_sub(1), p, p + 1]).chain(0..64);
    for bytes in boundaries.filter(|b| *b < SEGMENT_BYTES) {
        let read = SegmentCopy::from_bytes(&sample.bytes[..bytes]);
        assert_eq!(read.err(), Some(ReadError::Truncated { bytes }));
    }
}

#[test]
fn a_file_is_read_as_bytes_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    for bytes in [0, 15, 16, 4096, SEGMENT_BYTES - 1, SEGMENT_BYTES] {
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(&good().bytes[..bytes]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let from_file = SegmentCopy::read(&file).err();
        let from_bytes = SegmentCopy::from_bytes(&good().bytes[..bytes]).err();
        assert_eq!(from_file, from_bytes);
    }
    let directory = std::fs::File::open(directory.path()).unwrap();
    assert!(matches!(SegmentCopy::read(&directory).err(), Some(ReadError::Io(_))));
}

#[test]
fn every_field_that_is_an_index_is_checked() {
    use aishim_abi::layout::Header;
    use std::mem::offset_of;
    let words = [
        ("segment_bytes", offset_of!(Header, segment_bytes)),
        ("hooks", offset_of!(Header, hooks)),
        ("device_count", offset_of!(Header, device_count)),
        ("unknown_count", offset_of!(Header, unknown_count)),
        ("priority", offset_of!(Header, priority)),
    ];
    for (field, offset) in words {
        let mut sample = good();
        sample.u32(offset, 100_000);
        let read = SegmentCopy::from_bytes(&sample.bytes);
        assert_eq!(read.err(), Some(ReadError::Corrupt { field }));
    }
    let mut sample = good();
    sample.u32(offset_of!(Header, pid), 0);
    let read = SegmentCopy::from_bytes(&sample.bytes);
    assert_eq!(read.err(), Some(ReadError::Corrupt { field: "pid" }));
}

#[test]
fn a_copy_that_is_used_again_keeps_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let read = |spare, bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        SegmentCopy::read_into(spare, std::fs::File::open(&path).unwrap())
    };
    let busy = read(None, &good().bytes).unwrap();
    assert_eq!(busy.launches(), 42);
    let idle = read(Some(busy), &cases::sample::Sample::new(1, 1).bytes).unwrap();
    assert_eq!((idle.pid(), idle.launches()), (1, 0));
    let cut = read(Some(idle), &good().bytes[..5000]);
    assert_eq!(cut.err(), Some(ReadError::Truncated { bytes: 5000 }));
}
