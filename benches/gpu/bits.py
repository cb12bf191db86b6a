#!/usr/bin/env python3
"""Does the shim change a single bit of what a program computes?

    python3 benches/gpu/bits.py

Runs examples/infer.py in each mode with each model, twice natively and twice under the shim, with deterministic
algorithms, and compares the SHA-256 of all outputs. Where the two native runs differ, nothing can be said.
"""

import concurrent.futures

import runs
import shim_stats

MODELS = ("resnet50", "bert")
MODES = ("eager", "compile", "graph")
NATIVE_RUNS = 2
SHIMMED_RUNS = 2


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--requests", type=int, default=20, help="requests per run")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--jobs", type=int, default=6, help="combinations of model and mode at the same time")
    args = runs.parse(parser)

    combinations = [(model, mode) for model in args.models for mode in args.modes]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda combination: compare(args, *combination), combinations))

    runs.print_table(
        ("model, mode", "native", "shimmed", "launches seen", "verdict"),
        [
            (f"{r['model']}, {r['mode']}", short(r["native"]), short(r["shimmed"]), r["launches"], r["verdict"])
            for r in results
        ],
    )
    judged = [r for r in results if r["verdict"] != "natives differ"]
    equal = [r for r in judged if r["verdict"] == "equal"]
    sentence = f"{len(equal)} of {len(judged)} combinations with reproducible native bits have the same bits shimmed"
    if len(judged) < len(results):
        sentence += f" ({len(results) - len(judged)} differ natively)"
    runs.finish("bits", args, bool(judged) and len(equal) == len(judged), sentence, {"results": results})


def compare(args, model, mode):
    result = {"model": model, "mode": mode, "native": [], "shimmed": [], "launches": 0}
    # One compiler cache for the four runs: what is compared is the shim, not two searches for the fastest kernel.
    with runs.runtime_dir() as cache:
        env = {"TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"), "TRITON_CACHE_DIR": str(cache / "triton")}
        try:
            for _ in range(NATIVE_RUNS):
                result["native"].append(checksum(args, model, mode, runs.native_env(**env))[1])
            for _ in range(SHIMMED_RUNS):
                with runs.runtime_dir() as segments:
                    shimmed = runs.shim_env(args.lib, segments, **env)
                    pid, digest = checksum(args, model, mode, shimmed)
                    result["shimmed"].append(digest)
                    if args.device == "cuda":
                        result["launches"] = shim_stats.read(args.aictl, shimmed, pid).launches
            result["verdict"] = verdict(args, result)
        except (runs.RunFailed, shim_stats.NoStats) as error:
            result["verdict"], result["error"] = "failed", str(error)
            print(f"{model}, {mode}: {error}", flush=True)
    return result


def checksum(args, model, mode, env):
    """Runs the example once and returns its PID and the checksum of its outputs."""
    command = runs.infer_command(args.device, "--model", model, "--mode", mode)
    command += ["--requests", args.requests, "--warmup", 3, "--batch", args.batch, "--deterministic", "--checksum"]
    done = runs.run(command, env)
    digests = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("sha256")]
    if len(digests) != 1:
        raise runs.RunFailed(f"{runs.shown(command)} printed no checksum:\n{done.stdout}")
    return done.pid, digests[0]


def verdict(args, result):
    if len(set(result["native"])) > 1:
        return "natives differ"
    if set(result["shimmed"]) != set(result["native"]):
        return "DIFFERENT"
    # Equal bits prove nothing when the shim was not there.
    return "equal" if result["launches"] or args.device == "cpu" else "no launches seen"


def short(digests):
    return "/".join(sorted({digest[:8] for digest in digests})) or "-"


if __name__ == "__main__":
    main()
