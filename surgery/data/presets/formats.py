"""Convert raw rows of benchmarks whose columns do not hold the texts as a model reads them.

Each conversion is a pure function of one raw row in the shape of the Hub's parquet files.
docs/tasks.md says what each builds, and which of the benchmark's baselines it follows.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from surgery.data.files.source import Row, shown
from surgery.data.rows import CellError, CellType, RowFormat

_GROUP: tuple[tuple[str, CellType], ...] = (("group", "integer"),)
_PLACEHOLDER = "@placeholder"
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PART_BITS = 31  # two indices of a group make one integer of 62 bits


def wic(row: Row) -> list[Row]:
    """WiC as a pair: the word with the first sentence, and the second sentence."""
    text = f"{_text(row, 'word')}: {_text(row, 'sentence1')}"
    return [{"text": text, "text_pair": _text(row, "sentence2"), "label": row.get("label")}]


def wsc(row: Row) -> list[Row]:
    """WSC as one text, with the noun phrase between ``*`` and the pronoun between ``#``."""
    text = _text(row, "text")
    spans = [
        (*_span(text, row, "span1_text", "span1_index"), "*"),
        (*_span(text, row, "span2_text", "span2_index"), "#"),
    ]
    return [{"text": _marked(text, spans), "label": row.get("label")}]


def multirc(row: Row) -> list[Row]:
    """MultiRC as a pair: the paragraph, and the question with one answer."""
    pair = {
        "text": _text(row, "paragraph"),
        "text_pair": f"{_text(row, 'question')} {_text(row, 'answer')}",
        "label": row.get("label"),
        "group": _group(row, "paragraph", "question"),
    }
    return [pair]


def record(row: Row) -> list[Row]:
    """ReCoRD as a pair for each candidate entity: the passage, and the query with the entity.

    Each row also holds what answering with its entity scores in ReCoRD's own evaluation.
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
    """AX-g as a pair of premise and hypothesis. Rows ``2 i`` and ``2 i + 1`` form a group."""
    pair = {
        "text": _text(row, "premise"),
        "text_pair": _text(row, "hypothesis"),
        "label": row.get("label"),
        "group": _index(row.get("idx"), "idx") // 2,
    }
    return [pair]


def answer_f1(given: str, gold: str) -> float:
    """F1 of the words two answers share, as the evaluations of SQuAD and ReCoRD count them."""
    given_words, gold_words = _plain(given).split(), _plain(gold).split()
    shared = (Counter(given_words) & Counter(gold_words)).total()
    return 2 * shared / (len(given_words) + len(gold_words)) if shared else 0.0


@lru_cache(maxsize=4096)  # each answer is compared with a dozen entities
def _plain(answer: str) -> str:
    """The answer in lower case, without punctuation, articles and doubled spaces."""
    bare = answer.lower().translate(_NO_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _texts(row: Row, column: str, empty: str) -> list[str]:
    value = row.get(column)
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise CellError("is not a list of strings", column)
    if not value:
        raise CellError(f"is empty: {empty}", column)
    return list(dict.fromkeys(value))


def _group(row: Row, first: str, second: str) -> int:
    """The two indices of ``idx`` that rows of one question share, as one number."""
    index = row.get("idx")
    if not isinstance(index, dict):
        raise CellError(f"is not an object with the indices {first} and {second}", "idx")
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
    """Start and end of the occurrence of a span that is nearest to where it should begin.

    ``row[place]`` counts words split at spaces. Some rows of the data write a span in another case
    than the text, or place it one word off.
    """
    phrase, index = _text(row, words), _index(row.get(place), place)
    starts = [word.start() for word in re.finditer(r"\S+", text)]
    if index >= len(starts):
        raise CellError(f"is {index}; the text has {len(starts)} words, counted from 0", place)
    pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, phrase.split())) + r"(?!\w)"
    spans = [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]
    if not spans:
        raise CellError(f"{shown(phrase)!r} does not occur in the text", words)
    return min(spans, key=lambda span: abs(span[0] - starts[index]))


def _marked(text: str, spans: Sequence[tuple[int, int, str]]) -> str:
    """The text with each (start, end, mark) span between its marks, with spaces around them.

    If two spans begin or end together, the marks of the longer one are outside.
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


_SCORES: tuple[tuple[str, CellType], ...] = (("f1", "number"), ("exact_match", "number"))
_WIC = ("word", "sentence1", "sentence2", "label")
_WSC = ("text", "span1_text", "span1_index", "span2_text", "span2_index", "label")
_MULTIRC = ("paragraph", "question", "answer", "idx", "label")
_RECORD = ("passage", "query", "entities", "answers", "idx")
_AXG = ("premise", "hypothesis", "idx", "label")
FORMATS = {
    "wic": RowFormat("wic", 1, _WIC, wic),
    "wsc": RowFormat("wsc", 1, _WSC, wsc, pair=False),
    "multirc": RowFormat("multirc", 1, _MULTIRC, multirc, extras=_GROUP),
    "record": RowFormat("record", 1, _RECORD, record, extras=(*_GROUP, *_SCORES), expands=True),
    "axg": RowFormat("axg", 1, _AXG, axg, extras=_GROUP),
}
