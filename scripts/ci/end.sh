#!/bin/bash
# end.sh PIDFILE: asks a server to end, and waits until it has.
set -euo pipefail

[ -e "$1" ] || exit 0
pid=$(cat "$1")
kill "$pid" 2>/dev/null || true
for _ in $(seq 200); do  # it removes its pid file last, and nobody may reap its zombie
    [ -e "$1" ] && kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
done
