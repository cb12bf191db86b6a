//! Clients that lie: how long a program that works is held back by them. The liar is this test's own process.

use crate::coordinator::{Daemon, join_on};
use aishim_abi::rank::Uuid;
use aishim_abi::statistics::Statistic;
use aishim_tests::{Program, Sandbox};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);

fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime(2) fills the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// One that is far more important says it will be busy for ever, once, and one that writes random words over all of its page. The
/// promise is 100 ms; on a busy machine the fastest round is the one that must keep it.
#[test]
fn a_page_of_lies_holds_nobody_back_for_longer_than_100_ms() {
    let sandbox = Sandbox::new();
    let _daemon = Daemon::start(&sandbox, &[]);
    let mut command = sandbox.shimmed(Program::new("company").build());
    let running =
        sandbox.start(command.env("SIMCUDA_COSTS", "h200").env("AISHIM_CLASS", "batch").args(["100000", "1", "0"]));
    let begun = Instant::now();
    let own = || sandbox.segments().into_iter().find(|segment| segment.copy.pid() == running.child.id());
    let uuid = loop {
        if let Some(uuid) = own().and_then(|segment| segment.copy.devices().next()) {
            break Uuid(uuid);
        }
        assert!(begun.elapsed() < LONG, "it makes no context");
        std::thread::sleep(Duration::from_millis(5));
    };
    let launches = || own().expect("a segment").copy.launches();
    let (_channel, own_page) = join_on(&sandbox, 100, uuid);
    let page = own_page.page().expect("a page");
    // Until it is told of the one more important and looks at that page.
    std::thread::sleep(Duration::from_millis(500));
    let (mut fastest, mut random) = (Duration::MAX, 0x9e37_79b9_7f4a_7c15_u64);
    for _ in 0..5 {
        page.busy_until_ns.store(u64::MAX, Relaxed);
        page.renewed_ns.store(monotonic_ns(), Relaxed);
        let said = Instant::now();
        std::thread::sleep(Duration::from_millis(10));
        // More than the one that was on its way, and than the floor lets through in a tenth of a second.
        let before = launches();
        while launches() < before + 60 {
            assert!(said.elapsed() < LONG, "held back for ever");
            std::thread::sleep(Duration::from_millis(1));
        }
        fastest = fastest.min(said.elapsed());
    }
    println!("said once to be busy for ever: on again after {fastest:?} at best");
    assert!((Duration::from_millis(50)..Duration::from_millis(150)).contains(&fastest), "{fastest:?}");

    // What was said last is stale by then.
    std::thread::sleep(Duration::from_millis(200));
    let gated_ns = || own().expect("a segment").statistic(Statistic::GatedTime);
    let gated_before_ns = gated_ns();
    let (mut progressed, mut longest) = (launches(), Duration::ZERO);
    let (begun, mut last) = (Instant::now(), Instant::now());
    let words =
        [&page.busy_until_ns, &page.renewed_ns, &page.launched_ns, &page.used_ns, &page.generation, &page.magic];
    while begun.elapsed() < Duration::from_secs(2) {
        for word in words {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            word.store(random, Relaxed);
        }
        let now = launches();
        if now != progressed {
            (progressed, longest) = (now, longest.max(last.elapsed()));
            last = Instant::now();
        }
    }
    let gated = Duration::from_nanos(gated_ns() - gated_before_ns);
    println!("random words: {gated:?} at the gate in 2 s; {longest:?} without a launch at worst");
    assert!(gated < Duration::from_millis(100), "{gated:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}
