"""Each how-to from a file to a right prediction by plain transformers, as its page has it.

And the two that go through an output line by line: what is printed is what they explain.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from surgeon.terminal import terminal
from tests.support.service.services import Json, Running, wait_until
from tests.support.stories.pages import HOW_TO, ID, READING, STORIES, shape
from tests.support.stories.reader import Reader

RIGHT = {
    "route-tickets.md": ["delivery", "billing"],
    "named-entities.md": ["PER becker", "LOC berlin", "LOC san francisco", "ORG western airlines"],
    "tags.md": ["['delivery', 'service']", "['price', 'quality']"],
    "yes-no-questions.md": ["yes", "no"],
}


@pytest.fixture
def reader(embedded_service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Someone with an empty folder and a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal.console, "width", 80)
    monkeypatch.setattr(terminal.errors, "width", 80)
    client = embedded_service.client
    wait_until(lambda: client.call("GET", "/v1/workers")["data"], 60)  # else a warning says so
    return Reader(client.url)


@pytest.mark.slow  # over twenty seconds each
@pytest.mark.parametrize("page", STORIES)
def test_a_page_leads_to_a_right_prediction(
    page: str, reader: Reader, embedded_service: Running
) -> None:
    printed = []
    for shown, given in reader.follow(HOW_TO / page):
        assert shape(shown) in shape(given)
        printed.append(given)
    answers = printed[-1].splitlines()
    if page in RIGHT:
        assert answers == RIGHT[page]
    else:
        alike, unlike = map(float, answers)
        assert alike > unlike + 2, "of 0 to 5"
    check_learned(the_finetune("".join(printed), embedded_service)["result"])


@pytest.mark.slow  # a ranking with its uncertainty takes twenty seconds, six runs a minute
@pytest.mark.parametrize("page", READING)
def test_what_a_page_explains_is_what_is_printed(page: str, reader: Reader) -> None:
    outputs = list(reader.follow(HOW_TO / page))
    assert len(outputs) == 2, "the files, and what is read"
    for shown, given in outputs:
        assert shape(shown) in shape(given)


def the_finetune(printed: str, service: Running) -> Json:
    """The job whose best checkpoint was printed."""
    (checkpoint,) = {found for found in ID.findall(printed) if found.startswith("ck_")}
    job = service.client.call("GET", f"/v1/checkpoints/{checkpoint}")["job"]
    return service.client.job(job)


def check_learned(result: Json) -> None:
    """It is better than a constant prediction by over two standard errors, and says nothing else."""
    name, best = result["primary_metric"], result["best"]
    constant = result["baseline"][name] or 0.0
    assert best["metrics"][name] - constant > 2 * best["noise"]
    assert result["warnings"] == []
    assert result["frozen_verified"]
