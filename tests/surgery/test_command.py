"""`python -m surgery` on local files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from models import TINY
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    rows = [
        f"the {'good' if i % 2 else 'bad'} film number {i},{'pos' if i % 2 else 'neg'}"
        for i in range(60)
    ]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "surgery", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_rank_prints_the_ranking_as_json(mirror: Path, csv: Path) -> None:
    done = run("rank", mirror / "models" / TINY, csv, "--samples", 20, "--max-length", 16)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert sorted(layer["index"] for layer in result["layers"]) == [0, 1, 2, 3]
    assert result["samples"] == 20
    assert "score" in done.stderr.split()


def test_tune_writes_a_folder_transformers_loads(mirror: Path, csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    base = mirror / "models" / TINY
    done = run(
        "tune", base, csv, out, "--top-k", 1, "--samples", 20, "--epochs", 1, "--learning-rate", 1e-3,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (folder,) = out.glob("checkpoint-*")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.label2id == {"neg": 0, "pos": 1}
    before, after = load_file(base / "model.safetensors"), model.bert.state_dict()
    trained = result["trained_layers"][0]
    changed = {name for name, tensor in before.items() if not tensor.equal(after[name])}
    assert changed
    assert all(name.startswith(f"{trained}.") for name in changed)


def test_a_wrong_input_is_a_message_and_exit_code_one(
    mirror: Path, csv: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("text,kind\na,1\n")
    for arguments, words in (
        (("rank", mirror / "models" / TINY, bad), "columns.label"),
        (("rank", tmp_path, csv), "config.json"),
        (("rank", mirror / "models" / TINY, csv, "--samples", 0), "greater than or equal to 2"),
    ):
        done = run(*arguments)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr
