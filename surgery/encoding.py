"""Rows through the model's own tokenizer, in chunks of flat arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
from datasets import Dataset

from surgery.data import Encoded, RowForm
from surgery.errors import ModelUnsupported
from surgery.likelihood import IGNORED

TOKENIZE_ROWS = 1000  # sequences read at once; the tokenizer spreads them over its threads
# Characters handed over at once: a token takes some 150 bytes until its row is an array.
TOKENIZE_CHARACTERS = 1_000_000

Text = str | tuple[str, str] | list[str]
"""A text, a pair, or words."""


@dataclass(frozen=True)
class TokenChunk:
    """Some rows in order, S sequences of T tokens in all; the fields are those of `Encoded`.

    ``lengths`` (S,) counts the tokens kept of each sequence.
    """

    ids: np.ndarray[Any, np.dtype[np.int32]]
    types: np.ndarray[Any, np.dtype[np.int8]] | None
    lengths: np.ndarray[Any, np.dtype[np.int64]]
    whole: np.ndarray[Any, np.dtype[np.int32]]
    labels: np.ndarray[Any, Any]


def encode(
    table: Dataset, tokenizer: Any, max_length: int, rows: Sequence[int] | None = None
) -> Encoded:
    """Tokenise rows of a table with the model's own tokenizer, cut at ``max_length`` tokens.

    A choice is the pair of the text and the choice, which follows the question where there is one:
    the form of the SuperGLUE baselines and of SWAG. Raises ModelUnsupported where the tokenizer is
    not one of the tokenizers library.
    """
    chosen = table if rows is None else table.select(rows)
    chunks = list(token_chunks(chosen, tokenizer, max_length))
    lengths = np.concatenate([chunk.lengths for chunk in chunks])
    types = [chunk.types for chunk in chunks if chunk.types is not None]
    return Encoded(
        ids=np.concatenate([chunk.ids for chunk in chunks]),
        types=np.concatenate(types) if types else None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=np.concatenate([chunk.labels for chunk in chunks]),
        whole=np.concatenate([chunk.whole for chunk in chunks]),
        **asdict(row_form(table, tokenizer, max_length)),
    )


def row_form(table: Dataset, tokenizer: Any, max_length: int) -> RowForm:
    """What the rows of a table are, and how this tokenizer fills them up."""
    return RowForm(
        choices=len(table[0]["choices"]) if "choices" in table.column_names else 1,
        tagged="tokens" in table.column_names,
        pad_id=tokenizer.pad_token_id,
        pad_type=tokenizer.pad_token_type_id,
        pad_left=tokenizer.padding_side == "left",
        pad_to=_pad_to(tokenizer, max_length),
    )


def token_chunks(table: Dataset, tokenizer: Any, max_length: int) -> Iterator[TokenChunk]:
    """All rows of a table, some at a time; the tokenizer is left as it was."""
    form = row_form(table, tokenizer, max_length)
    spaced = form.tagged and _loses_spaces(tokenizer)
    typed = "token_type_ids" in tokenizer.model_input_names
    for chunk in table.iter(batch_size=max(1, TOKENIZE_ROWS // form.choices)):
        texts = _texts(chunk, spaced=spaced)
        for first, last in _pieces(texts, form.choices):
            own = texts[first * form.choices : last * form.choices]
            found, whole = _encodings(tokenizer, own, max_length, words=form.tagged)
            lengths = np.fromiter(map(len, found), np.int64, len(found))
            labels = chunk["label"][first:last]
            yield TokenChunk(
                ids=_flat([row.ids for row in found], np.int32),
                types=_flat([row.type_ids for row in found], np.int8) if typed else None,
                lengths=lengths,
                whole=whole,
                labels=_tags(found, labels) if form.tagged else np.asarray(labels),
            )


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Differs wherever two tokenizers may encode a row differently, in hex."""
    names = ("padding_side", "truncation_side", "pad_token_id", "pad_token_type_id")
    settings = {name: getattr(tokenizer, name) for name in names}
    settings["model_max_length"] = int(tokenizer.model_max_length)
    settings["split_special_tokens"] = bool(tokenizer.split_special_tokens)
    settings["model_input_names"] = sorted(tokenizer.model_input_names)
    with _unlimited(tokenizer) as backend:
        digest = hashlib.sha256(backend.to_str().encode())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()


@contextmanager
def _unlimited(tokenizer: Any) -> Iterator[Any]:
    """The tokenizer's backend, neither cutting nor filling up; its own settings come back.

    They are written into every checkpoint, which must not tell whether its run tokenised a row.
    """
    if not tokenizer.is_fast:
        raise ModelUnsupported(
            f"{type(tokenizer).__name__} is no tokenizer of the tokenizers library; "
            "give the model a tokenizer.json"
        )
    backend = tokenizer.backend_tokenizer
    truncation, padding = backend.truncation, backend.padding
    special = backend.encode_special_tokens
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    try:
        yield backend
    finally:
        backend.encode_special_tokens = special
        if padding is not None:
            backend.enable_padding(**padding)
        if truncation is not None:
            backend.enable_truncation(**truncation)
        else:
            backend.no_truncation()


def _encodings(
    tokenizer: Any, texts: Sequence[Text], max_length: int, *, words: bool
) -> tuple[list[Any], np.ndarray[Any, np.dtype[np.int32]]]:
    """One encoding a text, cut, and how many tokens each has uncut.

    What is too long is encoded twice: the first pass counts, the second lets the tokenizer itself
    decide which tokens of a pair go. Cutting is the slow part of it, so where every row is cut the
    two take about one and a half times as long as the second alone.
    """
    with _unlimited(tokenizer) as backend:
        # The fast way keeps no places in the text, and with them no numbers of words.
        run = backend.encode_batch if words else backend.encode_batch_fast
        found: list[Any] = run(texts, is_pretokenized=words)
        whole = np.fromiter(map(len, found), np.int32, len(found))
        places = np.flatnonzero(whole > max_length).tolist()
        if places:
            backend.enable_truncation(max_length, direction=tokenizer.truncation_side)
            cut = run([texts[place] for place in places], is_pretokenized=words)
            for place, encoding in zip(places, cut, strict=True):
                found[place] = encoding
    return found, whole


def _flat(rows: Sequence[list[int]], kind: type[Any]) -> np.ndarray[Any, Any]:
    return np.array(list(chain.from_iterable(rows)), dtype=kind)


def _pieces(texts: Sequence[Text], choices: int) -> Iterator[tuple[int, int]]:
    """First row and end of each piece that is tokenised at once; a long row is one by itself."""
    first, characters = 0, 0
    for row in range(len(texts) // choices):
        own = sum(map(_characters, texts[row * choices : (row + 1) * choices]))
        if row > first and characters + own > TOKENIZE_CHARACTERS:
            yield first, row
            first, characters = row, 0
        characters += own
    yield first, len(texts) // choices


def _characters(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))


def _texts(chunk: dict[str, list[Any]], *, spaced: bool) -> list[Text]:
    """What the tokenizer is given of each sequence."""
    if "tokens" in chunk:
        if not spaced:
            return list(chunk["tokens"])
        return [[row[0], *(f" {word}" for word in row[1:])] for row in chunk["tokens"]]
    if "choices" not in chunk:
        if "text_pair" not in chunk:
            return list(chunk["text"])
        return list(zip(chunk["text"], chunk["text_pair"], strict=True))
    questions = chunk.get("text_pair", [""] * len(chunk["choices"]))
    seconds = [
        [f"{question} {choice}" if question else choice for choice in choices]
        for question, choices in zip(questions, chunk["choices"], strict=True)
    ]
    if "text" not in chunk:
        return list(chain.from_iterable(seconds))
    return [(text, each) for text, own in zip(chunk["text"], seconds, strict=True) for each in own]


def _loses_spaces(tokenizer: Any) -> bool:
    """Whether words must carry the space before them to be read as in a text.

    So it is with byte-level tokenizers (RoBERTa, ModernBERT), which take a list of words for the
    pieces of one.
    """
    with _unlimited(tokenizer) as backend:
        text = backend.encode("a b").ids
        words, spaced = (
            backend.encode(split, is_pretokenized=True).ids for split in (["a", "b"], ["a", " b"])
        )
    return bool(words != text and spaced == text)


def _tags(encodings: Sequence[Any], tags: Sequence[list[int]]) -> np.ndarray[Any, Any]:
    """The tags of some rows, one a token, shape (T,)."""
    rows = zip(encodings, tags, strict=True)
    return np.concatenate([_at_first_tokens(row.word_ids, own) for row, own in rows])


def _at_first_tokens(words: list[int | None], tags: list[int]) -> np.ndarray[Any, Any]:
    """The tag of each word at its first token, IGNORED at every other place, shape (T,)."""
    found = np.full(len(words), IGNORED, dtype=np.int64)
    before = None
    for place, word in enumerate(words):
        if word is not None and word != before:
            found[place] = tags[word]
        before = word
    return found


def _pad_to(tokenizer: Any, max_length: int) -> int | None:
    """A model without a mask (FNet) sees padding: it gets as much in every batch."""
    if "attention_mask" in tokenizer.model_input_names:
        return None
    return min(max_length, int(tokenizer.model_max_length))
