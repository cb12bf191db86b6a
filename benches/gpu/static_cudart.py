#!/usr/bin/env python3
"""Is a program with the static CUDA runtime covered, its launches counted exactly and its pinned memory pooled?

    python3 benches/gpu/static_cudart.py

Builds static_cudart.cu with nvcc -cudart static and runs it natively and under the shim; it prints how often it called
what, and the shim must have counted the same.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import runs
import shim_stats


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--nvcc", default=shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    parser.add_argument("--arch", default="native", help="nvcc's -arch")
    args = runs.parse(parser)
    if not os.access(args.nvcc, os.X_OK):
        sys.exit(f"static_cudart.py: no nvcc at {args.nvcc}; name it with --nvcc.")
    try:
        native, expected, stats = observe(args)
    except (runs.RunFailed, shim_stats.NoStats) as error:
        runs.finish("static_cudart", args, False, str(error).splitlines()[0], {"error": str(error)})

    seen = stats.calls()
    lines = [(call, count, seen.get(call, 0)) for call, count in expected.items()]
    runs.print_table(
        ("entry point", "called", "counted", "verdict"),
        [(*line, "equal" if line[1] == line[2] else "DIFFERENT") for line in lines],
    )
    different = [call for call, called, counted in lines if called != counted]
    pooled = f"{stats.pool_hits} of {expected['cuMemHostAlloc']} pinned allocations from the pool"
    sentence = f"counts differ for {', '.join(different)}" if different else "every count is exact"
    ok = not different and stats.pool_hits > 0 and native == expected
    record = {"expected": expected, "shim_calls": seen, "shim": stats.raw}
    runs.finish("static_cudart", args, ok, f"{sentence}; {pooled}", record)


def observe(args):
    """What the program says it called, natively and shimmed, and what the shim counted."""
    with tempfile.TemporaryDirectory() as folder, runs.runtime_dir() as segments:
        program = Path(folder) / "static_cudart"
        source = runs.HERE / "static_cudart.cu"
        options = ["-cudart", "static", "-O2", "-std=c++17", f"-arch={args.arch}"]
        runs.run([args.nvcc, *options, "-o", program, source], runs.native_env())
        native = runs.last_json(runs.run([program], runs.native_env()).stdout)
        env = runs.shim_env(args.lib, segments)
        shimmed = runs.run([program], env)
        return native, runs.last_json(shimmed.stdout), shim_stats.read_ended(args.aictl, env, shimmed.pid)


if __name__ == "__main__":
    main()
