//! What a simulated GPU costs and how large it is: read once, from `SIMCUDA_*` variables (README.md lists them all).

use std::sync::atomic::{AtomicU64, Ordering};

/// Time as a function of size: points of (bytes, nanoseconds), straight lines between them and beyond the last.
#[derive(Clone, Debug)]
pub(crate) struct Curve(Vec<(u64, u64)>);

impl Curve {
    fn new(points: &[(u64, u64)]) -> Self {
        Self(points.to_vec())
    }

    fn bandwidth(gigabytes_per_s: f64) -> Self {
        Self(vec![
            (0, 1_000),
            (
                1 << 30,
                1_000 + ((1u64 << 30) as f64 / gigabytes_per_s) as u64,
            ),
        ])
    }

    /// Nanoseconds for `bytes`.
    pub(crate) fn at(&self, bytes: u64) -> u64 {
        let last = self.0.len() - 2;
        let segment = self.0[1..]
            .iter()
            .position(|point| bytes <= point.0)
            .unwrap_or(last);
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
    pub(crate) device_alloc_ns: u64,
    speed: f64,
}

impl Costs {
    /// The time a stated cost takes here: nothing where costs are off, else divided by `SIMCUDA_SPEED`.
    pub(crate) fn take(&self, cost_ns: u64) -> u64 {
        if self.enabled {
            self.stated(cost_ns)
        } else {
            0
        }
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
        Some(Self {
            function,
            status,
            after,
            times,
            calls: AtomicU64::new(0),
        })
    }
}

/// All settings of this process.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) costs: Costs,
    pub(crate) driver_version: i32,
    pub(crate) memory_bytes: u64,
    pub(crate) context_bytes: u64,
    pub(crate) queue_depth: usize,
    pub(crate) faults: Vec<Fault>,
}

impl Settings {
    /// Reads the environment. A value that cannot be read is named on stderr, once, and its default used.
    pub(crate) fn from_environment() -> Self {
        Self {
            costs: costs(),
            driver_version: number("SIMCUDA_DRIVER_VERSION", 13_000),
            memory_bytes: number("SIMCUDA_MEMORY_MIB", 16 * 1024) << 20,
            context_bytes: number("SIMCUDA_CONTEXT_MIB", 64) << 20,
            queue_depth: number("SIMCUDA_QUEUE_DEPTH", 1024usize).max(1),
            faults: faults(),
        }
    }
}

fn costs() -> Costs {
    let enabled = match std::env::var("SIMCUDA_COSTS").as_deref() {
        Ok("none") => false,
        Ok("h200") | Err(_) => true,
        Ok(_) => complain("SIMCUDA_COSTS", true),
    };
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    Costs {
        enabled,
        kernel_ns: number("SIMCUDA_KERNEL_NS", 2_000),
        event_ns: number("SIMCUDA_EVENT_NS", 1_000),
        slice_ns: number::<u64>("SIMCUDA_SLICE_US", 2_000).max(10) * 1_000,
        switch_ns: number::<u64>("SIMCUDA_SWITCH_US", 200) * 1_000,
        h2d_pinned: curve(
            "SIMCUDA_H2D_GBPS",
            &[
                (0, 8_000),
                (64 * KIB, 9_900),
                (MIB, 26_900),
                (16 * MIB, 311_000),
                (256 * MIB, 4_845_000),
            ],
        ),
        d2h_pinned: curve(
            "SIMCUDA_D2H_GBPS",
            &[
                (0, 8_000),
                (64 * KIB, 9_900),
                (MIB, 26_900),
                (16 * MIB, 303_000),
                (256 * MIB, 4_854_000),
            ],
        ),
        h2d_pageable: curve(
            "SIMCUDA_PAGEABLE_GBPS",
            &[
                (0, 8_000),
                (64 * KIB, 23_400),
                (MIB, 83_200),
                (16 * MIB, 1_290_000),
                (256 * MIB, 34_400_000),
            ],
        ),
        d2h_pageable: curve(
            "SIMCUDA_PAGEABLE_GBPS",
            &[
                (0, 8_000),
                (64 * KIB, 23_400),
                (MIB, 95_000),
                (16 * MIB, 1_340_000),
                (256 * MIB, 21_500_000),
            ],
        ),
        device_memory: curve("SIMCUDA_DEVICE_GBPS", &[(0, 0), (1024 * MIB, 358_000)]),
        host_alloc: Curve::new(&[
            (4 * KIB, 508_000),
            (64 * KIB, 767_000),
            (MIB, 647_000),
            (16 * MIB, 4_200_000),
            (256 * MIB, 96_000_000),
        ]),
        host_free: Curve::new(&[
            (4 * KIB, 224_000),
            (64 * KIB, 295_000),
            (MIB, 262_000),
            (16 * MIB, 1_500_000),
            (256 * MIB, 24_000_000),
        ]),
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
    parts
        .filter_map(|part| Fault::parse(part.trim()).or_else(|| complain("SIMCUDA_FAIL", None)))
        .collect()
}

fn complain<T>(variable: &str, fallback: T) -> T {
    let text = std::env::var(variable).unwrap_or_default();
    eprintln!(
        "simcuda: {variable}={text} cannot be read and is ignored; simcuda/README.md says what it may be"
    );
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
