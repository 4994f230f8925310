#!/bin/bash
# mariadb.sh start DIR | stop DIR: a private MariaDB server, for tests.
#
# Listens on a free port of the loopback and on a socket in DIR; `start` prints the SQLAlchemy URL.
# Commits are not flushed: a test's data may be lost with the machine. TLS, a folder with
# server.crt and server.key, asks for connections that are encrypted.
set -euo pipefail

action=$1 dir=$2
server=$(type -P mariadbd mysqld /usr/sbin/mariadbd | sed -n 1p)  # head would end before `type`, with pipefail
owner=()
[ "$(id -u)" != 0 ] || owner=(--user=mysql)

ask() { mariadb --no-defaults --socket="$dir/sock" --user="$(id -un)" "$@"; }

case $action in
start)
    mkdir -p "$dir/tmp"
    [ "$(id -u)" != 0 ] || chown mysql:mysql "$dir" "$dir/tmp"
    chmod 755 "$dir"
    is_new=
    if [ ! -d "$dir/data/mysql" ]; then
        is_new=yes
        mariadb-install-db --no-defaults "${owner[@]}" --datadir="$dir/data" \
            --tmpdir="$dir/tmp" --skip-test-db \
            --auth-root-authentication-method=socket >"$dir/install.log" 2>&1 </dev/null \
            || { tail -20 "$dir/install.log" >&2; exit 1; }
    fi
    tls=()
    if [ -n "${TLS:-}" ]; then
        install "${owner[@]/--user=/--owner=}" -m 600 "$TLS"/server.{crt,key} "$dir"
        tls=(--ssl-cert="$dir/server.crt" --ssl-key="$dir/server.key"
            --require-secure-transport=ON)
    fi
    for _ in 1 2 3; do  # somebody may take the port between asking for it and using it
        port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
        "$server" --no-defaults "${owner[@]}" --datadir="$dir/data" --socket="$dir/sock" \
            --tmpdir="$dir/tmp" --pid-file="$dir/pid" --bind-address=127.0.0.1 --port="$port" \
            "${tls[@]}" --innodb-flush-log-at-trx-commit=0 --innodb-buffer-pool-size=64M \
            --max-connections=200 >"$dir/server.log" 2>&1 </dev/null &
        for _ in $(seq 300); do
            if ask --execute 'SELECT 1' >/dev/null 2>&1; then
                if [ -n "$is_new" ]; then
                    ask --execute "CREATE USER hpo@'127.0.0.1' IDENTIFIED BY 'test-only';
                        GRANT ALL ON *.* TO hpo@'127.0.0.1'; CREATE DATABASE studies"
                fi
                # the URL names the default database; tests make their own
                echo "mysql+pymysql://hpo:test-only@127.0.0.1:$port/studies"
                exit
            fi
            kill -0 $! 2>/dev/null || break
            sleep 0.1
        done
    done
    tail -5 "$dir/server.log" >&2
    exit 1
    ;;
stop)
    "$(dirname "$0")/end.sh" "$dir/pid"
    ;;
*) echo "usage: mariadb.sh start|stop DIR" >&2; exit 2 ;;
esac
