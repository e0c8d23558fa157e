"""The presets whose columns are read as they are: a raw row of each, and what is stored of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from surgery.data.presets.tasks import TASKS
from surgery.data.references import materialise, resolve_dataset, resolve_evaluation
from tests.support.rows.presets import SHAPES, put

Raw = dict[str, Any]
# By preset: two raw rows, the labels as index and as name where a task has names; what is stored
# of the first; the index of the second's label.
EXAMPLES: dict[str, tuple[Raw, Raw, Raw]] = {
    "glue/cola": (
        {"sentence": "The cats sleeps.", "label": 0, "idx": 4},
        {"sentence": "The cats sleep.", "label": "acceptable", "idx": 5},
        {"text": "The cats sleeps.", "label": 0},
    ),
    "glue/sst2": (
        {"sentence": "a dull affair ", "label": 0, "idx": 0},
        {"sentence": "a bright affair ", "label": "positive", "idx": 1},
        {"text": "a dull affair ", "label": 0},
    ),
    "glue/mrpc": (
        {"sentence1": "Rain fell .", "sentence2": "Snow fell .", "label": 0, "idx": 9},
        {"sentence1": "Rain fell .", "sentence2": "It rained .", "label": "equivalent", "idx": 12},
        {"text": "Rain fell .", "text_pair": "Snow fell .", "label": 0},
    ),
    "glue/qqp": (
        {"question1": "Why rain?", "question2": "Why snow?", "label": 0, "idx": 1},
        {"question1": "Why rain?", "question2": "Rain, why?", "label": "duplicate", "idx": 2},
        {"text": "Why rain?", "text_pair": "Why snow?", "label": 0},
    ),
    "glue/stsb": (
        {"sentence1": "A man eats.", "sentence2": "A man cooks.", "label": 2.25, "idx": 0},
        {"sentence1": "A man eats.", "sentence2": "A man dines.", "label": 5, "idx": 1},
        {"text": "A man eats.", "text_pair": "A man cooks.", "label": 2.25},
    ),
    "glue/mnli": (
        {"premise": "It rained.", "hypothesis": "It was dry.", "label": 2, "idx": 0},
        {"premise": "It rained.", "hypothesis": "It was wet.", "label": "entailment", "idx": 1},
        {"text": "It rained.", "text_pair": "It was dry.", "label": 2},
    ),
    "glue/mnli_mismatched": (
        {"premise": "It rained.", "hypothesis": "It was May.", "label": 1, "idx": 0},
        {"premise": "It rained.", "hypothesis": "It was dry.", "label": "contradiction", "idx": 1},
        {"text": "It rained.", "text_pair": "It was May.", "label": 1},
    ),
    "glue/qnli": (
        {"question": "Who came?", "sentence": "Ida came.", "label": 0, "idx": 0},
        {"question": "Who left?", "sentence": "Ida came.", "label": "not_entailment", "idx": 1},
        {"text": "Who came?", "text_pair": "Ida came.", "label": 0},
    ),
    "glue/rte": (
        {"sentence1": "Ida came.", "sentence2": "Ida left.", "label": 1, "idx": 0},
        {"sentence1": "Ida came.", "sentence2": "She came.", "label": "entailment", "idx": 1},
        {"text": "Ida came.", "text_pair": "Ida left.", "label": 1},
    ),
    # Of all the tasks of two texts only WNLI has 1 for entailment.
    "glue/wnli": (
        {"sentence1": "The jug leaks; it is old.", "sentence2": "The jug is old.", "label": 1},
        {"sentence1": "The jug leaks.", "sentence2": "It is new.", "label": "not_entailment"},
        {"text": "The jug leaks; it is old.", "text_pair": "The jug is old.", "label": 1},
    ),
    "super_glue/boolq": (
        {"question": "is rye a grass", "passage": "Rye is a grass.", "idx": 0, "label": 1},
        {"question": "is rye a tree", "passage": "Rye is a grass.", "idx": 1, "label": False},
        {"text": "is rye a grass", "text_pair": "Rye is a grass.", "label": 1},
    ),
    "super_glue/cb": (
        {"premise": "A: I doubt it rained.", "hypothesis": "it rained", "idx": 0, "label": 1},
        {"premise": "A: It may.", "hypothesis": "it rained", "idx": 1, "label": "neutral"},
        {"text": "A: I doubt it rained.", "text_pair": "it rained", "label": 1},
    ),
    "super_glue/rte": (
        {"premise": "Ida came.", "hypothesis": "Ida left.", "idx": 0, "label": 1},
        {"premise": "Ida came.", "hypothesis": "She came.", "idx": 1, "label": "entailment"},
        {"text": "Ida came.", "text_pair": "Ida left.", "label": 1},
    ),
    # For evaluation only.
    "glue/ax": (
        {"premise": "Ida came.", "hypothesis": "Ida left.", "label": 1, "idx": 0},
        {"premise": "Ida came.", "hypothesis": "Nobody came.", "label": "contradiction", "idx": 1},
        {"text": "Ida came.", "text_pair": "Ida left.", "label": 1},
    ),
    "super_glue/axb": (
        {"sentence1": "Ida came.", "sentence2": "Ida left.", "label": 1, "idx": 0},
        {"sentence1": "Ida came.", "sentence2": "She came.", "label": "entailment", "idx": 1},
        {"text": "Ida came.", "text_pair": "Ida left.", "label": 1},
    ),
}  # fmt: skip
SECOND = {
    "stsb": 5.0, "mnli": 0, "rte": 0, "wnli": 0, "boolq": 0, "cb": 2, "mnli_mismatched": 2,
    "ax": 2, "axb": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_columns_are_read_in_order_and_labels_by_index_or_name(
    name: str, tmp_path: Path
) -> None:
    first, second, stored = EXAMPLES[name]
    sources = put(tmp_path, name, [first, second, first, second])
    found = resolve_evaluation if TASKS[name].train_on else resolve_dataset
    folder, report = materialise(found(name, sources), sources)
    rows = list(Dataset.from_file(str(folder / "validation.arrow")))
    assert rows[0] == stored
    assert rows[1]["label"] == SECOND.get(name.partition("/")[2], 1)
    assert report.labels == list(TASKS[name].labels)


def test_every_task_has_a_row_worked_by_hand() -> None:
    """Here or, where the texts are built, in test_formats; COPA's in test_choices."""
    assert set(TASKS) == {*EXAMPLES, *SHAPES, "super_glue/axg", "super_glue/copa"}
