#!/usr/bin/env python3
"""Is pinned memory that was freed ever handed out again while the GPU still uses it?

    python3 benches/gpu/reuse.py [--rounds N]

Builds reuse.c with the machine's C compiler and runs it natively, under the shim, and with its own list of blocks that
hands out at once what was freed: no word may be wrong in the first two, some must be in the last, or the program would
have found nothing anywhere. A second shimmed run has a pool of 16 MiB, in which blocks come back soon. Neither may a
capture be disturbed, nor the context be synchronised by anybody but the program: uses are still under way behind the
frees, which they could not be then. The last is what the shim's own count of calls says too.

What the shim promises of its pool is stronger than what the driver does. The driver's free waits for work of the block's
own context alone, so the program itself waits before it frees a block of the driver's that another context uses: natively,
and under the shim where the pool had none. For a block of the pool's nobody waits, and it does not come back before the
work of all contexts is done with it.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import runs
import shim_stats

SMALL_POOL = {"AISHIM_POOL_MIB": "16"}
LEAST_HIT_RATE = 0.9
LEAST_LATE = 0.05


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--cc", default=next(filter(shutil.which, ("cc", "gcc", "clang")), None), help="C compiler")
    parser.add_argument("--rounds", type=int, default=10_000, help="rounds under the shim; natively each takes some ms")
    parser.add_argument("--native-rounds", type=int, default=1_000, help="rounds natively, and with immediate reuse")
    args = runs.parse(parser)
    if args.cc is None:
        sys.exit("reuse.py needs a C compiler: apt-get install -y gcc")
    results, errors = observe(args)
    headers = ("blocks from", "rounds", "late", "waits", "words", "wrong", "captures", "disturbed", "hits", "s")
    runs.print_table(headers, [row(name, result) for name, result in results.items()])
    faults = [f"{name}: {in_one_line(error)}" for name, error in errors.items()]
    faults += [f"{name}: {fault}" for name, result in results.items() for fault in faults_of(name, result)]
    runs.finish("reuse", args, not faults, "; ".join(faults) or found(results), {"results": results, "errors": errors})


def found(results):
    """What was seen, where all is well."""
    pool = results["pool"]
    sentence = f"{pool['words_wrong']} of {pool['words']} words wrong, {pool['captures_disturbed']} of {pool['captures']} captures"
    sentence += f" disturbed in {pool['rounds']} rounds, {pool['late']} of them late; {hit_rate(pool):.1%} hits"
    return sentence + f"; immediate reuse: {results['immediate']['words_wrong']} words wrong"


def in_one_line(error):
    """The first line, which says what ended and how, and the last, which says what it complained of."""
    lines = error.splitlines()
    return ": ".join(dict.fromkeys((lines[0], lines[-1])))


def observe(args):
    """What each run printed, the shim's figures with those under it, and why those failed that did."""
    results, errors = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "reuse"
        headers = runs.ROOT / "tests" / "programs"
        flags = ["-std=gnu11", "-O2", "-pthread", "-DVIA_DLSYM", "-I", headers]
        few = str(args.native_rounds)
        ways = {
            "driver": lambda: native([program, few]),
            "pool": lambda: shimmed(args, [program, str(args.rounds)], {}),
            "small pool": lambda: shimmed(args, [program, str(args.rounds // 4)], SMALL_POOL),
            "immediate": lambda: native([program, "--immediate", few]),
        }
        try:
            runs.run([args.cc, *flags, "-o", program, runs.HERE / "reuse.c", "-ldl"], dict(os.environ))
        except runs.RunFailed as error:
            return {}, {"build": str(error)}
        for name, way in ways.items():
            try:
                results[name] = way()
            except (runs.RunFailed, shim_stats.NoStats) as error:
                errors[name] = str(error)
    return results, errors


def native(command):
    done = runs.run(command, runs.native_env())
    return {**runs.last_json(done.stdout), "elapsed_s": done.elapsed_s}


def shimmed(args, command, settings):
    with runs.runtime_dir() as segments:
        env = runs.shim_env(args.lib, segments, **settings)
        done = runs.run(command, env)
        stats = shim_stats.read_ended(args.aictl, env, done.pid)
    figures = {
        "hits": stats.pool_hits,
        "misses": stats.pool_misses,
        "context_synchronisations_counted": stats.calls().get("cuCtxSynchronize", 0),
        "shim": stats.raw,
    }
    return {**runs.last_json(done.stdout), "elapsed_s": done.elapsed_s, **figures}


def faults_of(name, result):
    """What is not as it has to be, in words."""
    if name == "immediate":
        if result["words_wrong"] == 0:
            yield "no word wrong, so nothing is proved"
        return
    if result["words_wrong"]:
        yield f"{result['words_wrong']} words wrong"
    if result["captures_disturbed"] or not result["captures"]:
        yield f"{result['captures_disturbed']} of {result['captures']} captures disturbed"
    if name == "driver":
        return
    if result["waits"] > result["allocations"] - result["hits"]:
        yield f"{result['waits']} waits, more than blocks that were not the pool's"
    if result["context_synchronisations_counted"] != result["context_synchronisations"]:
        yield f"{result['context_synchronisations_counted']} context synchronisations"
    if result["late"] < LEAST_LATE * result["rounds"]:
        yield f"only {result['late']} uses were under way behind the free"
    if name == "pool" and hit_rate(result) < LEAST_HIT_RATE:
        yield f"{hit_rate(result):.1%} hits"


def hit_rate(result):
    """Of the allocations that the pool could serve: all are small enough, but while a capture is open it serves none."""
    return result["hits"] / max(result["allocations"] - result["allocations_in_captures"], 1)


def row(name, result):
    hits = f"{hit_rate(result):.1%}" if "hits" in result else "-"
    keys = ("rounds", "late", "waits", "words", "words_wrong", "captures", "captures_disturbed")
    return (name, *(result[key] for key in keys), hits, f"{result['elapsed_s']:.1f}")


if __name__ == "__main__":
    main()
