#!/usr/bin/env python3
"""Is a pinned block that was freed while the GPU still used it handed out again too early?

    python3 benches/gpu/reuse.py [--rounds 10000]

Builds tests/programs/reuse_rounds.c with the machine's C compiler and runs it natively and under the shim: rounds of
allocate, fill, give to the GPU, free at once, allocate again and overwrite, over 4 streams of 2 contexts, by copies and by
kernels that read through the mapped address, some with a capture open. No word may arrive wrong, and no capture be
disturbed. Last it runs with a list of its own that hands freed blocks out at once, which has to go wrong.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import runs
import shim_stats


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--cc", default=next(filter(shutil.which, ("cc", "gcc", "clang")), None), help="C compiler")
    parser.add_argument("--rounds", type=int, default=10_000, help="rounds of each run")
    args = runs.parse(parser)
    if args.cc is None:
        sys.exit("reuse.py needs a C compiler: apt-get install -y gcc")
    try:
        reports, stats = observe(args)
    except (runs.RunFailed, shim_stats.NoStats) as error:
        runs.finish("reuse", args, False, str(error).splitlines()[0], {"error": str(error)})

    runs.print_table(
        ("run", "rounds", "words compared", "wrong", "captures", "disturbed", "s"),
        [
            (name, one["rounds"], one["words"], one["wrong"], one["captures"], one["disturbed"], f"{one['elapsed_s']:.1f}")
            for name, one in reports.items()
        ],
    )
    shim, at_once = reports["shim"], reports["handed out at once"]
    # Two allocations a round, and none from the pool while a capture is open.
    ok = shim["wrong"] == 0 and shim["disturbed"] == 0 and stats.pool_hits > args.rounds and at_once["wrong"] > 0
    sentence = f"{shim['wrong']} of {shim['words']} words wrong, {shim['disturbed']} of {shim['captures']} captures disturbed"
    sentence += f", {stats.pool_hits} of {2 * args.rounds} allocations from the pool"
    sentence += f"; handed out at once: {at_once['wrong']} wrong"
    runs.finish("reuse", args, ok, sentence, {"reports": reports, "shim": stats.raw})


def observe(args):
    """What the program said of each run, and the shim's own figures."""
    with tempfile.TemporaryDirectory() as folder, runs.runtime_dir() as segments:
        program = Path(folder) / "reuse_rounds"
        source = runs.ROOT / "tests" / "programs" / "reuse_rounds.c"
        runs.run([args.cc, "-O2", "-DVIA_DLSYM", "-o", program, source, "-ldl"], dict(os.environ))
        env = runs.shim_env(args.lib, segments)
        under_shim = runs.run([program, args.rounds], env)
        stats = shim_stats.read_ended(args.aictl, env, under_shim.pid)
        finished = {
            "driver": runs.run([program, args.rounds // 10, "--no-captures"], runs.native_env()),
            "shim": under_shim,
            "handed out at once": runs.run([program, args.rounds // 10, "--immediate"], runs.native_env()),
        }
    return {name: {**runs.last_json(done.stdout), "elapsed_s": done.elapsed_s} for name, done in finished.items()}, stats


if __name__ == "__main__":
    main()
