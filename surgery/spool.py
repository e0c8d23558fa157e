"""Numbers of every row of a dataset, kept on disk: memory holds the last of them."""

from __future__ import annotations

import tempfile
import weakref
from array import array
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

CHUNK_ROWS = 1 << 15  # in memory at a time; fewer rows never touch the disk


class Spool:
    """Numbers of one C type (as `array` names them), ``width`` of them a row.

    What is on disk is a temporary file without a name: it goes with the object, however that ends.
    """

    def __init__(self, typecode: str, width: int = 1) -> None:
        self._held: array[Any] = array(typecode)
        self._dtype, self._width = np.dtype(typecode), width
        self._file: IO[bytes] | None = None
        self._stored = 0  # rows on disk

    def append(self, number: float) -> None:
        """The next row, of one number."""
        self._held.append(number)
        if len(self._held) >= CHUNK_ROWS:
            self._store()

    def append_bytes(self, row: bytes) -> None:
        """The next row, as its numbers lie in memory."""
        self._held.frombytes(row)
        if len(self._held) >= CHUNK_ROWS * self._width:
            self._store()

    def _store(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed with this object
            weakref.finalize(self, self._file.close)
        self._file.seek(0, 2)
        self._file.write(self._held.tobytes())
        self._stored += len(self._held) // self._width
        del self._held[:]

    def __len__(self) -> int:
        return self._stored + len(self._held) // self._width

    def __getitem__(self, row: int) -> Any:
        """One row's number; IndexError where there is no such row."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        return next(self.chunks(row, row + 1))[0].item()

    def __iter__(self) -> Iterator[Any]:
        for chunk in self.chunks():
            yield from chunk.tolist()

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray[Any, Any]]:
        """The rows from ``start`` up to ``stop``, a chunk at a time: (N,), or (N, width).

        From row 0, chunks of all spools of as many rows are equally long.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        while start < stop:
            rows = self._read(start, min(stop, start + CHUNK_ROWS))
            yield rows if self._width == 1 else rows.reshape(-1, self._width)
            start += len(rows) // self._width

    def _read(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        """Some rows, flat: up to ``stop``, or to the end of those on disk."""
        width, size = self._width, self._dtype.itemsize
        if self._file is None or start >= self._stored:
            held = self._held[(start - self._stored) * width : (stop - self._stored) * width]
            return np.array(held, self._dtype)
        self._file.seek(start * width * size)
        data = self._file.read((min(stop, self._stored) - start) * width * size)
        return np.frombuffer(data, self._dtype)
