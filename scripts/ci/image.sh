#!/bin/bash
# image.sh NAME [OPTION...]: build an image from our Dockerfile on rml-ci/base:1, without a registry.
#
# The options go to `docker build`. A network's own certificates ($SSL_CERT_FILE) and wheels
# ($PIP_FIND_LINKS) are handed to pip.
set -euo pipefail

name=$1
shift
docker=${DOCKER:-docker}
bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
options=(--build-arg BASE_IMAGE=rml-ci/base:1 --network host --progress plain)
if [ -s "$bundle" ]; then options+=(--secret "id=ca,src=$bundle"); fi
if [ -d "${PIP_FIND_LINKS:-}" ]; then
    tar -C "$PIP_FIND_LINKS" -c . | "$docker" import - rml-ci/wheels:1 >/dev/null
    options+=(--build-arg WHEELS_IMAGE=rml-ci/wheels:1)
fi
DOCKER_BUILDKIT=1 "$docker" build "${options[@]}" "$@" -t "$name" "$(dirname "$0")/../.."
