"""Per-row numbers, places and ids of a dataset, kept on disk; memory holds only the last rows."""

from __future__ import annotations

import tempfile
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from surgery.schemas.data.dataset import Place

CHUNK_ROWS = 1 << 15  # in memory at a time; fewer rows never touch the disk

ID_COLUMNS = ("id", "idx", "guid", "uid", "index")


class Spool:
    """A column of numbers of one C type (by `array`'s type codes), ``width`` of them a row.

    The rows on disk are in a temporary file without a name, which disappears with this object.
    """

    def __init__(self, typecode: str, width: int = 1) -> None:
        self._recent: array[Any] = array(typecode)
        self._dtype, self._width = np.dtype(typecode), width
        self._file: IO[bytes] | None = None
        self._stored = 0  # rows on disk

    def append(self, number: float) -> None:
        """Add the next row, which has one number."""
        self._recent.append(number)
        if len(self._recent) >= CHUNK_ROWS:
            self._store()

    def append_bytes(self, row: bytes) -> None:
        """Add the next row, given as the bytes of its numbers in memory."""
        self._recent.frombytes(row)
        if len(self._recent) >= CHUNK_ROWS * self._width:
            self._store()

    def _store(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed with this object
            weakref.finalize(self, self._file.close)
        self._file.seek(0, 2)
        self._file.write(self._recent.tobytes())
        self._stored += len(self._recent) // self._width
        del self._recent[:]

    def __len__(self) -> int:
        return self._stored + len(self._recent) // self._width

    def __getitem__(self, row: int) -> Any:
        if not 0 <= row < len(self):
            raise IndexError(row)
        return next(self.chunks(row, row + 1))[0].item()

    def __iter__(self) -> Iterator[Any]:
        for chunk in self.chunks():
            yield from chunk.tolist()

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray[Any, Any]]:
        """Yield the rows from ``start`` up to ``stop`` in chunks of shape (N,), or (N, width).

        From row 0, the chunks of spools with equally many rows have equal lengths.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        while start < stop:
            rows = self._read(start, min(stop, start + CHUNK_ROWS))
            yield rows if self._width == 1 else rows.reshape(-1, self._width)
            start += len(rows) // self._width

    def _read(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        """The numbers of the rows up to ``stop``, or up to the end of those on disk, flat."""
        width, size = self._width, self._dtype.itemsize
        if self._file is None or start >= self._stored:
            rows = self._recent[(start - self._stored) * width : (stop - self._stored) * width]
            return np.array(rows, self._dtype)
        self._file.seek(start * width * size)
        data = self._file.read((min(stop, self._stored) - start) * width * size)
        return np.frombuffer(data, self._dtype)


@dataclass
class RowPlaces:
    """The file and row number of each row read, by its position; 4 bytes a row on disk."""

    rows: Spool = field(default_factory=lambda: Spool("i"))
    starts: list[int] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def add(self, file: str, row: int) -> None:
        """Add the place of the next row."""
        if not self.files or self.files[-1] != file:
            self.starts.append(len(self.rows))
            self.files.append(file)
        self.rows.append(row)

    def at(self, position: int) -> Place:
        """The file and row number of the row at a position."""
        file = self.files[bisect_right(self.starts, position) - 1]
        return Place(file=file, row=self.rows[position])


@dataclass
class Ids:
    """A hash of each row's id, if there is a column of ids; 8 bytes a row on disk."""

    column: str | None = None
    hashes: Spool = field(default_factory=lambda: Spool("q"))

    def add(self, values: Mapping[str, object]) -> None:
        """Add the id of the next row; a missing one equals no other."""
        if self.column is None:
            return
        value = values.get(self.column)
        missing = value is None or value == ""
        self.hashes.append(hash(("row", len(self.hashes)) if missing else str(value)))


def find_id_column(names: Mapping[str, object], used: set[str]) -> str | None:
    """The column of ids by its name, unless it is among those ``used`` otherwise."""
    lowered = {name.lower(): name for name in names if name not in used}
    return next((lowered[name] for name in ID_COLUMNS if name in lowered), None)
