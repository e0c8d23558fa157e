"""Both command lines take their options from the fields of requests."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from surgeon.cli import app
from surgery.__main__ import _parser
from surgery.schemas.enums import Method, Policy
from surgery.schemas.fields import option_of
from surgery.schemas.jobs.comparison import ComparisonSpec
from surgery.schemas.jobs.estimate import EstimateSpec
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.ranking import RANKING_OPTIONS, RankingOptions
from surgery.schemas.jobs.selection import SelectionSpec
from surgery.schemas.options.head import HEAD_FIT
from surgery.schemas.options.training import CheckpointSpec, TrainingSpec

Found = dict[str, tuple[Any, str]]  # a flag's default and help


def of_the_client(name: str) -> Found:
    """The options of one of `surgeon`'s commands."""
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    return {each.opts[0]: (each.default, getattr(each, "help", "")) for each in command.params}


def of_the_library(name: str) -> Found:
    """The options of one of `python -m surgery`'s commands."""
    [commands] = [each for each in _parser()._actions if isinstance(each.choices, dict)]
    command: argparse.ArgumentParser = commands.choices[name]
    return {
        each.option_strings[-1]: (each.default, each.help or "")
        for each in command._actions
        if each.option_strings
    }


LINES = {"surgeon": of_the_client, "surgery": of_the_library}
ELSEWHERE = {
    ("surgery", "tune", "--form"),  # a folder that plain transformers loads
    ("surgeon", "tune", "--learning-rate"),  # left out unless named, as LoRA has another default
}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize(
    ("command", "spec", "fields"),
    [
        ("rank", RankingOptions, ["method", "aggregate", "fisher", "draws", "samples", "adaptive"]),
        ("rank", RankingOptions, ["granularity", "head_seeds", "precision", "max_length", "seed"]),
        ("tune", TrainingSpec, ["epochs", "learning_rate", "batch_size"]),
        ("tune", SelectionSpec, ["granularity", "include"]),
        ("tune", CheckpointSpec, ["form"]),
        ("tune", FinetuneSpec, ["track_ranking"]),
        ("compare", ComparisonSpec, ["single_layers", "seeds"]),
        ("compare", TrainingSpec, ["epochs", "batch_size", "max_length"]),
        ("estimate", TrainingSpec, ["epochs", "batch_size", "max_length"]),
    ],
)
def test_defaults_and_help_are_those_of_the_fields(
    line: str, command: str, spec: type[BaseModel], fields: list[str]
) -> None:
    if line == "surgery" and command not in {"rank", "tune"}:
        return
    found = LINES[line](command)
    for field in fields:
        option = option_of(spec, field)
        default, text = found[option.flag]
        assert option.help
        assert text.replace("%%", "%").startswith(option.help.partition(". ")[0])
        if (line, command, option.flag) not in ELSEWHERE:
            assert default == option.default


@pytest.mark.parametrize("line", LINES)
def test_the_fit_of_the_head_is_an_option_wherever_a_head_is_fitted(line: str) -> None:
    of_the_service = ("compare", "estimate") if line == "surgeon" else ()
    for command in ("rank", "search", "tune", *of_the_service):
        default, text = LINES[line](command)["--head-fit"]
        assert default is None
        assert text == HEAD_FIT.help
    assert HEAD_FIT.choices == ("converged", "epochs")


@pytest.mark.parametrize("line", LINES)
def test_every_policy_is_an_option(line: str) -> None:
    flags = LINES[line]("tune")
    for policy in Policy:
        default, text = flags[f"--{policy.value.replace('_', '-')}"]
        assert not default
        assert text


def test_what_both_can_say_has_one_name() -> None:
    client, library = of_the_client("rank"), of_the_library("rank")
    assert {"--help", *client} - {*library} == {
        "model",
        "dataset",
        "--fresh",
        "--deadline-seconds",
        "--url",
        "--key",
        "--json",
    }
    assert {*library} - {*client} == {"--cache", "--help"}
    client, library = of_the_client("tune"), of_the_library("tune")
    of_a_ranking = {option.flag for option in RANKING_OPTIONS}
    assert {*library} - {*client} - of_a_ranking == {"--cache", "--help"}
    assert {*client} - {*library} == {
        "model",
        "dataset",
        "--ranking",
        "--search-id",
        "--lora",
        "--bitfit",
        "--deadline-seconds",
        "--url",
        "--key",
        "--json",
    }


def test_a_list_is_written_with_commas_or_option_by_option() -> None:
    assert option_of(ComparisonSpec, "seeds").default == "0,1,2"
    assert (
        option_of(SelectionSpec, "include").type,
        option_of(SelectionSpec, "include").default,
    ) == (str, None)
    several = option_of(EstimateSpec, "k", repeated=True)
    assert (several.type, several.default, several.repeated) == (int, None, True)


def test_choices_are_those_of_the_field() -> None:
    assert option_of(RankingOptions, "method").choices == tuple(Method)
    assert option_of(CheckpointSpec, "form").choices == ("delta", "full")
    assert option_of(TrainingSpec, "epochs").choices == ()
    assert option_of(TrainingSpec, "epochs").minimum == 1
