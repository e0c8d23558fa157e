"""Models that are made to hang, fill or confuse the API: each is refused, and nothing waits."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import httpx2
import psutil
import pytest

from tests.support.models.mirror import TINY
from tests.support.models.odd_files import ODD, write_odd
from tests.support.service.services import Running, embedded

MOST_BYTES = 500_000_000  # of the API, whatever it was asked for


@pytest.fixture(scope="module")
def service(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("odd")
    write_odd(folder / "mirror" / "models", mirror / "models" / TINY)
    with embedded(folder / "data", str(folder / "mirror")) as running:
        yield running


@pytest.fixture(scope="module")
def answers(service: Running) -> dict[str, httpx2.Response]:
    """What each is answered with while forty others are asked for at once, twice over."""

    def ask(name: str) -> httpx2.Response:
        return httpx2.get(f"{service.client.url}/v1/models/{quote(f'odd/{name}')}", timeout=60)

    with ThreadPoolExecutor(40) as pool:
        found = list(pool.map(ask, [*ODD, *ODD]))
    return dict(zip(ODD, found[len(ODD) :], strict=True))


@pytest.mark.parametrize("name", ODD)
def test_it_is_refused_with_words(answers: dict[str, httpx2.Response], name: str) -> None:
    answer = answers[name]
    assert answer.status_code in {404, 422}, answer.text
    problem = answer.json()
    assert problem["code"] in {"unsafe_files", "unsafe_weights", "model_unsupported"}
    assert "hostname" not in problem["detail"]
    assert "nowhere-at-all" not in problem["detail"]


def test_a_submission_is_refused_as_well(service: Running) -> None:
    for name in ("pipe-config.json", "sparse-60-weights", "looping-tokenizer.json", "type-list"):
        body = {"model": f"odd/{name}", "dataset": "glue/cola"}
        answer = httpx2.post(f"{service.client.url}/v1/rankings", json=body, timeout=60)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/model")


def test_the_api_stays_small(service: Running, answers: dict[str, httpx2.Response]) -> None:
    assert answers
    [api] = service.processes
    status = Path(f"/proc/{api.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    assert psutil.Process(api.pid).is_running()
    assert peak < MOST_BYTES
