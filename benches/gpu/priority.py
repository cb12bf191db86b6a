#!/usr/bin/env python3
"""How long do the requests of a latency-critical job take beside best-effort jobs, and how much do those get done?

    python3 benches/gpu/priority.py --load 3xinfer
    python3 benches/gpu/priority.py --load 1xtrain --load 3xinfer --arrivals poisson --seed 2 --alone-each \\
        --condition gate:LD_PRELOAD={lib},AISHIM_DIR=/dev/shm/x,LC.AISHIM_PRIORITY=80,BE.AISHIM_PRIORITY=5

A condition is what its processes find in their environment: `native` nothing, always measured; the others what
--condition says, with the prefix LC. or BE. for the latency-critical or the best-effort processes alone. {lib} stands
for --lib. A condition that preloads something and names no AISHIM_DIR has a fresh one. A daemon that it needs is to be
started before; one of MPS with a CUDA_MPS_PIPE_DIRECTORY of its own, or `native` would find it too.

The load is open: requests arrive at times that a seed decides, and latency counts from the arrival, so that a slow
request delays those behind it instead of thinning out the load. Every condition has processes of its own, all started
and warmed up together and then idle until their turn. In each round every cell has one turn of --turn requests, the
latency-critical job alone too; the arrivals of a round are the same for all its cells, and the order of cells is
reversed from round to round. An eager job's host may be twice as slow for seconds: short turns (--turn 40) and "p50 by round", the
median of what each turn has beside the alone turn of its round, are for that. A turn begins with the best-effort jobs by themselves, for --alone-s.

Busy share = requests x GPU time of one alone / time; leftover = (1 - busy share) x what the same best-effort jobs get
done natively by themselves. A request's GPU time is that of its graph, replayed back to back. With --device cpu the
jobs are small models that share cores instead of a GPU: that tries the script, and its figures mean nothing.
"""

import argparse
import bisect
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field

import priority_jobs
import priority_report
import runs
import shim_stats

RATES_PER_S = {"bertg": 150, "bert_eager": 80, "resnet_eager": 80, "resnetg_bus": 150}
"""Requests offered; an eager one of 6 ms that became 7 ms beside others could not be kept up with at 150 a second."""

SETTLE_S = 0.3
"""Best-effort jobs by themselves before anything is measured of them."""


def main():
    args = arguments()
    results = []
    with runtime_dirs(args.condition), ending_together() as jobs:
        critical = {c.name: Job(args, jobs, args.job, c, "LC") for c in args.condition}
        for load in args.load:
            try:
                results.append(measure_load(args, load, critical))
            except runs.RunFailed as error:
                print(f"{load}: {error}", flush=True)
                results.append({"load": str(load), "error": str(error)})
    priority_report.finish(args, results)


def arguments():
    parser = runs.parser(__doc__)
    jobs = sorted(priority_jobs.CRITICAL)
    parser.add_argument("--job", choices=jobs, default="bertg", help="the latency-critical job")
    parser.add_argument("--load", type=Load.parse, action="append", help="best-effort jobs, 3xinfer (may be repeated)")
    parser.add_argument("--condition", type=Condition.parse, action="append", default=[], metavar="NAME:KEY=VALUE,...")
    parser.add_argument("--alone-each", action="store_true", help="the latency-critical job alone in every condition")
    parser.add_argument("--arrivals", choices=("regular", "poisson"), default="regular", help="regular: gaps +-20 %%")
    parser.add_argument("--rate", type=float, help="requests offered a second (default: 150, of an eager job 80)")
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals")
    parser.add_argument("--requests", type=int, default=2000, help="requests a cell")
    parser.add_argument("--turn", type=int, default=500, help="requests a turn")
    parser.add_argument("--alone-s", type=float, default=1.0, help="best-effort jobs by themselves, a turn")
    args = runs.parse(parser)
    args.load = args.load or [Load(3, "infer")]
    args.rate = args.rate or RATES_PER_S[args.job]
    args.rounds = -(-args.requests // args.turn)
    args.condition = [Condition("native"), *args.condition]
    if len({condition.name for condition in args.condition} | {"alone"}) <= len(args.condition):
        parser.error("every --condition needs a name of its own, other than alone and native")
    return args


@dataclass(frozen=True)
class Load:
    """So many best-effort jobs of a kind."""

    count: int
    kind: str

    @staticmethod
    def parse(text):
        match = re.fullmatch(r"([1-9]\d*)x(\w+)", text)
        if not match or match[2] not in priority_jobs.BEST_EFFORT:
            kinds = ", ".join(sorted(priority_jobs.BEST_EFFORT))
            raise argparse.ArgumentTypeError(f"'{text}' is not COUNTxKIND with one of {kinds}")
        return Load(int(match[1]), match[2])

    def __str__(self):
        return f"{self.count}x{self.kind}"


@dataclass
class Condition:
    """What the processes of one condition find in their environment; by role, LC or BE."""

    name: str
    variables: dict = field(default_factory=lambda: {"LC": {}, "BE": {}})

    @staticmethod
    def parse(text):
        name, _, settings = text.partition(":")
        if not re.fullmatch(r"[\w.+-]+", name):
            raise argparse.ArgumentTypeError(f"'{text}' does not begin with a name")
        result = Condition(name)
        for setting in filter(None, settings.split(",")):
            match = re.fullmatch(r"(?:(LC|BE)\.)?(\w+)=(.*)", setting)
            if not match:
                raise argparse.ArgumentTypeError(f"'{setting}' of {name} is not KEY=VALUE, with or without LC. or BE.")
            role, key, value = match.groups()
            for each in [role] if role else ("LC", "BE"):
                result.variables[each][key] = value
        return result

    def env(self, args, role):
        own = self.variables[role]
        return runs.native_env(**{key: value.replace("{lib}", str(args.lib)) for key, value in own.items()})


@contextlib.contextmanager
def runtime_dirs(conditions):
    """Gives each condition that lacks one an AISHIM_DIR for all its processes, or they would not know of each other."""
    with contextlib.ExitStack() as dirs:
        for condition in conditions:
            roles = condition.variables.values()
            if any("LD_PRELOAD" in own for own in roles) and not any("AISHIM_DIR" in own for own in roles):
                path = str(dirs.enter_context(runs.runtime_dir()))
                for own in roles:
                    own["AISHIM_DIR"] = path
        yield


@dataclass(frozen=True)
class Cell:
    """What has a turn in each round: the latency-critical job of a condition, alone or beside its best-effort jobs."""

    name: str
    condition: str
    is_alone: bool


def cells(args):
    names = [condition.name for condition in args.condition]
    alone = [Cell("alone", "native", True)]
    alone += [Cell(f"alone, {name}", name, True) for name in names[1:] if args.alone_each]
    return alone + [Cell(name, name, False) for name in names]


class Job:
    """One process of priority_jobs.py, started among `jobs`, which end together."""

    def __init__(self, args, jobs, name, condition, role, **more_env):
        self.condition, self.role = condition.name, role
        self.env = {**condition.env(args, role), **more_env}
        command = [sys.executable, runs.HERE / "priority_jobs.py", name, "--device", args.device]
        self.process = runs.start(command, self.env)
        self.is_ready = False
        jobs.append(self)

    def wait_until_ready(self):
        if not self.is_ready:
            runs.wait_for_line(self.process, "ready")
            self.check_preloaded()
            self.is_ready = True

    def check_preloaded(self):
        """The loader only warns of a library that it cannot preload, and the job would count as one under it."""
        with open(f"/proc/{self.process.pid}/maps", encoding="utf-8") as maps:
            mapped = maps.read()
        for path in re.split("[: ]", self.env.get("LD_PRELOAD", "")):
            if os.path.basename(path) not in mapped:
                raise runs.RunFailed(f"{self.condition}: {path} is not loaded in process {self.process.pid}")

    def ask(self, line):
        # The end of one that has ended, and why, is found where its answer is waited for.
        with contextlib.suppress(BrokenPipeError, ValueError):
            print(line, file=self.process.stdin, flush=True)

    def answer(self, timeout_s=60):
        if self.process.returncode is not None:
            raise runs.RunFailed(f"{runs.shown(self.process.args)}: ended during an earlier load")
        return json.loads(runs.wait_for_line(self.process, "answer", timeout_s).removeprefix("answer"))


@contextlib.contextmanager
def ending_together():
    """A list whose jobs are ended when it is left, by themselves if they can: an MPS client that is killed can leave
    its server undone."""
    jobs = []
    try:
        yield jobs
    finally:
        for job in jobs:
            job.ask("end")
        for job in jobs:
            try:
                # Nothing is left of one that ended early and was read to its end already.
                with contextlib.suppress(ValueError):
                    job.process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                runs.stop_group(job.process)


def measure_load(args, load, critical):
    """All turns of one load: its best-effort jobs are started here and end here."""
    with ending_together() as jobs:
        best_effort = {c.name: [Job(args, jobs, load.kind, c, "BE") for _ in range(load.count)] for c in args.condition}
        began_s = time.monotonic()
        for job in (*critical.values(), *jobs):
            job.wait_until_ready()
        print(f"{load}: ready after {time.monotonic() - began_s:.0f} s, {expected(args)}", flush=True)
        gpu_ms = gpu_ms_of_one(critical["native"])
        turns = {cell.name: [] for cell in cells(args)}
        for number in range(args.rounds):
            for cell in cells(args) if number % 2 == 0 else reversed(cells(args)):
                beside = [] if cell.is_alone else best_effort[cell.condition]
                turns[cell.name].append(turn(args, number, critical[cell.condition], beside))
        stats = stats_of(args, [*critical.values(), *jobs])
    return {"load": str(load), "kind": load.kind, "gpu_ms_of_one": gpu_ms, "turns": turns, "stats": stats}


def expected(args):
    beside = sum(not cell.is_alone for cell in cells(args))
    seconds = args.rounds * (len(cells(args)) * args.turn / args.rate + beside * (SETTLE_S + args.alone_s))
    return f"{args.rounds} rounds of {len(cells(args))} cells take {seconds:.0f} s"


def gpu_ms_of_one(job):
    job.ask("gpu-time")
    return job.answer()["gpu_ms"]


def turn(args, number, critical, best_effort):
    """One turn of one cell: the best-effort jobs by themselves, then beside the latency-critical one."""
    for job in best_effort:
        job.ask("go")
    if best_effort:
        time.sleep(SETTLE_S)
    alone = [time.monotonic_ns()]
    if best_effort:
        time.sleep(args.alone_s)
    alone.append(time.monotonic_ns())
    seed = f"{args.seed}/{number}"
    load = {"requests": args.turn, "rate_per_s": args.rate, "arrivals": args.arrivals, "seed": seed}
    critical.ask(json.dumps(load))
    served = critical.answer(timeout_s=int(60 + 10 * args.turn / args.rate))
    for job in best_effort:
        job.ask("stop")
    ends_ns = [job.answer()["ends_ns"] for job in best_effort]
    beside = (served["began_ns"], served["ended_ns"])
    return {
        "round": number,
        "elapsed_s": (beside[1] - beside[0]) / 1e9,
        "alone_s": (alone[1] - alone[0]) / 1e9,
        "iterations": [iterations(ends, *beside) for ends in ends_ns],
        "alone_iterations": [iterations(ends, *alone) for ends in ends_ns],
        "latencies_us": [round(us, 1) for us in served["latencies_us"]],
        "waits_us": [round(us, 1) for us in served["waits_us"]],
    }


def iterations(ends_ns, from_ns, to_ns):
    """Iterations done in a window, those at its edges by their part in it. The first of `ends_ns` is the start."""

    def done_by(at_ns):
        after = bisect.bisect_right(ends_ns, at_ns)
        if after in (0, len(ends_ns)):
            return max(after - 1, 0)
        last_ns, next_ns = ends_ns[after - 1], ends_ns[after]
        return after - 1 + (at_ns - last_ns) / (next_ns - last_ns)

    return done_by(to_ns) - done_by(from_ns)


def stats_of(args, jobs):
    """What aictl knows of each process under the shim, since that started; for the raw results."""
    found = []
    for job in jobs:
        if "LD_PRELOAD" not in job.env or args.device == "cpu":
            continue
        try:
            stats = shim_stats.read(args.aictl, job.env, job.process.pid).raw
        except shim_stats.NoStats as error:
            stats = {"error": str(error)}
        found.append({"condition": job.condition, "role": job.role, **stats})
    return found


if __name__ == "__main__":
    main()
