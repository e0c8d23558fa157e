"""Tokenise rows with the model's tokenizer, into chunks of flat arrays."""

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

from surgery.data.tokens.dataset import IGNORED, Encoded, RowForm
from surgery.errors import ModelUnsupported
from surgery.io.library_errors import blamed_on_model

TOKENIZE_ROWS = 1000  # sequences tokenised at once; the tokenizer spreads them over its threads
# Characters tokenised at once: a token takes some 150 bytes until its row is an array.
TOKENIZE_CHARACTERS = 1_000_000

Text = str | tuple[str, str] | list[str]
"""A text, a pair of texts, or a list of words."""


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
    """Raise ModelUnsupported if a row contains a token that the model has no embedding for.

    This happens if tokens were added to the tokenizer and not to the model.
    """
    rows = getattr(tokenizer, "embedding_rows", None)
    largest = int(encoded.ids.max(initial=0))
    if rows is not None and largest >= rows:
        raise ModelUnsupported(
            f"the tokenizer gives the token {tokenizer.convert_ids_to_tokens(largest)!r} the id "
            f"{largest}, and the model's embedding has {rows} rows, for ids up to {rows - 1}: call "
            "model.resize_token_embeddings(len(tokenizer)) and save both again"
        )


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


def usable_length(tokenizer: Any, max_length: int) -> int:
    """The most tokens that are kept of a row: ``max_length``, or what the model takes if less."""
    return min(max_length, int(tokenizer.model_max_length))


def token_chunks(table: Dataset, tokenizer: Any, max_length: int) -> Iterator[TokenChunk]:
    """Tokenise all rows of a table in chunks; the tokenizer's settings are left unchanged."""
    form = row_form(table, tokenizer, max_length)
    length = usable_length(tokenizer, max_length)
    spaced = form.tagged and _loses_spaces(tokenizer)
    typed = "token_type_ids" in tokenizer.model_input_names
    for chunk in table.iter(batch_size=max(1, TOKENIZE_ROWS // form.choices)):
        texts = _texts(chunk, spaced=spaced)
        for first, last in _pieces(texts, form.choices):
            own = texts[first * form.choices : last * form.choices]
            columns, whole = _columns(tokenizer, own, length, words=form.tagged)
            labels = chunk["label"][first:last]
            yield TokenChunk(
                ids=_flat(columns["ids"], np.int32),
                types=_flat(columns["type_ids"], np.int8) if typed else None,
                lengths=np.fromiter(map(len, columns["ids"]), np.int64, len(own)),
                whole=whole,
                labels=_tags(columns["word_ids"], labels) if form.tagged else np.asarray(labels),
            )


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash in hex that differs between tokenizers which may encode a row differently."""
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


def _columns(
    tokenizer: Any, texts: Sequence[Text], max_length: int, *, words: bool
) -> tuple[dict[str, list[Any]], np.ndarray[Any, np.dtype[np.int32]]]:
    """Each text's ids, types and, for ``words``, word numbers, and the lengths before truncation.

    The tokenizer's own truncation would hide the lengths. It also costs up to as much as
    tokenising, since it keeps what it cuts off, for pairs in every combination.
    """
    names = ("ids", "type_ids", "word_ids") if words else ("ids", "type_ids")
    with _unlimited(tokenizer) as backend:
        # The fast method does not record offsets in the text, nor the numbers of words.
        run = backend.encode_batch if words else backend.encode_batch_fast
        with blamed_on_model(f"the model's {type(tokenizer).__name__} fails on a text"):
            encodings = run(texts, is_pretokenized=words)
    whole = np.fromiter(map(len, encodings), np.int32, len(encodings))
    columns = {name: [getattr(row, name) for row in encodings] for name in names}
    left = tokenizer.truncation_side == "left"
    for place in np.flatnonzero(whole > max_length).tolist():
        kept = _kept(encodings[place].sequence_ids, max_length, left=left)
        for column in columns.values():
            column[place] = [column[place][at] for at in kept]
    return columns, whole


def _kept(sequences: list[int | None], max_length: int, *, left: bool) -> list[int]:
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


def _texts(chunk: dict[str, list[Any]], *, spaced: bool) -> list[Text]:
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


def _loses_spaces(tokenizer: Any) -> bool:
    """Whether words need the space before them to be tokenised as in a text.

    Byte-level tokenizers (RoBERTa, ModernBERT) need it: they take a list of words for the pieces
    of one word.
    """
    with _unlimited(tokenizer) as backend:
        text = backend.encode("a b").ids
        words, spaced = (
            backend.encode(split, is_pretokenized=True).ids for split in (["a", "b"], ["a", " b"])
        )
    return bool(words != text and spaced == text)


def _tags(words: Sequence[list[int | None]], tags: Sequence[list[int]]) -> np.ndarray[Any, Any]:
    """The tags of some rows, one for each token, shape (T,)."""
    return np.concatenate(list(map(_at_first_tokens, words, tags)))


def _at_first_tokens(words: list[int | None], tags: list[int]) -> np.ndarray[Any, Any]:
    """The tag of each word at its first token, and IGNORED at every other, shape (T,)."""
    aligned = np.full(len(words), IGNORED, dtype=np.int64)
    before = None
    for place, word in enumerate(words):
        if word is not None and word != before:
            aligned[place] = tags[word]
        before = word
    return aligned


def _pad_to(tokenizer: Any, max_length: int) -> int | None:
    """The length that all rows of a model without a mask (FNet) are padded to, or None.

    Such a model sees the padding, so there must be equally much of it in every batch.
    """
    if "attention_mask" in tokenizer.model_input_names:
        return None
    return usable_length(tokenizer, max_length)
