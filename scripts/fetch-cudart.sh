#!/usr/bin/env bash
# Fetches the real libcudart 12 and 13, with cuda.h, from PyPI into target/cudart/, unless they are there already:
#
#   target/cudart/12/lib/libcudart.so.12    target/cudart/12/include/cuda.h
#   target/cudart/13/lib/libcudart.so.13    target/cudart/13/include/cuda.h
set -euo pipefail
cd "$(dirname "$0")/.."

[ -e target/cudart/12/lib/libcudart.so.12 ] && [ -e target/cudart/13/lib/libcudart.so.13 ] && exit 0

python=target/python/bin/python
[ -x "$python" ] || python3 -m venv target/python
"$python" -m pip --disable-pip-version-check download --quiet --no-deps --only-binary :all: --require-hashes \
    --requirement scripts/cudart.requirements.txt --dest target/wheels

# Unpacked beside its place and renamed into it, so that an interrupted run leaves nothing that looks complete.
unpack() {
    rm -rf target/cudart/unpacking "target/cudart/$2"
    mkdir -p target/cudart/unpacking
    "$python" -m zipfile -e "$1" target/cudart/unpacking
    mv "target/cudart/unpacking/$3" "target/cudart/$2"
    rm -rf target/cudart/unpacking
}

unpack target/wheels/nvidia_cuda_runtime_cu12-*.whl 12 nvidia/cuda_runtime
unpack target/wheels/nvidia_cuda_runtime-13*.whl 13 nvidia/cu13
echo "target/cudart holds libcudart 12 and 13"
