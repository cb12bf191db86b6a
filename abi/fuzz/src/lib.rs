//! What must hold for every file, whoever wrote it: the reader answers with a typed error or with numbers that lie
//! within the layout. One function for each way in which a file can be wrong.

#![allow(unreachable_pub, reason = "a library to libFuzzer, a module to the tests")]

#[path = "../../tests/sample/mod.rs"]
pub mod sample;

use aishim_abi::board::{ENTRIES_OFFSET, GPUS, TURN_MAX_NS, Turn, board_bytes};
use aishim_abi::board_reader::BoardView;
use aishim_abi::board_writer::Board;
use aishim_abi::channel::{Channel, Received};
use aishim_abi::client_page::{Identity, OwnPage, PAGE_BYTES, PageView, STALE_NS};
use aishim_abi::histogram::{BUCKETS, HIGHEST_NS};
use aishim_abi::layout::{DEVICES, HOOKS, HookKind, HookState, SEGMENT_BYTES, UNKNOWN_NAMES, VERSION};
use aishim_abi::message::{self, Answer, Message, MessageError, Request};
use aishim_abi::pool_layout::{self, Word};
use aishim_abi::pool_reader::{PoolMapCopy, State, Totals};
use aishim_abi::rank::{PolicyKind, Priority, Uuid};
use aishim_abi::reader::{ReadError, SegmentCopy, Which};
use aishim_abi::statistics::{self, Statistic};
use aishim_abi::trace;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sample::Sample;
use sample::memory::sealed;
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

/// The input is a client's page; then it is places of a good one, nine bytes each, and what is written there.
pub fn client_page(data: &[u8]) {
    let mut bytes = data.to_vec();
    bytes.resize(PAGE_BYTES, 0);
    examine_page(&bytes);
    let mut bytes = good_page();
    for write in data.chunks_exact(9) {
        let at = usize::from(write[0]) % 24 * 8;
        bytes[at..at + 8].copy_from_slice(&write[1..]);
    }
    examine_page(&bytes);
}

/// The input is a board; then it is places of a good one, eleven bytes each, and what is written there.
pub fn board(data: &[u8]) {
    examine_board(data);
    let mut bytes = good_board();
    for write in data.chunks_exact(11) {
        let place = usize::from(u16::from_le_bytes([write[0], write[1]]));
        // The header's own fields with the first GPU, its turns and the first entries are most of all targets.
        let at = match write[2] % 4 {
            0 => place % 128,
            1 => 4096 + place % 1616,
            2 => ENTRIES_OFFSET + place % 256,
            _ => place % bytes.len(),
        } & !7;
        bytes[at..at + 8].copy_from_slice(&write[3..]);
    }
    examine_board(&bytes);
    let cut = data.first_chunk::<2>().map_or(0, |word| usize::from(u16::from_le_bytes(*word)) % bytes.len());
    examine_board(&bytes[..cut]);
}

/// The input is what one side sends: what is understood is written and understood again as the same, in both directions;
/// then it is the number, the version and the body of a message; and it is sent through a socket.
pub fn messages(data: &[u8]) {
    stream::<Request>(data);
    stream::<Answer>(data);
    if let Some((first, body)) = data.split_first() {
        let first = u32::from(*first);
        for code in [first % 48, first] {
            let versions = [message::VERSION, first].map(u32::to_le_bytes);
            for begin in versions.iter().map(|v| &v[..]).chain([&[][..]]) {
                let body: Vec<u8> = begin.iter().chain(body).copied().collect();
                for bytes in (0..=body.len().min(400)).rev().step_by(4) {
                    decode::<Request>(code, &body[..bytes]);
                    decode::<Answer>(code, &body[..bytes]);
                }
            }
        }
    }
}

fn decode<M: Message + PartialEq + std::fmt::Debug>(code: u32, body: &[u8]) {
    match M::decode(code, body) {
        Ok(message) => {
            let encoded = message.encode();
            let (head, rest) = encoded.as_ref().split_first_chunk::<8>().unwrap();
            assert_eq!(message::decode_head(*head), Ok((code, rest.len())));
            assert_eq!(M::decode(code, rest).as_ref(), Ok(&message));
        }
        Err(MessageError::Corrupt { field }) => assert!(!field.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn stream<M: Message + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok((writer, reader)) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None) else {
        return;
    };
    let Ok(mut channel) = Channel::accepted(reader) else { return };
    for piece in data.chunks(1 + data.len() / 3) {
        let _ = rustix::io::write(&writer, piece);
        while matches!(channel.receive(), Ok(Received::Some)) {
            loop {
                match channel.read::<M>() {
                    Ok(Some((message, _))) => assert!(!message.encode().as_ref().is_empty()),
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
    }
}

fn good_page() -> Vec<u8> {
    let own = OwnPage::create(&Identity { pid: 4711, start_ticks: 123_456, generation: 7 }).unwrap();
    own.fall_idle(5);
    let mut bytes = vec![0; PAGE_BYTES];
    assert_eq!(rustix::io::pread(own.descriptor().unwrap(), &mut bytes, 0), Ok(PAGE_BYTES));
    bytes
}

fn good_board() -> Vec<u8> {
    let mut board = Board::create(64, 4711, 7, 1_700_000_000_000_000_000).unwrap();
    board.set_gpu(0, Uuid([3; 16]));
    board.set_policy(0, PolicyKind::Priority, true);
    board.set_turn(0, 20, Turn::Client(2), 1_000_000);
    board.set_turn(0, 80, Turn::Job(2), 1_000_000);
    let mut bytes = vec![0; board_bytes(64)];
    assert_eq!(rustix::io::pread(board.descriptor().unwrap(), &mut bytes, 0), Ok(bytes.len()));
    bytes
}

/// Everything there is to ask of a page; panics where it would hold somebody back for too long.
fn examine_page(bytes: &[u8]) {
    let view = match PageView::open(sealed(bytes)) {
        Ok(view) => view,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(view.identity().pid != 0 && view.identity().generation != 0);
    assert_eq!(view.check(), Ok(()));
    let _ = (view.turn_word(), view.launched_ns(), view.figures());
    let said = u64::from_le_bytes(bytes[72..80].try_into().unwrap_or_default());
    for now_ns in [0, 1, said.saturating_sub(1), said, said.saturating_add(STALE_NS / 2), 1 << 50, u64::MAX] {
        let _ = view.is_waiting(now_ns);
        if let Some(until_ns) = view.busy_until_ns(now_ns) {
            assert!(until_ns > now_ns && until_ns - now_ns <= STALE_NS + 1_000_000);
        }
    }
}

/// Everything there is to ask of a board; panics where an answer lies outside of it.
fn examine_board(bytes: &[u8]) {
    let view = match BoardView::open(sealed(bytes)) {
        Ok(view) => view,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let slots = view.slots();
    assert!(board_bytes(slots) == bytes.len() && view.clients() <= slots);
    let _ = (view.about(), view.has_ended(), view.refused(), view.find_gpu(Uuid([3; 16])));
    for (slot, entry) in view.entries() {
        assert!(slot < slots && entry.generation != 0 && entry.priority.number() <= 100);
    }
    for now_ns in [0, 999_999, 1_000_000, 1 << 50, u64::MAX] {
        for (number, gpu) in view.gpus(now_ns) {
            assert!(number < GPUS && gpu.uuid != Uuid::NONE && gpu.clients as usize <= slots);
        }
        for rank in (0..=100).filter_map(Priority::new) {
            let _ = view.changes(0, rank);
            match view.turn(0, rank, now_ns) {
                (Turn::Everybody, _) => {}
                (turn, until_ns) => {
                    assert!(until_ns > now_ns && until_ns - now_ns <= TURN_MAX_NS);
                    assert!(!matches!(turn, Turn::Client(slot) if slot as usize >= slots));
                }
            }
        }
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
