"""What the notes on an adaptive ranking say of its rounds."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from surgeon.terminal.results.rankings import notes
from surgery.schemas.jobs.ranking import AdaptiveReport, AdaptiveRound
from tests.support.service.finished_runs import ranking_result

FIRST = AdaptiveRound(samples=32, k=2, probability=0.98, p_value=0.07, level=0.025)
LAST = AdaptiveRound(samples=64, k=1, probability=1.0, p_value=0.00012, level=0.025)
EARLY = AdaptiveRound(samples=32, k=2, probability=0.98)  # of an early version


@pytest.mark.parametrize(
    ("report", "shown"),
    [
        (
            AdaptiveReport(certain=True, error_rate=0.05, rounds=[FIRST, LAST]),
            (
                "32 samples: the top 2, p 0.07 (certain from 0.025 down) "
                "64 samples: the top 1, p 0.00012 (certain from 0.025 down) "
                "certain, which is wrong in at most 5% of rankings"
            ),
        ),
        (
            AdaptiveReport(certain=False, error_rate=0.05, rounds=[FIRST]),
            "(certain from 0.025 down) not certain: rank more samples",
        ),
        (AdaptiveReport(certain=True, rounds=[EARLY]), "the top 2 in 98% of resamples certain"),
    ],
    ids=["certain", "not certain", "of an early version"],
)
def test_each_look_is_shown_with_the_level_it_had_to_reach(
    report: AdaptiveReport, shown: str
) -> None:
    result = ranking_result({"fisher": {"l0": 2.0, "l1": 1.0}})
    result.adaptive = report
    printed = StringIO()
    Console(width=100, file=printed).print(notes(result.model_dump(mode="json")))
    assert shown in " ".join(printed.getvalue().split())
