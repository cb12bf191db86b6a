//! docs/protocol.md says what the code does: its tables of offsets, limits, statistics and variables are made from here.

use aishim_abi::board;
use aishim_abi::client_page;
use aishim_abi::histogram::{BUCKETS, HIGHEST_NS, WINDOW_BUCKETS, WINDOW_LIMIT_NS};
use aishim_abi::layout::{
    BUCKET_ROOM, COUNTDOWNS, COUNTERS, DEVICES, HOOKS, Header, Histogram, NAME_BYTES, RECENT, SEGMENT_BYTES, SHARDS,
    Segment, Shard, UNKNOWN_NAMES, VERSION,
};
use aishim_abi::message::{self, Body, Place, Reason};
use aishim_abi::pool_layout;
use aishim_abi::rank::{Class, ClassReason, PolicyKind};
use aishim_abi::statistics::{ALL, Kind};
use aishim_abi::variables;
use std::mem::offset_of;

const DOCUMENT: &str = include_str!("../../docs/protocol.md");

/// Rows `| field | offset |` for fields of one structure.
macro_rules! offsets {
    ($structure:ident: $($field:ident),* $(,)?) => {
        [$(format!("| `{}` | {} |", stringify!($field), offset_of!($structure, $field)),)*]
    };
}

/// Every line of `rows`, in this order and with nothing between them, is in the document.
fn assert_table(what: &str, rows: &[String]) {
    let table = rows.join("\n");
    let found = DOCUMENT.lines().collect::<Vec<_>>();
    let ours: Vec<&str> = table.lines().collect();
    // Behind the columns compared, a row may say more.
    let begins = |line: &&str, row: &&str| line.starts_with(row);
    let is_table = |window: &[&str]| window.iter().zip(&ours).all(|(line, row)| begins(line, row));
    assert!(found.windows(ours.len()).any(is_table), "docs/protocol.md must have this table of {what}:\n{table}");
}

#[test]
fn offsets_are_those_of_the_layout() {
    assert_table(
        "the header",
        &offsets!(Header: magic, version, hooks, segment_bytes, generation, pid, uid, start_ticks, created_unix_ns,
            ended_unix_ns, priority, driver_version, device_count, unknown_count, devices, library, command, unknown),
    );
    assert_table(
        "the segment",
        &offsets!(Segment: header, hook_names, hook_kinds, hook_states, errors, counters, launch, gpu, request, shards, launches),
    );
    assert_table("a histogram", &offsets!(Histogram: sum_ns, max_ns, buckets));
    assert_table("a shard", &offsets!(Shard: owner_tid, launch_sum_ns, launch_max_ns, recent, countdowns, calls));
}

#[test]
fn the_pool_map_is_that_of_its_layout() {
    use pool_layout::{Header, Slab};
    assert_table(
        "the map's header",
        &offsets!(Header: magic, version, block_bytes, map_bytes, generation, pid, words, start_ticks, created_unix_ns,
            created_monotonic_ns, safe_epoch, slabs),
    );
    assert_table("a slab", &offsets!(Slab: start, first_word, blocks));
    let limits = [
        ("version of a map", pool_layout::VERSION as usize),
        ("size of a map's header in bytes", pool_layout::HEADER_BYTES),
        ("slabs", pool_layout::SLABS),
        ("words of a map", pool_layout::WORDS),
        ("epochs ahead of `safe_epoch` that mean waiting, less one", pool_layout::UNSAFE_EPOCHS as usize - 1),
    ];
    assert_table("a map's limits", &limits.map(|(what, number)| format!("| {what} | {number} |")));
    let ones = |word: pool_layout::Word, other: pool_layout::Word| word.to_bits() & !other.to_bits();
    let allocated = |blocks, slack_bytes, moment| pool_layout::Word::Allocated { blocks, slack_bytes, moment };
    let nothing = allocated(0, 0, 0);
    let bits = [
        ("state", 0b11),
        ("blocks", ones(allocated(u32::MAX, 0, 0), nothing)),
        ("slack", ones(allocated(0, u32::MAX, 0), nothing)),
        ("moment or epoch", ones(allocated(0, 0, u32::MAX), nothing)),
    ];
    let rows = bits.map(|(what, mask): (&str, u64)| {
        format!("| {what} | {} to {} |", mask.trailing_zeros(), 63 - mask.leading_zeros())
    });
    assert_table("a word's bits", &rows);
}

#[test]
fn limits_are_those_of_the_layout() {
    let limits = [
        ("layout version", VERSION as usize),
        ("size of a segment in bytes", SEGMENT_BYTES),
        ("hooks", HOOKS),
        ("counters", COUNTERS),
        ("shards", SHARDS),
        ("size of a shard in bytes", size_of::<Shard>()),
        ("launch calls that a shard holds back", RECENT),
        ("bytes that a shard's owner has for itself", COUNTDOWNS),
        ("size of a histogram in bytes", size_of::<Histogram>()),
        ("devices", DEVICES),
        ("bytes of a name", NAME_BYTES),
        ("unknown names", UNKNOWN_NAMES),
        ("buckets of a histogram", BUCKETS),
        ("room for buckets", BUCKET_ROOM),
        ("buckets of a shard's histogram", WINDOW_BUCKETS),
        ("nanoseconds from which a launch call is counted in the full histogram", WINDOW_LIMIT_NS as usize),
        ("largest value in nanoseconds", HIGHEST_NS as usize),
    ];
    let rows = limits.map(|(what, number)| format!("| {what} | {number} |"));
    assert_table("limits", &rows);
}

#[test]
fn statistics_are_those_declared() {
    let row = |(index, statistic): (usize, &aishim_abi::statistics::Statistic)| {
        let declared = statistic.description();
        let kind = match declared.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        format!("| {index} | `{}` | {kind} | {} |", declared.key, declared.text)
    };
    let rows: Vec<String> = ALL.iter().enumerate().map(row).collect();
    assert_table("statistics", &rows);
}

#[test]
fn variables_are_those_declared() {
    let row = |v: &variables::Variable| format!("| `{}` | {} | {} | {} |", v.name, v.values, v.default, v.text);
    let rows: Vec<String> = variables::ALL.iter().map(row).collect();
    assert_table("variables", &rows);
}

#[test]
fn the_page_and_the_board_are_those_of_their_layouts() {
    use board::{EntryWords, GpuRecord, Header, TurnRecord};
    use client_page::Page;
    assert_table(
        "a client's page",
        &offsets!(Page: magic, version, pid, generation, start_ticks, busy_until_ns, renewed_ns, turn_word, is_waiting,
            launched_ns, due_ns, due_until_ns, ends_ns, urgent_ns, used_ns, gated_ns, gate_waits, gate_timeouts, openings, class_suggested, class_reason),
    );
    assert_table(
        "the board's header",
        &offsets!(Header: magic, version, slots, generation, pid, clients, started_unix_ns, refused, has_ended, gpus),
    );
    assert_table("a GPU's record", &offsets!(GpuRecord: uuid, policy, is_by_rank, open_until_ns, clients));
    assert_table("a turn", &offsets!(TurnRecord: party, changes, until_ns));
    assert_table(
        "a board's entry",
        &offsets!(EntryWords: generation, sequence, pid, own_pid, uid, start_ticks, gpus, job, priority, rank, limit, weight, class),
    );
    let limits = [
        ("version of a page", client_page::VERSION as usize),
        ("size of a page in bytes", client_page::PAGE_BYTES),
        ("nanoseconds after which what was not renewed means nothing", client_page::STALE_NS as usize),
        ("version of a board", board::VERSION as usize),
        ("size of a board's header in bytes", board::HEADER_BYTES),
        ("GPUs of a board", board::GPUS),
        ("ranks, hence turns of a GPU", board::RANKS),
        ("offset of the turns", board::TURNS_OFFSET),
        ("size of a turn in bytes", board::TURN_BYTES),
        ("offset of the entries", board::ENTRIES_OFFSET),
        ("size of a board's entry in bytes", board::ENTRY_BYTES),
        ("entries of a board, at most", board::SLOTS),
        ("nanoseconds that a turn lasts, at most", board::TURN_MAX_NS as usize),
        ("version of the messages", message::VERSION as usize),
        ("size of a message's head in bytes", message::HEAD_BYTES),
        ("size of a message in bytes, at most", message::MESSAGE_BYTES),
    ];
    assert_table("limits", &limits.map(|(what, number)| format!("| {what} | {number} |")));
}

#[test]
fn messages_are_those_declared() {
    fn rows<B: Body>(name: &str, rows: &mut Vec<String>) {
        let descriptor = if B::CARRIES_DESCRIPTOR { "yes" } else { "no" };
        let place = |p: &Place| format!("`{}` {}", p.name, p.offset);
        let fields: Vec<String> = B::FIELDS.iter().map(place).collect();
        rows.push(format!("| {} | `{name}` | {} | {descriptor} | {} |", B::CODE, B::BYTES, fields.join(", ")));
    }
    macro_rules! table {
        ($($body:ident),*) => {{
            let mut table = Vec::new();
            $(rows::<message::$body>(stringify!($body), &mut table);)*
            table
        }};
    }
    let requests = table!(Hello, UsesGpu, AskStatus, SetPolicy, SetClient, AskGpu);
    assert_table("requests", &requests);
    assert_table("answers", &table!(Welcome, Refused, Peer, PeerGone, Done, Status, GpuFigures));
    let numbered = |number: u32, name: &str| format!("| {number} | {name} |");
    assert_table("reasons", &Reason::ALL.iter().map(|r| numbered(r.number(), r.name())).collect::<Vec<_>>());
    assert_table("sources", &message::Source::ALL.iter().map(|s| numbered(s.number(), s.name())).collect::<Vec<_>>());
    assert_table("classes", &Class::ALL.iter().map(|c| numbered(c.number(), c.name())).collect::<Vec<_>>());
    assert_table(
        "reasons of classes",
        &ClassReason::ALL.iter().map(|r| numbered(r.number(), r.name())).collect::<Vec<_>>(),
    );
    assert_table("policies", &PolicyKind::ALL.iter().map(|p| numbered(p.number(), p.name())).collect::<Vec<_>>());
}
