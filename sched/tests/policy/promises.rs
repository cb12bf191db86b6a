//! What each policy promises by itself.

use aischedd::policy::{
    ClientId, Decision, Event, FLOOR_NS, JobId, Kind, LONG_TURN_NS, LONG_TURNS_BELOW, Member, PERIOD_NS, PartyId,
    TURN_NS, Turn, Weight,
};
use proptest::{collection::vec, prelude::*};

use crate::board::{Board, level};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

fn board(policy: &str) -> Board {
    Board::new(Kind::named(policy).unwrap())
}

/// A client that wants from now on.
fn wanting(board: &mut Board, slot: u32, priority: u8, weight: u32) -> ClientId {
    let client = board.join(slot, priority, weight);
    board.tell(Event::Wanting { client });
    client
}

fn of_job(board: &mut Board, slot: u32, priority: u8, job: u64) -> ClientId {
    let client = ClientId { slot, generation: 1 };
    let member = Member { priority: level(priority), weight: Weight::NORMAL, job: Some(JobId(job)) };
    board.tell(Event::Joined { client, member });
    client
}

#[test]
fn off_gates_nobody() {
    let mut board = board("off");
    let clients: Vec<_> = (0..5).map(|slot| wanting(&mut board, slot, 20 * slot as u8, 100)).collect();
    board.advance_to(SECOND);
    assert!(clients.iter().all(|client| board.has_turn(PartyId::Client(*client))));
    assert_eq!(board.gpu.wake_ns(), None);
}

#[test]
fn under_priority_each_rank_has_turns_of_its_own() {
    let mut board = board("priority");
    let first = wanting(&mut board, 0, 80, 100);
    let equals = [wanting(&mut board, 1, 20, 100), wanting(&mut board, 2, 20, 100)];
    assert!(board.has_turn(PartyId::Client(first)));
    let holders: Vec<_> = (1..5u64)
        .map(|turn| {
            board.advance_to(turn * TURN_NS - 1);
            equals.map(|client| board.has_turn(PartyId::Client(client)))
        })
        .collect();
    assert_eq!(holders, [[true, false], [false, true], [true, false], [false, true]]);
    assert!(board.has_turn(PartyId::Client(first)));
}

/// Each change costs whoever is more important, and nobody waits for those.
#[test]
fn the_lowest_ranks_have_longer_turns() {
    let turns_in = |rank: u8| {
        let mut board = board("priority");
        let equals = [wanting(&mut board, 0, rank, 100), wanting(&mut board, 1, rank, 100)];
        let holders: Vec<_> = (1..=8u64)
            .map(|turn| {
                board.advance_to(turn * TURN_NS - 1);
                equals.map(|client| board.has_turn(PartyId::Client(client)))
            })
            .collect();
        1 + holders.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64
    };
    assert_eq!(turns_in(LONG_TURNS_BELOW), 8);
    assert_eq!(turns_in(LONG_TURNS_BELOW - 1), 8 * TURN_NS / LONG_TURN_NS);
}

#[test]
fn members_of_a_job_take_turns_as_one() {
    let mut board = board("priority");
    let job = [of_job(&mut board, 0, 20, 7), of_job(&mut board, 1, 20, 7)];
    board.tell(Event::Wanting { client: job[0] });
    board.tell(Event::Wanting { client: job[1] });
    let alone = wanting(&mut board, 2, 20, 100);
    let mut turns = Vec::new();
    for turn in 1..9u64 {
        board.advance_to(turn * TURN_NS - 1);
        let holder =
            [PartyId::Job(JobId(7)), PartyId::Client(alone)].into_iter().position(|party| board.has_turn(party));
        turns.push(holder.unwrap());
        let client = if holder == Some(0) { job[(turn % 2) as usize] } else { alone };
        board.tell(Event::Used { client, gpu_ns: TURN_NS });
    }
    assert_eq!(turns, [0, 1, 0, 1, 0, 1, 0, 1]);
    // The job wants while one of its members does.
    board.tell(Event::Idle { client: job[0] });
    board.tell(Event::Idle { client: alone });
    assert_eq!(board.turn(board.group(PartyId::Job(JobId(7)))), Turn::All);
}

/// Else a process could lift itself above its limit by the name of another's job.
#[test]
fn a_job_has_the_rank_of_its_lowest_member() {
    let mut board = board("priority");
    let rank = |board: &Board| board.group(PartyId::Job(JobId(7))).index();
    of_job(&mut board, 0, 80, 7);
    assert_eq!(rank(&board), 80);
    let low = of_job(&mut board, 1, 20, 7);
    assert_eq!(rank(&board), 20);
    // A member that changes nothing for the others has to be told, too, where it stands.
    board.log.clear();
    of_job(&mut board, 2, 80, 7);
    let placed = |decision: &Decision| matches!(decision, Decision::Placed { priority, .. } if *priority == level(20));
    assert!(board.log.iter().any(|(_, decision)| placed(decision)));
    board.tell(Event::Left { client: low });
    assert_eq!(rank(&board), 80);
}

#[test]
fn a_lone_client_never_waits_for_the_coordinator() {
    for kind in Kind::all() {
        let mut board = Board::new(kind);
        let client = wanting(&mut board, 0, 20, 100);
        let later = board.join(1, 20, 100);
        board.advance_to(SECOND);
        assert!(board.has_turn(PartyId::Client(client)) && board.has_turn(PartyId::Client(later)), "{kind:?}");
    }
}

/// An earlier owner of a slot is another client.
#[test]
fn what_is_said_of_an_earlier_owner_has_no_effect() {
    let mut board = board("fair");
    let before = wanting(&mut board, 0, 20, 100);
    let client = ClientId { slot: 0, generation: 2 };
    let member = Member { priority: level(20), weight: Weight::NORMAL, job: None };
    board.tell(Event::Joined { client, member });
    board.log.clear();
    for event in [Event::Left { client: before }, Event::Wanting { client: before }, Event::Idle { client: before }] {
        board.tell(event);
    }
    assert_eq!(board.log, []);
    assert_eq!(board.gpu.clients(), 1);
}

/// A GPU that gives a hog all of its time but what the gates let through, in steps of `STEP_NS`.
struct Contended {
    board: Board,
    hogs: Vec<ClientId>,
    waiting: Vec<ClientId>,
    /// Which of those behind used the GPU in each step, by its position.
    used_by: Vec<Option<usize>>,
    next: usize,
}

const STEP_NS: u64 = 250_000;

impl Contended {
    /// Slots in the order of these priorities; as many hogs, all of the highest.
    fn new(hogs: usize, waiting: &[u8]) -> Self {
        let mut board = board("priority");
        let hogs = (0..hogs as u32).map(|slot| wanting(&mut board, slot, 90, 100)).collect::<Vec<_>>();
        let first = hogs.len() as u32;
        let waiting =
            waiting.iter().zip(first..).map(|(priority, slot)| wanting(&mut board, slot, *priority, 100)).collect();
        Self { board, hogs, waiting, used_by: Vec::new(), next: 0 }
    }

    /// While the gates are open all contexts have slices in turn.
    fn step(&mut self) {
        self.board.advance_to(self.board.now_ns + STEP_NS);
        let contexts = self.hogs.len() + self.waiting.len();
        self.next = (self.next + 1) % contexts;
        let user = if self.board.is_open() { self.next.checked_sub(self.hogs.len()) } else { None };
        let client = user.map_or(self.hogs[self.next % self.hogs.len()], |position| self.waiting[position]);
        self.board.tell(Event::Used { client, gpu_ns: STEP_NS });
        self.used_by.push(user);
    }

    /// The least that those of `which` had together in any second.
    fn least_in_a_second_ns(&self, which: impl Fn(usize) -> bool) -> u64 {
        let second = (SECOND / STEP_NS) as usize;
        let had: Vec<u64> = std::iter::once(0)
            .chain(self.used_by.iter().scan(0, |sum, user| {
                *sum += u64::from(user.is_some_and(&which)) * STEP_NS;
                Some(*sum)
            }))
            .collect();
        had.windows(second + 1).map(|sums| sums[second] - sums[0]).min().unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// The floor, from below: of any second, all that wait behind the most important have 2 % together.
    #[test]
    fn all_that_wait_together_have_two_percent_of_any_second(hogs in 1..4usize, waiting in vec(0..90u8, 1..6)) {
        let mut gpu = Contended::new(hogs, &waiting);
        (0..2 * SECOND / STEP_NS).for_each(|_| gpu.step());
        prop_assert!(gpu.least_in_a_second_ns(|_| true) >= SECOND / 50);
    }

    /// And from above: it costs the most important ones no more than that, but for a step's overrun in each period.
    #[test]
    fn the_floor_costs_what_it_promises(hogs in 1..4usize, waiting in vec(0..90u8, 1..6)) {
        let mut gpu = Contended::new(hogs, &waiting);
        (0..2 * SECOND / STEP_NS).for_each(|_| gpu.step());
        let used_ns = gpu.used_by.iter().flatten().count() as u64 * STEP_NS;
        let periods = 2 * SECOND / PERIOD_NS;
        prop_assert!(used_ns <= periods * (FLOOR_NS + STEP_NS), "{used_ns} ns in {periods} periods");
    }

    /// Under `fair`, two that want throughout differ by a few turns each at most, over weight (after the paper's
    /// theorem 1).
    #[test]
    fn shares_follow_the_weights(weights in vec(1..=10_000u32, 2..8), kernels_ns in vec(1..2 * TURN_NS, 1..20)) {
        let mut board = board("fair");
        let clients: Vec<_> =
            weights.iter().zip(0..).map(|(weight, slot)| wanting(&mut board, slot, 20, *weight)).collect();
        let mut used_ns = vec![0u64; clients.len()];
        for kernel_ns in kernels_ns.iter().cycle().take(2_000) {
            let holder = clients.iter().position(|client| board.has_turn(PartyId::Client(*client))).unwrap();
            board.advance_to(board.now_ns + kernel_ns);
            board.tell(Event::Used { client: clients[holder], gpu_ns: *kernel_ns });
            used_ns[holder] += kernel_ns;
        }
        // A turn and another one before its kernel was known of, that kernel of less than 8 ms, four turns' advance.
        let longest_ns = (8 * TURN_NS) as f64;
        for (one, other) in (0..weights.len()).flat_map(|one| (0..one).map(move |other| (one, other))) {
            let (w, v) = (f64::from(weights[one]), f64::from(weights[other]));
            let difference = (used_ns[one] as f64 / w - used_ns[other] as f64 / v).abs();
            prop_assert!(difference <= longest_ns / w + longest_ns / v, "{weights:?} {used_ns:?}");
        }
    }
}

/// The lowest has progress of its own though the ones above it have all of the floor and more by themselves.
#[test]
fn the_lowest_have_two_percent_where_the_middle_has_plenty() {
    let mut gpu = Contended::new(1, &[20, 5]);
    for step in 0..2 * SECOND / STEP_NS {
        gpu.step();
        // What the first leaves, the middle takes.
        if step % 2 == 0 && gpu.used_by.last() == Some(&None) {
            gpu.board.tell(Event::Used { client: gpu.waiting[0], gpu_ns: STEP_NS });
        }
    }
    assert!(gpu.least_in_a_second_ns(|position| position == 1) >= SECOND / 50);
}

#[test]
fn a_switch_closes_an_opening() {
    let mut gpu = Contended::new(1, &[20]);
    while !gpu.board.is_open() {
        gpu.step();
    }
    gpu.board.tell(Event::Switched { to: Kind::named("fair").unwrap() });
    assert!(!gpu.board.is_open());
    let clients = [gpu.hogs[0], gpu.waiting[0]];
    assert_eq!(clients.iter().filter(|client| gpu.board.has_turn(PartyId::Client(**client))).count(), 1);
    assert!(gpu.board.log.iter().any(|(_, decision)| matches!(decision, Decision::Policy { .. })));
}
