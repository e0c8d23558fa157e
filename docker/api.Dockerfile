# The API and the migrations: no torch.
#
#   docker build -f docker/api.Dockerfile -t layer-surgeon-api:0.1.0 .
#
# For artifacts in an object store add its fsspec package: --build-arg STORAGE_PACKAGE=s3fs

FROM python:3.11.15-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
# Without pip: the final image installs nothing.
RUN python -m venv --without-pip /opt/venv
COPY constraints.txt ./
RUN python -m pip install --constraint constraints.txt hatchling
COPY pyproject.toml README.md LICENSE ./
COPY alembic alembic
COPY surgery surgery
COPY app app
COPY worker worker
COPY surgeon surgeon
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .
ARG STORAGE_PACKAGE=""
RUN set -- /wheels/*.whl && \
    python -m pip --python /opt/venv/bin/python install --constraint constraints.txt \
        "$1[server]" ${STORAGE_PACKAGE:+"${STORAGE_PACKAGE}"}

FROM python:3.11.15-slim-bookworm
LABEL org.opencontainers.image.title="layer-surgeon-api" \
      org.opencontainers.image.licenses="Apache-2.0"
# The data directory is the only place written to. Uploads are spooled to TMPDIR: on the volume, as
# /tmp is memory where the root is read-only.
ENV PATH="/opt/venv/bin:${PATH}" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    TMPDIR=/var/lib/surgeon/tmp \
    HF_HOME=/var/lib/surgeon/cache/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    SURGEON_DATA_DIR=/var/lib/surgeon
RUN groupadd --gid 10001 surgeon && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp \
        --shell /usr/sbin/nologin surgeon && \
    install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/surgeon \
        /var/lib/surgeon/artifacts /var/lib/surgeon/cache /var/lib/surgeon/tmp
COPY --from=build /opt/venv /opt/venv
# Empty and root's: Python looks for modules where it is started.
WORKDIR /opt/surgeon
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client as h, sys; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
CMD ["surgeon", "api", "--host", "0.0.0.0", "--port", "8000"]
