#!/usr/bin/env python3
"""What the shim's handlers cost a request: the same process with them, and past them.

    cargo build --release -p aishim --features bypass --target-dir target/bypass
    python3 benches/gpu/own_cost.py --lib target/bypass/release/libaishim.so

Processes that do the same differ by 2 % and more in what an eager request takes, by where their memory happens to lie
(overhead.py compares many). Here one process changes sides every few requests: launches, memsets, copies and waits go
through the handlers or straight to the driver, through a library that was built to allow that. What is left out is the
hook itself, a function that asks and jumps: 2 ns. A machine's speed changes from second to second, so compared are
turns that follow each other, by the fastest request of each; reported are the median of the differences, its 95 %
bootstrap interval over all processes' rounds, and each process's own median.
"""

import random
import statistics

import runs
from overhead import CASES, GOAL_RATIO, Service


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--processes", type=int, default=3, help="processes, one after another")
    parser.add_argument("--rounds", type=int, default=250, help="turns on each side")
    parser.add_argument("--requests", type=int, default=3, help="measured requests a turn")
    parser.add_argument("--warmup", type=int, default=1200, help="requests before: what is learnt once is learnt then")
    parser.add_argument("--case", action="append", choices=CASES, help="only this case (may be repeated)")
    parser.add_argument("--setting", action="append", default=[], metavar="KEY=VALUE", help="for the shim, AISHIM_SAMPLE=off say")
    args = runs.parse(parser)

    results = []
    for name in args.case or CASES:
        try:
            results.append({"case": name, **summary(measure(args, CASES[name]))})
        except runs.RunFailed as error:
            print(f"{name}: {error}", flush=True)
            results.append({"case": name, "error": str(error)})
    measured = [result for result in results if "error" not in result]
    headers = ("case", "past them us", "more us", "95 % interval", "ratio", "processes, more us")
    runs.print_table(headers, [row(result) for result in measured])
    ok = len(measured) == len(results) and all(result["ratio"] <= GOAL_RATIO for result in measured)
    shown = "; ".join(f"{result['case']} {(result['ratio'] - 1) * 100:+.2f} %" for result in measured)
    runs.finish("own_cost", args, ok, shown or "nothing could be measured", {"results": results})


def measure(args, arguments):
    """For each process its rounds: the fastest request past the handlers and with them, in microseconds."""
    settings = dict(setting.split("=", 1) for setting in args.setting)
    warmup = ["--warmup", args.warmup, "--warmup-of-turn", 1]
    processes = []
    for number in range(args.processes):
        chance = random.Random(number)
        with runs.runtime_dir() as segments:
            service = Service(args, [*arguments, *warmup], runs.shim_env(args.lib, segments, **settings))
            try:
                runs.wait_for_line(service.process, "ready")
                processes.append([play_round(service, args.requests, chance) for _ in range(args.rounds)])
            finally:
                service.stop()
    return processes


def play_round(service, requests, chance):
    fastest = {}
    for bypass in chance.sample((1, 0), 2):
        print(f"bypass {bypass}", file=service.process.stdin, flush=True)
        fastest[bypass] = min(service.measure(requests))
    return fastest[1], fastest[0]


def summary(processes):
    more_us = [ours - past for rounds in processes for past, ours in rounds]
    past_us = statistics.median(past for rounds in processes for past, _ in rounds)
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(more_us, k=len(more_us))) for _ in range(1000))
    median_us = statistics.median(more_us)
    return {
        "past_us": past_us,
        "more_us": median_us,
        "interval_us": (medians[25], medians[-26]),
        "ratio": 1 + median_us / past_us,
        "process_more_us": [statistics.median(ours - past for past, ours in rounds) for rounds in processes],
        "rounds_us": processes,
    }


def row(result):
    low, high = result["interval_us"]
    shares = [f"{us / result['past_us'] * 100:.2f}" for us in (low, high)]
    return (
        result["case"],
        f"{result['past_us']:.1f}",
        f"{result['more_us']:.1f}",
        f"{low:.1f} to {high:.1f} ({shares[0]} to {shares[1]} %)",
        f"{result['ratio']:.4f}",
        ", ".join(f"{us:.1f}" for us in result["process_more_us"]),
    )


if __name__ == "__main__":
    main()
