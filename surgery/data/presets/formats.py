"""From a benchmark's raw rows to texts, where no columns hold them as a model reads them.

Pure functions of one raw row in the shape of the Hub's parquet. What each builds, and after which
of the benchmark's baselines, is in docs/tasks.md. Importing this module imports no torch.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from surgery.data.files.source import Row, shown
from surgery.data.rows import CellError, Format, Kind

_GROUP: tuple[tuple[str, Kind], ...] = (("group", "integer"),)
_PLACEHOLDER = "@placeholder"
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PART_BITS = 31  # two indices of a group make one integer of 62 bits


def wic(row: Row) -> list[Row]:
    """The word and the first sentence; the second sentence."""
    text = f"{_text(row, 'word')}: {_text(row, 'sentence1')}"
    return [{"text": text, "text_pair": _text(row, "sentence2"), "label": row.get("label")}]


def wsc(row: Row) -> list[Row]:
    """The text with the noun phrase between ``*`` and the pronoun between ``#``."""
    text = _text(row, "text")
    spans = [
        (*_span(text, row, "span1_text", "span1_index"), "*"),
        (*_span(text, row, "span2_text", "span2_index"), "#"),
    ]
    return [{"text": _marked(text, spans), "label": row.get("label")}]


def multirc(row: Row) -> list[Row]:
    """The paragraph; the question and one answer. What is cut where it is long is the paragraph."""
    answer = f"{_text(row, 'question')} {_text(row, 'answer')}"
    return [
        {
            "text": _text(row, "paragraph"),
            "text_pair": answer,
            "label": row.get("label"),
            "group": _group(row, "paragraph", "question"),
        }
    ]


def record(row: Row) -> list[Row]:
    """A row a candidate entity: the passage; the query with the entity in its gap.

    Beside each stands what answering with it earns, by ReCoRD's own evaluation.
    """
    passage, query = _text(row, "passage"), _text(row, "query")
    if _PLACEHOLDER not in query:
        raise CellError(f"has no {_PLACEHOLDER} to put the entities in", "query")
    answers = _texts(row, "answers", "it is a split with hidden answers; use one that has them")
    entities = _texts(row, "entities", "there is nothing to choose from")
    group = _group(row, "passage", "query")
    return [
        {
            "text": passage,
            "text_pair": query.replace(_PLACEHOLDER, entity),
            "label": int(entity in answers),
            "group": group,
            "f1": max(answer_f1(entity, answer) for answer in answers),
            "exact_match": float(any(_plain(entity) == _plain(answer) for answer in answers)),
        }
        for entity in entities
    ]


def axg(row: Row) -> list[Row]:
    """The premise; the hypothesis. Rows ``2 i`` and ``2 i + 1`` are a pair."""
    return [
        {
            "text": _text(row, "premise"),
            "text_pair": _text(row, "hypothesis"),
            "label": row.get("label"),
            "group": _index(row.get("idx"), "idx") // 2,
        }
    ]


def answer_f1(given: str, gold: str) -> float:
    """F1 of the words two answers share, as the evaluations of SQuAD and ReCoRD count them."""
    said, told = _plain(given).split(), _plain(gold).split()
    shared = (Counter(said) & Counter(told)).total()
    return 2 * shared / (len(said) + len(told)) if shared else 0.0


@lru_cache(maxsize=4096)  # each answer is compared with a dozen entities
def _plain(answer: str) -> str:
    """Lower case, without punctuation, articles and doubled spaces."""
    bare = answer.lower().translate(_NO_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _texts(row: Row, column: str, empty: str) -> list[str]:
    value = row.get(column)
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise CellError("is no list of strings", column)
    if not value:
        raise CellError(f"is empty: {empty}", column)
    return list(dict.fromkeys(value))


def _group(row: Row, first: str, second: str) -> int:
    """One number for the two indices of ``idx`` that rows of one question share."""
    index = row.get("idx")
    if not isinstance(index, dict):
        raise CellError(f"is no object with the indices {first} and {second}", "idx")
    high, low = (_index(index.get(name), "idx") for name in (first, second))
    return high << _PART_BITS | low


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise CellError("is missing or empty; a text is a string with a word in it", column)
    return value


def _index(value: object, column: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << _PART_BITS:
        raise CellError(f"is {shown(str(value))!r}; an index is an integer from 0", column)
    return value


def _span(text: str, row: Row, words: str, place: str) -> tuple[int, int]:
    """First character, and the one after the last, of the span nearest to where it should begin.

    Its place counts words split at spaces. Some rows of the data name a span in another case than
    the text, or one word off its place.
    """
    phrase, index = _text(row, words), _index(row.get(place), place)
    starts = [found.start() for found in re.finditer(r"\S+", text)]
    if index >= len(starts):
        raise CellError(f"is {index}; the text has {len(starts)} words, counted from 0", place)
    pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, phrase.split())) + r"(?!\w)"
    found = [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]
    if not found:
        raise CellError(f"{shown(phrase)!r} does not occur in the text", words)
    return min(found, key=lambda span: abs(span[0] - starts[index]))


def _marked(text: str, spans: Sequence[tuple[int, int, str]]) -> str:
    """The text with each (start, end, mark) span between marks, a space on either side.

    Of two spans that begin or end together the longer one's marks are outside.
    """
    inserts: list[tuple[int, bool, int, str]] = []
    for start, end, mark in spans:
        inserts.append((start, True, start - end, f"{mark} "))
        inserts.append((end, False, end - start, f" {mark}"))
    parts, done = [], 0
    for place, _, _, mark in sorted(inserts):
        parts += [text[done:place], mark]
        done = place
    return "".join([*parts, text[done:]])


FORMATS = {
    made.name: made
    for made in (
        Format("wic", 1, ("word", "sentence1", "sentence2", "label"), wic),
        Format(
            "wsc",
            1,
            ("text", "span1_text", "span1_index", "span2_text", "span2_index", "label"),
            wsc,
            pair=False,
        ),
        Format(
            "multirc",
            1,
            ("paragraph", "question", "answer", "idx", "label"),
            multirc,
            extras=_GROUP,
        ),
        Format(
            "record",
            1,
            ("passage", "query", "entities", "answers", "idx"),
            record,
            extras=(*_GROUP, ("f1", "number"), ("exact_match", "number")),
            expands=True,
        ),
        Format("axg", 1, ("premise", "hypothesis", "idx", "label"), axg, extras=_GROUP),
    )
}
