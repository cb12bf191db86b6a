#!/usr/bin/env python3
"""Is a program that serves from worker processes counted per process?

    python3 benches/gpu/processes.py

As inference servers do, a parent looks at device_count() and then starts two workers, by each of Python's start methods
(forkserver with PyTorch loaded before the fork). Each worker launches a known number of kernels. Every worker must have a
segment of its own with those launches in it, while it lives and after it has ended; the parent, which never makes a
context, must have none.
"""

import contextlib
import sys

import runs
import shim_stats

LAUNCHES = {0: 300, 1: 500}
# A tensor is made and read back beside the counted launches.
TOLERATED_EXTRA = 20


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--methods", nargs="+", choices=("spawn", "forkserver", "fork"), default=("spawn", "forkserver", "fork"))
    args = runs.parse(parser)

    results = []
    for method in args.methods:
        try:
            results.append(observe(args, method))
        except (runs.RunFailed, shim_stats.NoStats) as error:
            print(f"{method}: {error}", flush=True)
            results.append({"method": method, "error": str(error), "ok": False, "workers": []})

    runs.print_table(
        ("method, worker", "launched", "counted live", "counted at end", "state"),
        [
            (f"{result['method']}, {worker['rank']}", worker["launched"], worker["live"], worker["ended"], worker["state"])
            for result in results
            for worker in result["workers"]
        ],
    )
    good = [result["method"] for result in results if result["ok"]]
    bad = [result["method"] for result in results if not result["ok"]]
    sentence = f"workers counted one by one with {', '.join(good) or 'none'}"
    sentence += f"; not with {', '.join(bad)}" if bad else ""
    runs.finish("processes", args, not bad, sentence, {"results": results})


def observe(args, method):
    """Runs the service under the shim and reads its processes while they wait and when they have ended."""
    command = [sys.executable, runs.HERE / "worker_service.py", method, *(str(count) for count in LAUNCHES.values())]
    with runs.runtime_dir() as segments:
        env = runs.shim_env(args.lib, segments)
        process = runs.start(command, env)
        try:
            pids = [int(pid) for pid in runs.wait_for_line(process, "workers").split()[1:]]
            live = [shim_stats.read(args.aictl, env, pid) for pid in pids]
            parent_seen = is_known(args, env, process.pid)
            process.communicate("end\n", timeout=60)
            if process.returncode != 0:
                raise runs.RunFailed(f"{runs.shown(command)}: exit code {process.returncode}")
            ended = [shim_stats.read_ended(args.aictl, env, pid) for pid in pids]
        finally:
            if process.poll() is None:
                runs.stop_group(process)
    workers = [
        {
            "rank": rank,
            "pid": pids[rank],
            "launched": LAUNCHES[rank],
            "live": live[rank].launches,
            "ended": ended[rank].launches,
            "state": ended[rank].state,
            "raw": ended[rank].raw,
        }
        for rank in LAUNCHES
    ]
    ok = not parent_seen and all(is_counted(worker) for worker in workers)
    return {"method": method, "ok": ok, "parent_has_segment": parent_seen, "workers": workers}


def is_known(args, env, pid):
    with contextlib.suppress(shim_stats.NoStats):
        shim_stats.read(args.aictl, env, pid)
        return True
    return False


def is_counted(worker):
    extra = worker["live"] - worker["launched"]
    return 0 <= extra <= TOLERATED_EXTRA and worker["ended"] >= worker["live"]


if __name__ == "__main__":
    main()
