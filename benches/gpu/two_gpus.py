#!/usr/bin/env python3
"""A training job on two GPUs that all-reduces its gradients (NCCL), beside a latency-critical job on each.

    aischedd --dir /dev/shm/x & python3 benches/gpu/two_gpus.py --seconds 300 --dir /dev/shm/x

Requests arrive at both latency-critical jobs at regular times, by seeds of their own, as in priority.py. Natively, under the library as it is (`gate`), and with
AISHIM_GATE_JOBS=on (`held`) the training job runs by itself and then beside the two, for --native-s and, held, for --seconds; the latency-critical jobs also run alone. The training
job's two processes say that they belong together as torchrun does, by an equal TORCHELASTIC_RUN_ID. It ends well if nothing hangs, and the gates of both held ranks have held launches back.
"""

import json
import socket
import time

import priority
import priority_report
import runs

GPUS = 2
RATE_PER_S = 150
PRIORITIES = "LC.AISHIM_PRIORITY=80,BE.AISHIM_PRIORITY=5"


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--dir", required=True, help="AISHIM_DIR, where an aischedd is")
    parser.add_argument("--seconds", type=float, default=300, help="of requests beside the training job where it is held")
    parser.add_argument("--native-s", type=float, default=20, help="the same where it is not, and alone half of that")
    args = runs.parse(parser)
    under = f"LD_PRELOAD={{lib}},AISHIM_DIR={args.dir},{PRIORITIES}"
    texts = ("native", f"gate:{under}", f"held:{under},AISHIM_GATE_JOBS=on")
    conditions = [priority.Condition.parse(text) for text in texts]
    cells, stats = [], []
    with priority.ending_together() as jobs:
        native, gated, held = (Condition(args, jobs, condition) for condition in conditions)
        for job in jobs:
            job.wait_until_ready()
        cells.append(measure("alone", native.critical, [], args.native_s / 2))
        cells.append(measure("native", native.critical, native.training, args.native_s))
        cells.append(measure("gate", gated.critical, gated.training, args.native_s))
        cells.append(measure("held", held.critical, held.training, args.seconds))
        stats = priority.stats_of(args, jobs)
    report(args, cells, stats)


class Condition:
    """The processes of one condition: on each GPU a latency-critical job and one rank of the training job."""

    def __init__(self, args, jobs, condition):
        port = str(free_port())
        self.training = []
        for rank in range(GPUS):
            together = {"RANK": str(rank), "WORLD_SIZE": str(GPUS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            together["TORCHELASTIC_RUN_ID"] = f"two-gpus-{condition.name}"
            self.training.append(priority.Job(args, jobs, "allreduce", condition, "BE", **together))
        self.critical = [
            priority.Job(args, jobs, "bertg", condition, "LC", CUDA_VISIBLE_DEVICES=str(gpu)) for gpu in range(GPUS)
        ]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def measure(name, critical, training, seconds):
    """The training job by itself for a while, then beside the latency-critical ones."""
    for job in training:
        job.ask("go")
    alone_ns = [time.monotonic_ns()]
    if training:
        time.sleep(priority.SETTLE_S)
        alone_ns = [time.monotonic_ns()]
        time.sleep(3)
    alone_ns.append(time.monotonic_ns())
    for gpu, job in enumerate(critical):
        load = {"requests": int(seconds * RATE_PER_S), "rate_per_s": RATE_PER_S, "arrivals": "regular"}
        job.ask(json.dumps({**load, "seed": f"{name}/{gpu}"}))
    served = [job.answer(timeout_s=int(120 + 5 * seconds)) for job in critical]
    for job in training:
        job.ask("stop")
    ends_ns = [job.answer()["ends_ns"] for job in training]
    cell = {"name": name, "gpus": []}
    for answer in served:
        latencies_ms = sorted(us / 1e3 for us in answer["latencies_us"])
        cell["gpus"].append(
            {
                "requests": len(latencies_ms),
                "elapsed_s": (answer["ended_ns"] - answer["began_ns"]) / 1e9,
                **{f"p{p}": priority_report.nearest_rank(latencies_ms, p) for p in priority_report.PERCENTILES},
                "longest_ms": latencies_ms[-1],
            }
        )
    if ends_ns:
        beside_ns = [min(answer["began_ns"] for answer in served), max(answer["ended_ns"] for answer in served)]
        cell["it_s"] = priority.iterations(ends_ns[0], *beside_ns) * 1e9 / (beside_ns[1] - beside_ns[0])
        cell["alone_it_s"] = priority.iterations(ends_ns[0], *alone_ns) * 1e9 / (alone_ns[1] - alone_ns[0])
    print(f"{name}: done", flush=True)
    return cell


def report(args, cells, stats):
    alone = cells[0]["gpus"]
    rows = []
    for cell in cells:
        for gpu, of_one in enumerate(cell["gpus"]):
            ratios = [f"{of_one[key] / alone[gpu][key]:.2f}" for key in priority_report.percentile_names()]
            times = [f"{of_one[key]:.3f}" for key in (*priority_report.percentile_names(), "longest_ms")]
            throughput = [f"{cell[key]:.1f}" if key in cell else "" for key in ("it_s", "alone_it_s")]
            rows.append((f"{cell['name']}, GPU {gpu}", of_one["requests"], *times, *ratios, *throughput))
    headers = ("cell", "requests", "p50 ms", "p90 ms", "p99 ms", "longest", "p50 x", "p90 x", "p99 x", "it/s", "by itself")
    runs.print_table(headers, rows)
    ranks = [own for own in stats if own["role"] == "BE" and own["condition"] == "held"]
    waits = [own.get("counters", {}).get("gate_waits", 0) for own in ranks]
    timeouts = [own.get("counters", {}).get("gate_timeouts", 0) for own in ranks]
    sentence = f"nothing hung; gate waits of the held ranks {waits}, of which ended by their time limit {timeouts}"
    ok = args.device == "cpu" or len(waits) == GPUS and min(waits) > 0
    runs.finish("two_gpus", args, ok, sentence, {"cells": cells, "stats": stats})


if __name__ == "__main__":
    main()
