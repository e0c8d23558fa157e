"""Tokenise rows with the model's tokenizer, into chunks of flat arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
from datasets import Dataset

from surgery.data.tokens.dataset import Encoded, RowForm
from surgery.data.tokens.sequences import (
    Text,
    at_first_tokens,
    check_known,
    loses_spaces,
    texts_of,
    token_columns,
    unlimited,
    usable_length,
)

TOKENIZE_ROWS = 1000  # sequences tokenised at once; the tokenizer spreads them over its threads
# Characters tokenised at once: a token takes some 150 bytes until its row is an array.
TOKENIZE_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class TokenChunk:
    """Some rows in order: S sequences with T tokens in all. The fields are those of `Encoded`.

    ``lengths`` (S,) is the number of tokens of each sequence after truncation.
    """

    ids: np.ndarray[Any, np.dtype[np.int32]]
    types: np.ndarray[Any, np.dtype[np.int8]] | None
    lengths: np.ndarray[Any, np.dtype[np.int64]]
    whole: np.ndarray[Any, np.dtype[np.int32]]
    labels: np.ndarray[Any, Any]


def encode(
    table: Dataset, tokenizer: Any, max_length: int, rows: Sequence[int] | None = None
) -> Encoded:
    """Tokenise rows of a table with the model's tokenizer, truncated to ``max_length`` tokens.

    A choice becomes the pair of the text and the choice, preceded by the question if there is one,
    as in the SuperGLUE baselines and SWAG. Raises ModelUnsupported if the tokenizer is not one of
    the tokenizers library.
    """
    chosen = table if rows is None else table.select(rows)
    chunks = list(token_chunks(chosen, tokenizer, max_length))
    lengths = np.concatenate([chunk.lengths for chunk in chunks])
    types = [chunk.types for chunk in chunks if chunk.types is not None]
    encoded = Encoded(
        ids=np.concatenate([chunk.ids for chunk in chunks]),
        types=np.concatenate(types) if types else None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=np.concatenate([chunk.labels for chunk in chunks]),
        whole=np.concatenate([chunk.whole for chunk in chunks]),
        **asdict(row_form(table, tokenizer, max_length)),
    )
    check_tokens(encoded, tokenizer)
    return encoded


def check_tokens(encoded: Encoded, tokenizer: Any) -> None:
    """Raise ModelUnsupported if a row contains a token that the model has no embedding for."""
    check_known(tokenizer, int(encoded.ids.max(initial=0)))


def row_form(table: Dataset, tokenizer: Any, max_length: int) -> RowForm:
    """What the rows of a table consist of, and how this tokenizer pads them."""
    return RowForm(
        choices=len(table[0]["choices"]) if "choices" in table.column_names else 1,
        tagged="tokens" in table.column_names,
        pad_id=tokenizer.pad_token_id,
        pad_type=tokenizer.pad_token_type_id,
        pad_left=tokenizer.padding_side == "left",
        pad_to=_pad_to(tokenizer, max_length),
    )


def token_chunks(table: Dataset, tokenizer: Any, max_length: int) -> Iterator[TokenChunk]:
    """Tokenise all rows of a table in chunks; the tokenizer's settings are left unchanged."""
    form = row_form(table, tokenizer, max_length)
    length = usable_length(tokenizer, max_length)
    spaced = form.tagged and loses_spaces(tokenizer)
    typed = "token_type_ids" in tokenizer.model_input_names
    for chunk in table.iter(batch_size=max(1, TOKENIZE_ROWS // form.choices)):
        texts = texts_of(chunk, spaced=spaced)
        for first, last in _pieces(texts, form.choices):
            own = texts[first * form.choices : last * form.choices]
            columns, whole = token_columns(tokenizer, own, length, words=form.tagged)
            labels = chunk["label"][first:last]
            yield TokenChunk(
                ids=_flat(columns["ids"], np.int32),
                types=_flat(columns["type_ids"], np.int8) if typed else None,
                lengths=np.fromiter(map(len, columns["ids"]), np.int64, len(own)),
                whole=whole,
                labels=_tags(columns["word_ids"], labels) if form.tagged else _labels(labels),
            )


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash in hex that differs between tokenizers which may encode a row differently."""
    names = ("padding_side", "truncation_side", "pad_token_id", "pad_token_type_id")
    settings = {name: getattr(tokenizer, name) for name in names}
    settings["model_max_length"] = int(tokenizer.model_max_length)
    settings["split_special_tokens"] = bool(tokenizer.split_special_tokens)
    settings["model_input_names"] = sorted(tokenizer.model_input_names)
    with unlimited(tokenizer) as backend:
        digest = hashlib.sha256(backend.to_str().encode())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()


def _flat(rows: Sequence[list[int]], kind: type[Any]) -> np.ndarray[Any, Any]:
    return np.array(list(chain.from_iterable(rows)), dtype=kind)


def _pieces(texts: Sequence[Text], choices: int) -> Iterator[tuple[int, int]]:
    """Start and end of each run of rows that is tokenised at once; a long row is one by itself."""
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


def _labels(labels: Sequence[Any]) -> np.ndarray[Any, Any]:
    """The labels of some rows, (N,), or zeros and ones (N, C) where a row may have several."""
    found = np.asarray(labels)
    return found.astype(np.int8) if found.ndim == 2 else found


def _tags(words: Sequence[list[int | None]], tags: Sequence[list[int]]) -> np.ndarray[Any, Any]:
    """The tags of some rows, one for each token, shape (T,)."""
    return np.concatenate(list(map(at_first_tokens, words, tags)))


def _pad_to(tokenizer: Any, max_length: int) -> int | None:
    """The length that all rows of a model without a mask (FNet) are padded to, or None.

    Such a model sees the padding, so there must be equally much of it in every batch.
    """
    if "attention_mask" in tokenizer.model_input_names:
        return None
    return usable_length(tokenizer, max_length)
