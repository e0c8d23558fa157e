"""Checks of this machine: what computes, and where models and datasets come from."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from urllib.parse import urlsplit

from app.diagnosis.finding import Finding, broken, doubtful, works
from app.settings import Settings

HUB_SECONDS = 3.0
TORCH_SECONDS = 120.0  # its first import, from a cold disk
# Torch is imported by a process of its own, since it does not belong into this one.
ASK_TORCH = """
import json, torch
names = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "gpus": names}))
"""


def device_findings() -> Iterator[Finding]:
    """Whether jobs can run here, and on which devices."""
    if find_spec("torch") is None:
        yield doubtful(
            "devices",
            "torch is not installed: this machine can run the API, but no worker",
            "for a worker: pip install 'layer-surgeon[worker]'",
        )
        return
    try:
        done = subprocess.run(
            [sys.executable, "-c", ASK_TORCH],
            capture_output=True,
            check=True,
            text=True,
            timeout=TORCH_SECONDS,
        )
        torch = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no message"])[-1]
        yield broken("devices", f"torch cannot be imported: {reason}", "install it again")
        return
    except subprocess.TimeoutExpired:
        yield broken("devices", f"torch took more than {TORCH_SECONDS:g} s to import", "try again")
        return
    yield _devices(torch["version"], torch["cuda"], torch["gpus"])


def _devices(version: str, cuda: str | None, gpus: list[str]) -> Finding:
    if gpus:
        return works("devices", f"torch {version} on {', '.join(gpus)}")
    if shutil.which("nvidia-smi") is not None:
        why = "is a build for CPUs" if cuda is None else f"for CUDA {cuda} finds no usable GPU"
        return doubtful(
            "devices",
            f"there is an NVIDIA driver, but torch {version} {why}",
            "install a torch that fits the driver; see nvidia-smi and CUDA_VISIBLE_DEVICES",
        )
    return works("devices", f"torch {version} on {os.cpu_count()} processor cores, without a GPU")


def source_findings(settings: Settings) -> Iterator[Finding]:
    """Whether the mirrors are there, and whether the Hugging Face Hub can be reached."""
    for folder in settings.sources.mirrors:
        if not folder.is_dir():
            yield broken("mirror", f"{folder} is not a folder", "correct SURGEON_MIRROR_DIR")
        elif not os.access(folder, os.R_OK | os.X_OK):
            yield broken("mirror", f"{folder} cannot be read", "correct its permissions")
        else:
            yield works("mirror", f"{folder} can be read")
    if settings.offline:
        yield works("hub", "is never asked, as SURGEON_OFFLINE says")
        return
    yield _hub(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")


def _hub(endpoint: str) -> Finding:
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), HUB_SECONDS):
            return works("hub", f"{parts.hostname} can be reached")
    except OSError as error:
        return doubtful(
            "hub",
            f"{parts.hostname} cannot be reached: {error.strerror or error}",
            "models and datasets come from mirrors alone: set SURGEON_OFFLINE=true, so that "
            "nothing waits for the Hub, or correct HF_ENDPOINT",
        )
