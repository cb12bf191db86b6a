#!/usr/bin/env python3
"""Does the shim count the host launch calls that torch.profiler counts?

    python3 benches/gpu/launch_counts.py

The same deterministic work is run twice, each time in a process of its own: once under torch.profiler without the shim,
once under the shim without the profiler. Compared is the whole process, by entry point. The profiler records launches
through the runtime, and direct driver launches by cuLaunchKernel and cuLaunchKernelEx.
"""

import concurrent.futures
import json
import sys
import tempfile
from pathlib import Path

import runs
import shim_stats

WORKS = {"resnet50": 10, "bert": 10, "train": 3, "bert_graph": 20}

# What the runtime calls by default in the driver (CUDA 13.0).
DRIVER_CALL = {
    "cudaLaunchKernel": "cuLaunchKernel",
    "cudaLaunchKernelExC": "cuLaunchKernelEx",
    "cudaLaunchCooperativeKernel": "cuLaunchCooperativeKernel",
    "cudaGraphLaunch": "cuGraphLaunch",
}


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--jobs", type=int, default=4, help="pieces of work at the same time")
    args = runs.parse(parser)

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda work: compare(args, work), args.works))
    compared = [line for result in results for line in result.get("lines", [])]
    runs.print_table(
        ("work, entry point", "profiler", "shim", "verdict"),
        [(f"{line['work']}, {line['call']}", line["profiler"], line["shim"], line["verdict"]) for line in compared],
    )
    equal = [line for line in compared if line["verdict"] == "equal"]
    failed = [result["work"] for result in results if "error" in result]
    sentence = f"{len(equal)} of {len(compared)} counts by name are equal"
    if failed:
        sentence += f"; could not run: {', '.join(failed)}"
    ok = bool(compared) and not failed and len(equal) == len(compared)
    runs.finish("launch_counts", args, ok, sentence, {"results": results})


def compare(args, work):
    command = [sys.executable, runs.HERE / "work.py", work, "--passes", WORKS[work], "--device", args.device]
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "profile.json"
            runs.run([*command, "--profile", path], runs.native_env())
            profile = json.loads(path.read_text(encoding="utf-8"))
        with runs.runtime_dir() as segments:
            env = runs.shim_env(args.lib, segments)
            stats = shim_stats.read_ended(args.aictl, env, runs.run(command, env).pid)
    except (runs.RunFailed, shim_stats.NoStats) as error:
        print(f"{work}: {error}", flush=True)
        return {"work": work, "error": str(error)}
    expected = expected_driver_calls(profile["calls"])
    seen = stats.calls()
    lines = [
        {
            "work": work,
            "call": call,
            "profiler": expected.get(call, 0),
            "shim": seen.get(call, 0),
            "verdict": "equal" if expected.get(call, 0) == seen.get(call, 0) else "DIFFERENT",
        }
        for call in DRIVER_CALL.values()
        if expected.get(call, 0) or seen.get(call, 0)
    ]
    return {"work": work, "lines": lines, "profile": profile, "shim_calls": seen, "shim": stats.raw}


def expected_driver_calls(profiled_calls):
    expected = {}
    for name, count in profiled_calls.items():
        call = DRIVER_CALL.get(name, name)
        if call in DRIVER_CALL.values():
            expected[call] = expected.get(call, 0) + count
    return expected


if __name__ == "__main__":
    main()
