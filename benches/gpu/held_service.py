#!/usr/bin/env python3
"""A service of examples/infer.py that measures in turns: each number on standard input asks for so many requests.

    echo 8 | python3 benches/gpu/held_service.py --model resnet50

Its answer is one line of JSON with the latencies in microseconds. It ends when standard input does. Before each turn
come a few requests that are not measured, because another process has had the core's caches meanwhile.
`--warmup N` asks for more of them at the start. Under a library built with the feature `bypass`, `bypass 1` lets what
follows go past its handlers, and `bypass 0` through them again.
"""

import argparse
import ctypes
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

WARMUP_AT_START = 60
WARMUP_OF_TURN = 3


def main():
    import infer
    import torch

    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--core", type=int, help="bind the serving thread to this core")
    own.add_argument("--warmup", type=int, default=WARMUP_AT_START)
    own.add_argument("--warmup-of-turn", type=int, default=WARMUP_OF_TURN)
    ours, arguments = own.parse_known_args()
    args = infer.parse_arguments(arguments)
    with torch.inference_mode():
        serve = infer.Service(torch, args, infer.choose_device(torch, args))
        requests = infer.RequestSource(torch, args, serve.device)
        # Only now: the threads of the driver and of PyTorch are there and keep the cores they may have.
        if ours.core is not None:
            os.sched_setaffinity(0, {ours.core})
        run(serve, requests, ours.warmup)
        print("ready", flush=True)
        for line in sys.stdin:
            if line.startswith("bypass "):
                ctypes.CDLL(None).aishim_bypass(int(line.split()[1]))
                continue
            run(serve, requests, ours.warmup_of_turn)
            print(json.dumps(run(serve, requests, int(line))), flush=True)


def run(serve, requests, count):
    latencies_us = []
    for _ in range(count):
        host_input = requests.next()
        start = time.perf_counter_ns()
        serve(host_input)
        latencies_us.append((time.perf_counter_ns() - start) / 1e3)
    return latencies_us


if __name__ == "__main__":
    main()
