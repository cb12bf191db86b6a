#!/usr/bin/env bash
# Checks that this machine has what a goal needs, and says in one line how to bring what it lacks.
#
#   scripts/setup.sh build|lint|test|release|bench-check
#
# Nothing is ever installed behind the user's back: only as root and with CI=true are the missing packages installed.
set -euo pipefail
cd "$(dirname "$0")/.."

goal=${1:?usage: scripts/setup.sh GOAL}
packages=()

main() {
    require_platform
    require_packages
    require_rust
}

require_platform() {
    local platform
    platform=$(uname -sm)
    [ "$platform" = "Linux x86_64" ] || fail "aishim runs on x86-64 Linux; this machine is $platform."
}

# Each need is tested by what is used of it, not by asking the package manager: a compiler from elsewhere is as good.
require_packages() {
    has cc && has ld && has strip && has readelf && has objdump || packages+=(build-essential)
    case $goal in
    test | release)
        python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3 python3-venv)
        ;;
    esac
    case $goal in
    test) library libjemalloc.so.2 || packages+=(libjemalloc2) ;;
    bench-check) has valgrind || packages+=(valgrind) ;;
    esac
    [ ${#packages[@]} -gt 0 ] || return 0

    has apt-get ||
        fail "Missing here, by the names of Debian and Ubuntu: ${packages[*]}. Install them, then run make again."
    if [ "$(id -u)" = 0 ] && [ "${CI:-}" = true ]; then
        echo "installing ${packages[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
    else
        fail "Something that 'make $goal' needs is missing. This brings it (as root), then run make again:" \
            "    apt-get install -y ${packages[*]}"
    fi
}

require_rust() {
    local needed have
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    local source="from https://rustup.rs: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
    has cargo && have=$(rustc --version 2>/dev/null) || fail "Rust $needed or newer is missing. It comes $source"
    have=$(cut -d' ' -f2 <<<"$have")
    printf '%s\n%s\n' "$needed" "${have%%-*}" | sort -C -V ||
        fail "Rust $needed or newer is needed; here is $have. 'rustup update' brings it, or it comes $source"

    [ "$goal" = lint ] || [ "$goal" = test ] || return 0
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return 0
    if [ "${CI:-}" = true ] && has rustup; then
        rustup component add rustfmt clippy
    else
        fail "Two parts of the Rust toolchain are missing. This brings them: rustup component add rustfmt clippy"
    fi
}

has() {
    command -v "$1" >/dev/null
}

# ldconfig lives in /sbin, which is not on every user's PATH.
library() {
    PATH=$PATH:/sbin:/usr/sbin ldconfig -p | grep -F "$1" >/dev/null
}

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

main
