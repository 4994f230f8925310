#!/bin/bash
# dockerd.sh start DIR | stop DIR: a private Docker engine, for tests, as root.
#
# Data, sockets and pid file live in DIR; it touches neither the machine's firewall nor its
# network (containers get `none` or `host`). `start` prints the value for DOCKER_HOST.
set -euo pipefail

action=$1 dir=$2

case $action in
start)
    mkdir -p "$dir"
    dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" \
        --host "unix://$dir/docker.sock" --iptables=false --bridge=none \
        >"$dir/log" 2>&1 </dev/null &
    for _ in $(seq 300); do
        if DOCKER_HOST=unix://$dir/docker.sock "${DOCKER:-docker}" info >/dev/null 2>&1; then
            echo "unix://$dir/docker.sock"
            exit
        fi
        kill -0 $! 2>/dev/null || break
        sleep 0.1
    done
    echo "dockerd does not start:" >&2
    tail -5 "$dir/log" >&2
    exit 1
    ;;
stop)
    "$(dirname "$0")/end.sh" "$dir/pid"
    ;;
*) echo "usage: dockerd.sh start|stop DIR" >&2; exit 2 ;;
esac
