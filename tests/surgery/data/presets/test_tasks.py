from __future__ import annotations

from pathlib import Path

import pytest

from surgery.data.examples import raw_example, read_example
from surgery.data.presets.tasks import TASKS, Task, metrics_for
from surgery.schemas.data.dataset import HUB_DATASET_PATTERN, HubDataset
from surgery.schemas.enums import Problem

DOCS = Path(__file__).parents[4] / "docs" / "tasks.md"
KNOWN_METRICS = {
    "matthews_correlation", "accuracy", "f1", "macro_f1", "pearson", "spearman",
    "rmse", "mae", "f1a", "exact_match", "gender_parity",
}  # fmt: skip
NAMELESS = {Problem.REGRESSION, Problem.MULTIPLE_CHOICE}


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_every_preset_is_complete(task: Task) -> None:
    assert HubDataset(hub=task.hub, config=task.config).hub == task.hub, HUB_DATASET_PATTERN
    assert set(task.metrics) <= KNOWN_METRICS
    assert task.metrics
    assert (task.problem in NAMELESS) == (not task.labels)
    assert (task.problem is Problem.MULTIPLE_CHOICE) == bool(task.choices)
    assert task.columns.misplaced(task.problem) is None
    assert len(set(task.labels)) == len(task.labels)
    assert task.text != task.text_pair != task.label
    if task.train_on:
        assert set(task.sizes) == {task.validation}
        assert TASKS[task.train_on].labels == task.labels
    else:
        assert set(task.sizes) == {"train", "validation"}
    assert (task.format is None) or {task.text, task.label} <= set(task.format.raw)


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_every_preset_has_an_example_that_is_read_as_its_rows_are(task: Task) -> None:
    raw = raw_example(task)
    needed = task.format.raw if task.format else [name for _, name in task.columns.named()]
    assert set(needed) <= set(raw)
    for row in read_example(task):
        assert {"text", "label"} <= set(row)
        if task.labels:
            assert row["label"] in range(len(task.labels))


def test_presets_follow_the_benchmark() -> None:
    assert TASKS["glue/cola"].metrics == ("matthews_correlation",)
    assert TASKS["glue/mrpc"].metrics == ("accuracy", "f1")
    assert TASKS["glue/mnli"].labels == ("entailment", "neutral", "contradiction")
    assert TASKS["super_glue/cb"].labels == ("entailment", "contradiction", "neutral")
    assert TASKS["super_glue/copa"].columns.choices == ["choice1", "choice2"]
    assert TASKS["glue/wnli"].labels == ("not_entailment", "entailment")
    matched, mismatched = TASKS["glue/mnli"], TASKS["glue/mnli_mismatched"]
    assert (matched.train, matched.hub) == (mismatched.train, mismatched.hub)
    assert matched.validation != mismatched.validation
    assert (matched.sizes["validation"], mismatched.sizes["validation"]) == (9_815, 9_832)
    assert TASKS["super_glue/multirc"].metrics == ("f1a", "exact_match")
    assert TASKS["super_glue/record"].metrics == ("f1", "exact_match")


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_the_table_of_presets_is_up_to_date(task: Task) -> None:
    lines = DOCS.read_text().splitlines()
    [line] = [line for line in lines if line.startswith(f"| `{task.name}` | `{task.config}` |")]
    assert " / ".join(f"{size:,}" for size in task.sizes.values()) in line
    assert f"| {', '.join(task.metrics)} |" in line
    if task.labels:
        assert f"| {', '.join(task.labels)} |" in line
    names = task.format.raw if task.format else [name for _, name in task.columns.named()]
    assert f"| {', '.join(f'`{name}`' for name in names)} |" in line


def test_no_task_of_the_benchmarks_is_left_out() -> None:
    glue = "ax cola mnli mnli_mismatched mrpc qnli qqp rte sst2 stsb wnli"
    super_glue = "axb axg boolq cb copa multirc record rte wic wsc"
    assert sorted(TASKS) == [
        *(f"glue/{name}" for name in glue.split()),
        *(f"super_glue/{name}" for name in super_glue.split()),
    ]
    assert [name for name, task in TASKS.items() if task.train_on] == [
        "glue/ax", "super_glue/axb", "super_glue/axg",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("problem", "labels", "metrics"),
    [
        (Problem.CLASSIFICATION, ["a", "b"], ("accuracy", "f1", "macro_f1")),
        (Problem.CLASSIFICATION, ["a", "b", "c"], ("accuracy", "macro_f1")),
        (Problem.REGRESSION, [], ("pearson", "spearman", "rmse", "mae")),
        (Problem.MULTIPLE_CHOICE, ["0", "1"], ("accuracy",)),
        (
            Problem.TOKEN_CLASSIFICATION,
            ["O", "B-PER", "I-PER"],
            ("entity_f1", "entity_precision", "entity_recall", "accuracy"),
        ),
        (Problem.TOKEN_CLASSIFICATION, ["O", "B-", "I-PER"], ("accuracy", "macro_f1")),
        (Problem.TOKEN_CLASSIFICATION, ["O", "S-PER", "B-PER"], ("accuracy", "macro_f1")),
        (Problem.TOKEN_CLASSIFICATION, ["NOUN", "VERB"], ("accuracy", "macro_f1")),
    ],
)
def test_metrics_of_own_data(problem: Problem, labels: list[str], metrics: tuple[str, ...]) -> None:
    assert metrics_for(problem, labels) == metrics
