#!/usr/bin/env python3
"""How long do PyTorch's own copies of pageable memory take, natively and under the shim?

    python3 benches/gpu/copies_torch.py

Tensors to the GPU and back, `model.cuda()` of a 4 GiB module, and `torch.load` of its checkpoint to the GPU, read and
mapped; native and shimmed processes alternated. The checkpoint is in the page cache when it is loaded.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import runs
import shim_stats

LEAST_RATIO = 0.98


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--pairs", type=int, default=2, help="native and shimmed runs, alternated")
    parser.add_argument("--module-mib", type=int, default=4096, help="size of the module")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written (default: beside the results)")
    args = runs.parse(parser)
    try:
        native, shimmed, staged = observe(args)
    except (runs.RunFailed, shim_stats.NoStats) as error:
        runs.finish("copies_torch", args, False, str(error).splitlines()[0], {"error": str(error)})

    lines = compare(native, shimmed)
    runs.print_table(
        ("what", "native, ms", "shim, ms", "times as fast", ""),
        [
            (line["what"], ms(line["native_s"]), ms(line["shim_s"]), f"{line['ratio']:.2f}", flag(line))
            for line in lines
        ],
    )
    slow = [line["what"] for line in lines if line["ratio"] < LEAST_RATIO]
    sentence = f"model.cuda() {ratio_of(lines, 'model.cuda()'):.2f} and torch.load {ratio_of(lines, 'torch.load'):.2f} times"
    sentence += f" as fast, {len(slow)} of {len(lines)} slower; {staged} copies staged"
    record = {"lines": lines, "native": native, "shimmed": shimmed}
    runs.finish("copies_torch", args, not slow and (staged > 0 or args.device == "cpu"), sentence, record)


def observe(args):
    """The reports of native and shimmed runs, and how many copies were staged."""
    native, shimmed, staged = [], [], 0
    with tempfile.TemporaryDirectory(dir=args.folder or args.out) as folder:
        command = [sys.executable, runs.HERE / "copies_work.py", "--device", args.device]
        command += ["--module-mib", args.module_mib, "--checkpoint", Path(folder) / "checkpoint.pt"]
        # Makes the checkpoint, and brings what PyTorch reads of itself into the page cache.
        runs.run([*command, "--largest-mib", 1], runs.native_env())
        for _ in range(args.pairs):
            native.append(runs.last_json(runs.run(command, runs.native_env()).stdout))
            with runs.runtime_dir() as segments:
                env = runs.shim_env(args.lib, segments)
                done = runs.run(command, env)
                shimmed.append(runs.last_json(done.stdout))
                if args.device == "cuda":
                    staged += shim_stats.read_ended(args.aictl, env, done.pid).counter("staged_copies")
    return native, shimmed, staged


def compare(native, shimmed):
    """One line for each thing that was timed, with the median of all runs of each side."""
    lines = []
    for index, tensor in enumerate(native[0]["tensors"]):
        for direction, what in (("h2d_s", "to the GPU"), ("d2h_s", "back")):
            times = [sum((run["tensors"][index][direction] for run in side), []) for side in (native, shimmed)]
            lines.append(line_of(f"{tensor['mib']} MiB tensor {what}", *times))
    for key, what in (("module_s", "model.cuda()"), ("load_s", "torch.load"), ("load_mapped_s", "torch.load, mapped")):
        lines.append(line_of(what, *([run[key] for run in side] for side in (native, shimmed))))
    return lines


def line_of(what, native_s, shim_s):
    native_s, shim_s = statistics.median(native_s), statistics.median(shim_s)
    return {"what": what, "native_s": native_s, "shim_s": shim_s, "ratio": native_s / shim_s}


def ratio_of(lines, what):
    return next(line["ratio"] for line in lines if line["what"] == what)


def ms(seconds):
    return f"{seconds * 1e3:.2f}"


def flag(line):
    return "SLOW" if line["ratio"] < LEAST_RATIO else ""


if __name__ == "__main__":
    main()
