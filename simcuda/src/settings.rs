//! What a simulated GPU costs and how large it is: read once, from `SIMCUDA_*` variables (README.md lists them all).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Time as a function of size: points of (bytes, nanoseconds), straight lines between them and beyond the last.
#[derive(Clone, Debug)]
pub(crate) struct Curve(Vec<(u64, u64)>);

impl Curve {
    fn new(points: &[(u64, u64)]) -> Self {
        Self(points.to_vec())
    }

    fn bandwidth(gigabytes_per_s: f64) -> Self {
        Self(vec![(0, 1_000), (1 << 30, 1_000 + ((1u64 << 30) as f64 / gigabytes_per_s) as u64)])
    }

    /// Nanoseconds for `bytes`.
    pub(crate) fn at(&self, bytes: u64) -> u64 {
        let last = self.0.len() - 2;
        let segment = self.0[1..].iter().position(|point| bytes <= point.0).unwrap_or(last);
        let ((x0, y0), (x1, y1)) = (self.0[segment], self.0[segment + 1]);
        let slope = (y1 as f64 - y0 as f64) / (x1 - x0) as f64;
        (y0 as f64 + slope * (bytes as f64 - x0 as f64)).max(0.0) as u64
    }
}

/// Every duration the simulator takes on purpose, in nanoseconds of the simulated machine.
#[derive(Clone, Debug)]
pub(crate) struct Costs {
    /// False: everything but a kernel's stated `spin` takes no more time than the host needs for it.
    pub(crate) enabled: bool,
    pub(crate) kernel_ns: u64,
    pub(crate) event_ns: u64,
    pub(crate) slice_ns: u64,
    pub(crate) switch_ns: u64,
    pub(crate) h2d_pinned: Curve,
    pub(crate) d2h_pinned: Curve,
    pub(crate) h2d_pageable: Curve,
    pub(crate) d2h_pageable: Curve,
    pub(crate) device_memory: Curve,
    pub(crate) host_alloc: Curve,
    pub(crate) host_free: Curve,
    pub(crate) host_register: Curve,
    pub(crate) host_unregister: Curve,
    pub(crate) device_alloc_ns: u64,
    speed: f64,
}

impl Costs {
    /// The time a stated cost takes here: nothing where costs are off, else divided by `SIMCUDA_SPEED`.
    pub(crate) fn take(&self, cost_ns: u64) -> u64 {
        if self.enabled { self.stated(cost_ns) } else { 0 }
    }

    /// A duration the program itself asked for (`spin`), which no setting but the speed shortens.
    pub(crate) fn stated(&self, duration_ns: u64) -> u64 {
        (duration_ns as f64 / self.speed) as u64
    }
}

/// An injected fault: calls of `function` answer `status`, after the first `after` of them, `times` times.
#[derive(Debug)]
pub(crate) struct Fault {
    function: String,
    status: u32,
    after: u64,
    times: u64,
    calls: AtomicU64,
}

impl Fault {
    /// The status this call of `function` fails with, if the fault applies to it.
    pub(crate) fn strikes(&self, function: &str) -> Option<u32> {
        if self.function != function {
            return None;
        }
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        (call >= self.after && call - self.after < self.times).then_some(self.status)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let function = parts.next().filter(|name| !name.is_empty())?.to_owned();
        let status = parts.next()?.parse().ok()?;
        let (mut after, mut times) = (0, u64::MAX);
        for part in parts {
            match part.split_once('=')? {
                ("after", count) => after = count.parse().ok()?,
                ("times", count) => times = count.parse().ok()?,
                _ => return None,
            }
        }
        Some(Self { function, status, after, times, calls: AtomicU64::new(0) })
    }
}

/// All settings of this process.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) costs: Costs,
    pub(crate) driver_version: i32,
    /// What the device's attribute says of MPS; nothing else is different.
    pub(crate) mps: bool,
    pub(crate) memory_bytes: u64,
    pub(crate) context_bytes: u64,
    pub(crate) queue_depth: usize,
    pub(crate) faults: Vec<Fault>,
}

impl Settings {
    /// The settings, read from the environment at the first call. A value that cannot be read is named on stderr, once,
    /// and its default used.
    pub(crate) fn of_this_process() -> &'static Self {
        static SETTINGS: OnceLock<Settings> = OnceLock::new();
        SETTINGS.get_or_init(Self::from_environment)
    }

    fn from_environment() -> Self {
        Self {
            costs: costs(),
            driver_version: number("SIMCUDA_DRIVER_VERSION", 13_000),
            mps: number("SIMCUDA_MPS", 0_u8) != 0,
            memory_bytes: number("SIMCUDA_MEMORY_MIB", 16 * 1024) << 20,
            context_bytes: number("SIMCUDA_CONTEXT_MIB", 64) << 20,
            queue_depth: number("SIMCUDA_QUEUE_DEPTH", 1024usize).max(1),
            faults: faults(),
        }
    }
}

type Points = [(u64, u64); 5];
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Measured points for five sizes, in nanoseconds.
const fn at_sizes(smallest: u64, times_ns: [u64; 5]) -> Points {
    let [first, k64, m1, m16, m256] = times_ns;
    [(smallest, first), (64 * KIB, k64), (MIB, m1), (16 * MIB, m16), (256 * MIB, m256)]
}

const fn register_points(times_ns: [u64; 5]) -> Points {
    let [m2, m4, m8, m16, m256] = times_ns;
    [(2 * MIB, m2), (4 * MIB, m4), (8 * MIB, m8), (16 * MIB, m16), (256 * MIB, m256)]
}

/// An H200 on PCIe 5, driver 580.
const H2D_PINNED: Points = at_sizes(0, [8_000, 9_900, 26_900, 311_000, 4_845_000]);
const D2H_PINNED: Points = at_sizes(0, [8_000, 9_900, 26_900, 303_000, 4_854_000]);
const H2D_PAGEABLE: Points = at_sizes(0, [8_000, 23_400, 83_200, 1_290_000, 34_400_000]);
const D2H_PAGEABLE: Points = at_sizes(0, [8_000, 23_400, 95_000, 1_340_000, 21_500_000]);
const HOST_ALLOC: Points = at_sizes(4 * KIB, [508_000, 767_000, 647_000, 4_200_000, 96_000_000]);
const HOST_FREE: Points = at_sizes(4 * KIB, [224_000, 295_000, 262_000, 1_500_000, 24_000_000]);
/// An H100, driver 580; of memory whose pages are there, 2, 4, 8 and 16 MiB of 256, and 256 in five parts.
const HOST_REGISTER: Points = register_points([158_000, 305_000, 519_000, 825_000, 13_100_000]);
const HOST_UNREGISTER: Points = register_points([103_000, 167_000, 269_000, 425_000, 5_900_000]);
const DEVICE_MEMORY: [(u64, u64); 2] = [(0, 0), (1024 * MIB, 358_000)];

fn costs() -> Costs {
    let enabled = match std::env::var("SIMCUDA_COSTS").as_deref() {
        Ok("none") => false,
        Ok("h200") | Err(_) => true,
        Ok(_) => complain("SIMCUDA_COSTS", true),
    };
    Costs {
        enabled,
        kernel_ns: number("SIMCUDA_KERNEL_NS", 2_000),
        event_ns: number("SIMCUDA_EVENT_NS", 1_000),
        slice_ns: number::<u64>("SIMCUDA_SLICE_US", 2_000).max(10) * 1_000,
        switch_ns: number::<u64>("SIMCUDA_SWITCH_US", 200) * 1_000,
        h2d_pinned: curve("SIMCUDA_H2D_GBPS", &H2D_PINNED),
        d2h_pinned: curve("SIMCUDA_D2H_GBPS", &D2H_PINNED),
        h2d_pageable: curve("SIMCUDA_PAGEABLE_GBPS", &H2D_PAGEABLE),
        d2h_pageable: curve("SIMCUDA_PAGEABLE_GBPS", &D2H_PAGEABLE),
        device_memory: curve("SIMCUDA_DEVICE_GBPS", &DEVICE_MEMORY),
        host_alloc: Curve::new(&HOST_ALLOC),
        host_free: Curve::new(&HOST_FREE),
        host_register: Curve::new(&HOST_REGISTER),
        host_unregister: Curve::new(&HOST_UNREGISTER),
        device_alloc_ns: number("SIMCUDA_DEVICE_ALLOC_NS", 30_000),
        speed: number::<f64>("SIMCUDA_SPEED", 1.0).max(1e-3),
    }
}

fn curve(variable: &str, measured: &[(u64, u64)]) -> Curve {
    match number(variable, 0.0) {
        rate if rate > 0.0 => Curve::bandwidth(rate),
        _ => Curve::new(measured),
    }
}

fn number<T: std::str::FromStr>(variable: &str, default: T) -> T {
    match std::env::var(variable) {
        Ok(text) => match text.trim().parse() {
            Ok(value) => value,
            Err(_) => complain(variable, default),
        },
        Err(_) => default,
    }
}

fn faults() -> Vec<Fault> {
    let text = std::env::var("SIMCUDA_FAIL").unwrap_or_default();
    let parts = text.split(',').filter(|part| !part.trim().is_empty());
    parts.filter_map(|part| Fault::parse(part.trim()).or_else(|| complain("SIMCUDA_FAIL", None))).collect()
}

fn complain<T>(variable: &str, fallback: T) -> T {
    let text = std::env::var(variable).unwrap_or_default();
    eprintln!("simcuda: {variable}={text} cannot be read and is ignored; simcuda/README.md says what it may be");
    fallback
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_passes_through_its_points_and_goes_on() {
        let curve = Curve::new(&[(0, 10), (100, 110), (200, 310)]);
        assert_eq!((curve.at(0), curve.at(50), curve.at(100)), (10, 60, 110));
        assert_eq!((curve.at(150), curve.at(300)), (210, 510));
    }

    #[test]
    fn a_fault_strikes_after_and_so_many_times() {
        let fault = Fault::parse("cuMemHostAlloc:2:after=1:times=2").expect("well formed");
        let struck: Vec<_> = (0..4).map(|_| fault.strikes("cuMemHostAlloc")).collect();
        assert_eq!(struck, [None, Some(2), Some(2), None]);
        assert_eq!(fault.strikes("cuInit"), None);
        assert!(Fault::parse("cuInit").is_none() && Fault::parse("cuInit:x").is_none());
    }
}
