#!/usr/bin/env python3
"""How much slower are requests under the shim? Eager ResNet-50 at batch 1, and BERT-base as a CUDA graph.

    python3 benches/gpu/overhead.py
    python3 benches/gpu/overhead.py --pairs 10 --requests 1000

For each case all processes, native and shimmed ones, are started and warmed up together, which costs one start-up
instead of twenty; then they wait, and each measures alone when its turn comes: native, shimmed, shimmed, native, and so
on (ABBA), so that a drift of the machine touches both sides alike. Compared are the medians of each pair of runs.

An eager request is 340 launches of a few microseconds each from one thread, and what moves it most is not the shim but
where the process happens to lie: so all processes have the same hash seed and no address randomisation, and the thread
that measures is bound to one core, the same for all.
"""

import contextlib
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import runs
import shim_stats

CASES = {
    "resnet50 eager, batch 1": ["--model", "resnet50", "--mode", "eager", "--batch", "1"],
    "bert graph, batch 4": ["--model", "bert", "--mode", "graph", "--batch", "4", "--dtype", "fp16"],
}
GOAL_RATIO = 1.01


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--pairs", type=int, default=6, help="pairs of runs per case")
    parser.add_argument("--requests", type=int, default=400, help="measured requests per run")
    parser.add_argument("--warmup", type=int, default=100, help="requests before them, once at start and once at its turn")
    parser.add_argument("--one-by-one", action="store_true", help="start each process only when its turn has come")
    parser.add_argument("--off", action="store_true", help="the other side has the library too, with AISHIM=off")
    parser.add_argument("--case", action="append", choices=CASES, help="only this case (may be repeated)")
    args = runs.parse(parser)

    results = []
    cases = {name: CASES[name] for name in args.case or CASES}
    for name, arguments in cases.items():
        try:
            results.append(summarise(name, measure_case(args, arguments)))
        except (runs.RunFailed, shim_stats.NoStats) as error:
            print(f"{name}: {error}", flush=True)
            results.append({"case": name, "error": str(error)})

    measured = [result for result in results if "error" not in result]
    runs.print_table(
        ("case", "native p50 us", "shimmed p50 us", "median ratio", "of pairs", "native spread", "p99 ratio"),
        [row(result) for result in measured],
    )
    ok = len(measured) == len(cases) and all(result["median_ratio"] <= GOAL_RATIO for result in measured)
    shown = "; ".join(f"{result['case']} {(result['median_ratio'] - 1) * 100:+.2f} %" for result in measured)
    runs.finish("overhead", args, ok, shown or "nothing could be measured", {"results": results})


def measure_case(args, arguments):
    """The reports of infer.py, as pairs of a native and a shimmed run."""
    with runs.runtime_dir() as segments, tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as started:
        shimmed = runs.shim_env(args.lib, segments)
        # With the library loaded on both sides the memory layout is the same, which an eager request feels.
        native = {**shimmed, "AISHIM": "off"} if args.off else runs.native_env()
        envs = {"native": native, "shimmed": shimmed}
        candidates = [
            (side, Candidate(args, arguments, envs[side], Path(folder) / f"{pair}-{side}.json"))
            for pair in range(args.pairs)
            for side in (("native", "shimmed") if pair % 2 == 0 else ("shimmed", "native"))
        ]
        for _, candidate in candidates:
            started.callback(candidate.stop)
        if not args.one_by_one:
            for _, candidate in candidates:
                candidate.start()
            for _, candidate in candidates:
                candidate.wait_until_ready()
        reports = {"native": [], "shimmed": []}
        for side, candidate in candidates:
            report = candidate.measure()
            if side == "shimmed" and args.device == "cuda":
                report["launches"] = shim_stats.read(args.aictl, envs[side], candidate.process.pid).launches
            reports[side].append(report)
        return list(zip(reports["native"], reports["shimmed"]))


class Candidate:
    """One process of infer.py that waits for its turn."""

    def __init__(self, args, arguments, env, report_path):
        self.command = runs.infer_command(args.device, *arguments, "--hold")
        self.command += ["--requests", args.requests, "--warmup", args.warmup, "--json", report_path]
        if shutil.which("setarch"):
            self.command = ["setarch", "-R", *self.command]
        self.env = {**env, "PYTHONHASHSEED": "0"}
        self.report_path = report_path
        self.process = None
        self.ready = False

    def start(self):
        self.process = runs.start(self.command, self.env)

    def wait_until_ready(self):
        runs.wait_for_line(self.process, "ready")
        self.ready = True

    def measure(self):
        if self.process is None:
            self.start()
        if not self.ready:
            self.wait_until_ready()
        os.sched_setaffinity(self.process.pid, {max(os.sched_getaffinity(0)) // 2})
        _, stderr = self.process.communicate("go\n", timeout=240)
        if self.process.returncode != 0:
            raise runs.RunFailed(f"{runs.shown(self.command)}: exit code {self.process.returncode}\n{stderr[-800:]}")
        return json.loads(self.report_path.read_text(encoding="utf-8"))

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            runs.stop_group(self.process)


def summarise(name, pairs):
    ratios = [shimmed["p50_us"] / native["p50_us"] for native, shimmed in pairs]
    native_p50s_us = [native["p50_us"] for native, _ in pairs]
    native_p50_us = statistics.median(native_p50s_us)
    return {
        "case": name,
        "native_p50_us": native_p50_us,
        "shimmed_p50_us": statistics.median(shimmed["p50_us"] for _, shimmed in pairs),
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
        # How far native runs are from each other: a ratio within it is noise.
        "native_spread": (max(native_p50s_us) - min(native_p50s_us)) / native_p50_us,
        "p99_ratio": statistics.median(shimmed["p99_us"] / native["p99_us"] for native, shimmed in pairs),
        "launches": [shimmed.get("launches") for _, shimmed in pairs],
        "runs": [{"native": native, "shimmed": shimmed} for native, shimmed in pairs],
    }


def row(result):
    return (
        result["case"],
        f"{result['native_p50_us']:.1f}",
        f"{result['shimmed_p50_us']:.1f}",
        f"{result['median_ratio']:.4f}",
        f"{min(result['ratios']):.4f}-{max(result['ratios']):.4f}",
        f"{result['native_spread'] * 100:.2f} %",
        f"{result['p99_ratio']:.3f}",
    )


if __name__ == "__main__":
    main()
