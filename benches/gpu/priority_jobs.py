#!/usr/bin/env python3
"""The jobs of priority.py, each a warm process that waits for lines on standard input, the GPU idle.

    (echo go; sleep 20; echo stop) | python3 benches/gpu/priority_jobs.py infer

A best-effort job works flat out from `go` to `stop` and answers with the end of each iteration. A latency-critical job
is given its arrivals as one JSON object and answers with the latency of each request; to `gpu-time` it answers with
the GPU time of one. An answer is one line, `answer ` and JSON. `end`, or the end of standard input, ends a job. All
times are CLOCK_MONOTONIC in nanoseconds, which the processes of a machine share.
"""

import argparse
import ctypes
import gc
import json
import os
import random
import select
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

ITERATIONS_AT_START = 8
REQUESTS_AT_START = 30
REQUESTS_AT_TURN = 20
"""Requests at the head of a turn's arrivals that are served like the others and left out."""

SPIN_NS = 300_000
"""The last part of a wait for an arrival: a sleep that long wakes up some 60 us late, which would count as latency."""

GPU_TIME_BATCHES = 5
GPU_TIME_REPLAYS = 40


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("job", choices=sorted({**CRITICAL, **BEST_EFFORT}))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: small models")
    args = parser.parse_args()
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("priority_jobs.py found no CUDA device.")
    if args.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.job in CRITICAL:
        answer_requests(torch, args)
    else:
        answer_turns(torch, args)


def lines():
    """Lines as they come: iteration over standard input would read ahead of what select() sees."""
    return iter(lambda: sys.stdin.readline().strip(), "end")


def answer(value):
    print("answer", json.dumps(value), flush=True)


# Latency-critical jobs


def answer_requests(torch, args):
    model, example = CRITICAL[args.job](torch, args.device)
    serve = served(torch, args, model, example)
    for _ in range(REQUESTS_AT_START):
        serve()
    # A collection in the midst of a request would be the p99.
    gc.collect()
    gc.freeze()
    gc.disable()
    print("ready", flush=True)
    for line in lines():
        if not line:
            return
        if line == "gpu-time":
            answer({"gpu_ms": gpu_ms_of_one(torch, args.device, model, example)})
        else:
            answer(open_loop(serve, **json.loads(line)))


def served(torch, args, model, example):
    """One request, from its launch to the synchronisation that ends it; inputs and outputs stay on the device, but
    for those of OVER_BUS."""
    synchronise = synchroniser(torch, args.device)
    captured = {**dict.fromkeys(GRAPHS, replays), **dict.fromkeys(OVER_BUS, replays_over_bus)}.get(args.job)
    run = captured(torch, args.device, model, example) if captured else lambda: model(example)

    @torch.inference_mode()
    def serve():
        run()
        synchronise()

    return serve


def replays(torch, device, model, example):
    """The model as a replay of its CUDA graph."""
    if device == "cpu":
        return lambda: model(example)
    import infer

    with torch.inference_mode():
        captured = infer.CapturedModel(torch, model, example)
    # The whole of it is kept: the graph reads and writes its tensors.
    return lambda: captured.graph.replay()


def replays_over_bus(torch, device, model, example):
    """The same with the input copied from page-locked memory and the output copied back into such."""
    if device == "cpu":
        return lambda: model(example)
    import infer

    with torch.inference_mode():
        captured = infer.CapturedModel(torch, model, example)
    host_input, host_output = example.cpu().pin_memory(), captured.output.cpu().pin_memory()

    def run():
        captured.input.copy_(host_input, non_blocking=True)
        captured.graph.replay()
        host_output.copy_(captured.output, non_blocking=True)

    return run


def open_loop(serve, requests, rate_per_s, arrivals, seed):
    """Serves requests as they arrive, one at a time. Latency counts from the arrival, also if the job was busy then."""
    gaps_ns = [1e9 / rate_per_s * gap for gap in relative_gaps(arrivals, seed, REQUESTS_AT_TURN + requests)]
    now_ns = time.monotonic_ns
    arrival_ns, times = now_ns(), []
    for gap_ns in gaps_ns:
        arrival_ns += round(gap_ns)
        wait_until(arrival_ns)
        start_ns = now_ns()
        serve()
        times.append((arrival_ns, start_ns, now_ns()))
    del times[:REQUESTS_AT_TURN]
    return {
        "began_ns": times[0][0],
        "ended_ns": times[-1][2],
        "latencies_us": [(end - arrival) / 1e3 for arrival, _, end in times],
        "waits_us": [(start - arrival) / 1e3 for arrival, start, _ in times],
    }


def relative_gaps(arrivals, seed, count):
    """Gaps between arrivals in units of their mean. Equal seeds give equal gaps, in whichever process."""
    chance = random.Random(seed)
    if arrivals == "poisson":
        return [chance.expovariate(1) for _ in range(count)]
    return [chance.uniform(0.8, 1.2) for _ in range(count)]


def wait_until(deadline_ns):
    left_ns = deadline_ns - time.monotonic_ns()
    if left_ns > SPIN_NS:
        time.sleep((left_ns - SPIN_NS) / 1e9)
    while time.monotonic_ns() < deadline_ns:
        pass


def gpu_ms_of_one(torch, device, model, example):
    """GPU time of one request: graph replays back to back between two events, of an eager model too, since its own
    launches would leave gaps between them."""
    replay = replays(torch, device, model, example)
    batches = []
    for _ in range(1 + GPU_TIME_BATCHES):
        clock = Clock(torch, device)
        for _ in range(GPU_TIME_REPLAYS):
            replay()
        clock.lap()
        began_ns, ended_ns = clock.laps_ns()
        batches.append((ended_ns - began_ns) / 1e6 / GPU_TIME_REPLAYS)
    return statistics.median(batches[1:])


def bert(batch):
    def make(torch, device):
        import models

        model = models.bert_base() if device == "cuda" else models.Bert(layers=1, channels=48, heads=4)
        return half_on_gpu(torch, model, device), models.random_input("bert", batch).to(device)

    return make


def resnet50(batch):
    def make(torch, device):
        import models

        model = half_on_gpu(torch, models.resnet50() if device == "cuda" else small_network(torch), device)
        images = models.random_input("resnet50", batch if device == "cuda" else 1)
        return model, images.to(device, torch.float16 if device == "cuda" else torch.float32)

    return make


def half_on_gpu(torch, model, device):
    return model.eval().to(device, torch.float16 if device == "cuda" else torch.float32)


CRITICAL = {"bertg": bert(4), "bert_eager": bert(1), "resnet_eager": resnet50(1), "resnetg_bus": resnet50(1)}
GRAPHS = ("bertg",)
OVER_BUS = ("resnetg_bus",)


# Best-effort jobs


def answer_turns(torch, args):
    iterate = BEST_EFFORT[args.job](torch, args.device)
    for _ in range(ITERATIONS_AT_START):
        iterate()
    synchroniser(torch, args.device)()
    print("ready", flush=True)
    goes_on = getattr(iterate, "goes_on", lambda _done: not is_asked())
    for line in lines():
        if not line:
            return
        # Laps are the GPU's: the host is ahead of it by as much as fits into the queue, which changes with the load.
        clock = Clock(torch, args.device)
        done = 0
        while goes_on(done):
            iterate()
            clock.lap()
            done += 1
        sys.stdin.readline()
        answer({"ends_ns": clock.laps_ns()})


def is_asked():
    """Whether a line waits on standard input."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


class Clock:
    """When the device reached the start and each lap: events on the GPU, put on CLOCK_MONOTONIC by the first one."""

    def __init__(self, torch, device):
        self.torch = torch
        self.on_gpu = device == "cuda"
        self.laps = []
        self.lap()
        if self.on_gpu:
            self.laps[0].synchronize()
            self.began_ns = time.monotonic_ns()

    def lap(self):
        if self.on_gpu:
            event = self.torch.cuda.Event(enable_timing=True)
            event.record()
            self.laps.append(event)
        else:
            self.laps.append(time.monotonic_ns())

    def laps_ns(self):
        """The start and all laps, once the device has reached the last one."""
        if not self.on_gpu:
            return self.laps
        self.laps[-1].synchronize()
        return [self.began_ns + round(self.laps[0].elapsed_time(lap) * 1e6) for lap in self.laps]


def train(torch, device, wrapped=lambda model: model):
    """Training steps of ResNet-50: batch 64 that stays on the device, bf16 autocast, SGD."""
    import models
    import train as example

    step = example.TrainingStep(torch, torch.device(device))
    batch = 64
    if device == "cpu":
        step.model, batch = small_network(torch).train(), 2
        step.optimiser = torch.optim.SGD(step.model.parameters(), lr=0.1, momentum=0.9)
    step.model = wrapped(step.model)
    images = models.random_input("resnet50", batch).to(device)
    labels = torch.randint(0, models.IMAGE_CLASSES, (batch,)).to(device)
    return lambda: step(images, labels)


class AllReduce:
    """Training steps as above, on all GPUs of RANK and WORLD_SIZE at once: each all-reduces gradients with the others."""

    def __init__(self, torch, device):
        self.rank, self.ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        on_gpu = device == "cuda"
        if on_gpu:
            torch.cuda.set_device(self.rank)
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.store = torch.distributed.TCPStore(host, port, self.ranks, is_master=self.rank == 0)
        backend = "nccl" if on_gpu else "gloo"
        torch.distributed.init_process_group(backend, store=self.store, rank=self.rank, world_size=self.ranks)
        self.step = train(torch, device, torch.nn.parallel.DistributedDataParallel)
        self.turn = 0

    def __call__(self):
        return self.step()

    def goes_on(self, done):
        """All ranks do as many iterations, or one would wait for another for ever: the first says when it ends, so far ahead that
        none has done more."""
        ahead = 5
        key = f"end of turn {self.turn}"
        if not self.store.check([key]):
            if self.rank == 0 and is_asked():
                self.store.set(key, str(done + ahead))
            return True
        if done < int(self.store.get(key)):
            return True
        self.turn += 1
        return False


def infer_batches(torch, device):
    """Forward passes of ResNet-50: batch 64, fp16, channels first."""
    model, images = resnet50(64)(torch, device)
    return torch.inference_mode()(lambda: model(images))


def gemm(torch, device):
    """Ten products of 8192 x 8192 in bf16, then a synchronisation."""
    size = 8192 if device == "cuda" else 64
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    b = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    out = torch.empty_like(a)
    synchronise = synchroniser(torch, device)

    def iterate():
        for _ in range(GEMM_PRODUCTS):
            torch.mm(a, b, out=out)
        synchronise()

    return iterate


def memory_work(operation, mebibytes):
    """Operations on so much memory, 2.5 GiB in all, then a synchronisation; without a kernel of its own."""

    def make(torch, device):
        size = mebibytes << (20 if device == "cuda" else 12)
        memory, other = (torch.ones(size, device=device, dtype=torch.uint8) for _ in range(2))
        host = torch.ones(size, dtype=torch.uint8, pin_memory=device == "cuda")
        synchronise = synchroniser(torch, device)
        operate = {
            # PyTorch fills with a kernel.
            "set": lambda: driver_memset(torch, memory) if device == "cuda" else memory.zero_(),
            "copy": lambda: memory.copy_(other, non_blocking=True),
            "upload": lambda: memory.copy_(host, non_blocking=True),
            "download": lambda: host.copy_(memory, non_blocking=True),
        }[operation]

        def iterate():
            for _ in range(MEMORY_MEBIBYTES // mebibytes):
                operate()
            synchronise()

        return iterate

    return make


def driver_memset(torch, memory):
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    driver = ctypes.CDLL("libcuda.so.1")
    status = driver.cuMemsetD8Async(ctypes.c_uint64(memory.data_ptr()), 1, ctypes.c_size_t(memory.nbytes), stream)
    if status != 0:
        sys.exit(f"cuMemsetD8Async gave {status}.")


GEMM_PRODUCTS = 10
MEMORY_MEBIBYTES = 2560
BEST_EFFORT = {
    "train": train,
    "infer": infer_batches,
    "gemm": gemm,
    "allreduce": AllReduce,
    **{kind: memory_work(kind, 256) for kind in ("set", "copy", "upload", "download")},
    **{f"{kind}4": memory_work(kind, 4) for kind in ("upload", "download")},
}


def small_network(torch):
    """Takes what ResNet-50 takes, in about a millisecond on a CPU."""
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1000)
    )


def synchroniser(torch, device):
    return torch.cuda.synchronize if device == "cuda" else lambda: None


if __name__ == "__main__":
    main()
