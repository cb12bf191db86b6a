#!/usr/bin/env python3
"""What loading the library costs a program that never touches CUDA: /bin/true with and without it, in turn.

    python3 benches/load_time.py [--lib dist/libaishim.so] [--runs 1000]
"""

import argparse
import json
import os
import statistics
import time


def run_ns(env):
    begin = time.perf_counter_ns()
    pid = os.posix_spawn("/bin/true", ["true"], env)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    return time.perf_counter_ns() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lib", default="dist/libaishim.so")
    parser.add_argument("--runs", type=int, default=1000)
    args = parser.parse_args()
    plain = {"PATH": os.environ["PATH"]}
    shimmed = {**plain, "LD_PRELOAD": os.path.abspath(args.lib)}
    pairs = [(run_ns(plain), run_ns(shimmed)) for _ in range(args.runs)]
    native, ours = zip(*pairs)
    print(json.dumps({
        "runs": args.runs,
        "native_median_us": statistics.median(native) / 1000,
        "shimmed_median_us": statistics.median(ours) / 1000,
        "added_median_us": statistics.median(b - a for a, b in pairs) / 1000,
    }))


if __name__ == "__main__":
    main()
