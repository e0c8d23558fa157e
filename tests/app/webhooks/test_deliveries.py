"""From a job's event to the receiver: once at least, signed, and never without the event."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.db import Database, db_now
from app.db.tables import Job, JobKind, Project, Webhook, WebhookDelivery, new_id
from app.jobs import state_machine
from app.jobs.outputs import records
from app.jobs.state_machine import enqueue
from app.jobs.webhooks.deliveries import Claim, claim, forget_old, record, retry_delay
from app.jobs.webhooks.sender import send
from app.settings import Settings
from surgery.io.reporter import CheckpointSummary
from surgery.schemas.resolved import Learned
from tests.support.outside.receiver import Receiver, receiver
from tests.support.service.queued_jobs import take
from worker.supervisor.upkeep.deliverer import Deliverer

Json = dict[str, Any]
Create = Callable[..., Json]
ALL = [
    "job.queued", "job.running", "job.paused", "job.succeeded", "job.failed", "job.cancelled",
    "checkpoint.created",
]  # fmt: skip


def submit(database: Database, **values: Any) -> str:
    fields = {"labels": {"team": "search"}, "model": "m", "dataset": "d", "digest": "x"}
    job = Job(
        id=new_id("ft"), kind=JobKind.FINETUNE, spec={}, resolved={}, max_attempts=1,
        **{**fields, **values},
    )  # fmt: skip
    with database.write() as session:
        enqueue(session, job)
    return job.id


def deliver(database: Database, settings: Settings) -> list[Claim]:
    """Send what is due, as a worker does, until nothing is."""
    sent = []
    while claimed := claim(database):
        answer = send(
            claimed.url, claimed.id, claimed.body, claimed.secrets, settings.webhook_networks
        )
        record(database, claimed, answer)
        sent.append(claimed)
    return sent


def make_due(database: Database) -> None:
    """What waits for its next attempt need not wait any longer."""
    with database.write() as session:
        session.execute(
            update(WebhookDelivery)
            .where(WebhookDelivery.status == "pending")
            .values(next_at=db_now())
        )


def logged(api: TestClient, hook: Json, **query: str) -> list[Json]:
    answer = api.get(f"/v1/webhooks/{hook['id']}/deliveries", params=query)
    assert answer.status_code == 200, answer.text
    listed: list[Json] = answer.json()["data"]
    return listed


def test_a_jobs_life_is_told_as_it_happened(
    database: Database, settings: Settings, new_webhook: Create, hook_receiver: Receiver
) -> None:
    hook = new_webhook(events=ALL)
    job_id = submit(database, name="mine")
    lease = take(database)
    summary = CheckpointSummary(1.0, 5, "delta", {"accuracy": 0.5}, True)
    files = {"a": {"bytes": 3, "sha256": "x"}}
    checkpoint, _ = records.commit_checkpoint(database, lease, "p", files, summary)
    state_machine.finish(database, lease, {"secret": "result"}, Learned())
    deliver(database, settings)
    told = [each.verified(hook["secret"]) for each in hook_receiver.received]
    assert [each["type"] for each in told] == [
        "job.queued", "job.running", "checkpoint.created", "job.succeeded",
    ]  # fmt: skip
    assert told[2]["data"]["checkpoint"] == {
        "id": checkpoint, "step": 5, "epoch": 1.0, "is_best": True,
    }  # fmt: skip
    assert told[3]["data"] == {
        "id": job_id, "kind": "finetune", "status": "succeeded", "name": "mine",
        "metadata": {"team": "search"}, "parent": None, "error_code": None, "checkpoint": None,
        "links": {"self": f"/v1/jobs/{job_id}", "events": f"/v1/jobs/{job_id}/events"},
    }  # fmt: skip
    assert len({each.id for each in hook_receiver.received}) == 4


def test_only_ends_unless_other_types_are_named(
    database: Database, settings: Settings, api: TestClient, new_webhook: Create,
    hook_receiver: Receiver,
) -> None:  # fmt: skip
    hook = new_webhook()
    submit(database)
    state_machine.fail(database, take(database), {"code": "out_of_memory", "detail": "…"})
    cancelled = submit(database)
    api.post(f"/v1/jobs/{cancelled}/cancel")
    deliver(database, settings)
    told = [each.verified(hook["secret"]) for each in hook_receiver.received]
    assert [(each["type"], each["data"]["error_code"]) for each in told] == [
        ("job.failed", "out_of_memory"), ("job.cancelled", told[1]["data"]["error_code"]),
    ]  # fmt: skip


def test_an_event_that_is_rolled_back_is_told_to_nobody(
    database: Database, new_webhook: Create
) -> None:
    new_webhook(events=ALL)
    job = Job(
        id=new_id("rk"), kind=JobKind.RANKING, spec={}, resolved={}, max_attempts=1, labels={},
        model="m", dataset="d", digest="x",
    )  # fmt: skip
    with database.write() as session:
        enqueue(session, job)
        session.rollback()
    assert claim(database) is None
    with database.write() as session:
        enqueue(session, job)
    assert claim(database) is not None


def test_another_projects_jobs_are_not_told(database: Database, new_webhook: Create) -> None:
    new_webhook(events=ALL)
    with database.write() as session:
        session.add(Project(id="pr_other", name="other", limits={}, created_at=db_now()))
    submit(database, project="pr_other")
    assert claim(database) is None


def test_what_fails_is_sent_again_with_the_same_id_until_it_arrives(
    database: Database, settings: Settings, api: TestClient, new_webhook: Create,
    hook_receiver: Receiver,
) -> None:  # fmt: skip
    hook = new_webhook(events=["job.queued"])
    submit(database)
    hook_receiver.will_answer(500, body=b"try later")
    hook_receiver.will_answer(302, location=hook_receiver.url)
    for attempts in (1, 2):
        deliver(database, settings)
        (entry,) = logged(api, hook, status="pending")
        assert len(entry["attempts"]) == attempts
        assert entry["next_attempt_at"] > entry["attempts"][-1]["at"]
        assert deliver(database, settings) == []  # not before its time
        assert api.get(f"/v1/webhooks/{hook['id']}").json()["consecutive_failures"] == attempts
        make_due(database)
    deliver(database, settings)
    (entry,) = logged(api, hook, status="delivered")
    assert [each["status"] for each in entry["attempts"]] == [500, 302, 204]
    assert entry["attempts"][0]["body"] == "try later"
    assert {each.id for each in hook_receiver.received} == {entry["id"]}
    assert api.get(f"/v1/webhooks/{hook['id']}").json()["consecutive_failures"] == 0


def test_the_pauses_grow_for_a_day() -> None:
    middle = [retry_delay(number, 0.5) for number in range(1, 20)]
    assert middle[:5] == [5, 15, 45, 135, 405]
    assert middle == sorted(middle)
    assert middle[-1] == 4 * 3600
    assert retry_delay(1, 0.0) == pytest.approx(4)
    assert retry_delay(1, 1.0) == pytest.approx(6)
    made, passed = 1, 0.0
    while passed + retry_delay(made, 0.5) <= 24 * 3600:
        passed += retry_delay(made, 0.5)
        made += 1
    assert made == 13  # attempts within the day


def test_after_a_day_it_is_given_up_and_can_be_replayed(
    database: Database, settings: Settings, api: TestClient, new_webhook: Create,
    hook_receiver: Receiver,
) -> None:  # fmt: skip
    hook = new_webhook(events=["job.queued"])
    submit(database)
    with database.write() as session:
        session.execute(update(WebhookDelivery).values(retry_until=db_now(1)))
    hook_receiver.will_answer(500, 500)
    deliver(database, settings)
    (entry,) = logged(api, hook, status="failed")
    assert (entry["next_attempt_at"], len(entry["attempts"])) == (None, 1)
    path = f"/v1/webhooks/{hook['id']}/deliveries/{entry['id']}"
    answer = api.post(f"{path}/replay")
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    deliver(database, settings)
    assert api.get(path).json()["status"] == "pending"  # it has another day
    make_due(database)
    deliver(database, settings)
    assert api.get(path).json()["status"] == "delivered"
    assert [each.id for each in hook_receiver.received] == [entry["id"]] * 3


def test_gone_disables_the_webhook(
    database: Database, settings: Settings, api: TestClient, new_webhook: Create,
    hook_receiver: Receiver,
) -> None:  # fmt: skip
    hook = new_webhook(events=["job.queued"])
    for _ in range(2):
        submit(database)
    hook_receiver.will_answer(410)
    deliver(database, settings)
    assert len(hook_receiver.received) == 1
    shown = api.get(f"/v1/webhooks/{hook['id']}").json()
    assert (shown["enabled"], shown["disabled_reason"]) == (
        False, "its receiver answered 410 Gone",
    )  # fmt: skip
    assert [each["status"] for each in logged(api, hook)] == ["failed", "failed"]
    submit(database)
    assert len(logged(api, hook)) == 2
    assert api.post(f"/v1/webhooks/{hook['id']}/test").status_code == 409
    assert api.patch(f"/v1/webhooks/{hook['id']}", json={"enabled": True}).json()["enabled"]
    submit(database)
    deliver(database, settings)
    assert logged(api, hook)[0]["status"] == "delivered"


def test_both_secrets_sign_while_one_is_replaced(
    database: Database, settings: Settings, api: TestClient, new_webhook: Create,
    hook_receiver: Receiver,
) -> None:  # fmt: skip
    hook = new_webhook(events=["job.queued"])
    path = f"/v1/webhooks/{hook['id']}"
    first = hook["secret"]

    def signers(*secrets: str) -> list[bool]:
        submit(database)
        deliver(database, settings)
        return [hook_receiver.received[-1].is_signed_with(secret) for secret in secrets]

    second = api.post(f"{path}/rotate", json={"old_secret_seconds": 3600}).json()["secret"]
    assert signers(first, second) == [True, True]
    with database.write() as session:  # the hour passes
        session.execute(update(Webhook).values(old_secret_expires_at=db_now(-1)))
    assert signers(first, second) == [False, True]
    third = api.post(f"{path}/rotate", json={}).json()["secret"]
    assert signers(first, second, third) == [False, True, True]
    shown = api.patch(path, json={"old_secret_seconds": 0}).json()
    assert shown["old_secret_expires_at"] is None
    assert "secret" not in shown
    assert signers(first, second, third) == [False, False, True]


def test_a_test_event_takes_the_same_way(
    database: Database, settings: Settings, api: TestClient, new_webhook: Create,
    hook_receiver: Receiver,
) -> None:  # fmt: skip
    hook = new_webhook()
    answer = api.post(f"/v1/webhooks/{hook['id']}/test")
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    deliver(database, settings)
    told = hook_receiver.received[0].verified(hook["secret"])
    assert (told["type"], told["data"]) == ("webhook.test", {"webhook": hook["id"]})
    assert api.get(answer.headers["location"]).json()["status"] == "delivered"


SENDS = """
import sys
from app.db import Database
from app.settings import Settings
from worker.supervisor.upkeep.deliverer import Deliverer
Deliverer(Settings(webhook_networks="127.0.0.0/8"), Database(sys.argv[1])).start()
sys.stdin.read()
"""


def test_a_worker_that_is_killed_while_it_sends_loses_nothing(
    database: Database, settings: Settings, new_webhook: Create, hook_receiver: Receiver
) -> None:
    hook = new_webhook(events=["job.queued"])
    submit(database)
    hook_receiver.silent.set()
    command = [sys.executable, "-c", SENDS, database.url]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE) as worker:
        first = hook_receiver.wait()  # claimed and on its way, but never answered
        worker.kill()
    hook_receiver.silent.clear()
    assert claim(database) is None  # the claim holds for as long as sending could take
    make_due(database)
    (again,) = deliver(database, settings)
    second = hook_receiver.received[-1]
    assert again.id == first.id == second.id
    assert first.verified(hook["secret"]) == second.verified(hook["secret"])


def test_a_claim_that_is_dropped_comes_back(
    database: Database, settings: Settings, new_webhook: Create, hook_receiver: Receiver
) -> None:
    """A worker that dies after its claim and before it sends."""
    new_webhook(events=["job.queued"])
    submit(database)
    dropped = claim(database)
    assert dropped is not None
    make_due(database)
    (sent,) = deliver(database, settings)
    assert (sent.id, sent.number) == (dropped.id, 2)


def test_a_late_report_of_a_lapsed_claim_decides_nothing(
    database: Database, settings: Settings, api: TestClient, new_webhook: Create,
    hook_receiver: Receiver,
) -> None:  # fmt: skip
    hook = new_webhook(events=["job.queued"])
    submit(database)
    lapsed = claim(database)
    assert lapsed is not None
    make_due(database)
    deliver(database, settings)
    hook_receiver.will_answer(500)
    answer = send(lapsed.url, lapsed.id, lapsed.body, lapsed.secrets, settings.webhook_networks)
    record(database, lapsed, answer)
    (entry,) = logged(api, hook)
    assert (entry["status"], [each["status"] for each in entry["attempts"]]) == (
        "delivered", [204, 500],
    )  # fmt: skip


def test_a_slow_receiver_holds_up_no_other(
    database: Database, settings: Settings, api: TestClient, new_webhook: Create,
    hook_receiver: Receiver,
) -> None:  # fmt: skip
    new_webhook(events=["job.queued"])
    hook_receiver.silent.set()
    with receiver() as quick:
        api.post("/v1/webhooks", json={"url": quick.url, "events": ["job.queued"]})
        for _ in range(3):
            submit(database)
        deliverer = Deliverer(settings, database)
        deliverer.start()
        hook_receiver.wait()
        quick.wait(3)
        assert len(hook_receiver.received) == 1  # one at a time to each webhook
        hook_receiver.silent.clear()
        deliverer.stop()


def test_a_deleted_webhook_fails_no_job(
    database: Database, settings: Settings, api: TestClient, new_webhook: Create
) -> None:
    hook = new_webhook(events=ALL)
    submit(database)
    claimed = claim(database)
    assert claimed is not None
    assert api.delete(f"/v1/webhooks/{hook['id']}").status_code == 204
    answer = send(claimed.url, claimed.id, claimed.body, claimed.secrets, settings.webhook_networks)
    record(database, claimed, answer)
    state_machine.finish(database, take(database), {}, Learned())
    assert claim(database) is None
    assert api.get(f"/v1/webhooks/{hook['id']}/deliveries").status_code == 404


def test_the_log_forgets_after_a_month(
    database: Database, api: TestClient, new_webhook: Create, settings: Settings
) -> None:
    hook = new_webhook(events=["job.queued"])
    submit(database)
    submit(database)
    deliver(database, settings)
    (newer, older) = logged(api, hook)
    with database.write() as session:
        row = session.get_one(WebhookDelivery, older["id"])
        row.created_at -= timedelta(days=31)
    forget_old(database)
    assert [each["id"] for each in logged(api, hook)] == [newer["id"]]
