#!/usr/bin/env python3
"""How fast are copies of pageable memory, natively and staged, from 64 KiB to 4 GiB?

    python3 benches/gpu/copies.py [--quick]

Builds copies.c with the machine's C compiler and runs it under the shim, where the driver's own functions and the shim's
copy in turns within one process: from malloc'd memory, from a mapped file that is in the page cache and from one that is
not, with all processors and with few of them. A cell has the medians of both sides, and the median of the turns' ratios
with its 95 % bootstrap interval; it is slow where even the interval's upper end is below 0.98 of the driver's rate.

That the shim's presence does not slow the driver down has a control: some cells in native processes too, alternated with
those under the shim. Two processes copying at once, and how long Async calls take to return behind an idle and behind a
busy stream, are compared between processes as well. plot_copies.py draws copies.json.
"""

import itertools
import os
import random
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
RESAMPLES = 1000

SIZES = [64 * KIB << 2 * step for step in range(9)]
FULL = {
    "cell_ms": 300,
    "absent_cell_ms": 2000,
    "malloc": SIZES,
    "resident": [size for size in SIZES if size <= GIB],
    "absent": [MIB, 16 * MIB, 256 * MIB],
    "cores": (1, 2, 4, 8),
    "few": [MIB, 4 * MIB, 16 * MIB, 256 * MIB, GIB],
    "both": [16 * MIB, 256 * MIB, GIB],
    "control": [64 * KIB, MIB, 16 * MIB],
    "returns": [64 * KIB, MIB, 2 * MIB, 3 * MIB, 4 * MIB, 16 * MIB, 256 * MIB],
}
QUICK = {
    "cell_ms": 200,
    "absent_cell_ms": 1000,
    "malloc": [64 * KIB, MIB, 4 * MIB, 16 * MIB, 256 * MIB, GIB],
    "resident": [MIB, 16 * MIB, 256 * MIB],
    "absent": [16 * MIB, 256 * MIB],
    "cores": (2, 8),
    "few": [MIB, 16 * MIB, 256 * MIB],
    "both": [256 * MIB],
    "control": [64 * KIB, MIB],
    "returns": [64 * KIB, 3 * MIB, 4 * MIB, 256 * MIB],
}

CONTROL_PROCESSES = 5
"""On each side: of ten in two groups, those of one are all slower than the other's by chance once in 252 times."""

CONTROL_CELL_MS = 40


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--cc", default=next(filter(shutil.which, ("cc", "gcc", "clang")), None), help="C compiler")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repetitions: a minute")
    parser.add_argument("--largest", type=int, default=4 * GIB, metavar="BYTES", help="leave out what is larger")
    parser.add_argument("--folder", type=Path, help="where mapped files are made (default: beside the results)")
    args = runs.parse(parser)
    if args.cc is None:
        sys.exit("copies.py needs a C compiler: apt-get install -y gcc")
    extent = QUICK if args.quick else FULL
    try:
        with tempfile.TemporaryDirectory(dir=args.folder or args.out) as folder:
            bench = Bench(args, extent, Path(folder))
            cells, control, returns = bench.all_cells(), bench.control(), bench.returns()
    except (runs.RunFailed, shim_stats.NoStats) as error:
        runs.finish("copies", args, False, str(error).splitlines()[0], {"error": str(error)})

    print_cells(cells)
    print_control(control)
    print_returns(returns)
    slow = [cell for cell in cells if cell["is_slow"]]
    slowed = [one for one in control if one["is_slowed"]]
    late = [one for one in returns if one["is_late"]]
    sentence = f"{len(slow)} of {len(cells)} cells slower than {LEAST_RATIO} of the driver's rate"
    sentence += f", {len(slowed)} of {len(control)} in which the shim's presence slows the driver"
    sentence += f", {len(late)} of {len(returns)} Async calls later; {bench.staged} copies staged"
    record = {"extent": extent, "cores": os.cpu_count(), "cells": cells, "control": control, "returns": returns}
    runs.finish("copies", args, not (slow or slowed or late) and bench.staged > 0, sentence, record)


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
            cells += self.cells(memory, len(self.allowed), self.sizes(memory))
        for cores in self.extent["cores"]:
            if cores < len(self.allowed):
                cells += self.cells("malloc", cores, self.sizes("few"))
        return cells + self.cells_of_two_processes(self.sizes("both"))

    def cells(self, memory, cores, sizes):
        """Both sides in turns, in one process."""
        if not sizes:
            return []
        cell_ms = self.extent["absent_cell_ms" if memory == "absent" else "cell_ms"]
        [report] = self.shimmed(self.command(["rates", "turns", memory, self.folder, cell_ms, *sizes], cores))
        where = {"memory": memory, "cores": cores, "processes": 1}
        return [
            cell_of({**without_times(cell), **where}, cell["driver_ns"], cell["given_ns"], ratio_of_turns)
            for cell in report["cells"]
        ]

    def cells_of_two_processes(self, sizes):
        """Two processes at once, both of one side, since what either does slows the other; the sides alternated."""
        if not sizes:
            return []
        cores = len(self.allowed)
        command = self.command(["rates", "one", "malloc", self.folder, self.extent["cell_ms"], *sizes], cores)
        native, shimmed = self.alternate(command, pairs=2, processes=2)
        where = {"memory": "malloc", "cores": cores, "processes": 2}
        cells = []
        for index, first in enumerate(native[0]["cells"]):
            times_ns = [
                list(itertools.chain.from_iterable(report["cells"][index]["given_ns"] for report in side))
                for side in (native, shimmed)
            ]
            cells.append(cell_of({**without_times(first), **where}, *times_ns, ratio_of_medians))
        return cells

    def control(self):
        """The driver's own functions in native processes and in such as are under the shim: a median a process."""
        arguments = ["rates", "turns", "malloc", self.folder, CONTROL_CELL_MS, *self.sizes("control")]
        command = self.command(arguments, len(self.allowed))
        sides = self.alternate(command, pairs=CONTROL_PROCESSES, processes=1)
        results = []
        for index, first in enumerate(sides[0][0]["cells"]):
            native_ns, shim_ns = (
                [statistics.median(report["cells"][index]["driver_ns"]) for report in side] for side in sides
            )
            one = {**without_times(first), "native_process_ns": native_ns, "driver_under_shim_ns": shim_ns}
            one["is_slowed"] = min(shim_ns) * LEAST_RATIO > max(native_ns)
            results.append(one)
        return results

    def returns(self):
        results = []
        for busy_ms in (0, BUSY_MS):
            command = self.command(["returns", busy_ms, *self.sizes("returns")], len(self.allowed))
            native, shimmed = self.alternate(command, pairs=1, processes=1)
            for index, first in enumerate(native[0]["returns"]):
                one = {"busy_ms": busy_ms, "direction": first["direction"], "bytes": first["bytes"]}
                one["native_ns"] = first["times_ns"]
                one["shim_ns"] = shimmed[0]["returns"][index]["times_ns"]
                # Of three each: later than the latest of the driver's, and by more than what a call costs.
                one["is_late"] = min(one["shim_ns"]) > max(one["native_ns"]) * (2 - LEAST_RATIO) + 5_000
                results.append(one)
        return results

    def command(self, arguments, cores):
        return ["taskset", "-c", ",".join(map(str, self.allowed[:cores])), self.program, *arguments]

    def alternate(self, command, pairs, processes):
        """The reports of native and of shimmed runs, one after the other; `processes` of them at a time."""
        native, shimmed = [], []
        for _ in range(pairs):
            native += [report_of(done, False) for done in together([(command, runs.native_env())] * processes)]
            shimmed += self.shimmed(command, processes)
        return native, shimmed

    def shimmed(self, command, processes=1):
        """The reports of processes under the shim, whose staged copies are counted."""
        reports = []
        with runs.runtime_dir() as segments:
            env = runs.shim_env(self.args.lib, segments)
            for done in together([(command, env)] * processes):
                reports.append(report_of(done, True))
                self.staged += shim_stats.read_ended(self.args.aictl, env, done.pid).counter("staged_copies")
        return reports


def report_of(done, is_shimmed):
    """What the program printed. A comparison of the driver with itself must not pass for one with the shim."""
    report = runs.last_json(done.stdout)
    if report.get("hooked", is_shimmed) != is_shimmed:
        found = "the driver's own" if is_shimmed else "other than the driver's own"
        raise runs.RunFailed(f"process {done.pid} was given functions that are {found}")
    return report


def without_times(cell):
    return {key: value for key, value in cell.items() if not key.endswith("_ns")}


def cell_of(cell, native_ns, shim_ns, ratio_of):
    """A cell as it is printed and drawn. Its ratio is above 1 where the shim is the faster."""
    for side, times_ns in (("native", native_ns), ("shim", shim_ns)):
        cell[f"{side}_ns"] = times_ns
        cell[f"{side}_gbps"] = cell["bytes"] / statistics.median(times_ns)
    cell["ratio"], cell["interval"] = ratio_of(native_ns, shim_ns)
    cell["is_slow"] = cell["interval"][1] < LEAST_RATIO
    return cell


def ratio_of_turns(native_ns, shim_ns):
    """The median ratio of turns, with its 95 % bootstrap interval."""
    ratios = [native / shim for native, shim in zip(native_ns, shim_ns)]
    return statistics.median(ratios), interval(lambda resampled: statistics.median(resampled(ratios)))


def ratio_of_medians(native_ns, shim_ns):
    """The same of times that belong to no turns."""
    ratio = statistics.median(native_ns) / statistics.median(shim_ns)
    draw = lambda resampled: statistics.median(resampled(native_ns)) / statistics.median(resampled(shim_ns))
    return ratio, interval(draw)


def interval(draw):
    """Of what `draw` makes of resampled values, all but the lowest and the highest 2.5 %."""
    chance = random.Random(1)
    drawn = sorted(draw(lambda values: chance.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return drawn[RESAMPLES // 40], drawn[-1 - RESAMPLES // 40]


def together(commands):
    """Runs programs at the same time, each to its end."""
    processes = [runs.start(command, env) for command, env in commands]
    return [runs.finished(process) for process in processes]


def print_cells(cells):
    rows = []
    for cell in cells:
        what = f"{cell['memory']}, {cell['cores']} cores" + (", 2 processes" if cell["processes"] == 2 else "")
        rates = (f"{cell['native_gbps']:.1f}", f"{cell['shim_gbps']:.1f}", f"{cell['ratio']:.3f}")
        flag = "SLOW" if cell["is_slow"] else ""
        rows.append((what, *size_and_way(cell), *rates, "{:.3f}-{:.3f}".format(*cell["interval"]), flag))
    headers = ("memory", "size", "way", "form", "driver GB/s", "shim GB/s", "ratio", "95 % interval", "")
    runs.print_table(headers, rows)


def print_control(control):
    rows = []
    for one in control:
        sides = [one["native_process_ns"], one["driver_under_shim_ns"]]
        spans = [f"{min(times_ns) / 1e3:.1f}-{max(times_ns) / 1e3:.1f}" for times_ns in sides]
        native_ns, shim_ns = map(statistics.median, sides)
        flag = "SLOWED" if one["is_slowed"] else ""
        rows.append(("driver", *size_and_way(one), *spans, f"{native_ns / shim_ns:.3f}", flag))
    headers = ("control", "size", "way", "form", "native processes, us", "under the shim, us", "ratio", "")
    print()
    runs.print_table(headers, rows)


def size_and_way(cell):
    return runs.size_name(cell["bytes"]), cell["direction"], cell["form"]


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
