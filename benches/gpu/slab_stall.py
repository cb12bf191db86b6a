#!/usr/bin/env python3
"""What page-locking 256 MiB costs the launches of another process: at once, in slabs as the pool does, and not at all.

    python3 benches/gpu/slab_stall.py

Builds slab_stall.c with the machine's C compiler. One process launches small kernels without pause and notes what each
call took; another allocates slabs of the pool's sizes and frees them. Neither is under the shim, whose pool allocates only
where it cannot register (slab_ways.c compares the two); "pauses" shows what one of 20 ms between slabs would change, and
"own" what allocating slabs costs the launches of the same process. The last rows are of a process that launches
and reserves nothing itself, natively and under the shim while its pool of 256 MiB comes. Compared are the launch calls that overlap a reservation
(or a free), so a row of slabs is about the same page-locking as one of "once".
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import runs

WAYS = ("once", "slabs", "pauses")
ALONE_MS = 2000


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--cc", default=next(filter(shutil.which, ("cc", "gcc", "clang")), None), help="C compiler")
    parser.add_argument("--repeats", type=int, default=15, help="reservations of 256 MiB in each way")
    args = runs.parse(parser)
    if args.cc is None:
        sys.exit("slab_stall.py needs a C compiler: apt-get install -y gcc")
    try:
        figures, own, alone, reserved_ms = observe(args)
    except runs.RunFailed as error:
        runs.finish("slab_stall", args, False, str(error).splitlines()[0], {"error": str(error)})

    names = ("none", *(name for way in WAYS for name in (way, f"{way}_free")))
    headers = ("launch calls beside", "calls", "p50, us", "p99, us", "p99.9, us", "max, us")
    rows = [row(name, figures[name]) for name in names]
    rows += [row(f"own {name}", own[name]) for name in ("none", "slabs", "slabs_free")]
    rows += [row(name, figures["none"]) for name, figures in alone.items()]
    runs.print_table(headers, rows)
    print("256 MiB took, median ms: " + ", ".join(f"{way} {reserved_ms[way]:.1f}" for way in WAYS))
    worst = {name: f"{figures[name]['max_ns'] / 1e3:.0f}" for name in ("none", "once", "slabs")}
    tail = {name: f"{figures[name]['p999_ns'] / 1e3:.0f}" for name in ("none", "once", "slabs")}
    sentence = "longest launch call (p99.9): " + ", ".join(f"{name} {worst[name]} ({tail[name]}) us" for name in worst)
    ok = all(figures[name]["calls"] > 0 for name in names)
    runs.finish("slab_stall", args, ok, sentence, {"figures": figures, "own": own, "alone": alone, "reserved_ms": reserved_ms})


def observe(args):
    """Figures of the launching process by window, beside another and in its own, and the milliseconds of 256 MiB."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "slab_stall"
        build = [args.cc, "-O2", "-pthread", "-o", program, runs.HERE / "slab_stall.c", "-ldl"]
        runs.run(build, dict(os.environ))
        env = runs.native_env()
        launching = runs.start([program, "launch"], env)
        try:
            runs.wait_for_line(launching, "ready", timeout_s=60)
            windows = {way: runs.run([program, "reserve", way, args.repeats], env).stdout for way in WAYS}
            stdout, stderr = launching.communicate("".join(windows.values()), timeout=120)
        except BaseException:
            runs.stop_group(launching)
            raise
        own = runs.last_json(runs.run([program, "own", "slabs", args.repeats], env).stdout)
        alone = launch_alone(program, args.lib)
    if launching.returncode != 0:
        raise runs.RunFailed(f"slab_stall launch: exit code {launching.returncode}\n{stderr}")
    return runs.last_json(stdout), own, alone, {way: median_ms(windows[way], way, args.repeats) for way in WAYS}


def launch_alone(program, lib):
    """Figures of a process that only launches, for as long as a pool needs to come, without one and with one."""
    command = [program, "alone", ALONE_MS]
    with runs.runtime_dir() as segments:
        eager = runs.shim_env(lib, segments) | {"AISHIM_POOL": "eager", "AISHIM_POOL_MIB": "256"}
        envs = {"alone, natively": runs.native_env(), "alone, pool coming": eager}
        return {name: runs.last_json(runs.run(command, env).stdout) for name, env in envs.items()}


def median_ms(text, way, repeats):
    """The median over the repeats of what a whole reservation took, its slabs added up."""
    spans = [int(end) - int(begin) for name, begin, end in map(str.split, text.splitlines()) if name == way]
    each = len(spans) // repeats
    sums = sorted(sum(spans[i * each : (i + 1) * each]) for i in range(repeats))
    return sums[len(sums) // 2] / 1e6


def row(name, figures):
    times = (f"{figures[key] / 1e3:.1f}" for key in ("p50_ns", "p99_ns", "p999_ns", "max_ns"))
    return (name, figures["calls"], *times)


if __name__ == "__main__":
    main()
