#!/usr/bin/env bash
# Builds dist/aishim-VERSION-x86_64-linux.tar.gz, whose binaries run on every x86-64 Linux with glibc 2.28 or newer.
#
# cargo-zigbuild and the ziglang wheel, both from PyPI, link against that glibc whatever this machine's is.
set -euo pipefail
cd "$(dirname "$0")/.."

glibc=2.28
triple=x86_64-unknown-linux-gnu
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
name=aishim-$version-x86_64-linux
target=$PWD/${CARGO_TARGET_DIR:-target}
[[ ${CARGO_TARGET_DIR:-} == /* ]] && target=$CARGO_TARGET_DIR
stage=$target/package/$name

main() {
    tools
    build
    package
    check
    archive
}

tools() {
    local python=target/python/bin/python
    [ -x "$python" ] || python3 -m venv target/python
    "$python" -m pip --disable-pip-version-check install --quiet --only-binary :all: --require-hashes \
        --requirement scripts/release.requirements.txt
    PATH=$PWD/target/python/bin:$PATH
    ! command -v rustup >/dev/null || rustup target add "$triple" >/dev/null 2>&1
}

build() {
    # No path of the machine that builds is to be read in a panic message.
    export RUSTFLAGS="--remap-path-prefix=$PWD=aishim --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
    cargo zigbuild ${CARGO_FLAGS---locked} --release --target "$triple.$glibc" --package aictl --package aischedd

    # zig links its own unwinder into a library. glibc cancels a thread with libgcc's, which hands each frame's handler
    # its own context; where that handler asks another unwinder about it, the program crashes. So we use libgcc's too.
    local libgcc
    libgcc=$(cc -print-file-name=libgcc_s.so.1)
    cargo-zigbuild rustc ${CARGO_FLAGS---locked} --release --target "$triple.$glibc" --package aishim --lib -- \
        -C link-arg="$libgcc"
}

package() {
    local built=$target/$triple/release
    rm -rf "$stage"
    mkdir -p "$stage/bin" "$stage/lib" "$stage/include"
    strip --strip-debug -o "$stage/lib/libaishim.so" "$built/libaishim.so"
    strip --strip-debug -o "$stage/bin/aictl" "$built/aictl"
    strip --strip-debug -o "$stage/bin/aischedd" "$built/aischedd"
    chmod 644 "$stage/lib/libaishim.so"
    install -m 644 include/aishim.h "$stage/include/aishim.h"
    install -m 644 scripts/INSTALL "$stage/INSTALL"
    for document in README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE; do
        [ ! -e "$document" ] || install -m 644 "$document" "$stage/"
    done
}

check() {
    scripts/check-glibc.sh "$glibc" "$stage/lib/libaishim.so" "$stage/bin/aictl" "$stage/bin/aischedd"
    scripts/check-needed.sh "$stage/lib/libaishim.so"
    if ! readelf --wide --dynamic "$stage/lib/libaishim.so" | grep -F 'libgcc_s.so.1' >/dev/null; then
        echo "$stage/lib/libaishim.so carries an unwinder of its own: a thread cancelled in a launch would crash." >&2
        exit 1
    fi
    "$stage/bin/aictl" run -- true
    "$stage/bin/aischedd" --version
}

# The same sources give the same archive: sorted, owned by nobody in particular, dated by the last commit.
archive() {
    local epoch
    epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
    mkdir -p dist
    tar --directory "$target/package" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" \
        --create "$name" | gzip -n >"dist/$name.tar.gz"
    echo "dist/$name.tar.gz"
}

main
