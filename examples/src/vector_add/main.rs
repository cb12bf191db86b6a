//! Adds vectors on the GPU through the CUDA driver API, as a server that does not cache its pinned memory would: each
//! request allocates page-locked buffers, copies them to the device, launches a kernel, copies the sum back, waits,
//! checks every element and frees the buffers. One thread and one stream serve requests side by side with the others.
//!
//! Run it plainly, on a machine with an NVIDIA driver:
//!
//! ```text
//! cargo run --release -p aishim-examples --bin vector_add -- --requests 500
//! ```
//!
//! under the runtime layer, of which it knows nothing:
//!
//! ```text
//! aictl run -- dist/examples/vector_add --requests 500
//! ```
//!
//! and without a GPU on the simulated one:
//!
//! ```text
//! LD_LIBRARY_PATH=dist/sim dist/examples/vector_add
//! ```
//!
//! Exit code: 0 when every result was right, 1 when one was wrong or the driver failed, 2 for wrong usage.

mod failure;
mod gpu;
mod report;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

use failure::Failure;
use gpu::{Gpu, Lane, PinnedBuffer};
use report::{Report, RequestTimes};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match serve(&arguments) {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("vector_add: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Adds vectors on the GPU, with page-locked buffers allocated and freed for each request.
#[derive(Parser)]
struct Arguments {
    /// Requests in all.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    requests: u32,
    /// Elements of each vector, 4 bytes each.
    #[arg(long, default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1..=0x1000_0000))]
    elements: u32,
    /// Streams, each served by a thread of its own.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    streams: u32,
}

fn serve(arguments: &Arguments) -> Result<Report, Failure> {
    let gpu = Gpu::open(0)?;
    let next_request = AtomicU32::new(0);
    let begin = Instant::now();
    let requests = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..arguments.streams).map(|_| scope.spawn(|| serve_stream(&gpu, arguments, &next_request))).collect();
        threads.into_iter().try_fold(Vec::new(), |mut all, thread| {
            all.extend(thread.join().map_err(|_| Failure::ThreadPanicked)??);
            Ok(all)
        })
    })?;
    Ok(Report {
        device: gpu.name()?,
        driver_version: gpu.driver_version()?,
        elements: arguments.elements,
        streams: arguments.streams,
        elapsed: begin.elapsed(),
        requests,
    })
}

/// Serves requests on one stream until none are left.
fn serve_stream(gpu: &Gpu, arguments: &Arguments, next_request: &AtomicU32) -> Result<Vec<RequestTimes>, Failure> {
    gpu.bind_to_thread()?;
    let mut lane = Lane::new(gpu, arguments.elements as usize)?;
    let mut served = Vec::new();
    loop {
        let number = next_request.fetch_add(1, Ordering::Relaxed);
        if number >= arguments.requests {
            return Ok(served);
        }
        served.push(serve_request(gpu, &mut lane, arguments.elements as usize, number)?);
    }
}

fn serve_request(gpu: &Gpu, lane: &mut Lane<'_>, elements: usize, number: u32) -> Result<RequestTimes, Failure> {
    let (mut a, a_allocation) = timed(|| PinnedBuffer::allocate(gpu, elements))?;
    let (mut b, b_allocation) = timed(|| PinnedBuffer::allocate(gpu, elements))?;
    let (mut sum, sum_allocation) = timed(|| PinnedBuffer::allocate(gpu, elements))?;
    fill(a.as_mut_slice(), b.as_mut_slice(), number);
    // The memory may be that of an earlier request: what is not written now must not look like a result.
    sum.as_mut_slice().fill(f32::NAN);

    let ((), work) = timed(|| lane.add(&a, &b, &mut sum))?;
    check(a.as_slice(), b.as_slice(), sum.as_slice(), number)?;

    let ((), a_free) = timed(|| a.free())?;
    let ((), b_free) = timed(|| b.free())?;
    let ((), sum_free) = timed(|| sum.free())?;
    let pinned = [a_allocation + a_free, b_allocation + b_free, sum_allocation + sum_free];
    Ok(RequestTimes { latency: work + pinned.iter().sum::<Duration>(), pinned })
}

fn timed<T>(action: impl FnOnce() -> Result<T, Failure>) -> Result<(T, Duration), Failure> {
    let begin = Instant::now();
    let value = action()?;
    Ok((value, begin.elapsed()))
}

/// Fills the inputs with whole numbers that f32 adds exactly, different for each request.
fn fill(a: &mut [f32], b: &mut [f32], number: u32) {
    for (index, (a, b)) in a.iter_mut().zip(b).enumerate() {
        *a = (index % 4096) as f32;
        *b = (number % 65_536) as f32;
    }
}

fn check(a: &[f32], b: &[f32], sum: &[f32], request: u32) -> Result<(), Failure> {
    let expected = a.iter().zip(b).map(|(a, b)| a + b);
    match sum.iter().zip(expected).position(|(got, expected)| *got != expected) {
        None => Ok(()),
        Some(element) => {
            Err(Failure::WrongResult { request, element, got: sum[element], expected: a[element] + b[element] })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_sums_pass() {
        let (mut a, mut b) = (vec![0.0; 5000], vec![0.0; 5000]);
        fill(&mut a, &mut b, 70_000);
        let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        assert!(check(&a, &b, &sum, 70_000).is_ok());
    }

    #[test]
    fn a_wrong_or_unwritten_element_is_named() {
        let (mut a, mut b) = (vec![0.0; 8], vec![0.0; 8]);
        fill(&mut a, &mut b, 1);
        for wrong in [0.0, f32::NAN] {
            let mut sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            sum[3] = wrong;
            let failure = check(&a, &b, &sum, 1).unwrap_err();
            assert!(matches!(failure, Failure::WrongResult { element: 3, .. }));
        }
    }
}
