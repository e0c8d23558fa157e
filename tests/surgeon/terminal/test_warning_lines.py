"""What tables say of constant predictions, and of what to try, in the command line's options."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console, RenderableType

from app.api.examples import answers
from surgeon.terminal import terminal
from surgeon.terminal.html import job_html
from surgeon.terminal.results.comparisons import comparison_view
from surgeon.terminal.tables import finetune_view
from surgeon.terminal.wording import OF_JOBS, warning_lines
from surgery.command_line.wording import Words, fault_lines
from surgery.evaluation.comparison import comparison_table
from surgery.evaluation.learning import ABOVE, LOWER_RATE, MORE, NO_BETTER
from surgery.schemas import JobWarning
from tests.support.service.finished_runs import METRIC, finetune_result, grid, plan

JOB = answers.RANKING
RESULTS = {
    "ranking": answers.RANKING_RESULT,
    "finetune": answers.FINETUNE_RESULT,
    "search": answers.SEARCH_RESULT,
    "comparison": answers.COMPARISON_RESULT,
}
BASELINE = {METRIC: 0.55}
BAD = JobWarning(code=NO_BETTER, message="no better", remedy=LOWER_RATE)


def printed(view: RenderableType) -> list[str]:
    text = StringIO()
    Console(width=200, file=text).print(view)
    return [line.rstrip() for line in text.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("remedy", "shown"),
    [
        ("lower training.learning_rate", "lower --learning-rate"),
        ("see training.learning_rates, and", "see --learning-rates, and"),
        ("set arms.12.learning_rates.", "set --learning-rates."),
        ("give a larger budget_share", "give a larger --budget-share"),
        ("set max_length to 64; head.fit", "set --max-length to 64; --head-fit"),
        ("let training.layer_schedule.layers be 1", "let --lisa-layers be 1"),
        ("training.class_weights has no option", "training.class_weights has no option"),
        ("give three seeds, samples or more", "give three seeds, samples or more"),
    ],
)
def test_a_remedy_names_options_where_there_are_any(remedy: str, shown: str) -> None:
    assert OF_JOBS.told(remedy) == shown


def test_no_remedy_of_learning_names_a_field_that_has_an_option() -> None:
    assert "training." not in OF_JOBS.told(LOWER_RATE) + OF_JOBS.told(MORE)


def test_texts_of_early_versions_are_shown_as_they_are() -> None:
    given = {"warnings": ["few rows", {"code": "a", "message": "odd", "remedy": None}]}
    assert [line.plain for line in warning_lines(given["warnings"])] == [
        "warning: few rows",
        "warning: odd",
    ]
    assert JobWarning.model_validate("few rows").message == "few rows"


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which no line is broken."""
    monkeypatch.setattr(terminal.console, "width", 1000)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("kind", sorted(RESULTS))
def test_what_was_not_learned_is_said_last_whatever_the_kind(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [BAD, JobWarning(code="few_rows", message="few rows")]
    result = {**RESULTS[kind], "warnings": [each.model_dump() for each in told]}
    step = {"why": "again", "method": "POST", "path": "/v1/jobs/x/retry", "body": None}
    job = {**JOB, "kind": kind, "result": result, "next_steps": [step]}
    terminal.show_result(job)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-4:] == [
        "next: again",
        "  surgeon retry x",
        "warning: few rows",
        f"warning: no better. Try this: {OF_JOBS.told(LOWER_RATE)}",
    ]
    page = job_html(job)
    assert 0 < page.index("warning: few rows") < page.index("warning: no better")


def test_what_a_failed_job_names_is_told_with_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal.errors, "width", 1000)
    detail = "The batch does not fit in memory; ask for a smaller batch_size or max_length"
    fault = {"pointer": "/training/max_length", "detail": "at most 64", "suggestion": 64}
    error = {"code": "out_of_memory", "detail": detail, "errors": [fault], "log": None}
    terminal.show_result({**JOB, "status": "failed", "result": None, "error": error})
    told, named, tried, *_ = capsys.readouterr().err.splitlines()
    assert told.endswith("ask for a smaller --batch-size or --max-length (out_of_memory)")
    assert (named, tried) == ("  --max-length: at most 64", "  try: --max-length 64")


@pytest.mark.parametrize(
    ("pointer", "option"),
    [
        ("/training/layer_schedule", "--lisa-layers"),
        ("/training/layer_schedule/interval", "--lisa-interval"),
        ("/selection/policy", "--top-share"),
        ("/selection/share", "--top-share"),
        ("/selection/layers/1", "--layers"),
        ("/adapter/rank", "--lora"),
        ("/adapter", None),
    ],
)
def test_a_field_is_named_by_the_option_that_was_given(pointer: str, option: str | None) -> None:
    names = ("top_share", "layers", "lora", "bitfit", "lisa_layers", "lisa_interval")
    options = {name: f"--{name.replace('_', '-')}" for name in names}
    assert Words(options, given=["--top-share", "--lisa-layers"]).of(pointer) == option


@pytest.mark.parametrize("pointer", ["/arms/0/selection/k", "/k/1"])
def test_what_an_entry_of_a_list_may_be_is_not_told_as_an_option(pointer: str) -> None:
    fault = {"pointer": pointer, "detail": "at most 4", "suggestion": 4}
    lines = fault_lines({"detail": "no", "errors": [fault]}, Words({"arm": "--arm", "k": "-k"}))
    assert [line.strip().partition(": ")[2] for line in lines] == ["at most 4"]


def test_a_finetune_shows_the_constant_beside_its_metrics() -> None:
    result = finetune_result(0.56, noise=0.02)
    known: dict[str, Any] = {"baseline": BASELINE, "baseline_loss": 0.69}
    shown = result.model_copy(update=known).model_dump(mode="json")
    lines = printed(finetune_view(shown, "model on data"))
    (row,) = [line.split() for line in lines if line.strip().startswith("constant")]
    assert row == ["constant", "0.6900", "0.5500"]
    early = result.model_dump(mode="json", exclude={"baseline", "baseline_loss", "baseline_also"})
    assert not any("constant" in line for line in printed(finetune_view(early, "model on data")))


def test_a_comparison_says_of_each_arm_how_many_runs_learned_nothing() -> None:
    runs = grid({"all": [0.5, 0.6], "last": [0.9, 0.9]})
    for run, told in zip(
        runs[:2], ([BAD], [BAD.model_copy(update={"code": ABOVE}), BAD]), strict=True
    ):
        assert run.result is not None
        run.result.warnings, run.result.baseline = told, BASELINE
        run.result.baseline_also = {"glue/ax": {METRIC: 0.4}}
    table = comparison_table([plan("last"), plan("all")], runs)
    assert table.baseline == BASELINE
    assert table.baseline_also == {"glue/ax": {METRIC: pytest.approx(0.4)}}
    own = [each for each in table.warnings if each.message.startswith("arm ")]
    assert [(each.code, each.message) for each in own] == [
        (NO_BETTER, "arm all, 2 of 2 runs: no better"),
        (ABOVE, "arm all, 1 of 2 runs: no better"),
    ]
    assert all("lower arms.1.learning_rate, " in str(each.remedy) for each in own)
    assert [len(each.warnings) for each in table.arms[1].runs] == [1, 2]
    lines = printed(comparison_view(table.model_dump(mode="json"), "model on data"))
    (row,) = [line.split() for line in lines if line.strip().startswith("constant")]
    assert row == ["constant", "0.5500"]
    told = f"warning: arm all, 2 of 2 runs: no better. Try this: {OF_JOBS.told(LOWER_RATE)}"
    warned = table.model_dump(mode="json")["warnings"]
    assert [line.plain for line in warning_lines(warned)][-1] == told


def test_runs_of_a_layer_alone_have_no_field_for_their_rate() -> None:
    runs = grid({"3": [0.5]})
    assert runs[0].result is not None
    runs[0].result.warnings = [BAD]
    table = comparison_table([plan("3", layer="encoder.layer.3")], runs)
    (own,) = [each for each in table.warnings if each.code == NO_BETTER]
    assert own.remedy == LOWER_RATE
