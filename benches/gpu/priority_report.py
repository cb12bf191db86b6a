"""What priority.py makes of its turns: percentiles, throughput, shares of the leftover, and the verdict."""

import statistics

import priority_jobs
import runs

PERCENTILES = (50, 90, 99)
HEADERS = (
    *("load, cell", "p50 ms", "p90 ms", "p99 ms", "p50 x", "p90 x", "p99 x", "p50 by round", "queued"),
    *("it/s", "by itself", "busy", "leftover", "reached"),
)
QUEUED_US = 100
"""A request that was begun so long after its arrival found the job busy with the one before."""

GOALS = {
    ("bertg", "infer"): {"p99": 1.20, "leftover": 0.90},
    ("bertg", "train"): {"p50": 1.10, "p90": 1.30, "p99": 1.65, "leftover": 0.90},
    ("bert_eager", "train"): {"p50_by_round": 1.05, "alone_share": 0.60},
    ("resnet_eager", "train"): {"p50_by_round": 1.05, "alone_share": 0.60},
}
"""Latencies at most so many times alone's; at least this share of the leftover, or of native best effort by
itself. Those beside gemm are no ratios: missed_beside_gemm."""


def finish(args, results):
    """Prints the table and the verdict, writes the raw results and ends."""
    for result in results:
        if "error" not in result:
            result["cells"] = summaries(args, result)
    measured = [result for result in results if "error" not in result]
    runs.print_table(
        HEADERS,
        [row(result["load"], name, cell) for result in measured for name, cell in result["cells"].items()],
    )
    misses = [miss for result in measured for miss in missed_goals(args, result)]
    for miss in misses:
        print(f"missed: {miss}")
    ok = len(measured) == len(results) and not misses
    record = {
        "job": args.job,
        "arrivals": args.arrivals,
        "rate_per_s": args.rate,
        "seed": args.seed,
        "conditions": {condition.name: condition.variables for condition in args.condition},
        "missed": misses,
        "results": results,
    }
    runs.finish("priority", args, ok, sentence(results), record)


def summaries(args, result):
    """By cell: percentiles, what the best-effort jobs got done, and how that compares with what was left to them."""
    cells = {name: summary(turns, result["gpu_ms_of_one"]) for name, turns in result["turns"].items()}
    alone, native = cells["alone"], cells["native"]
    for name, cell in cells.items():
        cell["over_alone"] = {key: cell[key] / alone[key] for key in percentile_names()}
        # A host that is twice as slow for some seconds makes an eager request, and the job alone just before it, twice as long.
        rounds = zip(result["turns"][name], result["turns"]["alone"])
        cell["over_alone"]["p50_by_round"] = statistics.median(median_us(own) / median_us(other) for own, other in rounds)
        if cell["best_effort_jobs"]:
            cell["leftover_it_s"] = (1 - cell["busy_share"]) * native["alone_it_s"]
            cell["leftover_share"] = cell["it_s"] / cell["leftover_it_s"]
            cell["alone_share"] = cell["it_s"] / native["alone_it_s"]
    return cells


def summary(turns, gpu_ms_of_one):
    latencies_ms = sorted(us / 1e3 for turn in turns for us in turn["latencies_us"])
    waits_us = [us for turn in turns for us in turn["waits_us"]]
    elapsed_s = sum(turn["elapsed_s"] for turn in turns)
    alone_s = sum(turn["alone_s"] for turn in turns)
    return {
        "requests": len(latencies_ms),
        "best_effort_jobs": len(turns[0]["iterations"]),
        **{f"p{percent}": nearest_rank(latencies_ms, percent) for percent in PERCENTILES},
        "queued_share": sum(us > QUEUED_US for us in waits_us) / len(waits_us),
        "it_s": sum(sum(turn["iterations"]) for turn in turns) / elapsed_s,
        "alone_it_s": sum(sum(turn["alone_iterations"]) for turn in turns) / alone_s,
        "busy_share": len(latencies_ms) * gpu_ms_of_one / 1e3 / elapsed_s,
    }


def median_us(turn):
    return statistics.median(turn["latencies_us"])


def nearest_rank(ordered, percent):
    return ordered[max(-(-percent * len(ordered) // 100), 1) - 1]


def percentile_names():
    return [f"p{percent}" for percent in PERCENTILES]


def row(load, name, cell):
    latencies = [f"{cell[key]:.3f}" for key in percentile_names()]
    ratios = [f"{cell['over_alone'][key]:.2f}" for key in (*percentile_names(), "p50_by_round")]
    queued, busy = (f"{100 * cell[key]:.1f} %" for key in ("queued_share", "busy_share"))
    if not cell["best_effort_jobs"]:
        return (f"{load}, {name}", *latencies, *ratios, queued, "", "", busy, "", "")
    throughput = [f"{cell[key]:.1f}" for key in ("it_s", "alone_it_s")]
    leftover = (f"{cell['leftover_it_s']:.1f}", f"{100 * cell['leftover_share']:.1f} %")
    return (f"{load}, {name}", *latencies, *ratios, queued, *throughput, busy, *leftover)


def missed_goals(args, result):
    """Sentences on what a condition other than native did not reach. A CPU has no goals but to come to an end."""
    if args.device == "cpu":
        return []
    misses = []
    for name, cell in beside(result).items():
        if name == "native":
            continue
        reached = {**cell["over_alone"], "leftover": cell["leftover_share"], "alone_share": cell["alone_share"]}
        for key, goal in GOALS.get((args.job, result["kind"]), {}).items():
            if reached[key] > goal if key in cell["over_alone"] else reached[key] < goal:
                misses.append(f"{result['load']}, {name}: {key} {reached[key]:.3f}, goal {goal:.2f}")
        if (args.job, result["kind"]) == ("bertg", "gemm"):
            misses += missed_beside_gemm(result, name, cell)
    return misses


def missed_beside_gemm(result, name, cell):
    """Its kernels are as long as a request: p99 is at most alone's and one kernel, throughput at least native's."""
    alone, native = result["cells"]["alone"], result["cells"]["native"]
    limit_ms = alone["p99"] + 1e3 / native["alone_it_s"] / priority_jobs.GEMM_PRODUCTS
    if cell["p99"] > limit_ms:
        yield f"{result['load']}, {name}: p99 {cell['p99']:.3f} ms, goal {limit_ms:.3f} ms"
    if cell["it_s"] < native["it_s"]:
        yield f"{result['load']}, {name}: {cell['it_s']:.1f} it/s, native {native['it_s']:.1f}"


def beside(result):
    return {name: cell for name, cell in result["cells"].items() if cell["best_effort_jobs"]}


def sentence(results):
    parts = []
    for result in results:
        if "error" in result:
            parts.append(f"{result['load']} could not be measured")
            continue
        shown = ", ".join(
            f"{name} {cell['p99']:.2f} ms and {100 * cell['leftover_share']:.0f} % of the leftover"
            for name, cell in beside(result).items()
        )
        parts.append(f"{result['load']} p99: alone {result['cells']['alone']['p99']:.2f} ms, {shown}")
    return "; ".join(parts)
