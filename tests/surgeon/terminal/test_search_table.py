"""What the command line shows of a search."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from surgeon.terminal.results.searches import search_view
from tests.support.service.finished_runs import search_result

FOUND = ["encoder.layer.1", "encoder.layer.2"]


def printed(**changes: Any) -> list[str]:
    result = {**search_result(FOUND).model_dump(mode="json"), **changes}
    text = StringIO()
    Console(width=80, file=text).print(search_view(result, "model on data"))
    return text.getvalue().splitlines()


def test_candidates_that_were_tried_and_the_choice_at_the_end() -> None:
    lines = printed()
    assert all(len(line) <= 80 for line in lines)
    (row,) = [line for line in lines if "1+2" in line]
    shown = ("1+2", "0.0003", "0.8000", "0.7000 – 0.9000", "0.90", "40", "5.0")
    assert row.split() == " ".join(["1", *shown]).split()
    text = " ".join(" ".join(lines).split())
    assert (
        "not tried, as the scores put them too far down for the budget: 1 of 2 candidates" in text
    )
    assert "judged by 20 rows of train, trained on the other 80" in text
    assert "expected gain over all layers: +0.8000 (+0.7000 to +0.9000)" in text
    assert "Fisher's two best" not in text
    assert text.endswith(
        "train encoder.layer.1, encoder.layer.2 at 0.0003 (not certain: others may be as good); "
        "it cost 5.0 s, 25% of training each layer alone"
    )


def test_a_choice_that_is_certain_says_so() -> None:
    text = " ".join(" ".join(printed(winner="1+2")).split())
    assert "at 0.0003 (better than every other candidate at 95 %)" in text
