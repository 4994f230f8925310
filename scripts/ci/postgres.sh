#!/bin/bash
# postgres.sh start DIR | stop DIR: a private PostgreSQL cluster, for tests.
#
# Listens on a free port of the loopback and on a socket in DIR/sock; `start` prints the SQLAlchemy
# URL. Commits are not flushed (FSYNC=on flushes them): a test's data may be lost with the machine. PORT
# asks for a port; TLS, a folder with server.crt and server.key, for connections that are encrypted.
set -euo pipefail

action=$1 dir=$2
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
bin=${bin:-$(dirname "$(command -v initdb)")}

# initdb refuses to run as root
as_owner() {
    local command=(env -i "PATH=$bin:/usr/bin:/bin" LC_ALL=C.UTF-8 "HOME=$dir" "$@")
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid=postgres --regid=postgres --clear-groups "${command[@]}"
    else
        "${command[@]}"
    fi
}

case $action in
start)
    mkdir -p "$dir/sock"
    [ "$(id -u)" != 0 ] || chown postgres:postgres "$dir" "$dir/sock"
    chmod 755 "$dir" "$dir/sock"
    if [ ! -e "$dir/data/PG_VERSION" ]; then
        printf test-only > "$dir/password"
        chmod 644 "$dir/password"
        as_owner initdb -D "$dir/data" -U hpo --auth=scram-sha-256 --pwfile="$dir/password" \
            --no-sync -E UTF8 >"$dir/initdb.log"
    fi
    tls=
    if [ -n "${TLS:-}" ]; then
        as_owner tee "$dir/data/server.crt" <"$TLS/server.crt" >/dev/null
        as_owner tee "$dir/data/server.key" <"$TLS/server.key" >/dev/null
        as_owner chmod 600 "$dir/data/server.key"
        as_owner sed -i 's/^host /hostssl /' "$dir/data/pg_hba.conf"
        tls="-c ssl=on"
    fi
    flush=${FSYNC:-off}
    for _ in 1 2 3; do  # somebody may take the port between asking for it and using it
        port=${PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
        options="-h 127.0.0.1 -p $port -k $dir/sock -c max_connections=100 -c shared_buffers=64MB"
        options+=" $tls -c fsync=$flush -c synchronous_commit=$flush -c full_page_writes=$flush"
        if as_owner pg_ctl -D "$dir/data" -w -t 30 -l "$dir/data/server.log" -o "$options" start \
            >/dev/null </dev/null; then
            # the URL names the default database; tests make their own
            echo "postgresql+psycopg://hpo:test-only@127.0.0.1:$port/postgres"
            exit
        fi
    done
    tail -5 "$dir/data/server.log" >&2
    exit 1
    ;;
stop)
    [ ! -e "$dir/data/postmaster.pid" ] || as_owner pg_ctl -D "$dir/data" -m immediate stop >/dev/null
    ;;
*) echo "usage: postgres.sh start|stop DIR" >&2; exit 2 ;;
esac
