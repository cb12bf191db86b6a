#!/usr/bin/env bash
# Fails if a binary uses a glibc symbol newer than the one given.
#
#   scripts/check-glibc.sh 2.28 FILE...
#
# A library that does not load kills every program of an older system that preloads it.
set -euo pipefail

newest_allowed=${1:?usage: scripts/check-glibc.sh VERSION FILE...}
shift
status=0
for file in "$@"; do
    newest=$(objdump -T "$file" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -uV | tail -n 1)
    if printf '%s\n%s\n' "${newest:-0}" "$newest_allowed" | sort -C -V; then
        echo "$file needs GLIBC_${newest:-none}"
    else
        echo "$file needs GLIBC_$newest, newer than GLIBC_$newest_allowed, for:" >&2
        objdump -T "$file" | grep -F "GLIBC_$newest" >&2
        status=1
    fi
done
exit $status
