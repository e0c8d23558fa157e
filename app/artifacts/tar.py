"""A tar archive as a stream of known length: nothing is built on disk or in memory."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

END = b"\0" * (2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Member:
    """A file of the archive; ``chunks`` yields exactly ``size`` bytes."""

    name: str
    size: int
    chunks: Callable[[], Iterator[bytes]]


def tar_size(members: Sequence[Member]) -> int:
    """Bytes of the whole archive."""
    padded = (-(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE for member in members)
    return sum(tarfile.BLOCKSIZE + size for size in padded) + len(END)


def tar_stream(members: Sequence[Member], modified: float) -> Iterator[bytes]:
    """The archive, chunk by chunk."""
    for member in members:
        info = tarfile.TarInfo(member.name)
        info.size, info.mtime, info.mode = member.size, int(modified), 0o644
        yield info.tobuf(tarfile.USTAR_FORMAT)
        yield from member.chunks()
        yield b"\0" * (-member.size % tarfile.BLOCKSIZE)
    yield END
