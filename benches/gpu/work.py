#!/usr/bin/env python3
"""A fixed amount of GPU work in a process of its own, plain or with all of it under torch.profiler.

    python3 benches/gpu/work.py resnet50 --passes 10
    python3 benches/gpu/work.py train --passes 5 --profile profile.json
    python3 benches/gpu/work.py bert_graph --passes 800 --time-graph

The profiler is started before the first CUDA call and stopped after the last, because what it counted is compared with
what the shim counts, which is the whole process. It stretches graphs; so with --time-graph, which is for runs without it,
launches of the graph alone are timed afterwards. The last line printed is one JSON object.
"""

import argparse
import bisect
import collections
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

GPU_CATEGORIES = {"kernel": "kernel_ns", "gpu_memset": "memset_ns", "gpu_memcpy": "memcpy_ns"}


def main():
    args = parse_arguments()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.manual_seed(0)
    # Equal launches need the same algorithms in every run; where an operation has no deterministic one, it still runs.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    profiler = whole_process_profiler(torch) if args.profile else None
    with profiler or contextlib.nullcontext():
        figures = WORKS[args.work](torch, args)
    if profiler:
        args.profile.write_text(json.dumps(summary(profiler)), encoding="utf-8")
    print(json.dumps({"pid": os.getpid(), "work": args.work, "passes": args.passes, **figures}))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("work", choices=sorted(WORKS))
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=0, help="0: 1 for inference, 64 for training")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="profile, and write the sums here")
    parser.add_argument("--time-graph", action="store_true", help="afterwards, also time launches of the graph alone")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    args.batch = args.batch or (64 if args.work == "train" else 1)
    return args


def forward(model_name):
    """Eager forward passes in fp16 (fp32 on a CPU)."""

    def work(torch, args):
        with torch.inference_mode():
            model, host_input = model_and_input(torch, args, model_name)
            return timed_passes(torch, args, lambda: model(host_input.to(args.device)))

    return work


def replay(model_name):
    """One capture, then replays of the graph."""

    def work(torch, args):
        import infer

        with torch.inference_mode():
            model, host_input = model_and_input(torch, args, model_name)
            captured = infer.CapturedModel(torch, model, host_input.to(args.device))
            figures = timed_passes(torch, args, lambda: captured(host_input))
            if args.time_graph:
                figures["graph_launch_ns"] = graph_launch_ns(torch, captured.graph, args.passes)
            return figures

    return work


def graph_launch_ns(torch, graph, launches):
    """The median launch's GPU time, by events: each launch on an idle stream, as the work makes them. (Behind others a graph
    takes longer: BERT's 1,115 us in the place of 990 on an H200.)"""
    took_ms = []
    for _ in range(launches):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        graph.replay()
        after.record()
        after.synchronize()
        took_ms.append(before.elapsed_time(after))
    return round(statistics.median(took_ms) * 1e6)


def model_and_input(torch, args, model_name):
    import models

    dtype = torch.float16 if args.device == "cuda" else torch.float32
    model = (models.resnet50 if model_name == "resnet50" else models.bert_base)().eval().to(args.device, dtype)
    host_input = models.random_input(model_name, args.batch, torch.Generator().manual_seed(1))
    return model, host_input.to(dtype) if model_name == "resnet50" else host_input


def train(torch, args):
    """Training steps of ResNet-50 on one batch that stays on the device."""
    import models
    import train as example

    device = torch.device(args.device)
    step = example.TrainingStep(torch, device)
    images = models.random_input("resnet50", args.batch).to(device)
    labels = torch.randint(0, models.IMAGE_CLASSES, (args.batch,)).to(device)
    return timed_passes(torch, args, lambda: step(images, labels))


def timed_passes(torch, args, one_pass):
    """Runs every pass, the first ones too: both runs of a comparison do the same from the start."""
    began = time.perf_counter()
    for _ in range(args.passes):
        one_pass()
        # As a service waits for its answer; without it a long queue would blur what shares the GPU with what.
        if args.device == "cuda":
            torch.cuda.synchronize()
    return {"elapsed_s": time.perf_counter() - began}


WORKS = {
    "resnet50": forward("resnet50"),
    "bert": forward("bert"),
    "resnet50_graph": replay("resnet50"),
    "bert_graph": replay("bert"),
    "train": train,
}


def whole_process_profiler(torch):
    # Host calls of the runtime and the driver are recorded with the CUDA activity; operators are not needed.
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])


def summary(profiler):
    """Host calls by name, with those that the runtime makes inside its own calls left out, and sums of GPU time."""
    events = trace_events(profiler)
    calls = collections.Counter(plain_name(event["name"]) for event in host_calls(events, "cuda_runtime"))
    runtime_spans = spans_by_thread(host_calls(events, "cuda_runtime"))
    nested = collections.Counter()
    for event in host_calls(events, "cuda_driver"):
        into = nested if lies_within(event, runtime_spans) else calls
        into[plain_name(event["name"])] += 1
    gpu = {name: 0 for name in GPU_CATEGORIES.values()}
    counts = collections.Counter()
    for event in events:
        key = GPU_CATEGORIES.get(event.get("cat"))
        if key and "dur" in event:
            gpu[key] += round(event["dur"] * 1000)
            counts[event["cat"]] += 1
    gpu.update(graph_launches(events))
    return {"calls": calls, "nested_driver_calls": nested, "gpu": gpu, "gpu_activities": counts}


def graph_launches(events):
    """How many launches were of graphs, the sum of their kernels and memsets, and the time within them when none ran."""
    launches = collections.defaultdict(list)
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memset") and "dur" in event:
            launches[event.get("args", {}).get("correlation")].append((event["ts"], event["ts"] + event["dur"]))
    launches.pop(None, None)
    graphs = [spans for spans in launches.values() if len(spans) > 1]
    busy_us = sum(end - begin for spans in graphs for begin, end in spans)
    held_us = sum(max(end for _, end in spans) - min(begin for begin, _ in spans) for spans in graphs)
    return {
        "graph_launches": len(graphs),
        "graph_ns": round(busy_us * 1000),
        "graph_gap_ns": round((held_us - busy_us) * 1000),
    }


def trace_events(profiler):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace.json")
        profiler.export_chrome_trace(path)
        with open(path, encoding="utf-8", errors="replace") as file:
            return json.load(file)["traceEvents"]


def host_calls(events, category):
    return [event for event in events if event.get("cat") == category and event.get("ph") == "X"]


def plain_name(name):
    """cudaLaunchKernel_v7000 and cudaLaunchKernel_ptsz_v7000 are both cudaLaunchKernel."""
    return re.sub(r"_pt[sd][zs]$", "", re.sub(r"_v\d{4,}$", "", name))


def spans_by_thread(events):
    """Begin and end of each call, ordered by begin; calls on one thread do not overlap."""
    spans = collections.defaultdict(list)
    for event in events:
        spans[event["tid"]].append((event["ts"], event["ts"] + event.get("dur", 0)))
    for thread_spans in spans.values():
        thread_spans.sort()
    return spans


def lies_within(event, spans):
    thread_spans = spans.get(event["tid"], [])
    place = bisect.bisect_right(thread_spans, (event["ts"], float("inf"))) - 1
    return place >= 0 and event["ts"] + event.get("dur", 0) <= thread_spans[place][1]


if __name__ == "__main__":
    main()
