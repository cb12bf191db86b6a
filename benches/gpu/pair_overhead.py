#!/usr/bin/env python3
"""What an event pair shows beyond the kernel between: the constants of shim/src/sampling.rs.

For kernels of several lengths, on an idle stream (a synchronise after each) and on a busy one (behind a long kernel),
compares the mean GPU time by the shim's samples with CUPTI's duration (torch.profiler, in a run without the shim).

    python3 benches/gpu/pair_overhead.py cupti  > cupti.json
    AISHIM_DIR=/tmp/ai LD_PRELOAD=dist/libaishim.so python3 benches/gpu/pair_overhead.py shim > shim.json
    python3 benches/gpu/pair_overhead.py compare cupti.json shim.json
"""
import glob
import json
import os
import statistics
import struct
import sys

# aishim-abi, layout.rs, version 1: the GPU-time histogram's sum and its buckets.
GPU = 16256 + 64 + 8 * 4608
COUNTERS = 15232


def kernels():
    import torch

    for elements in (1 << 10, 1 << 20, 1 << 22, 1 << 24, 1 << 26):
        x = torch.ones(elements, device="cuda")
        yield f"add_{elements}", lambda x=x: x.add_(1.0)
    for size in (256, 1024, 2048):
        a = torch.ones(size, size, device="cuda", dtype=torch.half)
        out = torch.empty_like(a)
        yield f"matmul_{size}", lambda a=a, out=out: torch.mm(a, a, out=out)


def idle(run, count):
    import torch

    for _ in range(count):
        run()
        torch.cuda.synchronize()


def busy(run, count):
    import torch

    for _ in range(count // 200):
        torch.cuda._sleep(4_000_000)
        for _ in range(200):
            run()
        torch.cuda.synchronize()


def samples():
    """The buckets of this process's GPU-time histogram."""
    (path,) = glob.glob(f"{os.environ['AISHIM_DIR']}/{os.getpid()}-*.seg")
    return struct.unpack_from("<4608Q", open(path, "rb").read(), GPU + 64)


def median_ns(buckets):
    """The middle of the bucket that holds the median: the long kernel that keeps the stream busy is sampled too."""
    seen = 0
    for index, count in enumerate(buckets):
        seen += count
        if 2 * seen > sum(buckets):
            shift = max((index >> 7) - 1, 0)
            return ((index - (shift << 7)) << shift) + (1 << shift) / 2
    return 0


def by_shim(count):
    rows = {}
    for name, run in kernels():
        for mode in (idle, busy):
            mode(run, 400)
            before = samples()
            mode(run, count)
            after = samples()
            new = [b - a for a, b in zip(before, after)]
            rows[f"{name} {mode.__name__}"] = {"ns": median_ns(new), "samples": sum(new)}
    return rows


def by_cupti():
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    rows = {}
    for name, run in kernels():
        for mode in (idle, busy):
            mode(run, 200)
            with profile(activities=[ProfilerActivity.CUDA]) as p:
                mode(run, 1000)
            times = [e.device_time for e in p.events() if e.device_type == DeviceType.CUDA and "spin" not in e.name]
            rows[f"{name} {mode.__name__}"] = {"ns": 1000 * statistics.median(times), "samples": len(times)}
    return rows


def compare(cupti, shim):
    for key, reference in cupti.items():
        ours = shim[key]
        print(f"{key:24} cupti {reference['ns']:10.0f} ns  shim {ours['ns']:10.0f} ns ({ours['samples']} samples)"
              f"  difference {ours['ns'] - reference['ns']:8.0f} ns")


def main():
    if sys.argv[1:2] == ["compare"]:
        compare(*(json.load(open(path)) for path in sys.argv[2:4]))
    elif sys.argv[1:2] == ["shim"]:
        json.dump(by_shim(20_000), sys.stdout, indent=1)
    elif sys.argv[1:2] == ["cupti"]:
        json.dump(by_cupti(), sys.stdout, indent=1)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
