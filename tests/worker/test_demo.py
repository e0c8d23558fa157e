"""What the demo shows of made-up results."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from worker import demo
from worker.demo_view import (
    ALL,
    FIRST,
    FISHER,
    LAST,
    TANGENT,
    Arm,
    arms_progress,
    arms_table,
    best_arm,
    by_hand,
    conclusions,
)

PARAMETERS = {2: 3_549_698, 6: 10_648_322}


def arm(name: str, layers: tuple[int, ...], metric: float) -> Arm:
    return Arm(
        name=name, layers=layers, metric=metric, parameters=PARAMETERS[len(layers)],
        seconds=12.34, checkpoint=f"ck_{layers[0]}", bytes=14_200_000,
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


def test_the_loss_of_fishers_choice_is_said() -> None:
    said = text_of(arms_of(fisher=0.506, first=0.998, last=0.506, everything=1.0))
    assert "Fisher's top 2 lost to the first 2 layers by 0.492: 0.506 against 0.998" in said
    assert "stayed near chance" in said
    assert "They are the last 2 layers" in said
    assert "The best two layers (tangent's top 2), 33% of the parameters" in said
    assert "do as well as all layers: 0.998 against 1.000" in said
    assert "the first layers learn it and the preferred ones do not" in said


def test_the_win_of_fishers_choice_is_said() -> None:
    said = text_of(arms_of(fisher=0.9, first=0.7, last=0.8, everything=0.9))
    assert "Fisher's top 2 beat the first 2 layers by 0.200: 0.900 against 0.700." in said
    assert "here it chose well" in said
    assert "near chance" not in said
    assert "They are the last 2 layers" not in said


def test_the_tangent_score_is_compared_with_fishers() -> None:
    said = text_of(arms_of(fisher=0.506, first=0.998, last=0.506, everything=1.0))
    assert "prefers two others, and they do better: 0.998 against 0.506" in said
    assert "They are the first 2 layers: those two arms are one run." in said
    said = text_of(arms_of(fisher=0.9, first=0.7, last=0.8, everything=0.9, tangent=0.6))
    assert "and they do worse: 0.600 against 0.900" in said
    assert "They are the first 2 layers" not in said
    said = text_of(arms_of(fisher=0.9, first=0.7, last=0.8, everything=0.9, tangent=0.91))
    assert "no better or worse than noise: 0.910 against 0.900" in said


def test_a_difference_below_the_noise_is_called_noise() -> None:
    said = text_of(arms_of(fisher=0.80, first=0.82, last=0.5, everything=0.81))
    assert "do not differ beyond noise: 0.800 against 0.820" in said
    assert "only a comparison shows" in said


def test_the_same_difference_on_many_rows_is_no_noise() -> None:
    said = text_of(arms_of(fisher=0.80, first=0.82, last=0.5, everything=0.81), rows=100_000)
    assert "lost to the first 2 layers by 0.020" in said


def test_two_layers_that_fall_short_of_all_are_said_to() -> None:
    said = text_of(arms_of(fisher=0.5, first=0.8, last=0.5, everything=0.95))
    assert "fall short of all layers: 0.800 against 0.950" in said


def test_all_layers_that_did_not_learn_are_no_fair_rival() -> None:
    said = text_of(arms_of(fisher=0.5, first=0.95, last=0.5, everything=0.5))
    assert "beat all layers, which stayed near chance: 0.950 against 0.500" in said
    assert "a lower learning rate may suit `all` better" in said


def test_fishers_choice_that_learned_less_is_not_said_to_fail() -> None:
    said = text_of(arms_of(fisher=0.8, first=0.95, last=0.7, everything=0.95))
    assert "the preferred ones learn less" in said


def test_nothing_learned_is_not_called_as_good_as_all() -> None:
    said = text_of(arms_of(fisher=0.5, first=0.51, last=0.5, everything=0.49))
    assert "both stayed near chance" in said
    assert "do as well as" not in said


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
    assert rows[0].split() == [
        "Fisher's",
        "top",
        "2",
        "4",
        "5",
        "0.506",
        "3,549,698",
        "12.3",
        "14.2",
        "MB",
    ]
    assert "0 1 2 3 4 5" in rows[4]


def test_progress_follows_each_job() -> None:
    bars, seen = arms_progress(Console(file=io.StringIO()), [FIRST, ALL])
    step = {"unit": "steps", "step": 30, "total_steps": 120}
    seen(FIRST, {"status": "running", "phase": "train", "terminal": False, "progress": step})
    first, everything = bars.tasks
    assert (first.completed, first.description, first.fields["steps"]) == (25, "train", "30/120")
    assert (everything.completed, everything.description) == (0, "queued")
    seen(FIRST, {"status": "succeeded", "phase": None, "terminal": True, "progress": None})
    assert (first.completed, first.description) == (100, "succeeded")


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
    assert json.loads(shlex.split(lines[3])[-1]) == {
        "model": "m", "dataset": "ds_1", "selection": {"policy": "first_k", "k": 2},
        "training": {"epochs": 3},
    }  # fmt: skip
    assert lines[-1].endswith("'http://127.0.0.1:1/v1/checkpoints/ck_1/archive?form=full'")


def test_a_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text("keep me")
    assert demo.main(["--keep", str(tmp_path)]) == 1
    assert "is not empty" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_settings_of_the_caller_do_not_reach_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURGEON_DATABASE_URL", "postgresql://elsewhere/db")
    environment = demo.service_environment(tmp_path)
    assert "SURGEON_DATABASE_URL" not in environment
    assert environment["SURGEON_OFFLINE"] == "1"
