//! Pages, boards and conversations as two processes have them: real memfds, real sockets.

#[allow(unreachable_pub, reason = "shared by several test programs")]
#[path = "sample/memory.rs"]
mod memory;

use aishim_abi::SharedError;
use aishim_abi::board::{ENTRIES_OFFSET, Entry, GPUS, SLOTS, Turn, board_bytes};
use aishim_abi::board_reader::BoardView;
use aishim_abi::board_writer::Board;
use aishim_abi::channel::{Channel, ChannelError, Received, Sent};
use aishim_abi::client_page::{Identity, OwnPage, PAGE_BYTES, PageView};
use aishim_abi::message::{Answer, AskStatus, Done, MessageError, Peer, Request, Version};
use aishim_abi::rank::{Class, PolicyKind, Priority, Uuid, Weight};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::SealFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::sync::atomic::{
    AtomicBool,
    Ordering::{self, Relaxed},
};
use std::time::{Duration, Instant};

const ME: Identity = Identity { pid: 4711, start_ticks: 99, generation: 0xabcdef };

fn page() -> (OwnPage, PageView) {
    let own = OwnPage::create(&ME).unwrap();
    let passed = rustix::io::fcntl_dupfd_cloexec(own.descriptor().unwrap(), 3).unwrap();
    (own, PageView::open(passed).unwrap())
}

fn board(slots: usize) -> (Board, BoardView) {
    let board = Board::create(slots, 77, 5, 1_000).unwrap();
    let passed = rustix::io::fcntl_dupfd_cloexec(board.descriptor().unwrap(), 3).unwrap();
    (board, BoardView::open(passed).unwrap())
}

fn entry(generation: u64) -> Entry {
    let number = generation as u32;
    Entry {
        generation,
        pid: number,
        own_pid: number,
        uid: number,
        start_ticks: generation,
        gpus: generation,
        job: number,
        priority: Priority::new(number % 101).unwrap(),
        rank: Priority::new(number % 101).unwrap(),
        limit: Priority::HIGHEST,
        weight: Weight::NORMAL,
        class: Class::Unclassified,
    }
}

#[test]
fn a_page_is_seen_by_those_it_is_passed_to() {
    let (own, seen) = page();
    assert_eq!(seen.identity(), ME);
    assert_eq!(seen.busy_until_ns(1_000_000_000), None);
    let page = own.page().unwrap();
    page.renewed_ns.store(999_000_000, Relaxed);
    page.busy_until_ns.store(1_003_000_000, Relaxed);
    assert_eq!(seen.busy_until_ns(1_000_000_000), Some(1_003_000_000));
    own.fall_idle(1_001_000_000);
    assert_eq!(seen.busy_until_ns(1_001_000_000), None);
    assert_eq!(seen.check(), Ok(()));
    page.generation.store(1, Relaxed);
    assert_eq!(seen.check(), Err(SharedError::Corrupt { field: "generation" }));
}

#[test]
fn nobody_it_is_passed_to_can_write_a_page_or_change_its_size() {
    let (own, _seen) = page();
    let passed = own.descriptor().unwrap();
    assert!(rustix::io::pwrite(passed, &[1], 0).is_err());
    assert!(rustix::fs::ftruncate(passed, 0).is_err());
    assert!(rustix::fs::ftruncate(passed, 8192).is_err());
    let punched = rustix::fs::fallocate(
        passed,
        rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
        0,
        PAGE_BYTES as u64,
    );
    assert!(punched.is_err());
    // Neither by opening it anew.
    let again = std::fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", {
        use std::os::fd::AsRawFd;
        passed.as_raw_fd()
    }));
    if let Ok(again) = again {
        assert!(rustix::io::pwrite(again.as_fd(), &[1], 0).is_err());
    }
}

#[test]
fn what_is_not_sealed_is_not_mapped() {
    let good = vec![0; PAGE_BYTES];
    let needed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE;
    for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::FUTURE_WRITE] {
        let found = PageView::open(memory::memory(&good, needed - missing)).err();
        assert_eq!(found, Some(SharedError::NotSealed));
    }
    let short = memory::memory(&good[..100], needed);
    assert_eq!(PageView::open(short).err(), Some(SharedError::WrongSize { bytes: 100 }));
    let file: OwnedFd = tempfile::tempfile().unwrap().into();
    assert_eq!(PageView::open(file).err(), Some(SharedError::NotSealed));
    let null: OwnedFd = std::fs::File::open("/dev/zero").unwrap().into();
    assert_eq!(PageView::open(null).err(), Some(SharedError::NotSealed));
}

#[test]
fn who_waits_for_a_page_is_woken_though_it_may_only_read_it() {
    let (own, seen) = page();
    let word = seen.turn_word();
    let begun = AtomicBool::new(false);
    let waited = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            begun.store(true, Ordering::Release);
            let start = Instant::now();
            while seen.turn_word() == word {
                seen.wait(word, Duration::from_secs(60));
            }
            start.elapsed()
        });
        // Pairs with the release above.
        while !begun.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(20));
        own.fall_idle(1);
        waiter.join().unwrap()
    });
    assert!(waited < Duration::from_secs(30), "{waited:?}");
}

#[test]
fn a_descriptor_that_was_replaced_behind_our_back_is_not_passed_on() {
    use std::os::fd::AsRawFd;
    let (own, _seen) = page();
    let number = own.descriptor().unwrap().as_raw_fd();
    let other = std::fs::File::open("/dev/null").unwrap();
    // SAFETY: the number stays the page's to close.
    assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), number) }, number);
    assert!(own.descriptor().is_none());
}

#[test]
fn a_board_says_what_was_written() {
    let (mut board, seen) = board(8);
    let uuid = Uuid([7; 16]);
    assert_eq!((seen.slots(), seen.clients(), seen.entries().count()), (8, 0, 0));
    assert_eq!((seen.about().pid, seen.about().generation), (77, 5));
    board.set_entry(3, &entry(9));
    board.set_entry(8, &entry(9));
    board.set_clients(1);
    assert_eq!(seen.entries().collect::<Vec<_>>(), [(3, entry(9))]);
    board.clear_entry(3);
    assert_eq!(seen.entry(3), None);

    assert_eq!(seen.gpu(2, 0), None);
    board.set_gpu(2, uuid);
    board.set_policy(2, PolicyKind::Priority, true);
    assert_eq!(seen.find_gpu(uuid), Some(2));
    assert_eq!(seen.gpu(2, 0).unwrap().policy, PolicyKind::Priority);
    let (low, high) = (Priority::NORMAL, Priority::HIGHEST);
    let before = seen.changes(2, low);
    board.set_turn(2, 20, Turn::Client(3), 4_000_000);
    board.set_turn(2, 100, Turn::Job(7), 4_000_000);
    assert_ne!(seen.changes(2, low), before);
    seen.wait(2, low, Turn::Client(4), before, u64::MAX);
    let turn = |rank, now_ns| seen.turn(2, rank, now_ns).0;
    assert_eq!((turn(low, 0), turn(low, 3_999_999)), (Turn::Client(3), Turn::Client(3)));
    assert_eq!((turn(low, 4_000_000), turn(high, 0)), (Turn::Everybody, Turn::Job(7)));
    assert_eq!(turn(Priority::LOWEST, 0), Turn::Everybody);
    // A turn that never ends would hold everybody else back for ever.
    board.set_turn(2, 20, Turn::Client(3), u64::MAX);
    assert_eq!(turn(low, 0), Turn::Everybody);
    // A slot that is not there.
    board.set_turn(2, 20, Turn::Client(8), 4_000_000);
    assert_eq!(turn(low, 0), Turn::Everybody);
    let before = seen.changes(2, low);
    board.set_open(2, 5);
    assert!(seen.gpu(2, 4).unwrap().is_open && !seen.gpu(2, 5).unwrap().is_open);
    assert_ne!(seen.changes(2, low), before, "those who wait for a turn learn that they need none");
    // One turn for all ranks.
    board.set_policy(2, PolicyKind::Fair, false);
    assert_eq!((turn(low, 0), turn(high, 0)), (Turn::Everybody, Turn::Everybody));
    board.set_turn(2, 0, Turn::Client(3), 4_000_000);
    assert_eq!((turn(low, 0), turn(high, 0)), (Turn::Client(3), Turn::Client(3)));
    board.end();
    assert_eq!((turn(low, 0), seen.has_ended()), (Turn::Everybody, true));
    board.set_gpu(GPUS, uuid);
    board.set_turn(GPUS, 0, Turn::Client(1), 1);
    assert!(Board::create(SLOTS + 1, 1, 1, 1).is_err());
}

/// Each of 64 that waited for its turn was woken with every change of it, 250 times a second; to wake them was most of what the coordinator did.
#[test]
fn who_waits_for_a_turn_is_woken_for_their_own_and_for_everybodys() {
    let (mut board, seen) = board(8);
    board.set_gpu(0, Uuid([7; 16]));
    board.set_policy(0, PolicyKind::Priority, true);
    let rank = Priority::NORMAL;
    let now_ns = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        (now.tv_sec * 1_000_000_000 + now.tv_nsec).cast_unsigned()
    };
    let mut until_ns = now_ns() + 90_000_000;
    for ends in [Turn::Client(3), Turn::Everybody] {
        let (asleep, over) = (AtomicBool::new(false), AtomicBool::new(false));
        board.set_turn(0, 20, Turn::Client(4), until_ns);
        let woken = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let mut woken = 0;
                while !over.load(Ordering::Acquire) {
                    let changes = seen.changes(0, rank);
                    asleep.store(true, Ordering::Release);
                    seen.wait(0, rank, Turn::Client(3), changes, now_ns() + 60_000_000_000);
                    woken += 1;
                }
                woken
            });
            while !asleep.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            for others in 0..100 {
                std::thread::sleep(Duration::from_millis(1));
                until_ns += 4_000_000;
                board.set_turn(0, 20, Turn::Client(4 + others % 4), until_ns);
            }
            over.store(true, Ordering::Release);
            board.set_turn(0, 20, ends, until_ns);
            waiter.join().unwrap()
        });
        // A change just before it falls asleep may wake it at once, and a sleep may end early.
        assert!(woken < 30, "woken {woken} times by 100 turns of others");
    }
}

/// An entry is read while it is written, 200,000 times: what is read is of one client.
#[test]
fn an_entry_is_never_read_torn() {
    let (mut board, seen) = board(1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut read = 0_u64;
            while !done.load(Relaxed) {
                let Some(found) = seen.entry(0) else { continue };
                assert_eq!(found, entry(found.generation));
                read += 1;
            }
            read
        });
        for round in 1..=200_000 {
            board.set_entry(0, &entry(round));
            if round % 64 == 0 {
                board.clear_entry(0);
            }
            if round % 1000 == 0 {
                std::thread::yield_now();
            }
        }
        board.set_entry(0, &entry(1));
        while seen.entry(0).is_none() {}
        std::thread::sleep(Duration::from_millis(5));
        done.store(true, Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn an_entry_that_is_never_finished_is_none() {
    let (board, _) = board(1);
    let mut bytes = vec![0; board_bytes(1)];
    rustix::io::pread(board.descriptor().unwrap(), &mut bytes, 0).unwrap();
    bytes[ENTRIES_OFFSET..ENTRIES_OFFSET + 8].copy_from_slice(&1_u64.to_le_bytes());
    bytes[ENTRIES_OFFSET + 8] = 1;
    let seen = BoardView::open(memory::sealed(&bytes)).unwrap();
    assert_eq!(seen.entry(0), None);
}

fn conversation() -> (Channel, Channel) {
    let (one, other) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    (Channel::accepted(one).unwrap(), Channel::accepted(other).unwrap())
}

#[test]
fn messages_arrive_whole_in_order_and_with_their_descriptors() {
    let (mut coordinator, mut client) = conversation();
    let (own, _) = page();
    let peer = |slot| Answer::from(Peer { slot, priority: Priority::HIGHEST, generation: u64::from(slot), gpus: 1 });
    assert_eq!(coordinator.send(&peer(1), own.descriptor()).unwrap(), Sent::Yes);
    assert_eq!(coordinator.send(&Answer::from(Done {}), None).unwrap(), Sent::Yes);
    assert_eq!(coordinator.send(&peer(2), own.descriptor()).unwrap(), Sent::Yes);
    let until = || Instant::now() + Duration::from_secs(30);
    let (first, page) = client.answer(until()).unwrap();
    assert_eq!(first, peer(1));
    assert_eq!(PageView::open(page.unwrap()).unwrap().identity(), ME);
    assert_eq!(client.answer(until()).unwrap().0, Answer::Done(Done {}));
    let (second, page) = client.answer(until()).unwrap();
    assert!(second == peer(2) && page.is_some());
    drop(coordinator);
    assert!(matches!(client.answer(until()), Err(ChannelError::Ended)));
}

#[test]
fn a_full_socket_takes_no_message_in_part_and_none_is_lost() {
    let (mut coordinator, mut client) = conversation();
    rustix::net::sockopt::set_socket_send_buffer_size(&coordinator, 4096).unwrap();
    let answer = Answer::from(Done {});
    let mut sent = 0;
    while coordinator.send(&answer, None).unwrap() == Sent::Yes {
        sent += 1;
    }
    assert!(sent > 0);
    for _ in 0..sent {
        assert_eq!(client.answer(Instant::now() + Duration::from_secs(30)).unwrap().0, answer);
    }
    assert_eq!(coordinator.send(&answer, None).unwrap(), Sent::Yes);
}

#[test]
fn a_message_without_its_descriptor_and_descriptors_without_messages_are_refused() {
    let (mut coordinator, mut client) = conversation();
    let peer = Peer { slot: 1, priority: Priority::HIGHEST, generation: 1, gpus: 1 };
    assert_eq!(coordinator.send(&Answer::from(peer), None).unwrap(), Sent::Yes);
    assert_eq!(client.receive().unwrap(), Received::Some);
    assert_eq!(client.read::<Answer>().err(), Some(MessageError::NoDescriptor));

    let (mut coordinator, mut client) = conversation();
    let ask = Request::from(AskStatus { version: Version });
    let refused = (0..100).any(|_| {
        let null = std::fs::File::open("/dev/null").unwrap();
        // Each with a descriptor that belongs to nothing, and none read before the next.
        client.send(&ask, Some(null.as_fd())).unwrap();
        coordinator.receive().is_err()
    });
    assert!(refused);
}

#[test]
fn memory_comes_and_goes_at_reserved_addresses_while_others_look() {
    use aishim_abi::client_page::Peers;
    let peers = Peers::reserve().unwrap();
    let ends = AtomicBool::new(false);
    let (own, seen) = page();
    own.page().unwrap().renewed_ns.store(1_000_000_000, Relaxed);
    own.page().unwrap().busy_until_ns.store(2_000_000_000, Relaxed);
    let descriptor = rustix::io::fcntl_dupfd_cloexec(seen.descriptor().unwrap(), 3).unwrap();
    std::thread::scope(|scope| {
        let look = scope.spawn(|| {
            let mut both = [0_u64; 2];
            while !ends.load(Relaxed) {
                let busy = peers.busy_until_ns(SLOTS - 1, 1_000_000_001);
                assert!(busy.is_none_or(|until_ns| until_ns == 1_100_000_000));
                both[usize::from(busy.is_some())] += 1;
            }
            both
        });
        for _ in 0..2_000 {
            assert_eq!(peers.lay(SLOTS - 1, &descriptor), Ok(ME));
            peers.clear(SLOTS - 1).unwrap();
        }
        ends.store(true, Relaxed);
        look.join().unwrap();
    });
    assert!(peers.lay(SLOTS, &descriptor).is_err(), "beyond the last");
    let (board, _) = board(3);
    let board = rustix::io::fcntl_dupfd_cloexec(board.descriptor().unwrap(), 3).unwrap();
    assert!(matches!(peers.lay(0, &board), Err(SharedError::WrongSize { .. })));
    let room = BoardView::reserve().unwrap();
    assert!(room.lay(&descriptor).is_err());
    assert_eq!(room.lay(&board).unwrap().pid, 77);
    room.clear().unwrap();
    assert_eq!((room.entries().count(), room.gpus(0).count()), (0, 0));
}
