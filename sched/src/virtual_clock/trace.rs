//! What clients do: their requests, and when.
//!
//! As text, one thing a line, times in nanoseconds:
//!
//! ```text
//! aishim-sched-trace 1
//! about where it comes from, in words
//! length_ns 10000000000
//! request NAME launch_ns 3400 launches 6000 12x9000 [ 144x10000 ]
//! client NAME class CLASS priority 80 weight 100 request NAME at_ns 0 +6500000 +7100000
//! client NAME class CLASS priority 20 weight 100 job 7 request NAME loop_from_ns 0 think_ns 0
//! ```
//!
//! A request is launches, each of one kernel or, in brackets, of several, as a graph's is; `12x9000` stands for
//! twelve times 9,000. Its client launches it at the times that `at_ns` tells, each from the one before, or again and
//! again.

use std::fmt::{self, Display, Formatter};

use crate::policy::{JobId, Priority, Weight};

/// The first line, with the format's version.
pub(super) const MAGIC: &str = "aishim-sched-trace 1";

/// Clients of one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Where it comes from, in words.
    pub about: String,
    /// How long it is run.
    pub length_ns: u64,
    /// What clients launch.
    pub requests: Vec<Request>,
    /// Who is there, from the start.
    pub clients: Vec<Workload>,
}

/// What is launched before the client waits for the GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Without spaces.
    pub name: String,
    /// What a launch costs the CPU, and what lies between it and the next.
    pub launch_ns: u64,
    /// The GPU times of the kernels of each launch.
    pub launches: Vec<Vec<u64>>,
}

impl Request {
    /// The GPU time of all its kernels.
    pub fn gpu_ns(&self) -> u64 {
        self.launches.iter().flatten().sum()
    }
}

/// One client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Without spaces.
    pub name: String,
    /// In the report, the clients of a class are taken together.
    pub class: String,
    /// As the coordinator granted it.
    pub priority: Priority,
    /// As the coordinator granted it.
    pub weight: Weight,
    /// Whose turns it shares.
    pub job: Option<JobId>,
    /// An index of the trace's requests.
    pub request: usize,
    /// When.
    pub arrivals: Arrivals,
}

/// When a client's requests begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrivals {
    /// At these times, or when the one before is done, if that is later (an open loop).
    At(Vec<u64>),
    /// From this time on, so long after the one before is done (a closed loop).
    Loop {
        /// The first.
        from_ns: u64,
        /// From the end of one to the beginning of the next.
        think_ns: u64,
    },
}

impl Trace {
    /// Only the clients of which this is true.
    #[must_use]
    pub fn only(&self, of: impl Fn(&Workload) -> bool) -> Self {
        Self { clients: self.clients.iter().filter(|client| of(client)).cloned().collect(), ..self.clone() }
    }
}

impl Display for Trace {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{MAGIC}\nabout {}\nlength_ns {}", self.about, self.length_ns)?;
        self.requests.iter().try_for_each(|request| writeln!(f, "{request}"))?;
        self.clients.iter().try_for_each(|client| self.write_client(f, client))
    }
}

impl Trace {
    fn write_client(&self, f: &mut Formatter<'_>, client: &Workload) -> fmt::Result {
        let Workload { name, class, priority, weight, .. } = client;
        write!(f, "client {name} class {class} priority {} weight {}", priority.level(), weight.shares())?;
        if let Some(JobId(job)) = client.job {
            write!(f, " job {job}")?;
        }
        let request = self.requests.get(client.request).map_or("?", |request| &request.name);
        write!(f, " request {request}")?;
        match &client.arrivals {
            Arrivals::Loop { from_ns, think_ns } => writeln!(f, " loop_from_ns {from_ns} think_ns {think_ns}"),
            Arrivals::At(times_ns) => {
                f.write_str(" at_ns")?;
                let mut before_ns = 0;
                for time_ns in times_ns {
                    write!(f, " +{}", time_ns - before_ns)?;
                    before_ns = *time_ns;
                }
                writeln!(f)
            }
        }
    }
}

impl Display for Request {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "request {} launch_ns {} launches", self.name, self.launch_ns)?;
        for same in self.launches.chunk_by(|one, next| one == next && one.len() == 1) {
            match same {
                [kernels] if kernels.len() != 1 => {
                    f.write_str(" [")?;
                    write_kernels(f, kernels)?;
                    f.write_str(" ]")?;
                }
                _ => write_kernels(f, &same.concat())?,
            }
        }
        Ok(())
    }
}

fn write_kernels(f: &mut Formatter<'_>, kernels: &[u64]) -> fmt::Result {
    kernels.chunk_by(|one, next| one == next).try_for_each(|same| match same {
        [kernel_ns] => write!(f, " {kernel_ns}"),
        [kernel_ns, ..] => write!(f, " {}x{kernel_ns}", same.len()),
        [] => Ok(()),
    })
}
