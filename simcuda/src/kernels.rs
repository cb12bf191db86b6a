//! The kernels a simulated module can hold: native functions that really compute on simulated device memory.
//!
//! | entry | parameters | what it does |
//! | --- | --- | --- |
//! | `vector_add` | `const float *a, const float *b, float *c, n` | `c[i] = a[i] + b[i]` |
//! | `saxpy` | `float a, const float *x, float *y, n` | `y[i] = a * x[i] + y[i]` |
//! | `reduce_sum` | `const float *x, float *out, n` | adds the sum of all `n` elements to `out[0]`, whatever the grid |
//! | `spin` | `unsigned long long ns` | nothing, for `ns` nanoseconds of the GPU |
//!
//! `n` is a 32-bit or a 64-bit integer, as the module's `.param` says; images of the simulator's own have 32 bits.
//! Elementwise kernels do one element a thread: the first `gridDim.x * blockDim.x` of them at most.
//! A kernel costs its launch (2 us) plus the bytes it moves at the memory's bandwidth.

use crate::settings::Costs;

/// A kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kernel {
    VectorAdd,
    Saxpy,
    ReduceSum,
    Spin,
}

/// The most parameters a kernel has.
pub(crate) const MAX_PARAMETERS: usize = 4;

/// What a parameter is; integers may be narrower in a module that says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Parameter {
    Pointer,
    Float,
    Count,
    Nanoseconds,
}

const REGISTRY: [(&str, Kernel, &[Parameter]); 4] = {
    use Parameter::{Count, Float, Nanoseconds, Pointer};
    [
        ("vector_add", Kernel::VectorAdd, &[Pointer, Pointer, Pointer, Count]),
        ("saxpy", Kernel::Saxpy, &[Float, Pointer, Pointer, Count]),
        ("reduce_sum", Kernel::ReduceSum, &[Pointer, Pointer, Count]),
        ("spin", Kernel::Spin, &[Nanoseconds]),
    ]
};

impl Parameter {
    /// Size in bytes where the module does not say.
    pub(crate) fn default_bytes(self) -> usize {
        match self {
            Self::Pointer | Self::Nanoseconds => 8,
            Self::Float | Self::Count => 4,
        }
    }

    /// True for sizes that a module may declare.
    pub(crate) fn allows(self, bytes: usize) -> bool {
        bytes == self.default_bytes() || (self == Self::Count && bytes == 8)
    }
}

/// The kernel of that name, and its parameters.
pub(crate) fn find(name: &str) -> Option<(Kernel, &'static [Parameter])> {
    REGISTRY.iter().find(|entry| entry.0 == name).map(|entry| (entry.1, entry.2))
}

/// A kernel with its arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch {
    pub(crate) kernel: Kernel,
    /// Each argument, zero-extended.
    pub(crate) arguments: [u64; MAX_PARAMETERS],
    /// `gridDim.x * blockDim.x`.
    pub(crate) threads: u64,
    pub(crate) context: usize,
}

impl Launch {
    /// Ranges of memory it touches: address and bytes; unused ones are empty.
    pub(crate) fn touched(&self) -> [(usize, usize); 3] {
        let [a, b, c, _] = self.arguments.map(|argument| argument as usize);
        let bytes = self.elements().saturating_mul(4);
        match self.kernel {
            Kernel::VectorAdd => [(a, bytes), (b, bytes), (c, bytes)],
            Kernel::Saxpy => [(b, bytes), (c, bytes), (0, 0)],
            Kernel::ReduceSum => [(a, bytes), (b, 4), (0, 0)],
            Kernel::Spin => [(0, 0); 3],
        }
    }

    fn elements(&self) -> usize {
        match self.kernel {
            Kernel::VectorAdd | Kernel::Saxpy => self.arguments[3].min(self.threads) as usize,
            Kernel::ReduceSum => self.arguments[2] as usize,
            Kernel::Spin => 0,
        }
    }

    /// Nanoseconds of the compute engine.
    pub(crate) fn cost_ns(&self, costs: &Costs) -> u64 {
        if self.kernel == Kernel::Spin {
            return costs.stated(self.arguments[0]);
        }
        let bytes: usize = self.touched().iter().map(|range| range.1).sum();
        costs.take(costs.kernel_ns + costs.device_memory.at(bytes as u64))
    }

    /// Computes.
    pub(crate) fn perform(&self) {
        let elements = self.elements();
        let pointer = |index: usize| self.arguments[index] as *mut f32;
        match self.kernel {
            Kernel::VectorAdd => {
                let (a, b, c) = (pointer(0), pointer(1), pointer(2));
                for i in 0..elements {
                    // SAFETY: the ranges that `touched` names were checked to be device memory; unaligned access because
                    // nobody checked the alignment. The three may overlap, hence no slices.
                    let sum = unsafe { a.add(i).read_unaligned() + b.add(i).read_unaligned() };
                    // SAFETY: as above.
                    unsafe { c.add(i).write_unaligned(sum) };
                }
            }
            Kernel::Saxpy => {
                let (a, x, y) = (f32::from_bits(self.arguments[0] as u32), pointer(1), pointer(2));
                for i in 0..elements {
                    // SAFETY: as above.
                    let (x, old) = unsafe { (x.add(i).read_unaligned(), y.add(i).read_unaligned()) };
                    // SAFETY: as above.
                    unsafe { y.add(i).write_unaligned(a.mul_add(x, old)) };
                }
            }
            Kernel::ReduceSum => {
                let (x, out) = (pointer(0), pointer(1));
                // SAFETY: as above.
                let sum: f64 = (0..elements).map(|i| f64::from(unsafe { x.add(i).read_unaligned() })).sum();
                // SAFETY: as above.
                unsafe { out.write_unaligned(out.read_unaligned() + sum as f32) };
            }
            Kernel::Spin => {}
        }
    }
}
