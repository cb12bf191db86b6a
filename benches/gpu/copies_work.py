#!/usr/bin/env python3
"""PyTorch copies of pageable memory in a process of its own: tensors, a module, a checkpoint. Run by copies_torch.py.

    python3 benches/gpu/copies_work.py [--module-mib 4096] [--checkpoint FILE]

The last line printed is one JSON object, times in seconds.
"""

import argparse
import json
import os
import time
from pathlib import Path

MIB = 1 << 20
TENSOR_MIB = (1, 4, 16, 64, 256, 1024)
WEIGHTS = 32


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--module-mib", type=int, default=4096)
    parser.add_argument("--largest-mib", type=int, default=TENSOR_MIB[-1])
    parser.add_argument("--checkpoint", type=Path, help="load this file to the GPU; made first where it is not there")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    import torch

    if args.device == "cuda":
        torch.zeros(1, device="cuda")
    report = {"pid": os.getpid()}
    report["tensors"] = [tensor_times(torch, args.device, mib) for mib in TENSOR_MIB if mib <= args.largest_mib]
    model = module(torch, args.module_mib)
    report["module_bytes"] = sum(parameter.nbytes for parameter in model.parameters())
    if args.checkpoint and not args.checkpoint.exists():
        torch.save(model.state_dict(), args.checkpoint)
    report["module_s"] = timed(torch, args.device, lambda: model.to(args.device))
    del model
    if args.checkpoint:
        load = lambda **how: torch.load(args.checkpoint, map_location=args.device, weights_only=True, **how)
        report["load_s"] = timed(torch, args.device, load)
        report["load_mapped_s"] = timed(torch, args.device, lambda: load(mmap=True))
    print(json.dumps(report))


def tensor_times(torch, device, mib, repeats=5):
    """Seconds of each copy of a tensor to the device and back, the first ones left out."""
    host = torch.ones(mib * MIB, dtype=torch.uint8)
    to_device, back = [], []
    for _ in range(repeats + 1):
        to_device.append(timed(torch, device, lambda: host.to(device)))
        there = host.to(device)
        back.append(timed(torch, device, there.cpu))
    return {"mib": mib, "h2d_s": to_device[1:], "d2h_s": back[1:]}


def module(torch, mib):
    """A module of so many MiB of fp16 weights in so many tensors, each page of them touched."""
    elements = mib * MIB // 2 // WEIGHTS
    return torch.nn.ParameterList(torch.ones(elements, dtype=torch.float16) for _ in range(WEIGHTS))


def timed(torch, device, work):
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    began = time.monotonic()
    result = work()
    synchronize()
    elapsed_s = time.monotonic() - began
    del result
    return elapsed_s


if __name__ == "__main__":
    main()
