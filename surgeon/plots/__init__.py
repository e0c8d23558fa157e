"""Results as figures of matplotlib, which the extra `plot` installs.

matplotlib is imported when a figure is asked for; the client works without it.
"""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING

from pydantic import BaseModel

from surgeon.plots.figures import draw_comparison, draw_finetune, draw_ranking, draw_search
from surgery.schemas.jobs.comparison import ComparisonResult
from surgery.schemas.jobs.finetune import FinetuneResult
from surgery.schemas.jobs.ranking import RankingResult
from surgery.schemas.jobs.search import SearchResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INCHES = (7.0, 4.0)


@cache
def _figure_class() -> type[Figure]:
    """The class of figures, defined when matplotlib is there."""
    from matplotlib.figure import Figure

    class ResultFigure(Figure):
        """A figure of no window, which notebooks show all the same."""

        def _repr_png_(self) -> bytes:
            image = io.BytesIO()
            self.savefig(image, format="png")
            return image.getvalue()

    return ResultFigure


def figure_of(result: BaseModel) -> Figure:
    """The figure of a job's result. Raises ImportError without matplotlib."""
    try:
        figure = _figure_class()(figsize=INCHES, layout="constrained")
    except ImportError as error:
        raise ImportError(
            "plot() draws with matplotlib: pip install layer-surgeon[plot]"
        ) from error

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
