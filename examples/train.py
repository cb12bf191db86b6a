#!/usr/bin/env python3
"""A training job in small: ResNet-50 with SGD on random images, in bfloat16 autocast, and how many steps a second.

Run it plainly:

    python3 examples/train.py --steps 200

and under the runtime layer, of which it knows nothing:

    aictl run -- python3 examples/train.py --steps 200

With --steps 0 it trains until it is interrupted or gets SIGTERM. It needs PyTorch and a CUDA device; --device cpu works
for a few steps. The exit code is 0, 1 when something is missing, 2 for wrong usage.
"""

import argparse
import itertools
import json
import os
import signal
import sys
import time

LOADER_WORKERS = 4
IMAGES_PER_EPOCH = 4096


def main():
    args = parse_arguments()
    try:
        import torch
    except ImportError as error:
        sys.exit(f"train.py needs PyTorch, which cannot be imported here: {error}")
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("train.py found no CUDA device; run it on a machine with a GPU, or with --device cpu.")
    device = torch.device(args.device)

    torch.manual_seed(0)
    stop = StopRequest()
    step = TrainingStep(torch, device, args.definition)
    batches = loaded_batches(torch, args, device) if args.loader else resident_batches(torch, args, device)
    for _ in range(args.warmup):
        step(*next(batches))
    synchronise(torch, device)
    print(f"training: {args.warmup} steps of warm-up done", flush=True)

    done, elapsed_s = train(torch, args, device, step, batches, stop)
    report = {
        "schema_version": 1,
        "pid": os.getpid(),
        "batch": args.batch,
        "steps": done,
        "elapsed_s": elapsed_s,
        "steps_per_s": done / elapsed_s,
        "loader": args.loader,
        "torch": torch.__version__,
    }
    print(f"resnet50 training, batch {args.batch}: {done} steps in {elapsed_s:.2f} s, {report['steps_per_s']:.2f} it/s")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=100, help="steps that are measured; 0 until interrupted")
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--warmup", type=int, default=5, help="steps before them")
    parser.add_argument("--loader", action="store_true", help="feed from a DataLoader with pinned memory and workers")
    parser.add_argument("--json", metavar="FILE", help="write the result here")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--definition", choices=("auto", "library", "own"), default="auto", help="whose model code")
    args = parser.parse_args()
    if args.steps < 0 or args.batch < 1 or args.warmup < 0:
        parser.error("--steps and --warmup must be 0 or more, --batch 1 or more")
    return args


class StopRequest:
    """Turns SIGTERM and SIGINT into a flag, so that the last step and the report are not lost."""

    def __init__(self):
        self.requested = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.note)

    def note(self, _number, _frame):
        self.requested = True


class TrainingStep:
    """Forward, loss, backward, update."""

    def __init__(self, torch, device, definition="auto"):
        import models

        self.torch = torch
        self.device = device
        self.model = models.resnet50(definition).to(device).train()
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.loss = torch.nn.CrossEntropyLoss()

    def __call__(self, images, labels):
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        self.optimiser.zero_grad(set_to_none=True)
        with self.torch.autocast(self.device.type, dtype=self.torch.bfloat16):
            loss = self.loss(self.model(images), labels)
        loss.backward()
        self.optimiser.step()
        return loss


def resident_batches(torch, args, device):
    """One random batch that stays on the device."""
    import models

    images = models.random_input("resnet50", args.batch).to(device)
    labels = torch.randint(0, models.IMAGE_CLASSES, (args.batch,)).to(device)
    return itertools.repeat((images, labels))


def loaded_batches(torch, args, device):
    loader = torch.utils.data.DataLoader(
        RandomImages(),
        batch_size=args.batch,
        num_workers=LOADER_WORKERS,
        pin_memory=device.type == "cuda",
        drop_last=True,
        persistent_workers=True,
    )
    while True:
        yield from loader


class RandomImages:
    """A map-style dataset of random images, made by the loader's workers."""

    def __len__(self):
        return IMAGES_PER_EPOCH

    def __getitem__(self, index):
        import models
        import torch

        generator = torch.Generator().manual_seed(index)
        return models.random_input("resnet50", 1, generator)[0], index % models.IMAGE_CLASSES


def train(torch, args, device, step, batches, stop):
    """Trains for --steps, or until asked to stop; returns the steps done and the seconds they took."""
    began = time.perf_counter()
    done = 0
    while not stop.requested and (args.steps == 0 or done < args.steps):
        step(*next(batches))
        done += 1
    synchronise(torch, device)
    return done, max(time.perf_counter() - began, 1e-9)


def synchronise(torch, device):
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
