#!/usr/bin/env python3
"""How much slower are requests under the shim? Eager ResNet-50 at batch 1, and BERT-base as a CUDA graph.

    python3 benches/gpu/overhead.py
    python3 benches/gpu/overhead.py --processes 5 --rounds 300 --side nosample=AISHIM_SAMPLE=off

Several processes a side are started and warmed up together. Then they measure in turns of a few requests, one process at
a time: in each round every process has one turn, in an order that is reversed from round to round. A virtual machine
runs for seconds at half its speed (3.5 or 6 ms for the same request, seen), so a round has to be over sooner than that:
what is compared was then measured at the same speed. All serve on the same core. An eager request is hundreds of
launches of a few microseconds each from one thread, which feels where a process happens to lie in memory, hence several
processes, equal hash seeds and no address randomisation.

A process's figure in a round is the median of its turn. Compared are, round by round, the medians of the sides; what is
reported is the median of those ratios with its 95 % bootstrap interval, and each process's median over all rounds.
"""

import contextlib
import json
import os
import random
import shutil
import statistics
import sys

import runs
import shim_stats

CASES = {
    "resnet50 eager, batch 1": ["--model", "resnet50", "--mode", "eager", "--batch", "1"],
    "bert graph, batch 4": ["--model", "bert", "--mode", "graph", "--batch", "4", "--dtype", "fp16"],
}
GOAL_RATIO = 1.01


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--processes", type=int, default=5, help="processes a side")
    parser.add_argument("--rounds", type=int, default=120, help="turns each of them has")
    parser.add_argument("--requests", type=int, default=8, help="measured requests a turn")
    parser.add_argument("--case", action="append", choices=CASES, help="only this case (may be repeated)")
    parser.add_argument(
        "--side",
        action="append",
        default=[],
        metavar="NAME=KEY=VALUE",
        help="a further side: the shim with this variable set, `off=AISHIM=off` say (may be repeated)",
    )
    args = runs.parse(parser)

    results = []
    cases = {name: CASES[name] for name in args.case or CASES}
    for name, arguments in cases.items():
        try:
            results += summarise(name, measure_case(args, arguments))
        except (runs.RunFailed, shim_stats.NoStats) as error:
            print(f"{name}: {error}", flush=True)
            results.append({"case": name, "side": "shim", "error": str(error)})

    measured = [result for result in results if "error" not in result]
    runs.print_table(
        ("case, side", "native p50 us", "p50 us", "ratio", "95 % interval", "processes", "native processes", "p99 ratio"),
        [row(result) for result in measured],
    )
    of_shim = [result for result in measured if result["side"] == "shim"]
    ok = len(of_shim) == len(cases) and all(result["ratio"] <= GOAL_RATIO for result in of_shim)
    shown = "; ".join(f"{result['case']} {(result['ratio'] - 1) * 100:+.2f} %" for result in of_shim)
    runs.finish("overhead", args, ok, shown or "nothing could be measured", {"results": results})


def measure_case(args, arguments):
    """Latencies in microseconds: for each side, for each of its processes, for each round."""
    with runs.runtime_dir() as segments, contextlib.ExitStack() as started:
        shimmed = runs.shim_env(args.lib, segments)
        sides = {"native": runs.native_env(), "shim": shimmed}
        for side in args.side:
            name, key, value = side.split("=", 2)
            sides[name] = {**shimmed, key: value}
        services = [
            (side, Service(args, arguments, env)) for _ in range(args.processes) for side, env in sides.items()
        ]
        for _, service in services:
            started.callback(service.stop)
        for _, service in services:
            runs.wait_for_line(service.process, "ready")
        turns = [(side, service, []) for side, service in services]
        for round_number in range(args.rounds):
            for _, service, latencies_us in turns if round_number % 2 == 0 else reversed(turns):
                latencies_us.append(service.measure(args.requests))
        if args.device == "cuda":
            check_counted(args, shimmed, services)
        return {side: [us for name, _, us in turns if name == side] for side in sides}


def check_counted(args, env, services):
    """A side that was not under the shim after all would look fast."""
    for side, service in services:
        if side == "shim" and not shim_stats.read(args.aictl, env, service.process.pid).launches:
            raise runs.RunFailed(f"process {service.process.pid} was to be under the shim, which counted nothing")


class Service:
    """One process of held_service.py that waits for its turns."""

    def __init__(self, args, arguments, env):
        core = max(os.sched_getaffinity(0)) // 2
        command = [sys.executable, runs.HERE / "held_service.py", "--device", args.device, *arguments, "--core", core]
        if shutil.which("setarch"):
            command = ["setarch", "-R", *command]
        self.process = runs.start(command, {**env, "PYTHONHASHSEED": "0"})

    def measure(self, requests):
        print(requests, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            _, stderr = self.process.communicate(timeout=20)
            raise runs.RunFailed(f"{runs.shown(self.process.args)} ended: {stderr[-800:]}")
        return json.loads(line)

    def stop(self):
        runs.stop_group(self.process)


def summarise(name, latencies_us):
    native = by_round(latencies_us["native"])
    return [
        {
            "case": name,
            "side": side,
            "native_p50_us": statistics.median(native),
            "p50_us": statistics.median(by_round(processes)),
            **ratio_of(native, by_round(processes)),
            "process_p50s_us": by_process(processes),
            "native_process_p50s_us": by_process(latencies_us["native"]),
            "p99_ratio": p99(processes) / p99(latencies_us["native"]),
            "turn_p50s_us": [[statistics.median(turn) for turn in process] for process in processes],
            "native_turn_p50s_us": [[statistics.median(turn) for turn in process] for process in latencies_us["native"]],
        }
        for side, processes in latencies_us.items()
        if side != "native"
    ]


def by_round(processes):
    return [statistics.median(statistics.median(turn) for turn in turns) for turns in zip(*processes)]


def by_process(processes):
    return [statistics.median(statistics.median(turn) for turn in process) for process in processes]


def ratio_of(native, other):
    ratios = [ours / theirs for ours, theirs in zip(other, native)]
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(2000))
    return {"ratio": statistics.median(ratios), "interval": (medians[50], medians[-51]), "round_ratios": ratios}


def p99(processes):
    values = sorted(value for process in processes for turn in process for value in turn)
    return values[int(len(values) * 0.99)]


def row(result):
    return (
        f"{result['case']}, {result['side']}",
        f"{result['native_p50_us']:.1f}",
        f"{result['p50_us']:.1f}",
        f"{result['ratio']:.4f}",
        "{:.4f}-{:.4f}".format(*result["interval"]),
        f"{min(result['process_p50s_us']):.0f}-{max(result['process_p50s_us']):.0f}",
        f"{min(result['native_process_p50s_us']):.0f}-{max(result['native_process_p50s_us']):.0f}",
        f"{result['p99_ratio']:.3f}",
    )


if __name__ == "__main__":
    main()
