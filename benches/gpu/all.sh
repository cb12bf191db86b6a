#!/usr/bin/env bash
# Runs every GPU check, one after another, and ends with one line for each.
#
#   benches/gpu/all.sh [--out FOLDER] [--lib PATH] [--aictl PATH] [CHECK...]
#
# It needs a GPU, PyTorch, nvcc and dist/, and takes about 10 minutes on one H200. A check that fails does not stop the
# others; the exit code is 1 when any failed. Raw results and logs go to FOLDER (default: benches/runs/DATE-MACHINE).
set -uo pipefail
cd "$(dirname "$0")/../.."

python=${PYTHON:-python3}
out=benches/runs/$(date +%F)-$(uname -n)
passed_on=()
checks=()
while (($#)); do
    case $1 in
    --out) out=$2 && shift 2 ;;
    --lib | --aictl) passed_on+=("$1" "$2") && shift 2 ;;
    -*) echo "usage: $0 [--out FOLDER] [--lib PATH] [--aictl PATH] [CHECK...]" >&2 && exit 2 ;;
    *) checks+=("$1") && shift ;;
    esac
done
# What takes little comes first: a broken build shows itself within the first half minute.
((${#checks[@]})) || checks=(static_cudart fidelity host_memory reuse slab_stall loader processes launch_counts copies copies_torch bits overhead gpu_time)
mkdir -p "$out"

# The defaults, made smaller where that saves minutes and costs little.
arguments_of() {
    case $1 in
    bits) echo --requests 10 ;;
    overhead) echo --pairs 5 ;;
    gpu_time) echo --works train bert_graph ;;
    host_memory) echo --pairs 1 ;;
    copies) echo --quick ;;
    copies_torch) echo --pairs 1 ;;
    esac
}

run_check() {
    local check=$1 began=$SECONDS result
    echo "== $check"
    # shellcheck disable=SC2046  # the arguments are words
    timeout -k 15 300 "$python" "benches/gpu/$check.py" --out "$out" "${passed_on[@]}" $(arguments_of "$check") 2>&1 |
        tee "$out/$check.log"
    result=${PIPESTATUS[0]}
    echo "($((SECONDS - began)) s)"
    ((result == 0))
}

{
    date --iso-8601=seconds
    uname -srm
    nproc
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
    "$python" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda)'
    sha256sum dist/libaishim.so
} >"$out/machine.txt" 2>&1
cat "$out/machine.txt"

failed=0
for check in "${checks[@]}"; do
    run_check "$check" || failed=1
done

{
    echo
    echo "check: result"
    for check in "${checks[@]}"; do
        grep "^$check: " "$out/$check.log" | tail -n 1 | grep . || echo "$check: FAIL: ended without a verdict"
    done
} | tee "$out/summary.txt"
exit "$failed"
