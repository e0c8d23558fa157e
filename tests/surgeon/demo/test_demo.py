"""What the demo shows of made-up results."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from surgeon.demo import tour
from surgeon.demo.progress import (
    arm_bars,
    arm_lines,
    arms_progress,
)
from surgeon.demo.service import service_environment
from surgeon.demo.view import (
    ALL,
    FIRST,
    FISHER,
    LAST,
    ONE_RUN,
    TANGENT,
    Arm,
    arms_table,
    best_arm,
    by_hand,
    conclusions,
)

PARAMETERS = {2: 3_549_698, 6: 10_648_322}
RATES = {2: 3e-4, 6: 5e-5}


def arm(name: str, layers: tuple[int, ...], metric: float) -> Arm:
    return Arm(
        name=name, layers=layers, learning_rate=RATES[len(layers)], metric=metric,
        parameters=PARAMETERS[len(layers)], seconds=12.34, checkpoint=f"ck_{layers[0]}", bytes=14_200_000,
    )  # fmt: skip


def arms_of(
    fisher: float, first: float, last: float, everything: float, tangent: float | None = None
) -> list[Arm]:
    """Without a metric of its own, the tangent score chose the first two layers."""
    layers, metric = ((0, 1), first) if tangent is None else ((1, 3), tangent)
    return [
        arm(FISHER, (4, 5) if fisher == last else (2, 3), fisher),
        arm(TANGENT, layers, metric), arm(FIRST, (0, 1), first),
        arm(LAST, (4, 5), last), arm(ALL, (0, 1, 2, 3, 4, 5), everything),
    ]  # fmt: skip


def text_of(arms: list[Arm], rows: int = 500) -> str:
    return "\n".join(conclusions(arms, rows))


LEARNED = {"fisher": 0.51, "first": 0.954, "last": 0.51, "everything": 0.982}
BETTER_PAIR = {"fisher": 0.51, "first": 0.954, "last": 0.51, "everything": 0.85}
EQUAL = {"fisher": 0.90, "first": 0.95, "last": 0.94, "everything": 0.955}
CHANCE_ALL = {"fisher": 0.51, "first": 0.954, "last": 0.51, "everything": 0.5}
NOTHING = {"fisher": 0.5, "first": 0.51, "last": 0.5, "everything": 0.49}
ONLY_ALL = {"fisher": 0.5, "first": 0.51, "last": 0.5, "everything": 0.98}


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        (
            LEARNED,
            (
                "The best two layers (tangent's top 2, 33% of the parameters) at 0.0003 did worse than "
                "all layers at 5e-05: 0.954 against 0.982."
            ),
        ),
        (BETTER_PAIR, "did better than all layers at 5e-05: 0.954 against 0.850."),
        (
            EQUAL,
            (
                "Between the best two layers (tangent's top 2, 33% of the parameters) at 0.0003 and "
                "all layers at 5e-05 there is no difference beyond noise: 0.950 against 0.955."
            ),
        ),
        (
            CHANCE_ALL,
            "did better than all layers at 5e-05: 0.954 against 0.500; all stayed near chance.",
        ),
        (
            ONLY_ALL,
            (
                "did worse than all layers at 5e-05: 0.510 against 0.980; tangent's top 2 stayed near "
                "chance."
            ),
        ),
        (
            NOTHING,
            (
                "no difference beyond noise: 0.510 against 0.490, both near chance: they may have "
                "learned nothing."
            ),
        ),
    ],
)
def test_two_layers_and_all_are_compared_by_their_numbers(
    metrics: dict[str, float], sentence: str
) -> None:
    said = text_of(arms_of(**metrics))
    assert sentence in said
    assert "neither rate was searched" in said
    assert ONE_RUN in said


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        (
            LEARNED,
            (
                "Fisher's top 2 did worse than first 2: 0.510 against 0.954; Fisher's top 2 stayed "
                "near chance. They are the last 2 layers: one run."
            ),
        ),
        (
            {**EQUAL, "first": 0.7},
            "Fisher's top 2 did better than first 2: 0.900 against 0.700.",
        ),
        (
            {**EQUAL, "first": 0.91},
            "Fisher's top 2 and first 2 do not differ beyond noise: 0.900 against 0.910.",
        ),
        (
            NOTHING,
            (
                "Fisher's top 2 and first 2 do not differ beyond noise: 0.500 against 0.510, both near "
                "chance: they may have learned nothing."
            ),
        ),
        (
            LEARNED,
            (
                "Tangent's top 2 did better than Fisher's top 2: 0.954 against 0.510; Fisher's top 2 "
                "stayed near chance. They are the first 2 layers: one run."
            ),
        ),
        (
            {**EQUAL, "tangent": 0.6},
            "Tangent's top 2 did worse than Fisher's top 2: 0.600 against 0.900.",
        ),
        (
            {**EQUAL, "tangent": 0.91},
            "Tangent's top 2 and Fisher's top 2 do not differ beyond noise: 0.910 against 0.900.",
        ),
    ],
)
def test_two_scores_are_compared_by_their_numbers(metrics: dict[str, float], sentence: str) -> None:
    assert sentence in text_of(arms_of(**metrics))


def test_scores_that_choose_the_same_layers_are_one_run() -> None:
    arms = arms_of(**EQUAL)
    arms[1] = arm(TANGENT, arms[0].layers, arms[0].metric)
    said = text_of(arms)
    assert "Tangent's top 2 and Fisher's top 2 are the same layers: one run, 0.900." in said


def test_a_small_difference_is_noise_on_few_rows_and_none_on_many() -> None:
    arms = arms_of(fisher=0.80, first=0.82, last=0.5, everything=0.81)
    assert "do not differ beyond noise: 0.800 against 0.820" in text_of(arms)
    assert "did worse than first 2: 0.800 against 0.820" in text_of(arms, rows=100_000)


@pytest.mark.parametrize("metrics", [LEARNED, BETTER_PAIR, EQUAL, CHANCE_ALL, NOTHING, ONLY_ALL])
def test_no_numbers_of_one_run_are_put_down_to_the_layers(metrics: dict[str, float]) -> None:
    said = text_of(arms_of(**metrics))
    assert not re.search(r"\b(beat|beats|lost to|learn the task|do as well as)\b", said)


def test_an_arm_that_trains_all_layers_has_a_lower_rate_and_the_rule_says_both() -> None:
    everything = tour.training_of({"policy": "all"})["learning_rate"]
    selections = [{"policy": "top_k", "k": 2}, {"policy": "layers", "layers": ["a", "b"]},
                  {"policy": "first_k", "k": 2}, {"policy": "last_k", "k": 2}]  # fmt: skip
    (few,) = {tour.training_of(selection)["learning_rate"] for selection in selections}
    assert everything < few
    assert f"{everything:g} where all layers train" in tour.RULE
    assert f"{few:g} where two do" in tour.RULE
    assert "not searched" in tour.RULE


def test_the_best_of_equals_trains_the_fewest_parameters() -> None:
    assert best_arm(arms_of(0.5, 1.0, 0.5, 1.0, tangent=0.6)).name == FIRST
    assert best_arm(arms_of(0.5, 1.0, 0.5, 1.0)).name == TANGENT  # the same run, named first
    assert best_arm(arms_of(0.5, 0.9, 0.5, 1.0)).name == ALL


def test_the_table_is_aligned_and_fits_a_terminal() -> None:
    screen = io.StringIO()
    arms = arms_of(0.506, 0.998, 0.506, 1.0)
    Console(file=screen, width=80).print(arms_table(arms, "accuracy"))
    lines = [line.rstrip() for line in screen.getvalue().splitlines() if line.strip()]
    rows = lines[-5:]
    assert len({len(line) for line in rows}) == 1
    told = ["Fisher's", "top", "2", "4", "5", "0.0003", "0.506", "3.55M", "12.3", "14.2"]
    assert rows[0].split() == told
    assert "0 1 2 3 4 5" in rows[4]
    assert "5e-05" in rows[4]


def test_progress_follows_each_job() -> None:
    bars, seen = arm_bars(Console(file=io.StringIO()), [FIRST, ALL])
    step = {"unit": "steps", "step": 30, "total_steps": 120}
    seen(FIRST, {"status": "running", "phase": "train", "terminal": False, "progress": step})
    first, everything = bars.tasks
    assert (first.completed, first.description, first.fields["steps"]) == (25, "train", "30/120")
    assert (everything.completed, everything.description) == (0, "queued")
    seen(FIRST, {"status": "succeeded", "phase": None, "terminal": True, "progress": None})
    assert (first.completed, first.description) == (100, "succeeded")


def state(status: str, **more: object) -> dict[str, object]:
    """A job as it stands."""
    return {
        "id": "ft_1", "status": status, "phase": None, "progress": None, "result": None,
        "terminal": status in {"succeeded", "failed"}, **more,
    }  # fmt: skip


def test_without_a_terminal_an_arm_has_a_line_at_its_start_and_end() -> None:
    lines: list[str] = []
    seen = arm_lines(lines.append)
    seen(TANGENT, state("queued"))
    for phase in ("load", "train", "evaluate", "train"):
        seen(TANGENT, state("running", phase=phase))
        seen(FIRST, state("running", phase=phase))  # the same run
    assert lines == ["  tangent's top 2: started"]
    result = {
        "primary_metric": "accuracy", "best": {"metrics": {"accuracy": 0.954}},
        "seconds": {"total": 121.4},
    }  # fmt: skip
    seen(FIRST, state("succeeded", result=result))  # of the two, this was asked for last
    seen(TANGENT, state("succeeded", result=result))
    seen(ALL, state("running", id="ft_2"))
    seen(ALL, state("failed", id="ft_2"))
    assert lines[1:] == [
        "  tangent's top 2: finished in 121 s, accuracy 0.954", "  all: started", "  all: failed",
    ]  # fmt: skip


def test_bars_are_for_terminals_and_lines_for_files(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True)
    assert isinstance(arms_progress(terminal, [FIRST])[0], Progress)
    file = Console(file=io.StringIO(), force_terminal=False)
    arms_progress(file, [FIRST])[1](FIRST, state("running"))
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["  first 2: started"]


def test_the_curl_lines_repeat_what_was_sent() -> None:
    ranking = {"id": "rk_1", "spec": {
        "model": "m", "dataset": "ds_1", "samples": 256, "method": "all", "seed": 0,
    }}  # fmt: skip
    selection = {"policy": "first_k", "k": 2, "ranking": None, "include": []}
    tuned = {"id": "ft_1", "spec": {
        "model": "m", "dataset": "ds_1", "selection": selection, "training": {"epochs": 3},
    }}  # fmt: skip
    files = (Path("a folder/train.csv"), Path("validation.csv"))
    lines = by_hand("http://127.0.0.1:1", files, (ranking, tuned), "ck_1")
    assert shlex.split(lines[0])[2] == "train=@a folder/train.csv"
    assert json.loads(shlex.split(lines[1])[-1]) == {
        "model": "m", "dataset": "ds_1", "samples": 256, "method": "all",
    }  # fmt: skip
    assert json.loads(shlex.split(lines[3])[-1]) == {
        "model": "m", "dataset": "ds_1", "selection": {"policy": "first_k", "k": 2},
        "training": {"epochs": 3},
    }  # fmt: skip
    assert lines[-1].endswith("'http://127.0.0.1:1/v1/checkpoints/ck_1/archive?form=full'")


def test_a_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text("keep me")
    assert tour.run(tmp_path, 3000) == 1
    assert "is not empty" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_settings_of_the_caller_do_not_reach_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURGEON_DATABASE_URL", "postgresql://elsewhere/db")
    environment = service_environment(tmp_path)
    assert "SURGEON_DATABASE_URL" not in environment
    assert environment["SURGEON_OFFLINE"] == "1"
