"""Fine-tunes asked for with OpenAI's own client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.models.mirror import TINY
from tests.support.service.services import Running

Json = dict[str, Any]
ENDED = {"succeeded", "failed", "cancelled"}
SHORT: Json = {"epochs": 2, "max_length": 16, "seed": 3}
SURGICAL: Json = {"selection": {"policy": "last_k", "k": 1}, "training": SHORT}


@pytest.fixture
def client(embedded_service: Running) -> Iterator[openai.OpenAI]:
    url = f"{embedded_service.client.url}/compat/openai/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("openai") / "plays.jsonl"
    lines = [f'{{"text": "a play of {i} acts", "label": "{"ab"[i % 2]}"}}' for i in range(100)]
    path.write_text("\n".join(lines) + "\n")
    return path


def create(client: openai.OpenAI, file: str, surgical: Json, **more: Any) -> Any:
    method: Any = {"type": "surgical", "surgical": surgical}
    return client.fine_tuning.jobs.create(model=TINY, training_file=file, method=method, **more)


def polled(client: openai.OpenAI, job: str, until: set[str]) -> Any:
    """The job once it has one of these statuses."""
    while (found := client.fine_tuning.jobs.retrieve(job)).status not in until:
        assert found.status not in ENDED, found.error
        time.sleep(0.2)
    return found


def test_a_file_becomes_a_checkpoint(
    client: openai.OpenAI, rows: Path, embedded_service: Running
) -> None:
    file = client.files.create(file=rows, purpose="fine-tune")
    assert (file.filename, file.status) == ("plays.jsonl", "processed")
    assert client.files.retrieve(file.id) == file
    listed = [each.id for each in client.files.list(limit=1)]
    assert file.id in listed
    assert len(set(listed)) == len(listed)

    labels = {"team": "theatre"}
    job = create(client, file.id, SURGICAL, suffix="plays", metadata=labels)
    ended = polled(client, job.id, {"succeeded"})
    assert (ended.model, ended.training_file, ended.seed) == (TINY, file.id, 3)
    assert ended.hyperparameters.n_epochs == 2
    assert ended.finished_at >= ended.created_at
    own = embedded_service.client.job(job.id)
    assert (own["name"], own["metadata"]) == ("plays", labels)
    assert own["result"]["trained_layers"] == ["encoder.layer.3"]
    assert ended.fine_tuned_model == own["result"]["best_checkpoint"]

    events = [each.message for each in client.fine_tuning.jobs.list_events(job.id, limit=2)]
    assert (events[0], events[-1]) == ("The job is succeeded.", "The job is queued.")
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [each.step_number for each in checkpoints] == sorted(
        (each.step_number for each in checkpoints), reverse=True
    )
    assert ended.fine_tuned_model in {each.id for each in checkpoints}
    assert checkpoints[0].metrics.model_extra is not None
    assert "accuracy" in checkpoints[0].metrics.model_extra


def test_lists_go_on_after_a_job_and_filter_by_labels(client: openai.OpenAI, rows: Path) -> None:
    file = client.files.create(file=rows, purpose="fine-tune").id
    made = [create(client, file, SURGICAL, metadata={"list": "a"}).id for _ in range(3)]
    listed = [each.id for each in client.fine_tuning.jobs.list(limit=2)]
    assert listed[:3] == made[::-1]
    assert len(set(listed)) == len(listed)
    with pytest.raises(openai.UnprocessableEntityError, match="no job"):
        client.fine_tuning.jobs.list(after="ft_0")
    found = client.fine_tuning.jobs.list(limit=2, metadata={"list": "a"})
    assert [each.id for each in found] == made[::-1]
    none = client.fine_tuning.jobs.list(metadata={"list": "b"})
    assert list(none) == []
    for job in made:
        client.fine_tuning.jobs.cancel(job)
        polled(client, job, ENDED)


def test_a_job_is_paused_resumed_and_cancelled(client: openai.OpenAI, rows: Path) -> None:
    file = client.files.create(file=rows, purpose="fine-tune").id
    job = create(client, file, {**SURGICAL, "training": {**SHORT, "epochs": 1000}}).id
    client.fine_tuning.jobs.pause(job)
    polled(client, job, {"paused"})
    with pytest.raises(openai.ConflictError, match="in use"):
        client.files.delete(file)
    assert client.fine_tuning.jobs.resume(job).status == "queued"
    client.fine_tuning.jobs.cancel(job)
    assert polled(client, job, {"cancelled"}).error is None
    assert client.files.delete(file).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file)


WRONG: dict[str, tuple[Json, Json, str, str]] = {
    "a misspelt field": ({**SURGICAL, "training": {"epoch": 1}}, {}, "method.surgical.training.epoch", "epochs"),
    "a number missing": ({"selection": {"policy": "top_k"}}, {}, "method.surgical.selection.policy", "needs k"),
    "a layer too many": (
        {"selection": {"policy": "layers", "layers": [99]}}, {}, "method.surgical.selection", "99",
    ),
    "what only the whole says": (
        {"adapter": {"type": "lora"}, "track_ranking": True}, {}, "method.surgical.track_ranking", "",
    ),
    "an unknown model": (SURGICAL, {"model": "tiny/brt"}, "model", TINY),
    "an unknown file": (SURGICAL, {"training_file": "ds_0"}, "training_file", "ds_0"),
    "two seeds": (SURGICAL, {"seed": 4}, "seed", "leave one of them out"),
    "a second file": (SURGICAL, {"validation_file": "ds_0"}, "validation_file", "set aside"),
    "another method": (
        SURGICAL, {"method": {"type": "dpo"}}, "method.type", "surgical",
    ),
    "other hyperparameters": (SURGICAL, {"hyperparameters": {"n_epochs": 2}}, "hyperparameters", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_told_by_the_fields_that_were_sent(
    case: str, client: openai.OpenAI
) -> None:
    surgical, changed, pointer, word = WRONG[case]
    method = {"type": "surgical", "surgical": surgical}
    body: Any = {"model": TINY, "training_file": "glue/rte", "method": method, **changed}
    before = [each.id for each in client.fine_tuning.jobs.list()]
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.fine_tuning.jobs.create(**body)
    error: Any = refused.value.body
    assert error["param"].startswith(pointer), error
    assert word in error["message"], error
    problem = refused.value.response.json()
    assert problem["errors"][0]["pointer"] == "/" + error["param"].replace(".", "/")
    assert [each.id for each in client.fine_tuning.jobs.list()] == before


def test_a_file_with_errors_is_refused(client: openai.OpenAI, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a", "label": "x"}\n{"text": \n')
    with pytest.raises(openai.UnprocessableEntityError, match=r"broken\.jsonl"):
        client.files.create(file=broken, purpose="fine-tune")
    with pytest.raises(openai.UnprocessableEntityError, match="fine-tune"):
        client.files.create(file=broken, purpose="batch")
