#!/bin/bash
# base-image.sh NAME: make a base image for the Dockerfile without a registry.
#
# From this machine's own files where its Python is a self-contained installation (10 s, no
# network), else with debootstrap. Users don't need it: their builds pull python:3.11-slim.
set -euo pipefail

name=$1
docker=${DOCKER:-docker}
python=$(${PYTHON:-python3} -c 'import os, sys; print(os.path.realpath(sys.executable))')
prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

import() {
    tar -C "$root" --owner=0 --group=0 -c . \
        | "$docker" import -c 'ENV PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8' - "$name" >/dev/null
}

if [ "$prefix" = /usr ]; then
    # the distribution's Python is spread over /usr: fetch a clean one
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv \
        bookworm "$root" >/dev/null
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/dev/*
    import
    exit
fi

mkdir -p "$root"/{usr/{bin,lib,lib64,local},etc/ssl/certs,tmp,proc,sys,dev,run,home}
chmod 1777 "$root/tmp"
for folder in bin lib lib64; do ln -s "usr/$folder" "$root/$folder"; done

tar -C "$prefix" -c --exclude='./lib/python3*/site-packages' --exclude='./lib/python3*/test' \
    --exclude='./lib/python3*/idlelib' --exclude='./lib/python3*/tkinter' --exclude='*.a' \
    --exclude='./share' --exclude='./include' . | tar -C "$root/usr/local" -x

programs=()
for program in sh cat chmod chown cp env find id ln ls mkdir mv rm sleep touch true; do
    programs+=("$(readlink -f "$(PATH=/usr/bin:/bin type -P "$program")")")
    cp "${programs[-1]}" "$root/usr/bin/$program"
done

# what the programs, Python and its extension modules are linked against, and what the manylinux
# wheels expect of any system
expected=(/usr/lib/"$(uname -m)"-linux-gnu/lib{c,m,stdc++,dl,gcc_s,pthread,resolv,rt,util,nss_dns}.so.[0-9])
{
    printf '%s\n' "${expected[@]}"
    {
        printf '%s\n' "${programs[@]}" "${expected[@]}" "$python"
        find "$prefix" -name '*.so*' -type f -not -path '*/site-packages/*'
    } | xargs -n 50 ldd 2>/dev/null | grep -oP '(=> |^\t)\K/\S+'
} | grep -v "^$prefix" | sort -u | while read -r library; do
    target=$root/usr/${library#/}
    target=${target/\/usr\/usr\//\/usr\/}
    mkdir -p "${target%/*}"
    cp -L "$library" "$target"
done

printf 'root:x:0:0:root:/root:/bin/sh\n' > "$root/etc/passwd"
printf 'root:x:0:\n' > "$root/etc/group"
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
printf '/usr/local/lib\n' > "$root/etc/ld.so.conf"
/sbin/ldconfig -r "$root"
import
