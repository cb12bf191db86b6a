#!/usr/bin/env python3
"""What keeps an idle stream busy, for how long, and what an event pair behind it shows: the constants of
shim/src/sampling/hold.rs and of `launch_alone` in shim/src/sampling/pair.rs.

    python3 benches/gpu/hold_overhead.py [ROUNDS] > hold_overhead.txt

Without the shim, under torch.profiler: each kernel is launched on an idle stream between two events, behind nothing or
behind a batch of stream memory operations. Printed are what a batch costs the host and how long it holds the GPU, then
for each kernel how far the pair's time lies above CUPTI's duration of the kernel, in ns.
"""

import ctypes
import statistics
import sys
import time

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

driver = ctypes.CDLL("libcuda.so.1")
WRITE_VALUE_32, BARRIER = 2, 6


class Operation(ctypes.Structure):
    """CUstreamBatchMemOpParams: a write of a value, or (with `scope`) a barrier."""

    _fields_ = [
        ("operation", ctypes.c_uint),
        ("scope", ctypes.c_uint),
        ("address", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("rest", ctypes.c_uint64 * 3),
    ]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    torch.zeros(1, device="cuda")
    word = torch.zeros(1024, dtype=torch.int32).pin_memory()
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    holds = {
        "none": lambda: None,
        "16 writes": batch(stream, 16, WRITE_VALUE_32, address=word.data_ptr()),
        "16 barriers, system": batch(stream, 16, BARRIER),
        "16 barriers, GPU": batch(stream, 16, BARRIER, scope=1),
        "48 barriers, system": batch(stream, 48, BARRIER),
    }
    for name, hold in holds.items():
        print_cost(name, hold, stream)
    for name, hold in holds.items():
        for kernel, run in kernels():
            print_excess(name, hold, kernel, run, stream, rounds)


def batch(stream, count, operation, address=0, scope=0):
    operations = (Operation * count)()
    for one in operations:
        one.operation, one.scope, one.address = operation, scope, address
    return lambda: check(driver.cuStreamBatchMemOp_v2(stream, count, operations, 0))


def kernels():
    for elements in (1 << 10, 1 << 20, 1 << 22):
        x = torch.ones(elements, device="cuda")
        yield f"add_{elements}", lambda x=x: x.add_(1.0)
    for size in (256, 1024):
        a = torch.ones(size, size, device="cuda", dtype=torch.half)
        out = torch.empty_like(a)
        yield f"matmul_{size}", lambda a=a, out=out: torch.mm(a, a, out=out)


def print_cost(name, hold, stream):
    begin, middle, end = event(), event(), event()
    host_ns, gpu_ns, empty_ns = [], [], []
    for _ in range(60):
        torch.cuda.synchronize()
        record(begin, stream)
        called = time.perf_counter_ns()
        hold()
        host_ns.append(time.perf_counter_ns() - called)
        record(middle, stream)
        record(end, stream)
        torch.cuda.synchronize()
        gpu_ns.append(elapsed_ns(begin, middle))
        empty_ns.append(elapsed_ns(middle, end))
    medians = [statistics.median(values) for values in (host_ns, gpu_ns, empty_ns)]
    print("{:22} host {:6.0f}  GPU {:6.0f}  empty pair behind it {:5.0f}".format(name, *medians), flush=True)


def print_excess(name, hold, kernel, run, stream, rounds):
    begin, end = event(), event()
    for _ in range(20):
        run()
    torch.cuda.synchronize()
    between_ns = []
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(rounds):
            hold()
            record(begin, stream)
            run()
            record(end, stream)
            torch.cuda.synchronize()
            between_ns.append(elapsed_ns(begin, end))
    on_gpu = [e for e in profiler.events() if e.device_type == DeviceType.CUDA and "mem" not in e.name.lower()]
    cupti_ns = statistics.median(1000 * e.device_time for e in on_gpu)
    excess = sorted(ns - cupti_ns for ns in between_ns)
    tenths = [excess[len(excess) * share // 10] for share in (1, 5, 9)]
    print(f"{name:22} {kernel:14} CUPTI {cupti_ns:6.0f}  beyond it p10 {{:6.0f}} p50 {{:6.0f}} p90 {{:6.0f}}".format(*tenths), flush=True)


def event():
    handle = ctypes.c_void_p()
    check(driver.cuEventCreate(ctypes.byref(handle), 0))
    return handle


def record(handle, stream):
    check(driver.cuEventRecord(handle, stream))


def elapsed_ns(begin, end):
    milliseconds = ctypes.c_float()
    check(driver.cuEventElapsedTime(ctypes.byref(milliseconds), begin, end))
    return milliseconds.value * 1e6


def check(result):
    if result:
        sys.exit(f"hold_overhead.py: the driver answered {result}")


if __name__ == "__main__":
    main()
