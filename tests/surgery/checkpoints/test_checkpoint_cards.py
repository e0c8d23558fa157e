"""The card of a checkpoint: its recipe works, and the Hub understands it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from surgery.checkpoints.card import HEAD_USAGE
from surgery.checkpoints.checkpoint import write_checkpoint
from surgery.checkpoints.merge import RECORD
from surgery.checkpoints.record import CheckpointRecord
from surgery.data.tokens.tokenize import encode
from surgery.schemas.enums import Problem
from tests.support.models.checkpoints import task
from tests.support.models.checkpoints import write_checkpoint as write_base
from tests.support.models.trained_step import AUTO, merged, trained

TAGS = {
    Problem.CLASSIFICATION: "text-classification",
    Problem.MULTI_LABEL: "text-classification",
    Problem.REGRESSION: "text-classification",
    Problem.MULTIPLE_CHOICE: "multiple-choice",
    Problem.TOKEN_CLASSIFICATION: "token-classification",
}
RECIPES = [(form, head, problem) for problem in Problem for form, head in (
    ("full", None), ("delta", Problem.CLASSIFICATION), ("delta", Problem.TOKEN_CLASSIFICATION),
)]  # fmt: skip


@pytest.mark.parametrize(("form", "head", "problem"), RECIPES)
def test_the_recipe_of_the_card_works(
    form: str, head: Problem | None, problem: Problem, tmp_path: Path
) -> None:
    """Run as it stands, whatever head the base has."""
    run = trained(write_base(tmp_path / "base", "bert", head, labels=5), problem)
    folder = run.write(tmp_path / "ck", form)
    text = (folder / "README.md").read_text()
    assert "| accuracy | 0.5000 | 0.4000 |\n| pearson | undefined | undefined |" in text
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = code.replace("<this folder>", str(folder)).replace('"base"', repr(str(run.base)))
    names: dict[str, Any] = {}
    exec(code, names)
    run.gives(names["model"].eval())
    own = encode(task(problem).train, names["tokenizer"], 16).batch([0, 1, 2, 3])
    assert torch.equal(own["input_ids"], run.batch["input_ids"])


def metadata(folder: Path) -> Any:
    """The card's, as the Hub's own library reads it; parsing refuses what it could not show."""
    return ModelCard((folder / "README.md").read_text()).data


@pytest.mark.parametrize("problem", Problem)
def test_the_card_is_one_the_hub_understands(problem: Problem, tmp_path: Path) -> None:
    run = trained(write_base(tmp_path / "base", "bert"), problem)
    run.dataset = {
        "name": "glue/cola", "hub": "nyu-mll/glue", "config": "cola", "revision": None,
        "split": "validation",
    }  # fmt: skip
    data = metadata(run.write(tmp_path / "ck", "delta"))
    assert (data.base_model, data.pipeline_tag) == ("base", TAGS[problem])
    assert data.datasets == ["nyu-mll/glue"]
    assert data.tags == ["layer-surgeon", "surgical-fine-tuning"]
    [result] = data.eval_results  # an undefined metric has no entry
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.5)
    assert (result.task_type, result.dataset_config) == (TAGS[problem], "cola")


def test_a_card_without_metrics_or_dataset(tmp_path: Path) -> None:
    run = trained(write_base(tmp_path / "base", "bert"), Problem.CLASSIFICATION)
    record = CheckpointRecord(
        layers=[], included=["pooler"], problem="classification", labels=["no", "yes"],
        metrics={}, epoch=1, step=1, parent="ck_before",
    )  # fmt: skip
    write_checkpoint(tmp_path / "ck", run.loaded, run.names, "delta", record)
    data = metadata(tmp_path / "ck")
    assert (data.datasets, data.eval_results) == (None, None)
    text = (tmp_path / "ck" / "README.md").read_text()
    assert "fine-tuned on the head alone" in text
    assert "the head, the pooler changed" in text
    assert "has the values of checkpoint ck_before" in text


def test_the_merged_folder_has_the_card_and_record_of_a_full_one(tmp_path: Path) -> None:
    run = trained(write_base(tmp_path / "base", "bert"), Problem.TOKEN_CLASSIFICATION)
    full = run.write(tmp_path / "full", "full")
    together = merged(run, run.write(tmp_path / "delta", "delta"), tmp_path / "merged")
    for name in ("README.md", RECORD):
        assert (together / name).read_text() == (full / name).read_text()


def test_every_problem_has_a_card() -> None:
    assert set(HEAD_USAGE) == set(Problem)
    assert {problem: head.auto_class for problem, head in HEAD_USAGE.items()} == {
        problem: auto.__name__ for problem, auto in AUTO.items()
    }
