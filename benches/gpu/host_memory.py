#!/usr/bin/env python3
"""What cuMemHostAlloc and cuMemFreeHost cost, natively and from the pool, from 4 KiB to 64 MiB.

    python3 benches/gpu/host_memory.py

Builds host_memory.c with the machine's C compiler and runs it natively and under the shim, alternated.
"""

import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import runs
import shim_stats


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--cc", default=next(filter(shutil.which, ("cc", "gcc", "clang")), None), help="C compiler")
    parser.add_argument("--pairs", type=int, default=2, help="native and shimmed runs, alternated")
    args = runs.parse(parser)
    if args.cc is None:
        sys.exit("host_memory.py needs a C compiler: apt-get install -y gcc")
    try:
        native, shimmed, stats = observe(args)
    except (runs.RunFailed, shim_stats.NoStats) as error:
        runs.finish("host_memory", args, False, str(error).splitlines()[0], {"error": str(error)})

    rows = [
        row(runs.size_name(size["bytes"]), *(of_size(side, index) for side in (native, shimmed)))
        for index, size in enumerate(native[0]["sizes"])
    ]
    busy_ms = native[0]["busy"]["kernel_ns"] / 1e6
    rows.append(row(f"1 MiB, {busy_ms:.0f} ms kernel running", *([run["busy"] for run in side] for side in (native, shimmed))))
    headers = ("alloc / free p50, us", "native alloc", "shim alloc", "native free", "shim free", "shim pair, mean")
    runs.print_table(headers, rows)

    small = [statistics.median(run["sizes"][0]["pair_mean_ns"] for run in side) for side in (native, shimmed)]
    sentence = f"4 KiB alloc and free: {small[0] / 1e3:.1f} us natively, {small[1]:.0f} ns shimmed"
    sentence += f"; {stats.pool_hits} allocations from the pool"
    ok = stats.pool_hits > 0 and small[1] < small[0]
    record = {"native": native, "shimmed": shimmed, "shim": stats.raw}
    runs.finish("host_memory", args, ok, sentence, record)


def observe(args):
    """The reports of native and shimmed runs, and the shim's own figures of the last one."""
    native, shimmed = [], []
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "host_memory"
        build = [args.cc, "-O2", "-I", runs.ROOT / "tests" / "programs", "-o", program]
        runs.run([*build, runs.HERE / "host_memory.c", "-ldl"], dict(os.environ))
        for _ in range(args.pairs):
            native.append(runs.last_json(runs.run([program], runs.native_env()).stdout))
            with runs.runtime_dir() as segments:
                env = runs.shim_env(args.lib, segments)
                done = runs.run([program], env)
                shimmed.append(runs.last_json(done.stdout))
                stats = shim_stats.read_ended(args.aictl, env, done.pid)
    return native, shimmed, stats


def of_size(side, index):
    return [run["sizes"][index] for run in side]


def row(name, native, shimmed):
    pair_ns = [size["pair_mean_ns"] for size in shimmed if "pair_mean_ns" in size]
    return (
        name,
        median_us(native, "alloc_p50_ns"),
        median_us(shimmed, "alloc_p50_ns"),
        median_us(native, "free_p50_ns"),
        median_us(shimmed, "free_p50_ns"),
        f"{statistics.median(pair_ns):.0f} ns" if pair_ns else "-",
    )


def median_us(side, key):
    return f"{statistics.median(run[key] for run in side) / 1e3:.2f}"


if __name__ == "__main__":
    main()
