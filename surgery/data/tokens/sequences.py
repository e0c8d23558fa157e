"""Turn texts into token ids with the model's tokenizer; without torch, for whoever shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np

from surgery.errors import ModelUnsupported
from surgery.io.library_errors import blamed_on_model

IGNORED = -100  # the label of a token that has none

Text = str | tuple[str, str] | list[str]
"""A text, a pair of texts, or a list of words."""


def usable_length(tokenizer: Any, max_length: int) -> int:
    """The most tokens that are kept of a row: ``max_length``, or what the model takes if less."""
    return min(max_length, int(tokenizer.model_max_length))


def check_known(tokenizer: Any, largest: int) -> None:
    """Raise ModelUnsupported if the model has no embedding for the largest id of some tokens.

    This happens if tokens were added to the tokenizer and not to the model.
    """
    rows = getattr(tokenizer, "embedding_rows", None)
    if rows is not None and largest >= rows:
        raise ModelUnsupported(
            f"the tokenizer gives the token {tokenizer.convert_ids_to_tokens(largest)!r} the id "
            f"{largest}, and the model's embedding has {rows} rows, for ids up to {rows - 1}: call "
            "model.resize_token_embeddings(len(tokenizer)) and save both again"
        )


@contextmanager
def unlimited(tokenizer: Any) -> Iterator[Any]:
    """The tokenizer's backend without truncation and padding; its settings are restored afterwards.

    The settings are written into every checkpoint, and must not depend on whether the run
    tokenised any rows.
    """
    if not tokenizer.is_fast:
        raise ModelUnsupported(
            f"{type(tokenizer).__name__} is not a tokenizer of the tokenizers library; "
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


def token_columns(
    tokenizer: Any, texts: Sequence[Text], max_length: int, *, words: bool
) -> tuple[dict[str, list[Any]], np.ndarray[Any, np.dtype[np.int32]]]:
    """Each text's ids, types and, for ``words``, word numbers, and the lengths before truncation.

    The tokenizer's own truncation would hide the lengths. It also costs up to as much as
    tokenising, since it keeps what it cuts off, for pairs in every combination.
    """
    names = ("ids", "type_ids", "word_ids") if words else ("ids", "type_ids")
    with unlimited(tokenizer) as backend:
        # The fast method does not record offsets in the text, nor the numbers of words.
        run = backend.encode_batch if words else backend.encode_batch_fast
        with blamed_on_model(f"the model's {type(tokenizer).__name__} fails on a text"):
            encodings = run(texts, is_pretokenized=words)
    whole = np.fromiter(map(len, encodings), np.int32, len(encodings))
    columns = {name: [getattr(row, name) for row in encodings] for name in names}
    left = tokenizer.truncation_side == "left"
    for place in np.flatnonzero(whole > max_length).tolist():
        kept = kept_tokens(encodings[place].sequence_ids, max_length, left=left)
        for column in columns.values():
            column[place] = [column[place][at] for at in kept]
    return columns, whole


def kept_tokens(sequences: list[int | None], max_length: int, *, left: bool) -> list[int]:
    """The indices of the tokens that truncation keeps: special ones, and a share of each text's.

    ``sequences`` has the number of the text that each token belongs to, None for special tokens.
    """
    numbers = np.array([-1 if number is None else number for number in sequences])
    owners = [np.flatnonzero(numbers == text) for text in (0, 1)]
    stay = numbers < 0
    room = max(0, max_length - int(stay.sum()))
    for own, share in zip(owners, _shares(len(owners[0]), len(owners[1]), room), strict=True):
        stay[own[len(own) - share :] if left else own[:share]] = True
    return np.flatnonzero(stay).tolist()


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """Tokens kept of each text of a pair by ``longest_first``, as in the tokenizers library.

    The longer text is cut until it is as long as the other; from then on each gets half.
    """
    short = min(first, second)
    long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (short, long) if first <= second else (long, short)


def texts_of(chunk: Mapping[str, list[Any]], *, spaced: bool) -> list[Text]:
    """The tokenizer's input for each sequence."""
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


def loses_spaces(tokenizer: Any) -> bool:
    """Whether words need the space before them to be tokenised as in a text.

    Byte-level tokenizers (RoBERTa, ModernBERT) need it: they take a list of words for the pieces
    of one word.
    """
    with unlimited(tokenizer) as backend:
        text = backend.encode("a b").ids
        words, spaced = (
            backend.encode(split, is_pretokenized=True).ids for split in (["a", "b"], ["a", " b"])
        )
    return bool(words != text and spaced == text)


def at_first_tokens(words: list[int | None], tags: list[int]) -> np.ndarray[Any, Any]:
    """The tag of each word at its first token, and IGNORED at every other, shape (T,)."""
    aligned = np.full(len(words), IGNORED, dtype=np.int64)
    before = None
    for place, word in enumerate(words):
        if word is not None and word != before:
            aligned[place] = tags[word]
        before = word
    return aligned
