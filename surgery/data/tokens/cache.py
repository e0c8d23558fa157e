"""Tokenised splits on disk, shared by the jobs of a machine and mapped into memory.

A split lies in a folder named by everything its tokens depend on, as one ``.npy`` file an array,
written whole or not at all.
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

from surgery.data.tokens.dataset import IGNORED, Encoded, RowForm, TaskData
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
Split = Literal["train", "validation"]
FORMAT = 1  # of the folder, and of how rows become tokens
ATTEMPTS = 3  # at a folder that others may put in its place or take away
ARRAYS = ("ids", "types", "offsets", "labels", "whole")


def encode_split(
    data: TaskData,
    split: Split,
    tokenizer: Any,
    max_length: int,
    rows: Sequence[int] | None = None,
) -> Encoded:
    """`encode` a split of a dataset, through its cache where it has one.

    A whole split is written there on first use and read back memory-mapped. Some rows are taken
    from the whole where that is there, and tokenised alone where not. A damaged folder is logged
    and written anew. Raises OSError where the cache cannot be written, and DatasetInvalid where
    tagged rows have no word left.
    """
    encoded = _encode_split(data, split, tokenizer, max_length, rows)
    check_tokens(encoded, tokenizer)
    if encoded.tagged and not (encoded.labels != IGNORED).any():
        raise DatasetInvalid(
            f"no word of the {split} rows is left after the model's tokenizer and max_length "
            f"{max_length}, so that there is no tag to learn or to measure; are its words of "
            "characters that the tokenizer drops?"
        )
    return encoded


def _encode_split(
    data: TaskData,
    split: Split,
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
        found = _read(folder, form)
        return found.select(rows) if found else encode(table, tokenizer, max_length, rows)
    for _ in range(ATTEMPTS):
        found = _read(folder, form)
        if found is not None:
            return found
        _write(folder, table, tokenizer, max_length)
    raise OSError(f"the tokens in {folder} are damaged as soon as written; check that disk")


def token_key(fingerprint: str, split: Split, tokenizer: Any, max_length: int) -> str:
    """The folder's name: one for each dataset, split, tokenizer and length."""
    parts = [FORMAT, fingerprint, split, tokenizer_fingerprint(tokenizer), max_length]
    return json_digest(parts)


def _read(folder: Path, form: RowForm) -> Encoded | None:
    """The split, marked as used; None where it is not there. What is damaged is put away."""
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
    """The arrays, as they were written: hashed once a process, never held in memory."""
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
    """Tokenise a table into a folder, a chunk in memory at a time.

    Where two processes do so at once, the second to finish leaves the first one's.
    """
    with first_wins(folder), complete_folder(folder) as building, _SplitWriter(building) as writer:
        for chunk in token_chunks(table, tokenizer, max_length):
            writer.add(chunk)


class _SplitWriter:
    """The arrays of a split, growing on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays: dict[str, _GrowingArray] = {}
        self._open = ExitStack()
        self._total = 0
        self._append("offsets", np.zeros(1, np.int64))

    def add(self, chunk: TokenChunk) -> None:
        """The next rows."""
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
            self._arrays[name] = _GrowingArray(path, array.dtype)
            self._open.callback(self._arrays[name].close)
        self._arrays[name].append(array)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._open.close()


class _GrowingArray:
    """A ``.npy`` file of one dimension that is appended to.

    numpy leaves room in the header for the first dimension to grow, so the real length takes the
    place of the first one written.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._file = path.open("wb")
        self._dtype, self._length = dtype, 0
        self._head()

    def _head(self) -> None:
        form = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False}
        npy.write_array_header_1_0(self._file, {**form, "shape": (self._length,)})

    def append(self, array: np.ndarray[Any, Any]) -> None:
        """More entries, of the dtype of the first."""
        assert array.dtype == self._dtype
        self._file.write(array.tobytes())
        self._length += len(array)

    def close(self) -> None:
        """Write how many there are."""
        self._file.seek(0)
        self._head()
        self._file.close()
