"""Datasets of a user's own over HTTP: forms, identity by content, findings, deletion."""

from __future__ import annotations

import gzip
import io
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from app.db.tables import JobKind
from app.jobs import state_machine
from app.service import Service
from app.submissions import uploads
from app.submissions.submit import prepare_ranking, submit
from surgery.errors import DatasetNotFound
from surgery.schemas.jobs.ranking import RankingSpec
from surgery.schemas.resolved import Learned
from tests.support.models.mirror import TINY
from tests.support.service.problems import Json, problem, upload


def rows(word: str, count: int = 20) -> list[Json]:
    return [{"text": f"{word} {n}", "label": n % 2} for n in range(count)]


def as_csv(table: list[Json]) -> bytes:
    return b"text,label\n" + b"".join(b"%s,%d\n" % (r["text"].encode(), r["label"]) for r in table)


def as_jsonl(table: list[Json]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table).encode()


def as_parquet(table: list[Json]) -> bytes:
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(table), written)
    return written.getvalue()


FORMS: dict[str, Callable[[list[Json]], bytes]] = {
    "a.csv": as_csv,
    "b.tsv": lambda table: as_csv(table).replace(b",", b"\t").replace(b"\n", b"\r\n"),
    "c.jsonl": as_jsonl,
    "d.parquet": as_parquet,
    "e.csv.gz": lambda table: gzip.compress(as_csv(table)),
    "f.jsonl.zst": lambda table: zstd.compress(as_jsonl(table)),
    "g.csv": lambda table: gzip.compress(as_csv(table)),
}


def service_of(api: TestClient) -> Service:
    found = api.app.state.service  # type: ignore[attr-defined]
    assert isinstance(found, Service)
    return found


def stored(api: TestClient) -> set[str]:
    """The names of what artifact storage holds of datasets."""
    folder = service_of(api).settings.data_dir / "artifacts" / "datasets"
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def scratch(api: TestClient) -> list[Path]:
    return list(service_of(api).settings.data_dir.glob("requests/*"))


def test_equal_rows_are_one_dataset_in_whatever_form(api: TestClient) -> None:
    before = stored(api)
    answers = [upload(api, pack(rows("same")), name) for name, pack in FORMS.items()]
    assert [answer.status_code for answer in answers] == [201] + [200] * (len(FORMS) - 1)
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert {answer.headers["location"] for answer in answers} == {
        f"/v1/datasets/{answers[0].json()['id']}"
    }
    assert len(stored(api) - before) == 1
    assert scratch(api) == []
    other = upload(api, as_csv(rows("same", 21)), "a.csv")
    assert other.status_code == 201
    assert other.json()["id"] != answers[0].json()["id"]


def test_equal_uploads_at_once_are_one_dataset(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked for the content and found none before either is inserted."""
    before, both, insert = stored(api), threading.Barrier(2, timeout=20), uploads._insert

    def at_once(*args: Any) -> None:
        both.wait()
        insert(*args)

    monkeypatch.setattr(uploads, "_insert", at_once)
    names = ["a.csv", "c.jsonl"]
    with ThreadPoolExecutor(2) as pool:
        sent = [pool.submit(upload, api, FORMS[name](rows("race")), name) for name in names]
        answers = [answer.result() for answer in sent]
    assert sorted(answer.status_code for answer in answers) == [200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert stored(api) - before == {answers[0].json()["id"]}


def test_a_failed_insert_leaves_no_bytes(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no")

    before = stored(api)
    monkeypatch.setattr(uploads, "_insert", broken)
    assert upload(api, as_csv(rows("broken"))).status_code == 500
    assert stored(api) == before


def test_an_insert_whose_answer_is_lost_keeps_the_bytes_of_its_row(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = uploads._insert

    def unanswered(*given: Any) -> None:
        insert(*given)
        raise OperationalError("COMMIT", {}, Exception("closed"), connection_invalidated=True)

    before = stored(api)
    monkeypatch.setattr(uploads, "_insert", unanswered)
    table = as_csv(rows("unanswered"))
    assert upload(api, table).status_code == 503
    monkeypatch.undo()
    [kept] = stored(api) - before
    again = upload(api, table)
    assert (again.status_code, again.json()["id"]) == (200, kept)


def test_findings_name_their_rows(api: TestClient) -> None:
    table = rows("found")
    table[4] = {**table[2], "label": 1}
    answer = upload(api, as_csv(table), "mine.csv")
    assert answer.status_code == 201, answer.text
    body = answer.json()
    found = {entry["code"]: entry for entry in body["findings"]}
    example = {"file": "mine.csv", "row": 5, "same_as": {"file": "mine.csv", "row": 3}}
    assert found["conflicting_labels"]["examples"] == [example]
    assert found["repeated_texts"]["count"] == body["duplicates"]["within_train"] == 1
    assert body["warnings"] == [entry["detail"] for entry in body["findings"]]
    assert body["text_lengths"]["longest_at"]["file"] == "mine.csv"


def test_a_bomb_is_refused(api: TestClient) -> None:
    for name, pack in (("t.csv.gz", gzip.compress), ("t.csv.zst", zstd.compress)):
        content = pack(b"text,label\n" + (b"x" * 999 + b",1\n") * 50_000)
        body = problem(upload(api, content, name), 422, "dataset_invalid")
        assert "200 times" in body["detail"]
        assert body["errors"][0]["file"] == name
    assert scratch(api) == []


def test_a_dataset_in_use_is_kept_and_named_jobs_release_it(api: TestClient) -> None:
    body = upload(api, as_csv(rows("used"))).json()
    path = f"/v1/datasets/{body['id']}"
    queued = [
        api.post("/v1/rankings", json={"model": TINY, "dataset": body["id"], "seed": seed}).json()
        for seed in (1, 2)
    ]
    service = service_of(api)
    lease, _ = state_machine.claim(
        service.database, "w", [JobKind.RANKING], service.settings.lease
    ) or (
        None,
        None,
    )
    assert lease is not None
    busy = problem(api.delete(path), 409, "conflict")
    assert all(job["id"] in busy["detail"] for job in queued)
    assert len(busy["errors"]) == 2
    assert body["id"] in stored(api)
    state_machine.finish(service.database, lease, RESULT, Learned())
    done, waiting = sorted(queued, key=lambda job: job["id"] != lease.job_id)
    still = problem(api.delete(path), 409, "conflict")
    assert waiting["id"] in still["detail"]
    assert done["id"] not in still["detail"]
    api.post(f"/v1/jobs/{waiting['id']}/cancel")
    assert api.delete(path).status_code == 204
    assert body["id"] not in stored(api)
    problem(api.get(path), 404, "not_found")
    problem(api.delete(path), 404, "not_found")
    kept = api.get(f"/v1/rankings/{done['id']}").json()
    assert (kept["status"], kept["resolved"]["dataset"]["id"]) == ("succeeded", body["id"])
    assert kept["result"]["layers"][0]["name"] == "encoder.layer.0"
    assert api.get(f"/v1/rankings/{done['id']}/selection?k=1").status_code == 200
    again = api.post("/v1/rankings", json={"model": TINY, "dataset": body["id"]})
    assert "GET /v1/datasets" in problem(again, 422, "dataset_not_found")["detail"]
    assert upload(api, as_csv(rows("used"))).status_code == 201


def test_a_dataset_deleted_while_a_job_is_submitted_is_missed_at_once(api: TestClient) -> None:
    body = upload(api, as_csv(rows("gone"))).json()
    service = service_of(api)
    prepared = prepare_ranking(service, RankingSpec(model=TINY, dataset=body["id"]))
    assert api.delete(f"/v1/datasets/{body['id']}").status_code == 204
    with pytest.raises(DatasetNotFound, match="deleted meanwhile"):
        submit(service, prepared, lambda *_: None)
    problem(api.get(f"/v1/jobs/{prepared.job.id}"), 404, "not_found")


RESULT: Json = {
    "method": "fisher", "aggregate": "trace", "fisher": "empirical", "samples": 8,
    "path": "batched", "warnings": [], "seconds": {},
    "layers": [
        {"rank": i + 1, "name": f"encoder.layer.{i}", "index": i, "score": 1.0, "share": 0.5,
         "ci": None, "p_top_k": None, "parameters": 1}
        for i in range(2)
    ],
    "stability": {"split_half_kendall_tau": None, "rank_confidence": None, "ambiguous_k": None},
    "recommended_k": {"k": 1, "reason": "-"},
    "head": {"source": "new", "warmup_epochs": 0, "warmup_rows": 0, "warmup_loss": None},
}  # fmt: skip
