//! What every policy promises, held against each of the registry over random events.

use std::collections::BTreeSet;

use aischedd::policy::{
    ClientId, Event, JobId, Kind, LONG_TURN_NS, LONG_TURNS_BELOW, Member, PartyId, TURN_NS, Turn, Weight,
};
use proptest::{collection::vec, prelude::*};

use crate::board::{Board, Seen, level};

/// A few slots, ranks and jobs only, so that they meet.
const SLOTS: u32 = 12;

fn client() -> impl Strategy<Value = ClientId> {
    (0..SLOTS, 1..3u32).prop_map(|(slot, generation)| ClientId { slot, generation })
}

fn member() -> impl Strategy<Value = Member> {
    let rank = prop_oneof![Just(0u8), Just(5), Just(20), Just(80), Just(100)];
    let weight = prop_oneof![Just(Weight::MIN), Just(Weight::NORMAL), Just(Weight::MAX)];
    let job = prop_oneof![4 => Just(None), 1 => (0..3u64).prop_map(|job| Some(JobId(job)))];
    (rank, weight, job).prop_map(|(rank, weight, job)| Member { priority: level(rank), weight, job })
}

fn kind() -> impl Strategy<Value = Kind> {
    (0..Kind::all().count()).prop_map(|index| Kind::all().nth(index).unwrap())
}

fn event() -> impl Strategy<Value = Event> {
    let used = prop_oneof![0..2 * TURN_NS, Just(u64::MAX)];
    prop_oneof![
        3 => (client(), member()).prop_map(|(client, member)| Event::Joined { client, member }),
        1 => client().prop_map(|client| Event::Left { client }),
        1 => (client(), member())
            .prop_map(|(client, Member { priority, weight, .. })| Event::Changed { client, priority, weight }),
        6 => client().prop_map(|client| Event::Wanting { client }),
        2 => client().prop_map(|client| Event::Idle { client }),
        6 => (client(), used).prop_map(|(client, gpu_ns)| Event::Used { client, gpu_ns }),
        1 => Just(Event::TimePassed),
    ]
}

/// Events and how long after the one before each comes.
fn history() -> impl Strategy<Value = Vec<(u64, Event)>> {
    let gap_ns = prop_oneof![Just(0u64), 0..TURN_NS, 0..30 * TURN_NS];
    vec((gap_ns, event()), 0..200)
}

fn played(kind: Kind, history: &[(u64, Event)]) -> Board {
    let mut board = Board::new(kind);
    for (gap_ns, event) in history {
        board.advance_to(board.now_ns + gap_ns);
        board.tell(*event);
    }
    board
}

proptest! {
    /// The board is judged after each event: see `Board::check`. No turn for one that left or does not want.
    #[test]
    fn any_history_leaves_a_board_in_order(kind in kind(), history in history()) {
        played(kind, &history);
    }

    #[test]
    fn the_same_history_brings_the_same_decisions(kind in kind(), history in history()) {
        prop_assert_eq!(played(kind, &history).log, played(kind, &history).log);
    }

    /// Of those that want, one of the most important may launch, whatever happened before.
    #[test]
    fn somebody_has_the_turn_while_anybody_wants(kind in kind(), history in history()) {
        let board = played(kind, &history);
        let wanting: Vec<&Seen> = board.clients().filter(|seen| seen.wants).collect();
        for group in wanting.iter().map(|seen| board.group(seen.party())) {
            let may = wanting.iter().any(|seen| board.group(seen.party()) == group && board.has_turn(seen.party()));
            prop_assert!(may, "of {group:?} nobody may launch");
        }
    }

    /// A clock that is late or goes back does no harm, nor do wake-ups at the wrong time.
    #[test]
    fn a_late_or_backward_clock_leaves_a_board_in_order(kind in kind(), history in history()) {
        let mut board = Board::new(kind);
        for (gap_ns, event) in history {
            // No wake-ups on the way.
            board.now_ns += gap_ns;
            board.tell(event);
            let now_ns = std::mem::replace(&mut board.now_ns, gap_ns / 2);
            board.tell(Event::TimePassed);
            board.now_ns = now_ns;
            if board.gpu.wake_ns().is_some_and(|wake_ns| wake_ns <= board.now_ns) {
                board.tell(Event::TimePassed);
            }
        }
    }

    /// Nobody is lost by a switch, and those that wanted before it have turns after it, without a word of theirs.
    #[test]
    fn a_switch_keeps_all_clients_and_serves_them(from in kind(), to in kind(), history in history()) {
        let mut board = played(from, &history);
        board.tell(Event::Switched { to });
        prop_assert_eq!(board.gpu.kind(), to);
        serves_everybody_of_a_rank(&mut board, 20)?;
    }

    /// Nobody starves among equals, after any history: who wants has the turn in bounded time, whatever others say
    /// they used.
    #[test]
    fn nobody_starves_among_equals(kind in kind(), history in history(), rank in prop_oneof![Just(5), Just(20)]) {
        serves_everybody_of_a_rank(&mut played(kind, &history), rank)?;
    }
}

/// From here on all want, at one rank and weight, and each uses its turns: each has one in time.
fn serves_everybody_of_a_rank(board: &mut Board, rank: u8) -> Result<(), TestCaseError> {
    let longest_turn = if rank < LONG_TURNS_BELOW { LONG_TURN_NS / TURN_NS } else { 1 };
    let clients: Vec<Seen> = board.clients().copied().collect();
    for seen in &clients {
        board.tell(Event::Changed { client: seen.id, priority: level(rank), weight: Weight::NORMAL });
        board.tell(Event::Wanting { client: seen.id });
    }
    // Who had all of the GPU until now owes each of the others as much.
    let owed_turns = board.now_ns / TURN_NS;
    let mut waiting: BTreeSet<PartyId> = clients.iter().map(Seen::party).collect();
    for _ in 0..(owed_turns + 8 * longest_turn) * clients.len() as u64 {
        waiting.retain(|party| !board.has_turn(*party));
        if waiting.is_empty() {
            break;
        }
        let turn_ends_ns = board.now_ns + TURN_NS;
        board.advance_to(turn_ends_ns - 1);
        let holder = clients.iter().find(|seen| board.turn(board.group(seen.party())) == Turn::Of(seen.party()));
        if let Some(seen) = holder {
            board.tell(Event::Used { client: seen.id, gpu_ns: TURN_NS });
        }
        board.advance_to(turn_ends_ns);
    }
    prop_assert!(waiting.is_empty(), "of {} clients these never had a turn: {waiting:?}", clients.len());
    Ok(())
}

#[test]
fn each_policy_is_found_by_its_name() {
    for kind in Kind::all() {
        assert_eq!(Kind::named(kind.name()), Some(kind));
    }
    assert_eq!(Kind::named("priorities"), None);
    assert_eq!(Kind::named(""), None);
}
