"""Tar archives that are never built anywhere: their layout is known, so any part can be sent."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

END = b"\0" * (2 * tarfile.BLOCKSIZE)

Chunks = Callable[[int, int], Iterator[bytes]]
"""Yields the bytes from the first position up to, and not including, the second."""


@dataclass(frozen=True)
class Member:
    """A file of an archive; ``chunks`` yields any part of its ``size`` bytes."""

    name: str
    size: int
    chunks: Chunks


class Tar:
    """An archive of files, each with the time stamp ``modified`` in Unix seconds."""

    def __init__(self, members: Sequence[Member], modified: float) -> None:
        pieces: list[tuple[int, Chunks]] = []
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.size, info.mtime, info.mode = member.size, int(modified), 0o644
            pieces.append(_fixed(info.tobuf(tarfile.USTAR_FORMAT)))
            pieces.append((member.size, member.chunks))
            pieces.append(_fixed(b"\0" * (-member.size % tarfile.BLOCKSIZE)))
        self._pieces = [*pieces, _fixed(END)]
        self.size = sum(size for size, _ in self._pieces)

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes of the archive from ``start`` up to ``end``; other members are not read."""
        position = 0
        for size, chunks in self._pieces:
            first, last = max(start - position, 0), min(end - position, size)
            if first < last:
                yield from chunks(first, last)
            position += size


def in_memory(content: bytes) -> Chunks:
    """The parts of something that is in memory."""
    return lambda start, end: iter((content[start:end],))


def _fixed(content: bytes) -> tuple[int, Chunks]:
    return len(content), in_memory(content)
