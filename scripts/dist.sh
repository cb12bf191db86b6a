#!/usr/bin/env bash
# Places what cargo built into dist/, as the README describes it.
#
#   scripts/dist.sh CARGO-OUTPUT-FOLDER
#
# Every file is replaced by a new one, never written into: a program that runs under the old library keeps it.
set -euo pipefail
cd "$(dirname "$0")/.."

built=${1:?usage: scripts/dist.sh CARGO-OUTPUT-FOLDER}
mkdir -p dist/sim dist/examples dist/include

# Debug information goes, the symbol tables stay: profilers and backtraces can still name our functions.
# A name of this run's own in between: two builds at a time must not place each other's files.
place() {
    local stripped=$built/.stripped.$$
    strip --strip-debug -o "$stripped" "$built/$1"
    install -C -m "$3" "$stripped" "dist/$2"
    rm "$stripped"
}

place libaishim.so libaishim.so 644
place aictl aictl 755
place aischedd aischedd 755
place libsimcuda.so sim/libcuda.so.1 644
place vector_add examples/vector_add 755
place neighbours examples/neighbours 755
install -C -m 644 include/aishim.h dist/include/aishim.h

# One library answers to both names; libcuda.so is what a linker and some loaders look for.
ln -sfn libcuda.so.1 dist/sim/libnvidia-ml.so.1
ln -sfn libcuda.so.1 dist/sim/libcuda.so
