"""Tokenised splits on disk, which the jobs of a machine share and map into memory.

A split lies in a folder whose name is a hash of everything its tokens depend on. The folder has
one ``.npy`` file for each array and appears only when it is complete.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from datasets import Dataset
from numpy.lib import format as npy

from surgery.data.tokens.dataset import Encoded, RowForm, TaskData
from surgery.data.tokens.sequences import IGNORED
from surgery.data.tokens.tokenize import (
    TokenChunk,
    check_tokens,
    encode,
    row_form,
    token_chunks,
    tokenizer_fingerprint,
)
from surgery.errors import DatasetInvalid
from surgery.io.digests import file_digest, json_digest
from surgery.io.folders import complete_folder, first_wins, put_away, read_manifest

log = logging.getLogger("surgeon.tokens")
SplitName = Literal["train", "validation"]
TOKENS_FORMAT = 1  # version of the folder, and of how rows become tokens
ATTEMPTS = 3  # at reading a folder, which other processes may replace or remove
ARRAYS = ("ids", "types", "offsets", "labels", "whole")


def encode_split(
    data: TaskData,
    split: SplitName,
    tokenizer: Any,
    max_length: int,
    rows: Sequence[int] | None = None,
) -> Encoded:
    """`encode` a split of a dataset, through its cache if it has one.

    A whole split is written to the cache on first use and read back memory-mapped. Single ``rows``
    are taken from the cached split if there is one, and are otherwise tokenised alone. A damaged
    folder is logged and written again. Raises OSError if the cache cannot be written, and
    DatasetInvalid if no word of tagged rows is left.
    """
    encoded = _encode_split(data, split, tokenizer, max_length, rows)
    check_tokens(encoded, tokenizer)
    if encoded.tagged and not (encoded.labels != IGNORED).any():
        raise DatasetInvalid(
            f"no word of the {split} rows is left after the model's tokenizer and max_length "
            f"{max_length}, so that there is no tag to learn or to measure; do the words have only "
            "characters that the tokenizer drops?"
        )
    return encoded


def _encode_split(
    data: TaskData,
    split: SplitName,
    tokenizer: Any,
    max_length: int,
    rows: Sequence[int] | None,
) -> Encoded:
    table: Dataset = getattr(data, split)
    if data.tokens is None or data.fingerprint is None:
        return encode(table, tokenizer, max_length, rows)
    folder = data.tokens / token_key(data.fingerprint, split, tokenizer, max_length)
    form = row_form(table, tokenizer, max_length)
    if rows is not None:
        cached = _read(folder, form)
        return cached.select(rows) if cached else encode(table, tokenizer, max_length, rows)
    for _ in range(ATTEMPTS):
        cached = _read(folder, form)
        if cached is not None:
            return cached
        _write(folder, table, tokenizer, max_length)
    raise OSError(f"the tokens in {folder} are damaged as soon as written; check that disk")


def token_key(fingerprint: str, split: SplitName, tokenizer: Any, max_length: int) -> str:
    """The folder's name, which differs between datasets, splits, tokenizers and lengths."""
    parts = [TOKENS_FORMAT, fingerprint, split, tokenizer_fingerprint(tokenizer), max_length]
    return json_digest(parts)


def _read(folder: Path, form: RowForm) -> Encoded | None:
    """The cached split, marked as used, or None. A damaged folder is removed."""
    if not folder.is_dir():
        return None
    try:
        arrays = _mapped(folder)
        os.utime(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if put_away(folder):
            log.warning("tokens in %s are damaged, tokenising again: %s", folder, error)
        return None
    return Encoded(**arrays, **asdict(form))


def _mapped(folder: Path) -> dict[str, Any]:
    """The arrays, mapped into memory. Each process checks their hashes once."""
    files = read_manifest(folder)
    for name, entry in files.items():
        if file_digest(folder / name) != entry["sha256"]:
            raise ValueError(f"{name} is not what was written")
    arrays: dict[str, Any] = {"types": None}
    for name in ARRAYS:
        if name != "types" or "types.npy" in files:
            mapped = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            arrays[name] = mapped.view(np.ndarray)  # np.memmap is slow to slice
    return arrays


def _write(folder: Path, table: Dataset, tokenizer: Any, max_length: int) -> None:
    """Tokenise a table into a folder, with one chunk in memory at a time.

    If two processes do so at once, the folder of the first to finish stays.
    """
    with first_wins(folder), complete_folder(folder) as building, _SplitWriter(building) as writer:
        for chunk in token_chunks(table, tokenizer, max_length):
            writer.add(chunk)


class _SplitWriter:
    """Writes the arrays of a split, which grow on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays: dict[str, _GrowingArray] = {}
        self._open = ExitStack()
        self._total = 0
        self._append("offsets", np.zeros(1, np.int64))

    def add(self, chunk: TokenChunk) -> None:
        """Append the next rows."""
        ends = self._total + np.cumsum(chunk.lengths)
        self._total = int(ends[-1])
        self._append("ids", chunk.ids)
        if chunk.types is not None:
            self._append("types", chunk.types)
        self._append("offsets", ends)
        self._append("labels", chunk.labels)
        self._append("whole", chunk.whole)

    def _append(self, name: str, array: np.ndarray[Any, Any]) -> None:
        if name not in self._arrays:
            path = self._folder / f"{name}.npy"
            self._arrays[name] = _GrowingArray(path, array.dtype, array.shape[1:])
            self._open.callback(self._arrays[name].close)
        self._arrays[name].append(array)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._open.close()


class _GrowingArray:
    """A ``.npy`` file of rows of one shape that is appended to.

    numpy leaves room in the header for the first dimension to grow, so that the final length can
    replace the one written first.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._file = path.open("wb")
        self._dtype, self._shape, self._length = dtype, shape, 0
        self._head()

    def _head(self) -> None:
        form = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False}
        npy.write_array_header_1_0(self._file, {**form, "shape": (self._length, *self._shape)})

    def append(self, array: np.ndarray[Any, Any]) -> None:
        """Append entries of the file's dtype and shape."""
        assert array.dtype == self._dtype
        assert array.shape[1:] == self._shape
        self._file.write(array.tobytes())
        self._length += len(array)

    def close(self) -> None:
        """Write the final length into the header and close the file."""
        self._file.seek(0)
        self._head()
        self._file.close()
