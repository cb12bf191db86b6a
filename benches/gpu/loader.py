#!/usr/bin/env python3
"""Does a DataLoader's pinned memory come from the pool, and does CUDA_LAUNCH_BLOCKING=1 work under the shim?

    python3 benches/gpu/loader.py

Runs examples/infer.py --loader natively and under the shim, each plain and with CUDA_LAUNCH_BLOCKING=1, and compares the
checksums of the outputs.
"""

import runs
import shim_stats


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    args = runs.parse(parser)

    results = []
    for blocking in (False, True):
        try:
            results.append(observe(args, blocking))
        except (runs.RunFailed, shim_stats.NoStats) as error:
            print(f"blocking={blocking}: {error}", flush=True)
            results.append({"blocking": blocking, "ok": False, "error": str(error)})

    runs.print_table(
        ("launches", "pool hits", "passed on", "cuMemHostAlloc", "same bits"),
        [
            (name(result["blocking"]), result["hits"], result["passed_on"], result["allocations"], result["same_bits"])
            for result in results
            if "error" not in result
        ],
    )
    good = [result for result in results if result["ok"]]
    hits = sum(result.get("hits", 0) for result in results)
    sentence = f"{len(good)} of {len(results)} ways right, {hits} pinned allocations from the pool"
    runs.finish("loader", args, len(good) == len(results), sentence, {"results": results})


def name(blocking):
    return "CUDA_LAUNCH_BLOCKING=1" if blocking else "plain"


def observe(args, blocking):
    extra = {"CUDA_LAUNCH_BLOCKING": "1"} if blocking else {}
    command = runs.infer_command(args.device, "--model", "resnet50", "--loader", "--deterministic", "--checksum")
    command += ["--requests", args.requests, "--batch", args.batch]
    native = checksum(runs.run(command, runs.native_env(**extra)))
    with runs.runtime_dir() as segments:
        env = runs.shim_env(args.lib, segments, **extra)
        done = runs.run(command, env)
        stats = shim_stats.read_ended(args.aictl, env, done.pid)
    same_bits = checksum(done) == native
    return {
        "blocking": blocking,
        "ok": same_bits and stats.pool_hits > 0 and stats.launches > 0,
        "same_bits": same_bits,
        "hits": stats.pool_hits,
        "passed_on": sum(shim_stats.whole(count) for count in stats.pool_misses.values()),
        "allocations": stats.calls().get("cuMemHostAlloc", 0),
        "shim": stats.raw,
    }


def checksum(done):
    return next((line for line in done.stdout.splitlines() if line.startswith("sha256")), None)


if __name__ == "__main__":
    main()
