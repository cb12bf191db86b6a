//! Fills.

use crate::sim::{Fill, Process, Returns};
use crate::status::R;
use cudarc::driver::sys::{CUdeviceptr, CUstream};

/// A fill of one row.
fn row(address: CUdeviceptr, value: u32, element_bytes: usize, width: usize) -> Fill {
    Fill {
        address: address as usize,
        pitch: width.saturating_mul(element_bytes),
        value,
        element_bytes,
        width,
        height: 1,
    }
}

/// A fill of several.
fn rows(address: CUdeviceptr, pitch: usize, value: u32, element_bytes: usize, [width, height]: [usize; 2]) -> Fill {
    Fill { address: address as usize, pitch, value, element_bytes, width, height }
}

fn now(process: &Process, per_thread: bool, fill: Fill) -> R {
    process.fill(0, per_thread, fill, Returns::Synchronous)
}

fn later(process: &Process, stream: CUstream, per_thread: bool, fill: Fill) -> R {
    process.fill(stream as usize, per_thread, fill, Returns::Asynchronous)
}

/// The eight functions of one element type.
macro_rules! memset {
    ($ty:ty: $flat:ident, $flat_ptds:ident; $flat_async:ident, $flat_async_ptsz:ident; $two:ident, $two_ptds:ident; $two_async:ident, $two_async_ptsz:ident) => {
        driver_api! {
            /// Sets elements on the default stream.
            fn $flat, $flat_ptds(to: CUdeviceptr, value: $ty, count: usize) |process, per_thread| {
                now(process, per_thread, row(to, value.into(), size_of::<$ty>(), count))
            }

            /// Sets elements in stream order.
            fn $flat_async, $flat_async_ptsz(to: CUdeviceptr, value: $ty, count: usize, stream: CUstream) |process, per_thread| {
                later(process, stream, per_thread, row(to, value.into(), size_of::<$ty>(), count))
            }

            /// Sets rows of elements on the default stream.
            fn $two, $two_ptds(to: CUdeviceptr, pitch: usize, value: $ty, width: usize, height: usize) |process, per_thread| {
                now(process, per_thread, rows(to, pitch, value.into(), size_of::<$ty>(), [width, height]))
            }

            /// Sets rows of elements in stream order.
            fn $two_async, $two_async_ptsz(to: CUdeviceptr, pitch: usize, value: $ty, width: usize, height: usize, stream: CUstream) |process, per_thread| {
                later(process, stream, per_thread, rows(to, pitch, value.into(), size_of::<$ty>(), [width, height]))
            }
        }
    };
}

memset!(u8: cuMemsetD8_v2, cuMemsetD8_v2_ptds; cuMemsetD8Async, cuMemsetD8Async_ptsz; cuMemsetD2D8_v2, cuMemsetD2D8_v2_ptds; cuMemsetD2D8Async, cuMemsetD2D8Async_ptsz);
memset!(u16: cuMemsetD16_v2, cuMemsetD16_v2_ptds; cuMemsetD16Async, cuMemsetD16Async_ptsz; cuMemsetD2D16_v2, cuMemsetD2D16_v2_ptds; cuMemsetD2D16Async, cuMemsetD2D16Async_ptsz);
memset!(u32: cuMemsetD32_v2, cuMemsetD32_v2_ptds; cuMemsetD32Async, cuMemsetD32Async_ptsz; cuMemsetD2D32_v2, cuMemsetD2D32_v2_ptds; cuMemsetD2D32Async, cuMemsetD2D32Async_ptsz);
