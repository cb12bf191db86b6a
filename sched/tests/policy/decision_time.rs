//! A decision among 1,024 clients. What is asked for is 5 us in release mode; the bench (`cargo bench -p aischedd`)
//! measures it. Here is what no machine that the tests run on may miss: the median of many, generously, and that it
//! grows as a logarithm does.

use std::time::{Duration, Instant};

use aischedd::policy::{Event, Kind, TURN_NS};

use crate::board::level;

/// The median time of a decision while `clients` want, over a thousand of each kind of event.
fn median(kind: Kind, clients: u32) -> Duration {
    let mut gpu = aischedd::policy::Gpu::new(kind);
    let mut decisions = Vec::new();
    let id = |slot: u32| aischedd::policy::ClientId { slot, generation: 1 };
    let weight = aischedd::policy::Weight::NORMAL;
    for slot in 0..clients {
        let member = aischedd::policy::Member { priority: level((slot % 3) as u8), weight, job: None };
        gpu.decide(0, Event::Joined { client: id(slot), member }, &mut decisions);
        gpu.decide(0, Event::Wanting { client: id(slot) }, &mut decisions);
    }
    let mut times = Vec::new();
    for turn in 1..1_000u64 {
        let client = id((turn * 7_919 % u64::from(clients)) as u32);
        let used = Event::Used { client, gpu_ns: TURN_NS };
        for event in [used, Event::TimePassed, Event::Idle { client }, Event::Wanting { client }] {
            decisions.clear();
            let start = Instant::now();
            gpu.decide(turn * TURN_NS, event, &mut decisions);
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn a_decision_among_1024_clients_takes_microseconds() {
    let limit = if cfg!(debug_assertions) { Duration::from_micros(500) } else { Duration::from_micros(50) };
    for kind in Kind::all() {
        let took = median(kind, 1_024);
        assert!(took < limit, "{kind:?}: {took:?}");
    }
}

/// From 64 clients to 16,384, a step for each client would take 256 times as long, and a logarithm 2.3 times.
#[test]
fn a_decision_grows_as_a_logarithm_does() {
    for kind in Kind::all() {
        let (few, many) = (median(kind, 64), median(kind, 16_384));
        assert!(many < 32 * few.max(Duration::from_nanos(200)), "{kind:?}: {few:?} with 64, {many:?} with 16,384");
    }
}
