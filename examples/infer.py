#!/usr/bin/env python3
"""An inference service in small: requests one after another through ResNet-50 or BERT-base, and how long each took.

Run it plainly:

    python3 examples/infer.py --model bert --mode graph --requests 1000

and under the runtime layer, of which it knows nothing:

    aictl run -- python3 examples/infer.py --model bert --mode graph --requests 1000

A request is: take the input from the host (with --loader from a DataLoader's pinned memory), copy it to the device, run
the model, copy the output back. Weights and inputs are random. It needs PyTorch and a CUDA device; without one, --device
cpu runs the eager and compiled modes. The exit code is 0, 1 when something is missing, 2 for wrong usage.
"""

import argparse
import hashlib
import json
import os
import sys
import time

INPUTS_IN_ROTATION = 8
LOADER_WORKERS = 2


def main():
    args = parse_arguments()
    if args.deterministic:
        # cuBLAS reads this once, when its first handle is made.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        import torch
    except ImportError as error:
        sys.exit(f"infer.py needs PyTorch, which cannot be imported here: {error}")
    device = choose_device(torch, args)
    prepare_randomness(torch, args)

    with torch.inference_mode():
        serve = Service(torch, args, device)
        requests = RequestSource(torch, args, device)
        for _ in range(args.warmup):
            serve(requests.next())
        report = measure(serve, requests, args)
    report |= description(torch, args, device)
    print_report(report)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file)


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", choices=("resnet50", "bert"), default="resnet50")
    parser.add_argument("--mode", choices=("eager", "compile", "graph"), default="eager")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32")
    parser.add_argument("--batch", type=positive, default=1, help="inputs per request")
    parser.add_argument("--requests", type=positive, default=200, help="requests that are measured")
    parser.add_argument("--warmup", type=positive, default=20, help="requests before them")
    parser.add_argument("--pause-ms", type=float, default=0.0, help="idle time after each request")
    parser.add_argument("--loader", action="store_true", help="feed from a DataLoader with pinned memory and workers")
    parser.add_argument("--deterministic", action="store_true", help="same seed, deterministic algorithms only")
    parser.add_argument("--checksum", action="store_true", help="print the SHA-256 of the bits of all measured outputs")
    parser.add_argument("--json", metavar="FILE", help="write every latency and the percentiles here")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--definition", choices=("auto", "library", "own"), default="auto", help="whose model code")
    args = parser.parse_args(arguments)
    if args.mode == "graph" and args.device == "cpu":
        parser.error("--mode graph needs a CUDA device; use --mode eager or compile with --device cpu")
    return args


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def choose_device(torch, args):
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("infer.py found no CUDA device; run it on a machine with a GPU, or with --device cpu.")
    return torch.device(args.device)


def prepare_randomness(torch, args):
    torch.manual_seed(0)
    if args.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


class Service:
    """The model in one of its modes: a host tensor in, a host tensor out."""

    def __init__(self, torch, args, device):
        import models

        self.device = device
        self.takes_images = args.model == "resnet50"
        self.dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[args.dtype]
        build = models.resnet50 if self.takes_images else models.bert_base
        model = build(args.definition).eval().to(device=device, dtype=self.dtype)
        if args.mode == "compile":
            model = torch.compile(model)
        if args.mode == "graph":
            model = CapturedModel(torch, model, self.on_device(models.random_input(args.model, args.batch)))
        self.model = model

    def __call__(self, host_input):
        return self.model(self.on_device(host_input)).cpu()

    def on_device(self, host_input):
        # Without a dtype where the input is token ids, which stay integers.
        moved = host_input.to(self.device, non_blocking=True)
        return moved.to(self.dtype) if self.takes_images else moved


class CapturedModel:
    """A forward pass captured once as a CUDA graph and replayed for each request."""

    CALLS_BEFORE_CAPTURE = 3

    def __init__(self, torch, model, example):
        self.input = example
        # Libraries allocate their workspaces at the first calls, which must not happen inside the capture.
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(self.CALLS_BEFORE_CAPTURE):
                model(self.input)
        torch.cuda.current_stream().wait_stream(side_stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = model(self.input)

    def __call__(self, device_input):
        self.input.copy_(device_input)
        self.graph.replay()
        return self.output


class RequestSource:
    """Host inputs: a few tensors in rotation, or a DataLoader whose workers make them and whose memory is pinned."""

    def __init__(self, torch, args, device):
        self.iterator = self.loaded(torch, args, device) if args.loader else self.rotated(torch, args)

    def next(self):
        return next(self.iterator)

    @staticmethod
    def rotated(torch, args):
        import models

        generator = torch.Generator().manual_seed(1)
        inputs = [models.random_input(args.model, args.batch, generator) for _ in range(INPUTS_IN_ROTATION)]
        while True:
            yield from inputs

    @staticmethod
    def loaded(torch, args, device):
        loader = torch.utils.data.DataLoader(
            RandomInputs(args.model, args.batch * (args.requests + args.warmup)),
            batch_size=args.batch,
            num_workers=LOADER_WORKERS,
            pin_memory=device.type == "cuda",
        )
        return iter(loader)


class RandomInputs:
    """A map-style dataset whose item i depends on i alone, so that runs can be compared."""

    def __init__(self, model_name, length):
        self.model_name = model_name
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        import models
        import torch

        return models.random_input(self.model_name, 1, torch.Generator().manual_seed(index))[0]


def measure(serve, requests, args):
    latencies_us, digest = [], hashlib.sha256()
    began = time.perf_counter_ns()
    for _ in range(args.requests):
        host_input = requests.next()
        start = time.perf_counter_ns()
        output = serve(host_input)
        latencies_us.append((time.perf_counter_ns() - start) / 1e3)
        if args.checksum:
            digest.update(raw_bits(output))
        if args.pause_ms > 0:
            time.sleep(args.pause_ms / 1e3)
    report = {
        "elapsed_s": (time.perf_counter_ns() - began) / 1e9,
        "p50_us": percentile(latencies_us, 50),
        "p90_us": percentile(latencies_us, 90),
        "p99_us": percentile(latencies_us, 99),
        "latencies_us": latencies_us,
    }
    if args.checksum:
        report["sha256"] = digest.hexdigest()
    return report


def raw_bits(tensor):
    import torch

    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def percentile(values, percent):
    """The nearest-rank percentile."""
    ordered = sorted(values)
    rank = -(-percent * len(ordered) // 100)
    return ordered[max(int(rank), 1) - 1]


def description(torch, args, device):
    return {
        "schema_version": 1,
        "pid": os.getpid(),
        "model": args.model,
        "mode": args.mode,
        "dtype": args.dtype,
        "batch": args.batch,
        "requests": args.requests,
        "warmup": args.warmup,
        "loader": args.loader,
        "deterministic": args.deterministic,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }


def print_report(report):
    print(f"{report['model']} {report['mode']}, {report['dtype']}, batch {report['batch']}, on {report['device']}")
    print(
        f"{report['requests']} requests in {report['elapsed_s']:.2f} s: "
        f"p50 {report['p50_us'] / 1e3:.3f} ms, p90 {report['p90_us'] / 1e3:.3f} ms, p99 {report['p99_us'] / 1e3:.3f} ms"
    )
    if "sha256" in report:
        print(f"sha256 of all outputs: {report['sha256']}")


if __name__ == "__main__":
    main()
