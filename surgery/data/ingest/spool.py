"""Numbers and names of every row, kept on disk: memory holds the last of them."""

from __future__ import annotations

import tempfile
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from surgery.schemas.dataset import Place

CHUNK_ROWS = 1 << 15  # in memory at a time; fewer rows never touch the disk

ID_COLUMNS = ("id", "idx", "guid", "uid", "index")


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


@dataclass
class Places:
    """File and number of each row, by its position among all rows read; 4 bytes a row on disk."""

    rows: Spool = field(default_factory=lambda: Spool("i"))
    starts: list[int] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def add(self, file: str, row: int) -> None:
        """The next row."""
        if not self.files or self.files[-1] != file:
            self.starts.append(len(self.rows))
            self.files.append(file)
        self.rows.append(row)

    def at(self, position: int) -> Place:
        """Where a row stands."""
        file = self.files[bisect_right(self.starts, position) - 1]
        return Place(file=file, row=self.rows[position])


@dataclass
class Ids:
    """A hash of each row's id, 8 bytes a row on disk, where a column is called as ids are."""

    column: str | None = None
    hashes: Spool = field(default_factory=lambda: Spool("q"))

    def add(self, values: Mapping[str, object]) -> None:
        """The next row's; a missing one is like no other."""
        if self.column is None:
            return
        value = values.get(self.column)
        missing = value is None or value == ""
        self.hashes.append(hash(("row", len(self.hashes)) if missing else str(value)))


def find_id_column(names: Mapping[str, object], used: set[str]) -> str | None:
    """The column of ids, unless it plays another part."""
    lowered = {name.lower(): name for name in names if name not in used}
    return next((lowered[name] for name in ID_COLUMNS if name in lowered), None)
