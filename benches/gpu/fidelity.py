#!/usr/bin/env python3
"""Does the driver answer under the shim as without it, wherever a program can look?

    python3 benches/gpu/fidelity.py

Builds tests/conformance with the machine's C compiler and runs all its cases natively and under the shim, there once with
the pool's memory in its first slab, which the driver has allocated, and once in a later one, which is registered. The
columns have to agree, but where tests/conformance/better.h says why ours is better. Cases whose native value is not the one in
the table are listed too: what no driver had been asked before gets its value from here.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import runs
import shim_stats

VERDICTS = ("agrees", "better", "DIFFERS")
NOT_OBSERVED = "not yet observed"


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--cc", default=next(filter(shutil.which, ("cc", "gcc", "clang")), None), help="C compiler")
    args = runs.parse(parser)
    if args.cc is None:
        sys.exit("fidelity.py needs a C compiler: apt-get install -y gcc")
    try:
        native_text, shim_text, later_text, better_text, hits = observe(args)
    except (runs.RunFailed, shim_stats.NoStats) as error:
        runs.finish("fidelity", args, False, str(error).splitlines()[0], {"error": str(error)})

    native, shimmed, later, better = map(column, (native_text, shim_text, later_text, better_text))
    verdicts, told = {}, []
    for name, value in native.items():
        answers = [side.get(name) for side in (shimmed, later)]
        verdicts[name] = max((verdict(value, answer, better.get(name)) for answer in answers), key=VERDICTS.index)
        if verdicts[name] != "agrees":
            told.append((name, value, *("-" if answer is None else answer for answer in answers), verdicts[name]))
    runs.print_table(("case", "driver", "shim", "later slab", ""), told)
    surprises = [line for line in native_text.splitlines() if "   <- expected " in line]
    print("\nnatively not as in the table:", *surprises or ["none"], sep="\n  ")

    wrong = [name for name, v in verdicts.items() if v == "DIFFERS"]
    noted = sum(v == "better" for v in verdicts.values())
    sentence = f"{len(native)} cases, {noted} better as noted, {len(wrong)} differ; "
    sentence += f"{len(surprises)} not as in the table, of which {sum(NOT_OBSERVED in s for s in surprises)} were {NOT_OBSERVED}"
    sentence += f"; {hits[0]} and {hits[1]} allocations from the pool"
    ok = not wrong and native.keys() == shimmed.keys() == later.keys() and min(hits) > 0
    texts = {"native": native_text, "shimmed": shim_text, "later": later_text, "better": better_text}
    record = {name: text.splitlines() for name, text in texts.items()}
    runs.finish("fidelity", args, ok, sentence, record)


def observe(args):
    """What the program prints natively, under the shim in both ways, and of answers that may differ; the pools' hits."""
    with tempfile.TemporaryDirectory() as folder, runs.runtime_dir() as segments:
        program = Path(folder) / "conformance"
        source = runs.ROOT / "tests" / "conformance" / "conformance.c"
        runs.run([args.cc, "-std=c11", "-O1", "-o", program, source, "-ldl", "-lpthread"], dict(os.environ))
        native = runs.run([program, "--list"], runs.native_env()).stdout
        better = runs.run([program, "--better"], runs.native_env()).stdout
        env = runs.shim_env(args.lib, segments)
        shimmed = [runs.run([program, "--list"], env | held) for held in ({}, {"CONFORMANCE_HOLD": "16"})]
        hits = [shim_stats.read_ended(args.aictl, env, done.pid).pool_hits for done in shimmed]
        return native, shimmed[0].stdout, shimmed[1].stdout, better, hits


def column(text):
    """The value of each case, from lines that begin with a name and a number."""
    words = (line.split(" ", 2) for line in text.splitlines())
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].lstrip("-").isdigit()}


def verdict(native, shimmed, better):
    if shimmed == native:
        return "agrees"
    return "better" if better is not None and shimmed == better else "DIFFERS"


if __name__ == "__main__":
    main()
