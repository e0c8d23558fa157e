"""Propose by their content which columns are the text and the label, where names do not tell.

A text is long and hardly ever repeats; a label is short, and few different ones recur. A proposal
is never acted on: whoever sent the file confirms it by naming the columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from surgery.data.files.source import shown
from surgery.data.rows import is_blank

TEXT_WORDS = 2.0  # texts have more words than this on average
LABEL_CHARACTERS = 40  # labels have fewer on average
RECURRING = 0.5  # at most this share of a label column's values is different
_MEANINGLESS = re.compile(r"idx|index|(.*[_ ])?(id|uuid|nr|no|number|url|date|time)", re.IGNORECASE)
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?|\d{1,2}:\d{2}(:\d{2})?", re.ASCII)

Samples = Mapping[str, Sequence[object]]


@dataclass(frozen=True)
class Content:
    """What some values of a column look like."""

    name: str
    count: int
    different: int
    characters: float  # of a value, on average
    words: float  # of a value, on average
    numeric: bool  # whether every value is a number
    fractional: bool  # whether they are numbers, and some of them fractions
    dated: bool  # whether most values are dates or times

    def __str__(self) -> str:
        return f"{shown(self.name)!r} ({self.different} different of {self.count})"

    @property
    def is_text(self) -> bool:
        """Whether these may be texts to classify."""
        return not self.numeric and not self.dated and self.words > TEXT_WORDS

    @property
    def is_label(self) -> bool:
        """Whether these may be labels: short, and few different ones that recur, or fractions."""
        recurs = 2 <= self.different <= RECURRING * self.count or self.fractional
        short = self.characters < LABEL_CHARACTERS
        return recurs and short and not self.dated and not _MEANINGLESS.fullmatch(self.name)


@dataclass(frozen=True)
class Proposal:
    """The column that looks most like the text, and the one that looks most like the label."""

    text: Content
    label: Content
    also: tuple[str, ...]
    """Further columns whose content looks like labels."""

    @property
    def columns(self) -> dict[str, str]:
        """The proposal as a request names it."""
        return {"text": self.text.name, "label": self.label.name}

    def __str__(self) -> str:
        others = ", ".join(repr(shown(name)) for name in self.also[:5])
        more = f"; {others} could be the label too" if others else ""
        return (
            f"{self.text} looks like the text and {self.label} like the label, by length and "
            f"repetition in the first rows{more}"
        )


def propose(samples: Samples, text: str | None = None, label: str | None = None) -> Proposal | None:
    """A proposal from some values of each column; None if no two columns look like it.

    ``text`` and ``label`` are columns that the request names.
    """
    found = {name: content for name in samples if (content := content_of(name, samples[name]))}
    texts = [each for each in found.values() if each.is_text and each.name != label]
    texts = [found[text]] if text in found else texts
    if not texts:
        return None
    best = max(texts, key=lambda each: (each.characters, each.different))
    others = [each for each in found.values() if each.name != best.name]
    labels = [found[label]] if label in found else _labels(others)
    if not labels or labels[0].name == best.name:
        return None
    return Proposal(best, labels[0], tuple(each.name for each in labels[1:]))


def _labels(contents: Sequence[Content]) -> list[Content]:
    """Columns that may be labels, best first: words before numbers, the last column first."""
    likely = [each for each in reversed(contents) if each.is_label]
    return sorted(likely, key=lambda each: (each.fractional, each.numeric))


def content_of(name: str, values: Sequence[object]) -> Content | None:
    """What the values of a column look like; None unless they are texts, numbers or truth values.

    Empty values are left out. None too for a name that a message cannot show in full.
    """
    if name != shown(name):  # nobody can copy it from a message
        return None
    if not all(isinstance(value, str | int | float | None) for value in values):
        return None
    texts = [str(value).strip() for value in values if value is not None]
    texts = [value for value in texts if not is_blank(value)]
    if not texts:
        return None
    numeric = all(map(NUMBER.fullmatch, texts))
    return Content(
        name=name,
        count=len(texts),
        different=len(set(texts)),
        characters=fmean(map(len, texts)),
        words=fmean(len(value.split()) for value in texts),
        numeric=numeric,
        fractional=numeric and not all(float(value).is_integer() for value in texts),
        dated=sum(map(bool, map(_DATE.fullmatch, texts))) > len(texts) / 2,
    )
