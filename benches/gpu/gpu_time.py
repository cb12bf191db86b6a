#!/usr/bin/env python3
"""Is the GPU time that the shim estimates from its samples what torch.profiler adds up?

    python3 benches/gpu/gpu_time.py

The same work runs alone under torch.profiler, then under the shim. The reference is the profiler's sum of kernels and
memsets ("kernels"). Not so for graphs, which the shim times as one, with the time between their kernels, and which the
profiler stretches (BERT on an H100: 1196 ms within 800 launches, in a run that takes 1170 ms in all without it): there the
reference is "events", for each launch what the median one takes between two events without profiler and shim, beside the
same neighbour and launched as the work launches it, and the profiler's sum for the rest. (BERT's graph takes 1,115 us on an
H200 where the process was on the GPU a moment ago, and 990 where it has idled or another process was.)

Under the shim the work runs alone, beside a native training process, and beside a training process under the shim. The
goal is 10 %. What a process uses of the GPU does not grow because another one has its turns in between, so the reference
for kernels is the undisturbed run; with --profile-shared the profiler's own sum beside the native neighbour is recorded as well, which
does include waiting.
"""

import contextlib
import json
import signal
import sys
import tempfile
from pathlib import Path

import runs
import shim_stats

WORKS = {"train": 40, "resnet50": 300, "bert_graph": 800}
GRAPHS = ("bert_graph",)
NEIGHBOURS = ("none", "native", "shimmed")
GOAL = 0.10


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--neighbours", nargs="+", choices=NEIGHBOURS, default=NEIGHBOURS)
    parser.add_argument("--scale", type=float, default=1.0, help="times the default amount of work")
    parser.add_argument("--profile-shared", action="store_true", help="also profile beside the native neighbour")
    args = runs.parse(parser)

    results = []
    profiles = {work: attempt(results, work, "reference", lambda w=work: profiled(args, w)) for work in args.works}
    for neighbour in args.neighbours:
        with runs.runtime_dir() as segments, training_beside(args, neighbour, segments):
            for work in args.works:
                if profiles[work]:
                    attempt(results, work, neighbour, lambda w=work: compared(args, w, profiles[w], segments))
            if neighbour == "native" and args.profile_shared:
                for work in args.works:
                    attempt(results, work, "profiler, native", lambda w=work: profiled(args, w))

    lines = [result for result in results if "ratio" in result]
    runs.print_table(
        ("work, neighbour", "kernels ms", "events ms", "shim ms", "ratio", "samples", "set aside", "elapsed s"),
        [row(line, profiles) for line in lines],
    )
    within = [line for line in lines if abs(line["ratio"] - 1) <= GOAL]
    failed = sum("error" in result for result in results)
    worst = max((abs(line["ratio"] - 1) for line in lines), default=0)
    sentence = f"{len(within)} of {len(lines)} within 10 % of the reference, the worst {worst * 100:.1f} % off"
    sentence += f"; {failed} failed" if failed else ""
    ok = bool(lines) and not failed and len(within) == len(lines)
    runs.finish("gpu_time", args, ok, sentence, {"results": results})


def attempt(results, work, condition, action):
    """Adds what `action` measured, or why it could not, to the results; returns it or None."""
    try:
        measured = {"work": work, "condition": condition, **action()}
    except (runs.RunFailed, shim_stats.NoStats) as error:
        print(f"{work}, {condition}: {error}", flush=True)
        results.append({"work": work, "condition": condition, "error": str(error)})
        return None
    results.append(measured)
    return measured


def compared(args, work, native, segments):
    """What the shim says of the work beside what it is to say."""
    reference_ns = native["kernels_ns"]
    events = {}
    if work in GRAPHS:
        gpu = native["profile"]["gpu"]
        run = runs.last_json(runs.run([*command(args, work), "--time-graph"], runs.native_env()).stdout)
        reference_ns += gpu["graph_launches"] * run["graph_launch_ns"] - gpu["graph_ns"]
        events = {"events_ns": reference_ns, "events_run": run}
    measured = sampled(args, work, segments)
    return {**measured, **events, "ratio": measured["gpu_time_ns"] / max(reference_ns, 1)}


def profiled(args, work):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile.json"
        done = runs.run([*command(args, work), "--profile", path], runs.native_env())
        profile = json.loads(path.read_text(encoding="utf-8"))
    gpu = profile["gpu"]
    kernels_ns = gpu["kernel_ns"] + gpu["memset_ns"]
    return {"kernels_ns": kernels_ns, "profile": profile, "run": runs.last_json(done.stdout)}


def sampled(args, work, segments):
    env = runs.shim_env(args.lib, segments)
    done = runs.run(command(args, work), env)
    stats = shim_stats.read_ended(args.aictl, env, done.pid)
    return {"gpu_time_ns": stats.gpu_time_ns, "run": runs.last_json(done.stdout), "shim": stats.raw}


def command(args, work):
    passes = max(1, round(WORKS[work] * args.scale))
    return [sys.executable, runs.HERE / "work.py", work, "--passes", passes, "--device", args.device]


@contextlib.contextmanager
def training_beside(args, neighbour, segments):
    """A training process that shares the GPU meanwhile, or none."""
    if neighbour == "none":
        yield
        return
    env = runs.native_env() if neighbour == "native" else runs.shim_env(args.lib, segments)
    process = runs.start([sys.executable, runs.EXAMPLES / "train.py", "--steps", 0, "--device", args.device], env)
    try:
        runs.wait_for_line(process, "training:")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            report, _ = process.communicate(timeout=30)
            print(f"neighbour ({neighbour}): {report.strip()}", flush=True)
        except Exception:
            runs.stop_group(process)


def row(line, profiles):
    raw = line["shim"].get("counters", {})
    return (
        f"{line['work']}, {line['condition']}",
        f"{profiles[line['work']]['kernels_ns'] / 1e6:.1f}",
        f"{line['events_ns'] / 1e6:.1f}" if "events_ns" in line else "-",
        f"{line['gpu_time_ns'] / 1e6:.1f}",
        f"{line['ratio']:.3f}",
        raw.get("gpu_samples", "-"),
        raw.get("gpu_samples_contended", "-"),
        f"{line['run']['elapsed_s']:.2f}",
    )


if __name__ == "__main__":
    main()
