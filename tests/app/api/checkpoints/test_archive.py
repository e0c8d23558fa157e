"""The archives of a stored delta: as it is kept, and put together with its base."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
import transformers
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from surgery.models.blocks import model_inputs
from surgery.schemas.enums import Problem
from tests.support.models.checkpoints import loaded_from, task
from tests.support.models.checkpoints import write_checkpoint as write_base
from tests.support.models.encoders import padded_batch
from tests.support.service.stored import stored

AUTO = {
    Problem.CLASSIFICATION: transformers.AutoModelForSequenceClassification,
    Problem.MULTI_LABEL: transformers.AutoModelForSequenceClassification,
    Problem.REGRESSION: transformers.AutoModelForSequenceClassification,
    Problem.MULTIPLE_CHOICE: transformers.AutoModelForMultipleChoice,
    Problem.TOKEN_CLASSIFICATION: transformers.AutoModelForTokenClassification,
}
CASES = [("bert", problem) for problem in Problem] + [("nomic_bert", Problem.TOKEN_CLASSIFICATION)]


def unpacked(api: TestClient, checkpoint: str, form: str, target: Path) -> set[str]:
    """The names in an archive, which is as long as it said."""
    answer = api.get(f"/v1/checkpoints/{checkpoint}/archive?form={form}")
    assert answer.status_code == 200, answer.text
    assert len(answer.content) == int(answer.headers["content-length"])
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        archive.extractall(target, filter="data")
        return set(archive.getnames())


@pytest.mark.parametrize(("kind", "problem"), CASES)
def test_a_delta_is_downloaded_whole(kind: str, problem: Problem, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    base = write_base(mirror / "models" / "tiny", kind)
    loaded = loaded_from(base, task(problem))
    settings = Settings(data_dir=tmp_path / "data", mirror_dir=str(mirror), offline=True)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as api:
        checkpoint = stored(api, loaded, problem, tmp_path / "ck").id
        delta = unpacked(api, checkpoint, "delta", tmp_path / "delta")
        full = unpacked(api, checkpoint, "full", tmp_path / "full")
    assert full == delta - {"delta.safetensors"} | {"model.safetensors"}
    assert json.loads((tmp_path / "full/surgery.json").read_text())["format"].endswith("full/1")
    card = (tmp_path / "full/README.md").read_text()
    assert f"{AUTO[problem].__name__}.from_pretrained" in card
    assert "delta" not in card
    model = AUTO[problem].from_pretrained(tmp_path / "full").eval()
    batch = model_inputs(model, padded_batch([7, 5], kind=kind, problem=problem))
    with torch.no_grad():
        found, expected = model(**batch).logits, loaded.model(**batch).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], own) for name, own in model.state_dict().items())
