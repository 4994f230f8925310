# The worker's image: `rmldnn` and what training needs; neither the driver nor the studies.
#
#   docker build -t "$(python3 hpo/launchers/image.py)" .
#
# With `--target driver`, the same with the driver in it, which runs its workers in its own container
# (deploy/compose.yaml, deploy/kubernetes.yaml):
#
#   docker build --target driver -t rml-optimize/driver:0.1.0 .
#
# Build arguments:
#   BASE_IMAGE    any Linux with Python 3.11 or later and its venv module
#   TORCH_INDEX   a further package index; https://download.pytorch.org/whl/cpu gives an image
#                 of a third of the size, for machines without an NVIDIA GPU
#   WHEELS_IMAGE  an image with wheels in its root, for builds without (all of) an index
# Secret `ca` (optional): the certificate bundle of a network with a proxy of its own,
#   --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt
ARG BASE_IMAGE=python:3.11-slim
ARG WHEELS_IMAGE=scratch

FROM ${WHEELS_IMAGE} AS wheels

FROM ${BASE_IMAGE} AS worker
ARG TORCH_INDEX=

# One layer that changes only with the pinned versions; no cache stays behind, no tests (120 MB)
# and no pip. Byte code is compiled now, on all cores, the standard library's too (official
# images drop it): the root is read-only later, so every trial would compile anew, for more than
# a second. A file that doesn't compile is an old Python's and nobody imports it: `|| true`.
RUN --mount=type=bind,source=constraints.txt,target=/build/constraints.txt \
    --mount=type=bind,from=wheels,target=/build/wheels \
    --mount=type=secret,id=ca,target=/run/secrets/ca.crt \
    if [ -s /run/secrets/ca.crt ]; then export PIP_CERT=/run/secrets/ca.crt; fi \
 && python3 -m venv /opt/rml \
 && /opt/rml/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-compile \
        --constraint /build/constraints.txt --find-links /build/wheels \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        h5py numpy opencv-python-headless pillow pydantic torch \
 && /opt/rml/bin/python -m pip uninstall --yes --quiet pip \
 && find /opt/rml/lib -type d '(' -name test -o -name tests ')' -prune -exec rm -rf '{}' + \
 && { python3 -m compileall -qq -j 0 -x '/tests?/' \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" /opt/rml/lib \
      || true; } \
 && /opt/rml/bin/python -c 'import cv2, h5py, numpy, PIL, pydantic, torch'

# For `mpirun -np N rmldnn`; a base image without apt may bring an MPI of its own, or do without.
RUN if command -v apt-get >/dev/null; then \
        apt-get -qq update \
     && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
            openmpi-bin >/dev/null \
     && rm -rf /var/lib/apt/lists/*; \
    fi

# Open MPI (4 and 5) binds each process to one core and refuses more processes than cores; the
# container's share of the machine is the driver's business.
ENV PATH=/opt/rml/bin:$PATH \
    OMPI_MCA_hwloc_base_binding_policy=none \
    OMPI_MCA_rmaps_base_oversubscribe=1 \
    PRTE_MCA_hwloc_default_binding_policy=none \
    PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HOME=/tmp \
    USER=rml \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/cache/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/tmp/cache/torchinductor

# The engine last: a change of it costs a layer of some hundred kilobytes. It is put beside its
# dependencies instead of being installed, because the distribution holds the driver as well.
COPY trainer /opt/rml/engine/trainer
RUN printf '%s\n' /opt/rml/engine > "$(python -c 'import site; print(site.getsitepackages()[0])')/rml.pth" \
 && printf '%s\n' '#!/opt/rml/bin/python' 'import sys' 'from trainer.cli import main' 'sys.exit(main())' \
        > /opt/rml/bin/rmldnn \
 && chmod 755 /opt/rml/bin/rmldnn \
 && python -m compileall -q /opt/rml/engine && rmldnn --version \
 && mkdir -p /home/ubuntu && chown 1000:1000 /home/ubuntu

LABEL org.opencontainers.image.title="rmldnn" \
      org.opencontainers.image.description="Worker of rml-optimize: trains one segmentation network from one config" \
      org.opencontainers.image.licenses="Apache-2.0"

# Not root, and no passwd entry needed: `docker run -u "$(id -u):$(id -g)"` works as well.
USER 1000:1000
WORKDIR /home/ubuntu
CMD ["rmldnn", "--help"]

FROM worker AS driver
USER root
RUN --mount=type=bind,target=/build,rw \
    --mount=type=secret,id=ca,target=/run/secrets/ca.crt \
    if [ -s /run/secrets/ca.crt ]; then export PIP_CERT=/run/secrets/ca.crt; fi \
 && python3 -m venv /tmp/pip \
 && /tmp/pip/bin/python -m pip --python /opt/rml/bin/python install --no-cache-dir \
        --disable-pip-version-check --constraint /build/constraints.txt \
        '/build[postgres,mysql,dashboard,pretrained]' \
 && rm -rf /tmp/pip /opt/rml/engine "$(python -c 'import site; print(site.getsitepackages()[0])')/rml.pth" \
 && rmldnn --version && rml-optimize --help >/dev/null
LABEL org.opencontainers.image.title="rml-optimize" \
      org.opencontainers.image.description="Driver of rml-optimize with its worker: searches hyperparameters, one node's share"
USER 1000:1000
CMD ["rml-optimize", "--help"]

# The last stage is what `docker build .` makes.
FROM worker
