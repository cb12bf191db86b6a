#!/usr/bin/env bash
# What takes too long for every change: all tests again and again, those marked as ignored too (the generated ones make
# new cases each time), loom further than usual, and the fuzz targets where cargo-fuzz and a nightly toolchain are there.
#
#   SOAK_ROUNDS=10 SOAK_FUZZ_SECONDS=300 scripts/soak.sh
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${SOAK_ROUNDS:-10}
fuzz_seconds=${SOAK_FUZZ_SECONDS:-300}

for ((round = 1; round <= rounds; round++)); do
    echo "== round $round of $rounds"
    # What takes ten minutes by itself is done once.
    skip=()
    ((round == 1)) || skip=(--skip two_hundred_processes_that_come_and_go)
    cargo test ${CARGO_FLAGS---locked} --workspace -- --include-ignored "${skip[@]}"
done

echo "== loom"
LOOM_MAX_PREEMPTIONS=4 make --no-print-directory loom

if ! command -v cargo-fuzz >/dev/null || ! rustup toolchain list | grep '^nightly' >/dev/null; then
    echo "The fuzz targets were left out: they need a nightly toolchain and cargo-fuzz (cargo install cargo-fuzz)."
    exit 0
fi
for target in abi/fuzz/fuzz_targets/*.rs sched/fuzz/fuzz_targets/*.rs; do
    name=$(basename "$target" .rs)
    echo "== fuzz $name, $fuzz_seconds s"
    (cd "${target%%/*}" && cargo +nightly fuzz run "$name" -- -max_total_time="$fuzz_seconds")
done
