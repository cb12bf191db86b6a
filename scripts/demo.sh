#!/usr/bin/env bash
# Runs the main job from dist/: an unmodified CUDA program, once as it is and once under libaishim.so, then what aictl
# shows of it, and last one sentence that says what was gained, with the figures of this very run.
#
# With a GPU and PyTorch the program is examples/infer.py. Else it is the driver-API example on the simulated GPU.
#
# Then four programs on one GPU, a service and three that work flat out, first by themselves and then with the coordinator, and a sentence on that.
set -euo pipefail
cd "$(dirname "$0")/.."

# A runtime directory of its own, so that the tables show this run and no other.
scratch=$(mktemp -d)
# What runs in the background at the moment.
workers=() daemon=
trap 'kill "${workers[@]}" $daemon 2>/dev/null || true; rm -rf "$scratch"' EXIT
simulated=
export AISHIM_DIR=$scratch/aishim
mkdir -m 700 "$AISHIM_DIR"

main() {
    if gpu_with_pytorch; then
        program=(python3 examples/infer.py --model resnet50 --mode eager --requests 200 --loader)
        sentence=inference_sentence
    else
        echo "SIMULATED GPU: there is no GPU with PyTorch here. Times below are the simulator's, not a GPU's."
        simulated=yes
        export LD_LIBRARY_PATH=$PWD/dist/sim${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
        export SIMCUDA_DIR=$scratch/simcuda
        mkdir -m 700 "$SIMCUDA_DIR"
        program=(dist/examples/vector_add --requests 200)
        sentence=allocation_sentence
    fi

    heading "${program[*]}"
    "${program[@]}" | tee "$scratch/native"
    heading "dist/aictl run -- ${program[*]}"
    run_under_aishim | tee "$scratch/shimmed"

    pid=$(cat "$scratch/pid")
    heading "dist/aictl stats"
    dist/aictl stats
    heading "dist/aictl stats $pid"
    dist/aictl stats "$pid"

    dist/aictl stats "$pid" --json >"$scratch/stats.json"
    echo
    $sentence

    neighbours_sentence
}

# A service beside three that work flat out, with the commands $2 and $3 in front; what they print goes to files that begin with $1.
neighbours() {
    local name=$1 service=$2 work=$3 each
    for each in 1 2 3; do
        $work dist/examples/neighbours work --seconds 9 >"$scratch/$name.work$each" &
        workers+=($!)
    done
    # They are at it by then.
    sleep 1
    $service dist/examples/neighbours service --seconds 7 >"$scratch/$name.service"
    wait "${workers[@]}"
    workers=()
}

neighbours_sentence() {
    local before after less
    heading "dist/examples/neighbours service, beside three times dist/examples/neighbours work"
    neighbours native "" ""
    dist/aischedd --dir "$AISHIM_DIR" 2>"$scratch/aischedd" &
    daemon=$!
    heading "the same with dist/aischedd, and dist/aictl run --class inference and --class batch"
    neighbours ordered "dist/aictl run --class inference --" "dist/aictl run --class batch --"
    kill "$daemon"
    wait "$daemon" || true
    daemon=

    printf '%-28s %22s %22s\n' "" "without aishim" "with aischedd"
    printf '%-28s %19s ms %19s ms\n' "a request, median" "$(request_ms p50 native)" "$(request_ms p50 ordered)"
    printf '%-28s %19s ms %19s ms\n' "a request, 99 of 100 within" "$(request_ms p99 native)" "$(request_ms p99 ordered)"
    printf '%-28s %15s per s %16s per s\n' "kernels of the three others" "$(kernels native)" "$(kernels ordered)"
    before=$(request_ms p99 native)
    after=$(request_ms p99 ordered)
    less=$(awk -v before="$(kernels native)" -v after="$(kernels ordered)" \
        'BEGIN { printf "%+.0f %%", 100 * (after / before - 1) }')
    echo
    echo "p99 beside 3 jobs: $before -> $after ms; their throughput $less${simulated:+ (on a simulated GPU)}"
}

# What a service printed of its requests, in milliseconds.
request_ms() {
    grep -o "$1 [0-9.]* ms" "$scratch/$2.service" | cut -d' ' -f2 | grep . || fail "The service printed no $1."
}

# What the three printed, together.
kernels() {
    sed -n 's/^kernels a second: //p' "$scratch/$1".work? | awk '{ all += $1 } END { printf "%d", all }'
}

gpu_with_pytorch() {
    nvidia-smi -L >/dev/null 2>&1 &&
        python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1
}

heading() {
    printf '\n== %s\n' "$*"
}

# The shell in between tells the program's PID and then becomes the program.
run_under_aishim() {
    dist/aictl run -- sh -c 'echo $$ >"$0"; exec "$@"' "$scratch/pid" "${program[@]}"
}

allocation_sentence() {
    local before after launches
    before=$(figure_ns 'pinned alloc+free median' native)
    after=$(figure_ns 'pinned alloc+free median' shimmed)
    launches=$(counted launches)
    echo "With not a line of the program changed, allocating and freeing pinned memory went from $(readable "$before")" \
        "to $(readable "$after") (simulated figures), and each of its $launches launches was counted and timed."
}

inference_sentence() {
    local before after launches hits
    before=$(latency native)
    after=$(latency shimmed)
    launches=$(counted launches)
    hits=$(counted hits)
    echo "With not a line of infer.py changed, its requests took $after at the median ($before without aishim), each of" \
        "its $launches launches was counted and timed, and $hits of its pinned allocations came from the pool."
}

# `LABEL: N ns` in what a run printed.
figure_ns() {
    sed -n "s/.*$1: *\([0-9.]*\) ns.*/\1/p" "$scratch/$2" | head -n 1 | grep . || fail "The program printed no \"$1\"."
}

# `p50 N unit` in what a run printed.
latency() {
    grep -o 'p50 [0-9.]* [mu]s' "$scratch/$1" | head -n 1 | cut -c5- | grep . || fail "The program printed no p50."
}

# The first number under that key in aictl's document on the one process.
counted() {
    grep -o "\"$1\": *[0-9]*" "$scratch/stats.json" | head -n 1 | grep -o '[0-9]*$' || fail "aictl's JSON has no \"$1\"."
}

readable() {
    awk -v ns="$1" 'BEGIN {
        if (ns >= 1e6) printf "%.1f ms", ns / 1e6
        else if (ns >= 1e4) printf "%.0f us", ns / 1e3
        else if (ns >= 1e3) printf "%.1f us", ns / 1e3
        else printf "%d ns", ns
    }'
}

fail() {
    echo "$1" >&2
    exit 1
}

main
