"""The environment variables of the fetcher and the child, and the files that they may use."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.settings import Settings
from surgery.schemas.jobs.export import Destination
from worker.confinement import Confinement, machine_memory

# No addresses of the database, the broker or a proxy: they hold passwords. No keys.
PASSED_ON = (
    *("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"),
)
# How the processes of one job communicate: interfaces, transports, time limits.
PASSED_PREFIXES = ("NCCL_", "GLOO_")
# How to reach the Hub; for the fetcher alone.
FETCHING = ("HF_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE")
# How to reach another service; for the publisher alone.
PUBLISHING = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
SERVICES = {
    # MLflow's client writes into the store of its artifacts itself.
    Destination.MLFLOW: ("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_", "DATABRICKS_"),
    Destination.HUB: ("HF_ENDPOINT", "HF_HUB_", "HF_XET_"),
}
"""How the variables begin that belong to the service at a destination."""


@dataclass(frozen=True)
class WorkerFolders:
    """The two folders that belong to one worker.

    Jobs write into ``scratch``. ``inputs`` holds the files that a job reads; they are links, and a
    job may not write through them.
    """

    scratch: Path
    inputs: Path

    @classmethod
    def new(cls, data_dir: Path) -> WorkerFolders:
        """Create the folders of a worker that starts."""
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        folders = cls(data_dir / "scratch" / name, data_dir / "inputs" / name)
        for path in (folders.home, folders.temporary, folders.inputs):
            path.mkdir(parents=True)
        return folders

    @property
    def home(self) -> Path:
        """The home directory of jobs, where libraries keep what they compile."""
        return self.scratch / "home"

    @property
    def temporary(self) -> Path:
        return self.scratch / "tmp"

    def mark_used(self) -> None:
        """Tell the sweepers of other workers that this worker is alive."""
        os.utime(self.scratch)
        os.utime(self.inputs)

    def remove(self) -> None:
        """Delete both folders, when the worker stops."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.rmtree(self.inputs, ignore_errors=True)


def fetcher_environment(settings: Settings) -> dict[str, str]:
    """The environment of the process that fetches models and datasets. It alone gets the token."""
    variables = _passed_on(os.environ, (*PASSED_ON, *FETCHING, "HOME", "TMPDIR"), ())
    variables |= {
        "HF_HOME": str(settings.sources.cache / "huggingface"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if settings.offline:
        variables["HF_HUB_OFFLINE"] = "1"
    if settings.hf_token:
        variables["HF_TOKEN"] = settings.hf_token.get_secret_value()
    return variables


def publisher_environment(settings: Settings, to: Destination) -> dict[str, str]:
    """The environment of the process that hands a model over, with one service's secrets."""
    variables = _passed_on(os.environ, (*PASSED_ON, *PUBLISHING, "HOME", "TMPDIR"), SERVICES[to])
    if to is Destination.HUB and settings.hub_token:
        variables["HF_TOKEN"] = settings.hub_token.get_secret_value()
    return variables | {
        "HF_HOME": str(settings.sources.cache / "huggingface"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
    }


def child_environment(folders: WorkerFolders) -> dict[str, str]:
    """The environment of the process that runs jobs. It holds no secrets."""
    return _passed_on(os.environ, PASSED_ON, PASSED_PREFIXES) | {
        "HOME": str(folders.home),
        "TMPDIR": str(folders.temporary),
        "LOGNAME": "surgeon",  # without it, libraries would read the list of users
        "HF_HOME": str(folders.home / "huggingface"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
        # Threads that spin while they wait for each other lose a time slice at every operation as
        # soon as anything else runs on the machine: steps took 15 times as long when measured.
        # Spinning for about 30 µs, however, avoids a wake-up between two small operations.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
        "PYTHONUNBUFFERED": "1",
        # Deterministic runs need it. CUDA reads it once, at the first matrix product on a GPU.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }


def _passed_on(
    environment: Mapping[str, str], names: tuple[str, ...], prefixes: tuple[str, ...]
) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name in names or name.startswith(prefixes or ("\0",))
    }


def child_confinement(
    settings: Settings, folders: WorkerFolders, *, multi_process: bool = False
) -> Confinement:
    """What the process that runs jobs may use; ``multi_process`` when it starts further ones."""
    cache = settings.sources.cache.resolve()
    read, write = [cache / "models", cache / "datasets"], [cache / "tokens", cache / "prefixes"]
    for folder in (*read, *write):
        folder.mkdir(parents=True, exist_ok=True)
    return Confinement(
        read=(*map(str, read), str(folders.inputs.resolve())),
        write=(*map(str, write), str(folders.scratch.resolve())),
        memory_bytes=settings.job_memory_bytes or machine_memory(),
        multi_process=multi_process,
    )
