//! What a launch call costs: batches of cuLaunchKernel over 2,000 functions and 8 streams, from some threads at once.
//!
//! Run it over the null driver, once without and once with the preload; the difference is what the shim adds:
//!
//! ```sh
//! LD_LIBRARY_PATH=target/null-driver target/release/launch-meter --threads 1
//! LD_PRELOAD=dist/libaishim.so LD_LIBRARY_PATH=target/null-driver target/release/launch-meter --threads 1
//! ```
//!
//! It prints `stamp_ns` (one time stamp, measured in turn with the launches), `launch_ns` and, batch by batch,
//! `launch_less_two_stamps_ns`: medians over batches and threads. `--cold` does one launch at a time with the caches
//! walked over in between. `--callgrind` instead makes a fixed number of launches inside one function and prints how
//! many.
//!
//! `--lukewarm` runs through other data and code before each launch, and as much again within the driver's call, as a program
//! does ([`aishim_benches::between`]). `added_ns` is what the hook adds to such a round, by rounds through it and
//! rounds past it in turn, in one process; without a preload it is 0 but for noise. `PAGES,LINES,FUNCTIONS,LINES` behind it
//! says how much is run through each time: pages of data and lines written on each, functions, each on a page of its own,
//! and lines of code in each. Set `AISHIM_SAMPLE=off` with it: events cost nothing on the null driver, so the budget for
//! samples lets one launch in ten be sampled, where on a GPU it is one in a thousand. Where in the caches the
//! pages come to lie differs from run to run, and so does the result: take the median of ten runs and more, each with
//! a copy of the library of its own (whose pages are then other ones).

use aishim_benches::between::{Amount, Between};
use aishim_benches::stamps;
use std::cell::OnceCell;
use std::ffi::c_void;
use std::hint::black_box;
use std::sync::{Arc, Barrier};

type Launch = unsafe extern "C" fn(
    *mut c_void,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    *mut c_void,
    *mut *mut c_void,
    *mut *mut c_void,
) -> u32;

const FUNCTIONS: usize = 2_000;
const STREAMS: usize = 8;
const BATCHES: usize = 2_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (launch, bare) = driver();
    // For a coordinator that has to be found first.
    if let Some(ms) = std::env::var("LAUNCH_METER_AFTER_MS").ok().and_then(|ms| ms.parse().ok()) {
        std::thread::sleep(std::time::Duration::from_millis(ms));
    }
    if arguments.first().is_some_and(|a| a == "--callgrind") {
        // Once to warm up: the first launch of a thread does what is done once.
        launch_meter_warm(launch);
        println!("launches: {}", launch_meter_measured(launch, 10_000));
        return;
    }
    if arguments.first().is_some_and(|a| a == "--cold") {
        return report_cold(launch);
    }
    if arguments.first().is_some_and(|a| a == "--lukewarm")
        && let Some(bare) = bare
        && let Some(amount) = amount(arguments.get(1).map(String::as_str))
    {
        return report_lukewarm(launch, bare, amount);
    }
    let threads = match arguments.as_slice() {
        [flag, number] if flag == "--threads" => number.parse().ok(),
        [] => Some(1),
        _ => None,
    };
    let Some(threads) = threads.filter(|t| (1..=256).contains(t)) else {
        eprintln!(
            "usage: launch-meter [--threads N | --cold | --lukewarm [PAGES,LINES,FUNCTIONS,LINES] | --callgrind]    (N from 1 to 256)"
        );
        std::process::exit(2);
    };
    report(launch, threads);
}

fn report(launch: Launch, threads: usize) {
    let ns_per_tick = stamps::ns_per_tick();
    let start = Arc::new(Barrier::new(threads));
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let start = Arc::clone(&start);
            std::thread::spawn(move || {
                batch(launch);
                start.wait();
                // In turn: the processor's clock moves, and both have to be seen at the same speed.
                let pair = |_| (batch(launch), stamps::batch(FUNCTIONS));
                (0..BATCHES).map(pair).collect()
            })
        })
        .collect();
    let pairs: Vec<(u64, u64)> =
        workers.into_iter().flat_map(|w| -> Vec<(u64, u64)> { w.join().unwrap_or_default() }).collect();
    let ns = |ticks: u64| ticks as f64 * ns_per_tick / FUNCTIONS as f64;
    let launches: Vec<f64> = pairs.iter().map(|p| ns(p.0)).collect();
    let stamps: Vec<f64> = pairs.iter().map(|p| ns(p.1)).collect();
    let beyond: Vec<f64> = pairs.iter().map(|p| ns(p.0) - 2.0 * ns(p.1)).collect();
    println!(
        "threads {threads}  stamp_ns {:.2}  launch_ns {:.2}  launch_less_two_stamps_ns {:.2}",
        stamps::median(stamps),
        stamps::median(launches),
        stamps::median(beyond),
    );
}

/// Single launches with the caches cold, as between the operators of a large program: between two of them a buffer the
/// size of the second-level cache is walked.
fn report_cold(launch: Launch) {
    const WALKED_BYTES: usize = 4 << 20;
    let ns_per_tick = stamps::ns_per_tick();
    let mut buffer = vec![1_u8; WALKED_BYTES];
    launch_meter_warm(launch);
    let mut once = |i: usize| {
        for at in (0..WALKED_BYTES).step_by(64) {
            buffer[at] = buffer[at].wrapping_add(1);
        }
        let start = stamps::ticks();
        one(launch, i);
        (stamps::ticks() - start) as f64 * ns_per_tick
    };
    // One stream, as most programs have it; the middle half, since some machines' counters move in steps of 10 ns.
    let launches: Vec<f64> = (0..FUNCTIONS).map(|i| once(i * STREAMS)).collect();
    let mean = stamps::middle_mean(launches);
    println!("cold  launch_ns {mean:.2} (with about two stamps around it)");
}

/// What is run through where nothing else is asked for, in some 2 us: 256 pages of data and 128 of code, more than first-level
/// TLBs hold, and 1,024 and 512 lines, as much as first-level caches hold. Both times together it fits a second-level cache.
const BETWEEN: Amount = Amount { data_pages: 256, data_lines: 4, functions: 128, code_lines: 4 };

fn amount(text: Option<&str>) -> Option<Amount> {
    let Some(text) = text else {
        return Some(BETWEEN);
    };
    let numbers: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
    match numbers.ok()?.as_slice() {
        &[data_pages, data_lines @ 0..=64, functions, code_lines @ 0..=64] => {
            Some(Amount { data_pages, data_lines, functions, code_lines })
        }
        _ => None,
    }
}

thread_local! {
    /// Run through within the driver's call.
    static WITHIN: OnceCell<Between> = const { OnceCell::new() };
}

extern "C" fn within() {
    WITHIN.with(|work| work.get().map(Between::run));
}

/// Rounds of other work and a launch, hooked and bare in turn.
fn report_lukewarm(launch: Launch, bare: Launch, amount: Amount) {
    const ROUNDS: usize = 64;
    const TURNS: usize = 2_500;
    /// Kernels of a network, on one stream.
    const KERNELS: usize = 128;
    let (Ok(before), Ok(inside)) = (Between::new(amount), Between::new(amount)) else {
        eprintln!("launch-meter: no memory for {amount:?}");
        std::process::exit(1);
    };
    WITHIN.with(move |work| work.set(inside).is_ok());
    let ns_per_tick = stamps::ns_per_tick();
    let kernel = |number: usize| number % KERNELS * STREAMS;
    // Until each kernel's GPU time is known: what is learnt at first is paid for once in a program's life.
    (0..4_000 * KERNELS).for_each(|number| one(launch, kernel(number)));
    let rounds = |launch: Launch, turn: usize| {
        let start = stamps::ticks();
        for round in 0..ROUNDS {
            before.run();
            one_with(launch, kernel(turn * ROUNDS + round), within as *mut c_void);
        }
        (stamps::ticks() - start) as f64 * ns_per_tick / ROUNDS as f64
    };
    let pairs: Vec<(f64, f64)> = (0..TURNS)
        .map(|turn| {
            if turn % 2 == 0 {
                (rounds(bare, turn), rounds(launch, turn))
            } else {
                let hooked = rounds(launch, turn);
                (rounds(bare, turn), hooked)
            }
        })
        .collect();
    let stamps = (0..200).map(|_| stamps::batch(FUNCTIONS) as f64 * ns_per_tick / FUNCTIONS as f64);
    println!(
        "lukewarm  stamp_ns {:.2}  bare_round_ns {:.1}  added_ns {:.2}",
        stamps::median(stamps.collect()),
        stamps::middle_mean(pairs.iter().map(|p| p.0).collect()),
        stamps::middle_mean(pairs.iter().map(|p| p.1 - p.0).collect()),
    );
}

/// One launch of every function, streams in turn; how many ticks it took.
#[inline(never)]
fn batch(launch: Launch) -> u64 {
    let start = stamps::ticks();
    for i in 0..FUNCTIONS {
        one(launch, i);
    }
    stamps::ticks() - start
}

#[inline(always)]
fn one(launch: Launch, i: usize) {
    one_with(launch, i, std::ptr::null_mut());
}

/// A launch within which the null driver calls `work`.
#[inline(always)]
fn one_with(launch: Launch, i: usize, work: *mut c_void) {
    // Handles as a driver's would be: addresses, aligned, far apart.
    let function = black_box((0x5600_0000_0000 + i * 0x240) as *mut c_void);
    let stream = black_box((0x5610_0000_0000 + (i % STREAMS) * 0x3f0) as *mut c_void);
    // SAFETY: the null driver looks at none of it but `work`; a hook hands it on.
    unsafe { launch(function, 64, 1, 1, 256, 1, 1, 0, stream, std::ptr::null_mut(), work.cast()) };
}

#[inline(never)]
fn launch_meter_warm(launch: Launch) {
    batch(launch);
}

#[inline(never)]
fn launch_meter_measured(launch: Launch, launches: usize) -> usize {
    for i in 0..launches {
        one(launch, i % FUNCTIONS);
    }
    black_box(launches)
}

/// Loads the driver as libcudart does, makes a context, and returns cuLaunchKernel as a program gets it, and past any hook
/// where the driver is the null driver.
fn driver() -> (Launch, Option<Launch>) {
    let retain = |library: &libloading::Library| -> Result<(Launch, Option<Launch>), libloading::Error> {
        let mut context = std::ptr::null_mut::<c_void>();
        // SAFETY: the signatures are those of the CUDA driver API.
        unsafe {
            let init = library.get::<unsafe extern "C" fn(u32) -> u32>(b"cuInit\0")?;
            let retain =
                library.get::<unsafe extern "C" fn(*mut *mut c_void, i32) -> u32>(b"cuDevicePrimaryCtxRetain\0")?;
            init(0);
            retain(&raw mut context, 0);
            let bare = library.get::<Launch>(b"null_launch_kernel\0").ok().map(|launch| *launch);
            Ok((*library.get::<Launch>(b"cuLaunchKernel\0")?, bare))
        }
    };
    // SAFETY: the driver's own initialisers, which any CUDA program runs.
    let library = unsafe { libloading::Library::new("libcuda.so.1") };
    let launch = library.and_then(|l| {
        let launch = retain(&l);
        // Never unloaded: hooks keep pointers into it.
        std::mem::forget(l);
        launch
    });
    launch.unwrap_or_else(|e| {
        eprintln!("launch-meter: {e}: LD_LIBRARY_PATH names the folder of a libcuda.so.1");
        std::process::exit(1);
    })
}
