# The image of a worker, for NVIDIA GPUs or for CPUs.
#
#   docker build -f docker/worker.Dockerfile -t layer-surgeon-worker:0.1.0-cuda .
#   docker build -f docker/worker.Dockerfile -t layer-surgeon-worker:0.1.0-cpu \
#       --build-arg TORCH_VARIANT=cpu --build-arg TORCH_INDEX_URL=<index of CPU wheels> .
#
# By default, pip on Linux installs torch with CUDA, so no CUDA base image is needed; the host needs
# the driver and the NVIDIA container toolkit. Torch for CPUs is on a separate index, which the
# installation page of PyTorch names; a mirror of it will do, too.
#
# For artifacts in an object store, add its fsspec package: --build-arg STORAGE_PACKAGE=s3fs
# For other trackers than TensorBoard: --build-arg WORKER_EXTRAS=worker,mlflow,wandb

FROM python:3.11.15-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
# The environment has no pip, because nothing is installed in the final image.
RUN python -m venv --without-pip /opt/venv
COPY constraints.txt ./
RUN python -m pip install --constraint constraints.txt hatchling
# Torch is installed first, so that its gigabytes stay cached when the source changes. Only torch
# itself comes from the index of CPU wheels; its dependencies are installed with the rest.
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
# Only the data directory is written to.
ENV PATH="/opt/venv/bin:${PATH}" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    TMPDIR=/var/lib/surgeon/tmp \
    HF_HOME=/var/lib/surgeon/cache/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SURGEON_DATA_DIR=/var/lib/surgeon
# The user has the same ids as in the API's image, because both write to the same volumes.
RUN groupadd --gid 10001 surgeon && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp \
        --shell /usr/sbin/nologin surgeon && \
    install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/surgeon \
        /var/lib/surgeon/artifacts /var/lib/surgeon/cache /var/lib/surgeon/tmp
COPY --from=build /opt/venv /opt/venv
# Python looks for modules in the directory where it is started, so that is empty and read-only.
WORKDIR /opt/surgeon
USER 10001:10001
# On this signal a worker saves the running job's state and gives the job back. Allow it more time
# than SURGEON_GRACE.
STOPSIGNAL SIGTERM
# A worker is healthy while its process that runs jobs exists. Redis and Postgres are not asked,
# because a worker survives their restarts.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import pathlib, sys; sys.exit(not any(b'-m\\0worker.child\\0' in p.read_bytes() for p in pathlib.Path('/proc').glob('[0-9]*/cmdline')))"]
CMD ["surgeon", "worker"]
