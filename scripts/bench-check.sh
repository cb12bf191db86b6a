#!/usr/bin/env bash
# Counts with callgrind the instructions that the library adds to one launch, and compares them with the baseline.
#
#   scripts/bench-check.sh [--update]     --update writes the baseline anew, after a change that was meant
#
# Times vary from run to run, instruction counts hardly do: that is what lets a slow creep fail a check. The launches are
# launch-meter's, over a driver that does nothing, once without and once with the preload.
set -euo pipefail
cd "$(dirname "$0")/.."

built=${CARGO_TARGET_DIR:-target}
baseline=benches/baseline/launch.instructions
measured='*launch_meter_measured*'
tolerance_percent=2

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

main() {
    local before now
    install -D -m 644 "$built/release/libnulldriver.so" "$built/null-driver/libcuda.so.1"
    now=$(awk -v with="$(per_launch "$PWD/dist/libaishim.so")" -v without="$(per_launch "")" \
        'BEGIN { printf "%.1f\n", with - without }')
    if [ "${1:-}" = --update ]; then
        write_baseline "$now"
        return
    fi
    [ -e "$baseline" ] || fail "There is no baseline at $baseline yet: 'make bench-check UPDATE=1' writes it."
    before=$(grep -v '^#' "$baseline")
    echo "instructions added to a launch: $now (baseline $before, tolerance $tolerance_percent %)"
    ! more_than "$now" "$before" ||
        fail "A launch costs more than it did. If that is meant, 'make bench-check UPDATE=1' writes a new baseline."
    ! more_than "$before" "$now" || echo "A launch got cheaper: 'make bench-check UPDATE=1' keeps it that way."
}

# All that is executed within launch-meter's measured loop, by launch, with this library preloaded.
per_launch() {
    local launches total
    # Sampling goes by time, so it is off here.
    LD_PRELOAD=$1 LD_LIBRARY_PATH=$built/null-driver AISHIM_DIR=$scratch AISHIM_SAMPLE=off \
        valgrind --quiet --tool=callgrind --callgrind-out-file="$scratch/callgrind.out" --collect-atstart=no \
        --toggle-collect="$measured" "$built/release/launch-meter" --callgrind >"$scratch/output" 2>"$scratch/errors" ||
        fail "launch-meter failed under callgrind:" "$(cat "$scratch/errors")"
    launches=$(sed -n 's/^launches: *//p' "$scratch/output")
    total=$(sed -n 's/^\(summary\|totals\): *//p' "$scratch/callgrind.out" | head -n 1)
    awk -v total="$total" -v launches="$launches" 'BEGIN { printf "%.1f\n", total / launches }'
}

write_baseline() {
    mkdir -p "$(dirname "$baseline")"
    {
        echo "# Instructions that the library adds to one launch, by callgrind, written by 'make bench-check UPDATE=1'."
        echo "# $(rustc --version); $(valgrind --version)"
        echo "$1"
    } >"$baseline"
    echo "$baseline: $1 instructions added to a launch"
}

more_than() {
    awk -v a="$1" -v b="$2" -v t="$tolerance_percent" 'BEGIN { exit !(a > b * (1 + t / 100)) }'
}

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

main "$@"
