//! What a launch looks at: the board, the pages of those more important, and which part of it all concerns this process.
//!
//! The listening thread alone writes ([`client`](super::client)), any thread reads, and nobody waits for anybody. A
//! launch that catches it between two stores takes one decision by what was so a moment ago or will be in a moment.
//!
//! Board and pages lie at addresses that are reserved once: whatever comes and goes is mapped over them, and zeroes in its place when
//! it has gone, which mean that nobody is there. Candidates: a reference count around each look (two locked additions for each
//! launch, and a process that is stopped while it looks keeps everything), or pages that are never unmapped (a daemon that is
//! restarted for a year).

use super::mps;
use aishim_abi::board::{Entry, SLOTS, TURN_GRACE_NS, Turn};
use aishim_abi::board_reader::{BoardView, Gate, Gates};
use aishim_abi::client_page::{Page, Peers, busy_until_ns, urgent_ns};
use aishim_abi::rank::Priority;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// Others' memory.
pub(super) struct Places {
    pub(super) board: &'static BoardView,
    pub(super) peers: &'static Peers,
    gates: Gates<'static>,
    pages: &'static [Page],
}

static PLACES: OnceLock<Places> = OnceLock::new();

/// The GPUs of this process, as bits of the board, on which it takes turns; and those on which somebody more important holds it back: all of its job's, whose processes wait
/// for each other. (A turn on each of these at once is had too seldom.)
///
/// Of several own GPUs the first one's turn counts on which turns are taken. Candidates: *the turns on all* (each GPU gives its own, so two processes on the same two GPUs may have
/// one each, for ever); *any of them* (both launch then); *that of the GPU which the launch is for* (a question to the driver for each launch, and kernels that wait for each other are
/// held back one by one). With the first, those on the same GPUs look at the same turn, which goes round; who has only some of another's GPUs may have that one beside it.
static GPUS: AtomicU64 = AtomicU64::new(0);
static JOB_GPUS: AtomicU64 = AtomicU64::new(0);

/// It has several GPUs, itself or with others of its job; and whether it is held back then.
static HAS_PARTNERS: AtomicBool = AtomicBool::new(false);
static IS_JOB_GATED: AtomicBool = AtomicBool::new(false);

/// `AISHIM_GATE_JOBS`.
pub(super) fn configure(is_job_gated: bool) {
    IS_JOB_GATED.store(is_job_gated, Relaxed);
}

/// The rank that counts, and the word of the turn that is ours.
static RANK: AtomicU32 = AtomicU32::new(0);
static TURN: AtomicU32 = AtomicU32::new(0);

/// One more important than this process.
struct Listed {
    slot: AtomicU32,
    gpus: AtomicU64,
}

/// Those more important, the first `LISTED` of these; more than there is room for are not waited for.
static LIST: [Listed; LIST_MAX] = [const { Listed { slot: AtomicU32::new(0), gpus: AtomicU64::new(0) } }; LIST_MAX];
static LISTED: AtomicUsize = AtomicUsize::new(0);
const LIST_MAX: usize = 1024;

/// So many are all looked at by each launch.
const FEW: usize = 4;

/// Of more, so many besides those that were found busy last.
const LOOKS: usize = 2;

/// Places in the list of some that were found busy last, and where the next launch looks.
static LAST_BUSY: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
static NEXT_LOOK: AtomicU32 = AtomicU32::new(0);

/// Why a launch has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// A more important client has work on the GPU.
    Peer {
        /// Its slot.
        slot: usize,
        /// As it estimates, or its word expires.
        until_ns: u64,
    },
    /// The same, but only on GPUs of others of this process's job.
    Partner {
        /// Its slot.
        slot: usize,
        /// As it estimates, or its word expires.
        until_ns: u64,
    },
    /// It is somebody else's turn.
    Turn {
        /// On which GPU.
        gpu: usize,
        /// When that ends.
        until_ns: u64,
    },
}

/// Where nothing keeps a launch back: how much of the process's own work may be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// As much as the program likes: nobody is there whom it could keep waiting.
    Unbounded,
    /// Somebody more important may come.
    Bounded,
    /// The same, and others of equal rank have the GPU at the same time.
    Crowded,
}

/// What a launch has to know at this moment.
#[inline]
pub(super) fn look(now_ns: u64) -> Result<Room, Closed> {
    look_at::<false>(now_ns, None)
}

/// The same for one that waits, which has the time to look at everybody.
pub(super) fn look_at_all(now_ns: u64) -> Result<Room, Closed> {
    look_at::<true>(now_ns, None)
}

/// The same, where one who says when what it waits for ends is waited for only until so long after that.
pub(super) fn look_beyond(now_ns: u64, after_ns: Option<u64>) -> Result<Room, Closed> {
    look_at::<true>(now_ns, after_ns)
}

/// Whether [`look`] would say [`Room::Unbounded`]: nobody is there for whom anything had to wait.
#[inline]
pub(super) fn is_unbounded(now_ns: u64) -> bool {
    let Some(places) = PLACES.get() else { return true };
    // Pairs with the release in `list`.
    if LISTED.load(Acquire) != 0 {
        return is_free();
    }
    let mut left = GPUS.load(Relaxed);
    while left != 0 {
        let gpu = left.trailing_zeros() as usize;
        left &= left - 1;
        if is_taken(&places.gates.gate(gpu, rank(), now_ns)) {
            return is_free();
        }
    }
    true
}

#[inline]
fn look_at<const ALL: bool>(now_ns: u64, after_ns: Option<u64>) -> Result<Room, Closed> {
    let Some(places) = PLACES.get() else { return Ok(Room::Unbounded) };
    if is_free() {
        return Ok(Room::Unbounded);
    }
    let (mut turn, mut ordered, mut left, own) = (None, 0, JOB_GPUS.load(Relaxed), GPUS.load(Relaxed));
    while left != 0 {
        let gpu = left.trailing_zeros() as usize;
        left &= left - 1;
        let gate = places.gates.gate(gpu, rank(), now_ns);
        if gate.waits_for_peers {
            ordered |= 1 << gpu;
        }
        if turn.is_none() && is_taken(&gate) && own >> gpu & 1 != 0 {
            turn = Some((gpu, gate));
        }
    }
    let room = match turn {
        None => Room::Unbounded,
        Some((_, gate)) if !has_turns(&gate) => Room::Crowded,
        Some((gpu, gate)) if gate.turn != TURN.load(Relaxed) => {
            return Err(Closed::Turn { gpu, until_ns: gate.until_ns });
        }
        Some(_) => Room::Bounded,
    };
    // Pairs with the release in `list`.
    let listed = LISTED.load(Acquire);
    if listed == 0 {
        return Ok(room);
    }
    // What is queued is in the way of those more important afterwards, so it stays bounded.
    let bounded = if room == Room::Crowded { room } else { Room::Bounded };
    // All gates are open for a moment.
    if ordered == 0 {
        return Ok(bounded);
    }
    let busy_on = |gpus| find_busy::<ALL>(places, listed, gpus, now_ns, after_ns);
    if let Some((slot, until_ns)) = busy_on(ordered & own) {
        return Err(Closed::Peer { slot, until_ns });
    }
    match ordered & !own {
        0 => Ok(bounded),
        others => busy_on(others).map_or(Ok(bounded), |(slot, until_ns)| Err(Closed::Partner { slot, until_ns })),
    }
}

/// Whether turns are taken on a GPU at the moment.
#[inline]
fn is_taken(gate: &Gate) -> bool {
    gate.turn != Turn::Everybody.to_word()
}

/// Whether those of equal rank take turns: not where they have the GPU at the same time, and only those of lower rank wait.
#[inline]
fn has_turns(gate: &Gate) -> bool {
    !(mps::is_on() && gate.waits_for_peers)
}

/// Whether nothing holds this process back, since what it launches may be what kernels on other GPUs wait for, awake, its own or its job's, in the way of somebody more important.
#[inline]
fn is_free() -> bool {
    has_partners() && !IS_JOB_GATED.load(Relaxed)
}

/// Whether kernels on other GPUs may wait for what this process launches, as collectives do (NCCL).
pub(super) fn has_partners() -> bool {
    HAS_PARTNERS.load(Relaxed)
}

/// Somebody more important with work on one of those GPUs: the slot, and until when. Of many not all are looked at by each launch: those that
/// were found busy last, and some of the others in turn. Of 64 each is looked at by one launch in 32, so one that begins to work
/// after a pause is noticed some 150 us later than one of few.
#[inline]
fn find_busy<const ALL: bool>(
    places: &Places,
    listed: usize,
    ordered: u64,
    now_ns: u64,
    after_ns: Option<u64>,
) -> Option<(usize, u64)> {
    let is_busy = |place: usize| {
        let peer = LIST.get(place)?;
        let slot = peer.slot.load(Relaxed) as usize;
        let page = places.pages.get(slot)?;
        let mut until_ns = busy_until_ns(page, now_ns)?;
        if urgent_ns(page, now_ns, FORESIGHT_NS).is_some() {
            return None;
        }
        if let (Some(after_ns), ends_ns @ 1..) = (after_ns, page.ends_ns.load(Relaxed)) {
            until_ns = until_ns.min(ends_ns.saturating_add(after_ns));
        }
        (now_ns < until_ns && peer.gpus.load(Relaxed) & ordered != 0).then_some((slot, until_ns))
    };
    if ALL || listed <= FEW {
        return (0..listed).find_map(is_busy);
    }
    let last = LAST_BUSY.iter().find_map(|place| is_busy(place.load(Relaxed) as usize));
    last.or_else(|| {
        let first = NEXT_LOOK.load(Relaxed);
        NEXT_LOOK.store(first.wrapping_add(LOOKS as u32), Relaxed);
        let place = (0..LOOKS).map(|more| (first as usize + more) % listed).find(|place| is_busy(*place).is_some())?;
        LAST_BUSY[place % LAST_BUSY.len()].store(place as u32, Relaxed);
        is_busy(place)
    })
}

/// What is known of the time to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prospect {
    /// Somebody more important may launch at any moment from now on, and is expected to.
    pub(super) is_due: bool,
    /// Of somebody more important nobody knows when that will be.
    pub(super) is_open: bool,
    /// By then those who are due will have, as far as habits go; 0 if nobody is.
    pub(super) due_until_ns: u64,
    /// Until then nobody more important will, and the turn is ours.
    pub(super) until_ns: u64,
    /// From then on somebody waits for work that they have launched already.
    pub(super) urgent_ns: Option<u64>,
}

/// No word of another's is believed about more than this.
const FORESIGHT_NS: u64 = 50_000_000;

/// Who may come when, while nobody more important is on the GPU.
pub(super) fn prospect(now_ns: u64) -> Prospect {
    let mut prospect = Prospect { is_due: false, is_open: false, due_until_ns: 0, until_ns: u64::MAX, urgent_ns: None };
    let Some(places) = PLACES.get() else { return prospect };
    let (mut turn, mut left, own, mut is_ordered) = (None, JOB_GPUS.load(Relaxed), GPUS.load(Relaxed), false);
    while left != 0 {
        let gpu = left.trailing_zeros() as usize;
        let gate = places.gates.gate(gpu, rank(), now_ns);
        left &= left - 1;
        is_ordered |= gate.waits_for_peers;
        if turn.is_none() && is_taken(&gate) && own >> gpu & 1 != 0 {
            turn = Some(gate);
        }
    }
    if let Some(gate) = turn.filter(has_turns) {
        prospect.until_ns = gate.until_ns.saturating_sub(TURN_GRACE_NS);
    }
    if !is_ordered {
        return prospect;
    }
    // Pairs with the release in `list`.
    let listed = LISTED.load(Acquire);
    // Of many there is always one of whom nothing is known.
    prospect.is_open = listed > FEW;
    for peer in LIST.iter().take(listed.min(FEW)) {
        let Some(page) = places.pages.get(peer.slot.load(Relaxed) as usize) else { continue };
        if let Some(urgent_ns) = urgent_ns(page, now_ns, FORESIGHT_NS) {
            prospect.urgent_ns = Some(prospect.urgent_ns.map_or(urgent_ns, |sooner_ns| sooner_ns.min(urgent_ns)));
            prospect.until_ns = prospect.until_ns.min(urgent_ns);
            continue;
        }
        let (from_ns, to_ns) = (page.due_ns.load(Relaxed), page.due_until_ns.load(Relaxed));
        if from_ns == 0 || now_ns >= to_ns || to_ns > now_ns.saturating_add(FORESIGHT_NS) {
            prospect.is_open = true;
        } else {
            if now_ns >= from_ns {
                prospect.is_due = true;
                prospect.due_until_ns = prospect.due_until_ns.max(to_ns);
            }
            prospect.until_ns = prospect.until_ns.min(from_ns);
        }
    }
    prospect
}

/// The rank that counts.
#[inline]
pub(super) fn rank() -> Priority {
    Priority::new(RANK.load(Relaxed)).unwrap_or(Priority::NORMAL)
}

/// The turn that is ours.
pub(super) fn own_turn() -> Turn {
    Turn::from_word(TURN.load(Relaxed), SLOTS)
}

/// Others' memory, where there ever was any.
pub(super) fn places() -> Option<&'static Places> {
    PLACES.get()
}

/// The same, reserved now where it is not yet. To be called by one thread at a time.
pub(super) fn reserve() -> io::Result<&'static Places> {
    if let Some(places) = PLACES.get() {
        return Ok(places);
    }
    let (board, peers): (&BoardView, &Peers) =
        (Box::leak(Box::new(BoardView::reserve()?)), Box::leak(Box::new(Peers::reserve()?)));
    let gates = board.gates().ok_or(io::ErrorKind::InvalidData)?;
    let places = Places { board, peers, gates, pages: peers.pages() };
    Ok(PLACES.get_or_init(|| places))
}

/// Reads what the board says of this process in `slot`; whether others are there with whom it is in an order.
pub(super) fn read_own(slot: usize, generation: u64, now_ns: u64) -> bool {
    let Some(places) = PLACES.get() else { return false };
    let Some(own) = places.board.entry(slot).filter(|own| own.generation == generation) else { return false };
    RANK.store(own.rank.number(), Relaxed);
    TURN.store(Turn::of(slot as u32, own.job).to_word(), Relaxed);
    let gpus = of_job(places.board, &own);
    GPUS.store(own.gpus, Relaxed);
    JOB_GPUS.store(gpus, Relaxed);
    let is_ordered = |gpu: usize| {
        let gpu = places.board.gpu(gpu, now_ns);
        gpu.is_some_and(|gpu| gpu.clients > 1 && gpu.policy != aishim_abi::rank::PolicyKind::Off)
    };
    !places.board.has_ended() && (0..u64::BITS as usize).any(|gpu| gpus >> gpu & 1 != 0 && is_ordered(gpu))
}

/// The GPUs of all of its job.
fn of_job(board: &BoardView, own: &Entry) -> u64 {
    let is_of_it = |entry: &Entry| own.job != 0 && entry.job == own.job;
    let members = (own.job != 0).then(|| board.entries().map(|(_, entry)| entry).filter(is_of_it));
    let gpus = members.into_iter().flatten().fold(own.gpus, |gpus, entry| gpus | entry.gpus);
    HAS_PARTNERS.store(gpus.count_ones() > 1, Relaxed);
    gpus
}

/// Says who is more important, with the GPUs of each.
pub(super) fn list(peers: impl ExactSizeIterator<Item = (usize, u64)>) {
    let count = peers.len().min(LIST_MAX);
    for (place, (slot, gpus)) in LIST.iter().zip(peers) {
        place.slot.store(slot as u32, Relaxed);
        place.gpus.store(gpus, Relaxed);
    }
    // Pairs with the acquire in `look`.
    LISTED.store(count, Release);
}

/// Nothing is known any more.
pub(super) fn forget(peers: impl Iterator<Item = usize>) {
    LISTED.store(0, Release);
    GPUS.store(0, Relaxed);
    JOB_GPUS.store(0, Relaxed);
    let Some(places) = PLACES.get() else { return };
    let _ = places.board.clear();
    for slot in peers.filter(|slot| *slot < SLOTS) {
        let _ = places.peers.clear(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aishim_abi::board_writer::Board;
    use aishim_abi::client_page::{Identity, OwnPage};
    use aishim_abi::rank::{Class, PolicyKind, Uuid, Weight};
    use std::os::fd::{BorrowedFd, OwnedFd};

    const MS: u64 = 1_000_000;

    fn copy(descriptor: Option<BorrowedFd<'_>>) -> OwnedFd {
        descriptor.unwrap().try_clone_to_owned().unwrap()
    }

    fn entry(generation: u64, priority: u32) -> Entry {
        let priority = Priority::new(priority).unwrap();
        Entry {
            generation,
            pid: 1,
            own_pid: 1,
            uid: 1,
            start_ticks: 1,
            gpus: 0b10,
            job: 0,
            priority,
            rank: priority,
            limit: Priority::HIGHEST,
            weight: Weight::NORMAL,
            class: Class::Unclassified,
        }
    }

    /// What a launch sees; what it is told in a shorter way agrees.
    fn look(now_ns: u64) -> Result<Room, Closed> {
        let seen = super::look(now_ns);
        assert_eq!(is_unbounded(now_ns), seen == Ok(Room::Unbounded), "{seen:?}");
        seen
    }

    /// All in one, since what is looked at is the process's own.
    #[test]
    fn a_launch_sees_whose_turn_it_is_and_who_is_busy() {
        let now = 1_000 * MS;
        assert_eq!(look(now), Ok(Room::Unbounded), "nothing is known");
        let mut board = Board::create(8, 1, 1, 1).unwrap();
        board.set_gpu(1, Uuid([1; 16]));
        board.set_policy(1, PolicyKind::Priority, true);
        board.set_gpu_clients(1, 1);
        board.set_entry(3, &entry(7, 20));
        let places = reserve().unwrap();
        places.board.lay(&copy(board.descriptor())).unwrap();
        assert!(!read_own(3, 7, now), "alone");
        board.set_gpu_clients(1, 2);
        assert!(read_own(3, 7, now) && !read_own(3, 8, now) && !read_own(2, 7, now));
        read_own(3, 7, now);
        assert_eq!(look(now), Ok(Room::Unbounded), "nobody is more important");

        board.set_turn(1, 20, Turn::Client(5), now + 4 * MS);
        assert_eq!(look(now), Err(Closed::Turn { gpu: 1, until_ns: now + 4 * MS }));
        assert_eq!(look(now + 4 * MS), Ok(Room::Unbounded), "it ends by its time");
        board.set_turn(1, 20, Turn::Client(3), now + 4 * MS);
        assert_eq!(look(now), Ok(Room::Bounded), "ours, and somebody else waits");
        board.set_turn(1, 20, Turn::Everybody, u64::MAX);

        let pages: Vec<_> = (0..40)
            .map(|pid| OwnPage::create(&Identity { pid: pid + 1, start_ticks: 1, generation: 1 }).unwrap())
            .collect();
        for count in [1, FEW, 40] {
            for (slot, page) in pages.iter().enumerate().take(count) {
                places.peers.lay(slot, &copy(page.descriptor())).unwrap();
            }
            list((0..count).map(|slot| (slot, 0b10)));
            assert_eq!(look(now), Ok(Room::Bounded));
            for busy in [0, count - 1] {
                let page = pages[busy].page().unwrap();
                page.busy_until_ns.store(now + MS, Relaxed);
                page.renewed_ns.store(now, Relaxed);
                let closed = Err(Closed::Peer { slot: busy, until_ns: now + MS });
                assert_eq!(look_at_all(now), closed);
                assert!((0..20).any(|_| look(now) == closed), "seen before long");
                assert_eq!(look(now), closed, "and from then on");
                board.set_open(1, now + MS);
                assert_eq!(look(now), Ok(Room::Bounded), "all gates are open");
                let all_is_well =
                    Prospect { is_due: false, is_open: false, due_until_ns: 0, until_ns: u64::MAX, urgent_ns: None };
                assert_eq!(prospect(now), all_is_well, "nothing is held back for anybody then");
                board.set_open(1, 0);
                assert_eq!(look_at_all(now + MS), Ok(Room::Bounded));
                page.urgent_ns.store(now + MS / 2, Relaxed);
                assert_eq!(look_at_all(now), Ok(Room::Bounded), "nobody waits for it yet");
                assert_eq!(look_at_all(now + MS / 2), closed);
                page.urgent_ns.store(u64::MAX, Relaxed);
                assert_eq!(look_at_all(now), closed, "that cannot be");
                page.urgent_ns.store(0, Relaxed);
                page.busy_until_ns.store(0, Relaxed);
            }
        }
        list([(0, 0b01)].into_iter());
        pages[0].page().unwrap().busy_until_ns.store(now + MS, Relaxed);
        assert_eq!(look(now), Ok(Room::Bounded), "on another GPU");
        // Another process of its job has that GPU.
        board.set_entry(3, &Entry { job: 4, ..entry(7, 20) });
        board.set_entry(4, &Entry { job: 4, gpus: 0b01, ..entry(8, 20) });
        board.set_gpu(0, Uuid([2; 16]));
        board.set_policy(0, PolicyKind::Priority, true);
        assert!(!has_partners());
        read_own(3, 7, now);
        assert!(has_partners());
        assert_eq!(look(now), Ok(Room::Unbounded), "of a job on several GPUs: not held back but on request");
        configure(true);
        assert_eq!(look(now), Err(Closed::Partner { slot: 0, until_ns: now + MS }), "held back as one");
        places.peers.clear(0).unwrap();
        board.set_turn(0, 20, Turn::Client(5), now + MS);
        assert!(look(now).is_ok(), "it has no turn there");
        board.set_turn(0, 20, Turn::Everybody, u64::MAX);
        places.peers.lay(0, &copy(pages[0].descriptor())).unwrap();
        board.set_entry(3, &entry(7, 20));
        read_own(3, 7, now);
        assert!(!has_partners() && look(now).is_ok());
        // Work on two GPUs by itself.
        board.set_entry(3, &Entry { gpus: 0b11, ..entry(7, 20) });
        read_own(3, 7, now);
        configure(false);
        assert!(has_partners(), "its kernels may wait for each other");
        assert_eq!(look(now), Ok(Room::Unbounded));
        configure(true);
        list([].into_iter());
        let mut give = |gpu, slot| board.set_turn(gpu, 20, Turn::Client(slot), now + MS);
        give(0, 3);
        give(1, 5);
        assert_eq!(look(now), Ok(Room::Bounded), "who waited for both turns would not get them at the same time");
        assert_eq!(prospect(now).until_ns, now + MS - TURN_GRACE_NS);
        give(0, 5);
        give(1, 3);
        assert_eq!(look(now), Err(Closed::Turn { gpu: 0, until_ns: now + MS }), "the same turn counts for all");
        board.set_turn(0, 20, Turn::Everybody, u64::MAX);
        assert_eq!(look(now), Ok(Room::Bounded), "the first that there is");
        board.set_turn(1, 20, Turn::Everybody, u64::MAX);
        configure(false);
        board.set_entry(3, &entry(7, 20));
        read_own(3, 7, now);
        list([(0, 0b10)].into_iter());
        places.peers.clear(0).unwrap();
        assert_eq!(look(now), Ok(Room::Bounded), "gone");
        board.set_policy(1, PolicyKind::Fair, false);
        board.set_turn(1, 0, Turn::Client(5), now + MS);
        assert_eq!(
            look(now),
            Err(Closed::Turn { gpu: 1, until_ns: now + MS }),
            "the one turn of a policy without ranks"
        );
        forget(0..40);
        assert_eq!(look(now), Ok(Room::Unbounded));
    }
}
