#!/bin/sh
# What aischedd costs with 64 clients, of two builds in turn: FOLDER_A and FOLDER_B each have an `aischedd` (dist/ of two checkouts, say). Processor
# time per thread as the kernel accounts it, so that what else the machine does matters little.
#
#   benches/aischedd_cost.sh FOLDER_A FOLDER_B [ROUNDS]
set -eu
[ $# -ge 2 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
a=$(realpath "$1") b=$(realpath "$2")
cd "$(dirname "$0")/.."
cargo test -q -p aischedd --test daemon --no-run
for round in $(seq "${3:-3}"); do
    for folder in "$a" "$b"; do
        echo "# round $round, $folder/aischedd, load $(cut -d' ' -f1-3 /proc/loadavg)"
        AISHIM_DIST=$folder cargo test -q -p aischedd --test daemon cost::sixty_four_clients -- \
            --ignored --nocapture --test-threads 1 | grep -E ' % of a core|turns had'
    done
done
