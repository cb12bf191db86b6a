#!/usr/bin/env python3
"""How fast are copies of pageable memory, natively and staged, from 64 KiB to 4 GiB?

    python3 benches/gpu/copies.py [--quick]

Builds copies.c with the machine's C compiler and runs it natively and under the shim, alternated: from malloc'd memory,
from a mapped file that is in the page cache and from one that is not, with all processors and with few of them, two
processes at once; and times how long Async calls take to return behind an idle and behind a busy stream. A cell in which
the shim is slower than the driver by more than 2 % is flagged. plot_copies.py draws copies.json.
"""

import itertools
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import runs
import shim_stats

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LEAST_RATIO = 0.98
BUSY_MS = 200

SIZES = [64 * KIB << 2 * step for step in range(9)]
FULL = {
    "pairs": 2,
    "cell_ms": 40,
    "malloc": SIZES,
    "resident": [size for size in SIZES if size <= GIB],
    "absent": [MIB, 16 * MIB, 256 * MIB],
    "cores": (1, 2, 4, 8),
    "few": [MIB, 4 * MIB, 16 * MIB, 256 * MIB, GIB],
    "both": [16 * MIB, 256 * MIB, GIB],
    "returns": [64 * KIB, MIB, 2 * MIB, 3 * MIB, 4 * MIB, 16 * MIB, 256 * MIB],
}
QUICK = {
    "pairs": 1,
    "cell_ms": 20,
    "malloc": [64 * KIB, MIB, 4 * MIB, 16 * MIB, 256 * MIB, GIB],
    "resident": [MIB, 16 * MIB, 256 * MIB],
    "absent": [16 * MIB, 256 * MIB],
    "cores": (2, 8),
    "few": [MIB, 16 * MIB, 256 * MIB],
    "both": [256 * MIB],
    "returns": [64 * KIB, 3 * MIB, 4 * MIB, 256 * MIB],
}


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--cc", default=next(filter(shutil.which, ("cc", "gcc", "clang")), None), help="C compiler")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repetitions: under a minute")
    parser.add_argument("--largest", type=int, default=4 * GIB, metavar="BYTES", help="leave out what is larger")
    parser.add_argument("--folder", type=Path, help="where mapped files are made (default: beside the results)")
    args = runs.parse(parser)
    if args.cc is None:
        sys.exit("copies.py needs a C compiler: apt-get install -y gcc")
    extent = QUICK if args.quick else FULL
    try:
        with tempfile.TemporaryDirectory(dir=args.folder or args.out) as folder:
            bench = Bench(args, extent, Path(folder))
            cells, returns = bench.all_cells(), bench.returns()
    except (runs.RunFailed, shim_stats.NoStats) as error:
        runs.finish("copies", args, False, str(error).splitlines()[0], {"error": str(error)})

    print_cells(cells)
    print_returns(returns)
    slow = [cell for cell in cells if cell["ratio"] < LEAST_RATIO]
    late = [one for one in returns if one["is_late"]]
    sentence = f"{len(slow)} of {len(cells)} cells slower than {LEAST_RATIO} of the driver's rate"
    sentence += f", {len(late)} of {len(returns)} Async calls later; {bench.staged} copies staged"
    record = {"extent": extent, "cores": os.cpu_count(), "cells": cells, "returns": returns}
    runs.finish("copies", args, not slow and not late and bench.staged > 0, sentence, record)


class Bench:
    """The program, and how it is run."""

    def __init__(self, args, extent, folder):
        self.args, self.extent, self.folder = args, extent, folder
        self.allowed = sorted(os.sched_getaffinity(0))
        self.program = folder / "copies"
        self.staged = 0
        build = [args.cc, "-O2", "-DVIA_DLSYM", "-I", runs.ROOT / "tests" / "programs"]
        runs.run([*build, "-o", self.program, runs.HERE / "copies.c", "-ldl"], dict(os.environ))

    def sizes(self, what):
        return [size for size in self.extent[what] if size <= self.args.largest]

    def all_cells(self):
        cells = []
        for memory in ("malloc", "resident", "absent"):
            cells += self.cells(memory, len(self.allowed), self.sizes(memory), self.extent["pairs"])
        for cores in self.extent["cores"]:
            if cores < len(self.allowed):
                cells += self.cells("malloc", cores, self.sizes("few"), 1)
        return cells + self.cells("malloc", len(self.allowed), self.sizes("both"), 1, processes=2)

    def cells(self, memory, cores, sizes, pairs, processes=1):
        """One list of cells, in which each side has the times of all its runs and processes."""
        command = ["rates", memory, self.folder, self.extent["cell_ms"], *sizes]
        native, shimmed = self.alternate(command, cores, pairs, processes)
        cells = []
        for index, first in enumerate(native[0]["cells"]):
            cell = {key: value for key, value in first.items() if key != "times_ns"}
            cell |= {"memory": memory, "cores": cores, "processes": processes}
            for side, reports in (("native", native), ("shim", shimmed)):
                cell[f"{side}_ns"] = list(itertools.chain(*(report["cells"][index]["times_ns"] for report in reports)))
                cell[f"{side}_gbps"] = cell["bytes"] / statistics.median(cell[f"{side}_ns"])
            cell["ratio"] = cell["shim_gbps"] / cell["native_gbps"]
            cells.append(cell)
        return cells

    def returns(self):
        results = []
        for busy_ms in (0, BUSY_MS):
            native, shimmed = self.alternate(["returns", busy_ms, *self.sizes("returns")], len(self.allowed), 1, 1)
            for index, first in enumerate(native[0]["returns"]):
                one = {"busy_ms": busy_ms, "direction": first["direction"], "bytes": first["bytes"]}
                one["native_ns"] = first["times_ns"]
                one["shim_ns"] = shimmed[0]["returns"][index]["times_ns"]
                # Of three each: later than the latest of the driver's, and by more than what a call costs.
                one["is_late"] = min(one["shim_ns"]) > max(one["native_ns"]) * (2 - LEAST_RATIO) + 5_000
                results.append(one)
        return results

    def alternate(self, arguments, cores, pairs, processes):
        """The reports of native and of shimmed runs, one after the other; `processes` of them at a time."""
        command = ["taskset", "-c", ",".join(map(str, self.allowed[:cores])), self.program, *arguments]
        native, shimmed = [], []
        for _ in range(pairs):
            native += [runs.last_json(done.stdout) for done in together([(command, runs.native_env())] * processes)]
            with runs.runtime_dir() as segments:
                env = runs.shim_env(self.args.lib, segments)
                for done in together([(command, env)] * processes):
                    shimmed.append(runs.last_json(done.stdout))
                    stats = shim_stats.read_ended(self.args.aictl, env, done.pid)
                    self.staged += stats.counter("staged_copies")
        return native, shimmed


def together(commands):
    """Runs programs at the same time, each to its end."""
    processes = [runs.start(command, env) for command, env in commands]
    return [runs.finished(process) for process in processes]


def print_cells(cells):
    rows = []
    for cell in cells:
        flag = "" if cell["ratio"] >= LEAST_RATIO else "SLOW"
        what = f"{cell['memory']}, {cell['cores']} cores" + (", 2 processes" if cell["processes"] == 2 else "")
        rates = (f"{cell['native_gbps']:.1f}", f"{cell['shim_gbps']:.1f}", f"{cell['ratio']:.2f}")
        rows.append((what, runs.size_name(cell["bytes"]), cell["direction"], cell["form"], *rates, flag))
    runs.print_table(("memory", "size", "way", "form", "native GB/s", "shim GB/s", "ratio", ""), rows)


def print_returns(returns):
    rows = []
    for one in returns:
        times = [f"{statistics.median(one[side]) / 1e3:.0f}" for side in ("native_ns", "shim_ns")]
        stream = f"{one['busy_ms']} ms of work" if one["busy_ms"] else "idle"
        rows.append((stream, runs.size_name(one["bytes"]), one["direction"], *times, "LATE" if one["is_late"] else ""))
    print()
    runs.print_table(("Async behind", "size", "way", "native, us", "shim, us", ""), rows)


if __name__ == "__main__":
    main()
