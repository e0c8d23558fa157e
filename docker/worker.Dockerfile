# A worker, for NVIDIA GPUs or for CPUs.
#
#   docker build -f docker/worker.Dockerfile -t layer-surgeon-worker:0.1.0-cuda .
#   docker build -f docker/worker.Dockerfile -t layer-surgeon-worker:0.1.0-cpu \
#       --build-arg TORCH_VARIANT=cpu --build-arg TORCH_INDEX_URL=<index of CPU wheels> .
#
# The wheel of torch that pip finds by itself on Linux is the CUDA build and brings CUDA along, so no
# CUDA base image is needed: the host has the driver and the NVIDIA container toolkit. CPU builds
# are on an index of their own: PyTorch's installation page names it, or use your own mirror.
#
# For artifacts in an object store add its fsspec package: --build-arg STORAGE_PACKAGE=s3fs
# For trackers beside TensorBoard: --build-arg WORKER_EXTRAS=worker,mlflow,wandb

FROM python:3.11.15-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
# Without pip: the final image installs nothing.
RUN python -m venv --without-pip /opt/venv
COPY constraints.txt ./
RUN python -m pip install --constraint constraints.txt hatchling
# torch first: gigabytes that stay cached while the source changes. Only torch comes from the index
# of CPU wheels, what it needs comes with the rest.
ARG TORCH_VARIANT=cuda
ARG TORCH_INDEX_URL=""
RUN set -- python -m pip --python /opt/venv/bin/python install && \
    case "${TORCH_VARIANT}" in \
        cuda) "$@" --constraint constraints.txt torch==2.13.0 ;; \
        cpu) test -n "${TORCH_INDEX_URL}" || { echo "set TORCH_INDEX_URL for a CPU build" >&2; exit 1; }; \
            "$@" --no-deps --index-url "${TORCH_INDEX_URL}" torch==2.13.0 ;; \
        *) echo "TORCH_VARIANT is cuda or cpu, not ${TORCH_VARIANT}" >&2; exit 1 ;; \
    esac
COPY pyproject.toml README.md LICENSE ./
COPY alembic alembic
COPY surgery surgery
COPY app app
COPY worker worker
COPY surgeon surgeon
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .
ARG STORAGE_PACKAGE=""
ARG WORKER_EXTRAS="worker"
RUN set -- /wheels/*.whl && \
    python -m pip --python /opt/venv/bin/python install --constraint constraints.txt \
        "$1[${WORKER_EXTRAS}]" ${STORAGE_PACKAGE:+"${STORAGE_PACKAGE}"} && \
    /opt/venv/bin/python -c "import sys, torch; built = 'cuda' if torch.version.cuda else 'cpu'; sys.exit(built != '${TORCH_VARIANT}' and 'torch is built for ' + built)"

FROM python:3.11.15-slim-bookworm
LABEL org.opencontainers.image.title="layer-surgeon-worker" \
      org.opencontainers.image.licenses="Apache-2.0"
# The data directory is the only place written to.
ENV PATH="/opt/venv/bin:${PATH}" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    TMPDIR=/var/lib/surgeon/tmp \
    HF_HOME=/var/lib/surgeon/cache/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SURGEON_DATA_DIR=/var/lib/surgeon
# The ids are the API's: both write the same volumes.
RUN groupadd --gid 10001 surgeon && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp \
        --shell /usr/sbin/nologin surgeon && \
    install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/surgeon \
        /var/lib/surgeon/artifacts /var/lib/surgeon/cache /var/lib/surgeon/tmp
COPY --from=build /opt/venv /opt/venv
# Empty and root's: Python looks for modules where it is started.
WORKDIR /opt/surgeon
USER 10001:10001
# Saves the running job's state and gives the job back; give it more than SURGEON_GRACE to do so.
STOPSIGNAL SIGTERM
# Healthy while it keeps the process that runs jobs. Redis and Postgres are not asked: a worker
# outlives their restarts.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import pathlib, sys; sys.exit(not any(b'-m\\0worker.child\\0' in p.read_bytes() for p in pathlib.Path('/proc').glob('[0-9]*/cmdline')))"]
CMD ["surgeon", "worker"]
