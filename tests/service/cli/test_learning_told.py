"""What the command says last of runs that learned nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from surgeon.cli import app
from surgeon.terminal import terminal
from tests.support.models.mirror import TINY
from tests.support.service.services import Json, Running

WORDS = ("poor", "fine")


def surgeon(service: Running, *arguments: object) -> str:
    """The output of a command that succeeds, each run of blanks and line ends as one blank."""
    command = [*map(str, arguments), "--url", service.client.url]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    return done.stdout if "--json" in command else " ".join(done.output.split())


def last_line(service: Running, job: Json) -> str:
    """The last line that is printed of a job, in a terminal in which no line is broken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal.console, "width", 1000)
        done = CliRunner().invoke(app, ["watch", job["id"], "--url", service.client.url])
    return done.output.rstrip().splitlines()[-1]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two files of the same texts: with the labels that a word tells, and with shuffled ones."""
    chance, folder = random.Random(0), tmp_path_factory.mktemp("files")
    marks = [int(chance.random() < 0.6) for _ in range(150)]
    texts = [f"a {WORDS[mark]} film number {place}" for place, mark in enumerate(marks)]
    shuffled = chance.sample(marks, len(marks))
    for name, labels in (("honest", marks), ("shuffled", shuffled)):
        rows = [f"{text},{WORDS[mark]}" for text, mark in zip(texts, labels, strict=True)]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *rows, ""]))
    return {name: folder / f"{name}.csv" for name in ("honest", "shuffled")}


def test_labels_that_nothing_tells_end_with_a_warning(
    embedded_service: Running, files: dict[str, Path]
) -> None:
    options = ("--top-k", 1, "--epochs", 2, "--learning-rate", 1e-4)
    job = json.loads(surgeon(embedded_service, "tune", TINY, files["shuffled"], *options, "--json"))
    result = job["result"]
    (warning,) = [each for each in result["warnings"] if each["code"] == "no_better_than_constant"]
    assert "training.learning_rates" in warning["remedy"]
    told = surgeon(embedded_service, "watch", job["id"])
    assert f"constant {result['baseline_loss']:.4f} {result['baseline']['accuracy']:.4f}" in told
    last = last_line(embedded_service, job)
    assert last.startswith("warning: the model is no better than a constant prediction: accuracy ")
    assert "Try this: " in last
    assert "--learning-rates" in last


def test_a_search_that_found_nothing_to_learn_ends_with_a_warning(
    embedded_service: Running, files: dict[str, Path]
) -> None:
    options = ("--families", "single,all", "--learning-rates", "1e-4,1e-3", "--epochs", 1)
    job = json.loads(
        surgeon(embedded_service, "search", TINY, files["shuffled"], *options, "--json")
    )
    assert "no_better_than_constant" in {each["code"] for each in job["result"]["warnings"]}
    last = last_line(embedded_service, job)
    assert last.startswith("warning: the choice is expected to reach accuracy ")
    assert "a larger --budget-share or more --epochs" in last


def test_a_comparison_says_which_arm_learned_nothing(
    embedded_service: Running, files: dict[str, Path]
) -> None:
    options = ("--arm", "all", "--arm", "head_only", "--seeds", 1, "--learning-rate", 1.0)
    job = json.loads(
        surgeon(
            embedded_service, "compare", TINY, files["honest"], *options, "--epochs", 1, "--json"
        )
    )
    result = job["result"]
    [arm, _] = result["arms"]
    found = {each["code"]: each for each in arm["runs"][0]["warnings"]}
    assert {"loss_above_constant", "no_better_than_constant"} <= set(found)
    own = [
        each for each in result["warnings"] if each["message"].startswith("arm all, 1 of 1 runs")
    ]
    assert {each["code"] for each in own} == set(found)
    assert all("arms.0.learning_rate" in each["remedy"] for each in own)
    told = surgeon(embedded_service, "watch", job["id"])
    assert f"constant {result['baseline']['accuracy']:.4f}" in told
    last = last_line(embedded_service, job)
    assert last.startswith("warning: arm ")
    assert ", 1 of 1 runs: the model is no better than a constant prediction: " in last
    assert "--learning-rates, of which the best is chosen" in last
