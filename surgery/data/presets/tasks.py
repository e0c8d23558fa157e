"""The presets: GLUE and SuperGLUE tasks as their official benchmarks define them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from surgery.data.presets.formats import FORMATS
from surgery.data.rows import RowFormat
from surgery.schemas.data.dataset import Columns
from surgery.schemas.enums import ERROR_METRICS, Problem

_HUBS = {"glue": "nyu-mll/glue", "super_glue": "aps/super_glue"}
LABEL_SET_METRICS = ("micro_f1", "macro_f1", "mean_average_precision", "subset_accuracy")
REGRESSION_METRICS = ("pearson", "spearman", *ERROR_METRICS)
ENTITY_METRICS = ("entity_f1", "entity_precision", "entity_recall")


@dataclass(frozen=True)
class Task:
    """Where a task's data lie, which columns it uses and how it is scored.

    ``labels`` are the official names in index order, empty for regression and multiple choice.
    ``metrics`` are the official ones; the first decides which checkpoint is best. ``questions``
    pairs each value of the question column of a multiple-choice task with the question it stands
    for. ``sizes`` are the published row counts of the official splits. With a ``format``, a model's
    input is built from several columns; ``text``, ``text_pair`` and ``label`` name the main ones. A
    task with ``train_on`` has no train split: it tests models trained on that other task. If a task
    is ``hidden``, the Hub's copy has no labels.
    """

    name: str
    title: str
    hub: str
    config: str
    text: str
    text_pair: str | None
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    label: str = "label"
    problem: Problem = Problem.CLASSIFICATION
    train: str = "train"
    validation: str = "validation"
    choices: tuple[str, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    format: RowFormat | None = None
    train_on: str | None = None
    hidden: bool = False

    @property
    def columns(self) -> Columns:
        """Which column holds the text, the choices and the label."""
        return Columns(
            text=self.text,
            text_pair=self.text_pair,
            choices=list(self.choices) or None,
            label=self.label,
        )


def _task(
    name: str,
    title: str,
    texts: tuple[str, str | None],
    labels: tuple[str, ...],
    metrics: tuple[str, ...],
    **more: Any,
) -> Task:
    """A task whose config on the Hub is the last part of its name, unless ``more`` has another."""
    benchmark, _, short = name.partition("/")
    config = more.pop("config", short)
    return Task(name, title, _HUBS[benchmark], config, *texts, labels, metrics, **more)


def _sizes(train: int, validation: int) -> dict[str, int]:
    return {"train": train, "validation": validation}


_ENTAILMENT = ("entailment", "not_entailment")
_MNLI = ("entailment", "neutral", "contradiction")
_TRUTH = ("False", "True")
_PAIR = ("sentence1", "sentence2")
_NLI = ("premise", "hypothesis")
# The questions of the benchmark's baselines, in the words of the original task (Roemmele et al.,
# 2011).
_COPA_QUESTIONS = (
    ("cause", "What was the CAUSE of this?"),
    ("effect", "What happened as a RESULT?"),
)

_GLUE = (
    _task(
        "glue/cola",
        "Corpus of Linguistic Acceptability",
        ("sentence", None),
        ("unacceptable", "acceptable"),
        ("matthews_correlation",),
        sizes=_sizes(8_551, 1_043),
    ),
    _task(
        "glue/sst2",
        "Stanford Sentiment Treebank",
        ("sentence", None),
        ("negative", "positive"),
        ("accuracy",),
        sizes=_sizes(67_349, 872),
    ),
    _task(
        "glue/mrpc",
        "Microsoft Research Paraphrase Corpus",
        _PAIR,
        ("not_equivalent", "equivalent"),
        ("accuracy", "f1"),
        sizes=_sizes(3_668, 408),
    ),
    _task(
        "glue/qqp",
        "Quora Question Pairs",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        ("accuracy", "f1"),
        sizes=_sizes(363_846, 40_430),
    ),
    _task(
        "glue/stsb",
        "Semantic Textual Similarity Benchmark",
        _PAIR,
        (),
        REGRESSION_METRICS,
        problem=Problem.REGRESSION,
        sizes=_sizes(5_749, 1_500),
    ),
    _task(
        "glue/mnli",
        "Multi-Genre Natural Language Inference, matched",
        _NLI,
        _MNLI,
        ("accuracy",),
        validation="validation_matched",
        sizes=_sizes(392_702, 9_815),
    ),
    _task(
        "glue/mnli_mismatched",
        "Multi-Genre Natural Language Inference, mismatched",
        _NLI,
        _MNLI,
        ("accuracy",),
        validation="validation_mismatched",
        sizes=_sizes(392_702, 9_832),
        config="mnli",
    ),
    _task(
        "glue/qnli",
        "Question Natural Language Inference",
        ("question", "sentence"),
        _ENTAILMENT,
        ("accuracy",),
        sizes=_sizes(104_743, 5_463),
    ),
    _task(
        "glue/rte",
        "Recognizing Textual Entailment",
        _PAIR,
        _ENTAILMENT,
        ("accuracy",),
        sizes=_sizes(2_490, 277),
    ),
    _task(
        "glue/wnli",
        "Winograd Natural Language Inference",
        _PAIR,
        ("not_entailment", "entailment"),
        ("accuracy",),
        sizes=_sizes(635, 71),
    ),
    _task(
        "glue/ax",
        "GLUE diagnostics",
        _NLI,
        _MNLI,
        ("matthews_correlation",),
        validation="test",
        sizes={"test": 1_104},
        train_on="glue/mnli",
        hidden=True,
    ),
)
_SUPER_GLUE = (
    _task(
        "super_glue/boolq",
        "Boolean Questions",
        ("question", "passage"),
        _TRUTH,
        ("accuracy",),
        sizes=_sizes(9_427, 3_270),
    ),
    _task(
        "super_glue/cb",
        "CommitmentBank",
        _NLI,
        ("entailment", "contradiction", "neutral"),
        ("accuracy", "macro_f1"),
        sizes=_sizes(250, 56),
    ),
    _task(
        "super_glue/copa",
        "Choice of Plausible Alternatives",
        ("premise", "question"),
        (),
        ("accuracy",),
        problem=Problem.MULTIPLE_CHOICE,
        choices=("choice1", "choice2"),
        questions=_COPA_QUESTIONS,
        sizes=_sizes(400, 100),
    ),
    _task(
        "super_glue/rte",
        "Recognizing Textual Entailment",
        _NLI,
        _ENTAILMENT,
        ("accuracy",),
        sizes=_sizes(2_490, 277),
    ),
    _task(
        "super_glue/wic",
        "Words in Context",
        _PAIR,
        _TRUTH,
        ("accuracy",),
        sizes=_sizes(5_428, 638),
        format=FORMATS["wic"],
    ),
    _task(
        "super_glue/wsc",
        "Winograd Schema Challenge",
        ("text", None),
        _TRUTH,
        ("accuracy",),
        sizes=_sizes(554, 104),
        format=FORMATS["wsc"],
    ),
    _task(
        "super_glue/multirc",
        "Multi-Sentence Reading Comprehension",
        ("paragraph", "question"),
        _TRUTH,
        ("f1a", "exact_match"),
        sizes=_sizes(27_243, 4_848),
        format=FORMATS["multirc"],
    ),
    _task(
        "super_glue/record",
        "Reading Comprehension with Commonsense Reasoning",
        ("passage", "query"),
        _TRUTH,
        ("f1", "exact_match"),
        label="answers",
        sizes=_sizes(100_730, 10_000),
        format=FORMATS["record"],
    ),
    _task(
        "super_glue/axb",
        "Broadcoverage Diagnostics",
        _PAIR,
        _ENTAILMENT,
        ("matthews_correlation",),
        validation="test",
        sizes={"test": 1_104},
        train_on="super_glue/rte",
    ),
    _task(
        "super_glue/axg",
        "Winogender Schema Diagnostics",
        _NLI,
        _ENTAILMENT,
        ("accuracy", "gender_parity"),
        validation="test",
        sizes={"test": 356},
        format=FORMATS["axg"],
        train_on="super_glue/rte",
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _GLUE + _SUPER_GLUE}


def metrics_for(problem: Problem, labels: Sequence[str]) -> tuple[str, ...]:
    """The metrics for a dataset that is no preset; the first is the primary one."""
    if problem is Problem.REGRESSION:
        return REGRESSION_METRICS
    if problem is Problem.MULTIPLE_CHOICE:
        return ("accuracy",)
    if problem is Problem.MULTI_LABEL:
        return LABEL_SET_METRICS
    if problem is Problem.TOKEN_CLASSIFICATION:
        return (*ENTITY_METRICS, "accuracy") if marks_entities(labels) else ("accuracy", "macro_f1")
    # It is not known which of two classes is the positive one; f1 takes the second.
    return ("accuracy", "f1", "macro_f1") if len(labels) <= 2 else ("accuracy", "macro_f1")


def marks_entities(tags: Sequence[str]) -> bool:
    """Whether tags follow the IOB scheme: ``O``, and ``B-`` and ``I-`` with a type."""
    return any(tag != "O" for tag in tags) and all(
        tag == "O" or (tag[:2] in {"B-", "I-"} and len(tag) > 2) for tag in tags
    )
