//! Programs that share a GPU, to be run side by side: a `service`, whose requests come at equal distances and are wanted soon, and `work`, of which as
//! much is wanted as can be had. Neither knows of the other, nor of aishim.
//!
//! ```text
//! neighbours work --seconds 4 &
//! neighbours service --seconds 4
//! ```
//!
//! The service prints what its requests took from the moment when they were due, the work how much of it was done. Exit code: 0, 1 where the driver failed, 2
//! for wrong usage.

use std::error::Error;
use std::ffi::c_void;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use cudarc::driver::{result, sys};

/// The kernel, as text that the driver compiles for the device it finds.
const MODULE: &str = concat!(include_str!("spin.ptx"), "\0");

/// A request is so many kernels, so many nanoseconds each.
const REQUEST: (u32, u64) = (10, 100_000);

/// And a piece of work.
const WORK: (u32, u64) = (50, 200_000);

/// Requests before the first that counts.
const WARM_UP: usize = 40;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("neighbours: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Programs that share a GPU.
#[derive(Parser)]
struct Arguments {
    role: Role,
    /// How long it works.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Requests a second, of a service.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..=900))]
    rate: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    /// Requests at equal distances, each waited for.
    Service,
    /// As much as can be done.
    Work,
}

fn run(arguments: &Arguments) -> Result<String, Box<dyn Error>> {
    let gpu = Gpu::open()?;
    let time = Duration::from_secs(arguments.seconds.into());
    match arguments.role {
        Role::Service => serve(&gpu, time, Duration::from_secs(1) / arguments.rate),
        Role::Work => work(&gpu, time),
    }
}

fn serve(gpu: &Gpu, time: Duration, distance: Duration) -> Result<String, Box<dyn Error>> {
    let (mut due, end) = (Instant::now(), Instant::now() + time);
    let mut latencies = Vec::new();
    while due < end {
        due += distance;
        sleep(due.saturating_duration_since(Instant::now()));
        gpu.launch(REQUEST)?;
        gpu.wait()?;
        latencies.push(due.elapsed());
    }
    latencies.drain(..WARM_UP.min(latencies.len() / 2));
    latencies.sort_unstable();
    let at = |part: usize| latencies.get((latencies.len() * part / 100).min(latencies.len() - 1)).copied();
    let ms = |part| at(part).unwrap_or_default().as_secs_f64() * 1e3;
    Ok(format!("requests {}: p50 {:.2} ms, p99 {:.2} ms", latencies.len(), ms(50), ms(99)))
}

fn work(gpu: &Gpu, time: Duration) -> Result<String, Box<dyn Error>> {
    let begun = Instant::now();
    let mut kernels = 0;
    while begun.elapsed() < time {
        gpu.launch(WORK)?;
        gpu.wait()?;
        kernels += WORK.0;
    }
    Ok(format!("kernels a second: {:.0}", f64::from(kernels) / begun.elapsed().as_secs_f64()))
}

/// A device with its primary context, the kernel and a stream, until the process ends.
struct Gpu {
    spin: sys::CUfunction,
    stream: sys::CUstream,
}

impl Gpu {
    fn open() -> Result<Self, Box<dyn Error>> {
        // SAFETY: loading the driver runs its initialisers, which is what every CUDA program does first.
        if !unsafe { sys::is_culib_present() } {
            return Err("libcuda.so.1 cannot be loaded: install the NVIDIA driver, or set LD_LIBRARY_PATH to the folder of the simulated one".into());
        }
        result::init()?;
        let device = result::device::get(0)?;
        // SAFETY: the device was just given by the driver, the context by the next call, and it is never released; the image is PTX text
        // that ends in a NUL byte.
        let spin = unsafe {
            result::ctx::set_current(result::primary_ctx::retain(device)?)?;
            let module = result::module::load_data(MODULE.as_ptr().cast())?;
            result::module::get_function(module, c"spin".to_owned())?
        };
        Ok(Self { spin, stream: result::stream::create(result::stream::StreamKind::NonBlocking)? })
    }

    /// Launches so many kernels of so many nanoseconds.
    fn launch(&self, (kernels, mut duration_ns): (u32, u64)) -> Result<(), Box<dyn Error>> {
        for _ in 0..kernels {
            let mut parameters = [(&raw mut duration_ns).cast::<c_void>()];
            // SAFETY: the kernel takes one number of 64 bits, which the driver copies during the call; function and stream live as long as the process.
            unsafe { result::launch_kernel(self.spin, (1, 1, 1), (1, 1, 1), 0, self.stream, &mut parameters) }?;
        }
        Ok(())
    }

    /// Waits for all that was launched.
    fn wait(&self) -> Result<(), Box<dyn Error>> {
        // SAFETY: the stream lives as long as the process.
        Ok(unsafe { result::stream::synchronize(self.stream) }?)
    }
}
