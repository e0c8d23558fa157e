"""Each page of docs/recipes, block by block, on a small model: it says what the service predicts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from surgery.models.blocks import encoder_of
from tests.support.models.mirror import TINY
from tests.support.service.deployment import ROOT
from tests.support.service.services import Running

RECIPES = ROOT / "docs/recipes"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
URL, MODEL = "http://127.0.0.1:8000", "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["a fine sentence", "a poor sentence"]
PAIRS = [("a fine question", "a fine answer"), ("a poor question", "a poor answer")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that the pages upload."""
    texts = [f"a {'fine' if n % 2 else 'poor'} sentence {n},{n % 2}" for n in range(100)]
    pairs = [f"question {n},a {'fine' if n % 2 else 'poor'} answer {n},{n % 2}" for n in range(100)]
    (tmp_path / "texts.csv").write_text("text,label\n" + "\n".join(texts) + "\n")
    (tmp_path / "pairs.csv").write_text("text,text_pair,label\n" + "\n".join(pairs) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def followed(page: str, service: Running, mirror: Path) -> dict[str, Any]:
    """The names of a page's Python once all of its blocks were run."""
    names: dict[str, Any] = {}
    for number, block in enumerate(BLOCK.findall((RECIPES / page).read_text())):
        code = block.replace(URL, service.client.url).replace(MODEL, TINY)
        exec(compile(code, f"block {number} of {page}", "exec"), names)
        if not number:
            names["MODEL"] = str(mirror / "models" / TINY)  # a mirror is no Hub
    return names


def predicted(names: dict[str, Any], service: Running, rows: list[dict[str, str]]) -> np.ndarray:
    """The probabilities that the service gives to the labels of these rows, in their order."""
    body = {"checkpoint": names["tuned"].result.best_checkpoint, "rows": rows, "top": 2}
    result = service.run("predictions", body)["result"]
    return np.array(
        [
            [of[label] for label in result["labels"]]
            for entry in result["predictions"]
            for of in [{each["label"]: each["probability"] for each in entry["probabilities"]}]
        ]
    )


def texts() -> list[dict[str, str]]:
    return [{"text": text} for text in TEXTS]


def test_a_pipeline(embedded_service: Running, mirror: Path) -> None:
    names = followed("pipeline.md", embedded_service, mirror)
    expected = predicted(names, embedded_service, texts())
    for said, row in zip(names["every"](TEXTS), expected, strict=True):
        assert [
            each["score"] for each in sorted(said, key=lambda of: of["label"])
        ] == pytest.approx(row, abs=1e-5)
    assert [each["score"] for each in names["classify"](TEXTS)] == pytest.approx(
        expected.max(1), abs=1e-5
    )


def test_a_cross_encoder(embedded_service: Running, mirror: Path) -> None:
    names = followed("cross-encoder.md", embedded_service, mirror)
    rows = [{"text": first, "text_pair": second} for first, second in PAIRS]
    assert names["probabilities"] == pytest.approx(
        predicted(names, embedded_service, rows), abs=1e-5
    )
    assert names["encoder"].config.id2label == {0: "0", 1: "1"}


def test_a_sentence_transformer(embedded_service: Running, mirror: Path) -> None:
    names = followed("sentence-transformer.md", embedded_service, mirror)
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained("model").eval()
    batch = transformers.AutoTokenizer.from_pretrained("model")(
        TEXTS, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        states = encoder_of(model)(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    expected = ((states * mask).sum(1) / mask.sum(1)).numpy()
    assert names["embeddings"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # PEFT asks for it
def test_an_adapter(embedded_service: Running, mirror: Path, folder: Path) -> None:
    names = followed("peft.md", embedded_service, mirror)
    expected = predicted(names, embedded_service, texts())
    assert names["probabilities"].detach().numpy() == pytest.approx(expected, abs=1e-5)
    classify = transformers.pipeline("text-classification", "merged", device="cpu")
    assert [each["score"] for each in classify(TEXTS)] == pytest.approx(expected.max(1), abs=1e-5)
    assert (folder / "adapter/adapter_config.json").is_file()


@pytest.mark.slow
def test_onnx_runtime(embedded_service: Running, mirror: Path) -> None:
    names = followed("onnx-runtime.md", embedded_service, mirror)
    assert names["probabilities"] == pytest.approx(
        predicted(names, embedded_service, texts()), abs=1e-4
    )
    assert names["labels"] == {"0": "0", "1": "1"}
