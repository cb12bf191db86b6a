#!/usr/bin/env python3
"""A NumPy array in pinned memory of aishim's pool, without any CUDA binding: ctypes alone.

    aictl run -- python3 examples/pinned_numpy.py
    LD_LIBRARY_PATH=dist/sim aictl run -- python3 examples/pinned_numpy.py     (without a GPU)

`pinned_buffer` is the part to take over: a writable buffer that goes back to the pool with the last array that uses it.
"""

import ctypes
import sys
import weakref

try:
    import numpy
except ImportError:
    sys.exit("pinned_numpy.py needs NumPy: pip install numpy")


class PoolStats(ctypes.Structure):
    """`struct ai_pool_stats` of aishim.h, version 1."""

    _fields_ = [("version", ctypes.c_uint32), ("filled_bytes", ctypes.c_uint32)] + [
        (name, ctypes.c_uint64)
        for name in (
            "capacity_bytes", "block_bytes", "reserved_bytes", "allocated_bytes", "requested_bytes",
            "quarantined_bytes", "high_water_bytes", "hits", "misses", "frees",
        )
    ]  # fmt: skip


def load_aishim():
    """The library this process runs under."""
    library = ctypes.CDLL(None, use_errno=True)
    try:
        library.ai_alloc_pinned.restype = ctypes.c_void_p
    except AttributeError:
        sys.exit("pinned_numpy.py runs under the library: aictl run -- python3 examples/pinned_numpy.py")
    library.ai_alloc_pinned.argtypes = [ctypes.c_size_t]
    library.ai_free_pinned.restype = None
    library.ai_free_pinned.argtypes = [ctypes.c_void_p]
    library.ai_pool_stats.argtypes = [ctypes.POINTER(PoolStats), ctypes.c_size_t]
    return library


def pinned_buffer(aishim, size_bytes):
    """A ctypes array of so many bytes of pinned memory. Raises OSError where there is none."""
    address = aishim.ai_alloc_pinned(size_bytes)
    if address is None:
        raise OSError(ctypes.get_errno(), f"no {size_bytes} bytes of pinned memory")
    buffer = (ctypes.c_uint8 * size_bytes).from_address(address)
    # An array made with numpy.frombuffer keeps the buffer alive; when the last one is gone, so is this.
    weakref.finalize(buffer, aishim.ai_free_pinned, address)
    return buffer


def pool_stats(aishim):
    stats = PoolStats()
    aishim.ai_pool_stats(ctypes.byref(stats), ctypes.sizeof(stats))
    return stats


def make_context():
    """Makes device 0's primary context current, as a CUDA runtime would have done, and returns the driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        sys.exit("pinned_numpy.py needs the NVIDIA driver, or the simulated GPU: LD_LIBRARY_PATH=dist/sim")
    context = ctypes.c_void_p()
    check(driver.cuInit(0))
    check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
    check(driver.cuCtxSetCurrent(context))
    return driver


def check(status):
    if status:
        sys.exit(f"the driver answered with error {status}")


def main():
    aishim = load_aishim()
    driver = make_context()
    count = 1 << 20
    there = numpy.frombuffer(pinned_buffer(aishim, count * 4), dtype=numpy.float32)
    back = numpy.frombuffer(pinned_buffer(aishim, count * 4), dtype=numpy.float32)
    there[:] = numpy.arange(count)
    back[:] = 0

    memory = ctypes.c_uint64()
    check(driver.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(there.nbytes)))
    check(driver.cuMemcpyHtoD_v2(memory, there.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(there.nbytes)))
    check(driver.cuMemcpyDtoH_v2(back.ctypes.data_as(ctypes.c_void_p), memory, ctypes.c_size_t(back.nbytes)))
    check(driver.cuMemFree_v2(memory))

    held = pool_stats(aishim)
    print(f"{count} floats there and back: {'right' if (there == back).all() else 'WRONG'}")
    print(f"the pool holds {held.requested_bytes} bytes for us, after {held.hits} requests")
    del there, back
    print(f"and {pool_stats(aishim).requested_bytes} now that the arrays are gone")


if __name__ == "__main__":
    main()
