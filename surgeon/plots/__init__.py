"""Results as figures of matplotlib, which the extra `plot` installs.

matplotlib is imported when a figure is asked for; the client works without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from surgeon.plots.figures import draw_comparison, draw_finetune, draw_ranking, draw_search
from surgery.schemas.comparison import ComparisonResult
from surgery.schemas.finetune import FinetuneResult
from surgery.schemas.ranking import RankingResult
from surgery.schemas.search import SearchResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INCHES = (7.0, 4.0)


def figure_of(result: BaseModel) -> Figure:
    """The figure of a job's result. Raises ImportError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plot() draws with matplotlib: pip install layer-surgeon[plot]"
        ) from error

    figure = Figure(figsize=INCHES, layout="constrained")  # of no window: notebooks show it
    axes = figure.add_subplot()
    match result:
        case RankingResult():
            draw_ranking(axes, result)
        case FinetuneResult():
            draw_finetune(axes, result)
        case SearchResult():
            draw_search(axes, result)
        case ComparisonResult():
            draw_comparison(axes, result)
        case _:
            raise TypeError(f"there is no figure of a {type(result).__name__}")
    return figure
