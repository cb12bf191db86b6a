#!/usr/bin/env bash
# Fails if a preload library asks the loader for anything but glibc's own libraries and libgcc_s.
#
#   scripts/check-needed.sh LIBRARY
#
# Whatever else it needed would be loaded into every program under it, or keep those programs from starting.
set -euo pipefail

library=${1:?usage: scripts/check-needed.sh LIBRARY}
allowed='^(libc\.so\.6|libm\.so\.6|libdl\.so\.2|libpthread\.so\.0|librt\.so\.1|ld-linux-x86-64\.so\.2|libgcc_s\.so\.1)$'

needed=$(readelf --wide --dynamic "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
foreign=$(grep -Ev "$allowed" <<<"$needed" || true)
if [ -n "$foreign" ]; then
    echo "$library needs more than glibc and libgcc_s:" $foreign >&2
    exit 1
fi
echo "$library needs:" $needed
