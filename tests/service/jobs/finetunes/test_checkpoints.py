"""Checkpoints from a worker to their user: continued, exported, loaded."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
from transformers import AutoTokenizer

from surgeon.client import ApiError
from surgery import load
from surgery.io.folders import is_intact
from tests.support.service.services import Running

MODEL = "tiny/other"  # of two layers: an export takes seconds a layer
TRAINING = {"epochs": 3, "max_length": 32, "batch_size": 100, "learning_rate": 1e-3}


def test_continue_from_a_checkpoint_and_export_the_best(
    embedded_service: Running, mirrors: str, tmp_path: Path
) -> None:
    client = embedded_service.client
    body = {
        "model": MODEL, "dataset": "glue/rte", "training": TRAINING, "checkpoints": {"keep": "all"},
        "selection": {"policy": "layers", "layers": [0]},
    }  # fmt: skip
    first = embedded_service.run("finetunes", body)
    kept = client.checkpoints(first["id"])
    assert len(kept) == 3
    parent = kept[0]["id"]
    client.call("POST", f"/v1/checkpoints/{parent}/pin")
    second = embedded_service.run("finetunes", {
        **body, "continue_from": parent, "selection": {"policy": "layers", "layers": [1]},
        "checkpoints": {"keep": 1, "onnx": True},
    })  # fmt: skip
    best = second["result"]["best_checkpoint"]
    assert second["result"]["onnx"]["max_abs_difference"] < 1e-4
    assert best in {entry["id"] for entry in client.checkpoints(second["id"])}
    folder = client.download(best, tmp_path / "best")
    assert is_intact(folder)
    base = Path(mirrors.split(":", maxsplit=1)[0]) / "models" / MODEL
    rows = ["the dog runs", "an old house is near the big tree"]
    given = AutoTokenizer.from_pretrained(folder)(rows, padding=True, return_tensors="pt")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    taken = {entry.name: given[entry.name].numpy() for entry in session.get_inputs()}
    expected = load(base, folder)(**given).logits.detach().numpy()
    assert session.run(None, taken)[0] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ApiError, match="pinned"):
        client.call("DELETE", f"/v1/checkpoints/{parent}")
    client.call("DELETE", f"/v1/checkpoints/{kept[1]['id']}")
    assert [entry["id"] for entry in client.checkpoints(first["id"])] == [parent, kept[2]["id"]]
