"""A service with an API key, of which a job can fail."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from surgeon.client import Client
from tests.support.models.mirror import TINY
from tests.support.service.orchestrators import KEY, SENSELESS, Asked
from tests.support.service.services import embedded_with


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with rows."""
    path = tmp_path_factory.mktemp("rows") / "train.csv"
    lines = [f"a {'fine' if n % 2 else 'poor'} sentence {n},{n % 2}" for n in range(80)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def asked(mirror: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """A service of which a job can fail."""
    folder = tmp_path_factory.mktemp("orchestrated")
    senseless = folder / "mirror/models" / SENSELESS
    shutil.copytree(mirror / "models" / TINY, senseless)
    config = json.loads((senseless / "config.json").read_text())
    (senseless / "config.json").write_text(json.dumps(config | {"num_attention_heads": 7}))
    mirrors = os.pathsep.join(map(str, (mirror, folder / "mirror")))
    keys = {"SURGEON_API_KEY_HASHES": hashlib.sha256(KEY.encode()).hexdigest()}
    with (
        embedded_with(folder / "data", mirrors, keys) as running,
        Client(running.client.url, KEY) as client,
    ):
        yield Asked(client, client.upload(rows).id)
