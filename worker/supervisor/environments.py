"""What a worker's further processes know of its environment, and what they may touch."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.settings import Settings
from worker.confinement import Confinement, machine_memory

# No database, no broker, no keys, no proxies: their addresses hold passwords.
PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV",
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS",
    "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE",
)  # fmt: skip
# How the processes of one job reach each other: interfaces, transports, time limits.
PASSED_PREFIXES = ("NCCL_", "GLOO_")
# How the Hub is reached, for the process that fetches from it.
FETCHING = ("HF_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE")


@dataclass(frozen=True)
class WorkerFolders:
    """A worker's own folders, one in each of two places that it shares with other workers.

    Jobs write into ``scratch``. ``inputs`` holds what a job is given to read: linked files, which
    nobody may write through their links.
    """

    scratch: Path
    inputs: Path

    @classmethod
    def new(cls, data_dir: Path) -> WorkerFolders:
        """For a worker that starts."""
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        folders = cls(data_dir / "scratch" / name, data_dir / "inputs" / name)
        for path in (folders.home, folders.temporary, folders.inputs):
            path.mkdir(parents=True)
        return folders

    @property
    def home(self) -> Path:
        """Where libraries keep what they compile."""
        return self.scratch / "home"

    @property
    def temporary(self) -> Path:
        """For temporary files."""
        return self.scratch / "tmp"

    def mark_used(self) -> None:
        """Keep the sweepers of other workers from taking them for those of a dead one."""
        os.utime(self.scratch)
        os.utime(self.inputs)

    def remove(self) -> None:
        """When the worker stops."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.rmtree(self.inputs, ignore_errors=True)


def fetcher_environment(settings: Settings) -> dict[str, str]:
    """For the process that fetches models and datasets: it alone has the Hub's token."""
    kept = _passed_on(os.environ, (*PASSED_ON, *FETCHING, "HOME", "TMPDIR"), ())
    kept |= {
        "HF_HOME": str(settings.sources.cache / "huggingface"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if settings.offline:
        kept["HF_HUB_OFFLINE"] = "1"
    if settings.hf_token:
        kept["HF_TOKEN"] = settings.hf_token.get_secret_value()
    return kept


def child_environment(folders: WorkerFolders) -> dict[str, str]:
    """For the process that runs jobs: nothing of it is secret."""
    return _passed_on(os.environ, PASSED_ON, PASSED_PREFIXES) | {
        "HOME": str(folders.home),
        "TMPDIR": str(folders.temporary),
        "LOGNAME": "surgeon",  # asked for by what would else read the list of users
        "HF_HOME": str(folders.home / "huggingface"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
        # Threads that spin while they wait for each other cost a time slice at every operation
        # as soon as anything else runs on the machine: measured 15 times slower steps.
        # Some 30 µs of it, though, spare the wake-up between two small operations.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
        "PYTHONUNBUFFERED": "1",
        # Deterministic runs need it, and it is read once, at the first product on a GPU.
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
    settings: Settings, folders: WorkerFolders, *, several: bool = False
) -> Confinement:
    """What the process that runs jobs keeps; ``several`` where it runs one on several processes."""
    cache = settings.sources.cache.resolve()
    read, write = [cache / "models", cache / "datasets"], [cache / "tokens", cache / "prefixes"]
    for folder in (*read, *write):
        folder.mkdir(parents=True, exist_ok=True)
    return Confinement(
        read=(*map(str, read), str(folders.inputs.resolve())),
        write=(*map(str, write), str(folders.scratch.resolve())),
        memory_bytes=settings.job_memory_bytes or machine_memory(),
        several=several,
    )
