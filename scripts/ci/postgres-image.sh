#!/bin/bash
# postgres-image.sh NAME: an image of this machine's PostgreSQL, without a registry.
#
# It does as much of Docker Hub's `postgres` as deploy/compose.yaml asks for: POSTGRES_USER,
# POSTGRES_PASSWORD_FILE, data in /var/lib/postgresql/data. Based on rml-ci/base:1. Users don't need
# it: their compose pulls postgres:15.
set -euo pipefail

name=$1
docker=${DOCKER:-docker}
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
version=$(basename "$(dirname "$bin")")
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
root=$context/root
mkdir -p "$root"/{etc,usr/bin,usr/lib/postgresql,usr/share/postgresql,var/lib/postgresql/data}
mkdir -p "$root/var/run/postgresql"
cp -a "${bin%/bin}" "$root/usr/lib/postgresql/"
rm -rf "$root/usr/lib/postgresql/$version/lib"/{llvmjit*,bitcode}  # needs 100 MB of LLVM
cp -a "/usr/share/postgresql/$version" "$root/usr/share/postgresql/"
cp -a /usr/share/zoneinfo "$root/usr/share/"
mkdir -p "$root/usr/lib/locale"
cp -a /usr/lib/locale/C.utf8 "$root/usr/lib/locale/"
cp "$(type -P setpriv)" "$root/usr/bin/"
printf 'root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n' \
    >"$root/etc/passwd"
printf 'root:x:0:\npostgres:x:999:\n' >"$root/etc/group"
{ find "$root" -type f \( -name '*.so' -o -perm -100 \) -print0 | xargs -0 ldd 2>/dev/null || true; } \
    | grep -oP '(=> |^\t)\K/\S+' | sort -u | while read -r library; do
    target=$root/usr/${library#/}
    target=${target/\/usr\/usr\//\/usr\/}
    mkdir -p "${target%/*}"
    cp -L "$library" "$target"
done

cat >"$context/entrypoint" <<'SH'
#!/bin/sh
set -e
as_postgres() { setpriv --reuid=999 --regid=999 --clear-groups "$@"; }
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    cp "$POSTGRES_PASSWORD_FILE" /tmp/password
    chown -R 999:999 "$PGDATA" /var/run/postgresql /tmp/password
    as_postgres initdb -D "$PGDATA" -U "$POSTGRES_USER" -A scram-sha-256 --pwfile=/tmp/password
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_USER" | as_postgres postgres --single -D "$PGDATA" postgres
fi
exec setpriv --reuid=999 --regid=999 --clear-groups "$@"
SH
chmod 755 "$context/entrypoint"
cat >"$context/Dockerfile" <<DOCKER
FROM rml-ci/base:1
COPY root /
COPY entrypoint /
ENV PGDATA=/var/lib/postgresql/data PATH=$bin:/usr/bin:/bin
ENTRYPOINT ["/entrypoint"]
CMD ["postgres", "-c", "listen_addresses=*"]
DOCKER
tar -C "$context" -c . | "$docker" build -q -t "$name" -
