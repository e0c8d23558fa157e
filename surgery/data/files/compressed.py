"""Open text that may be compressed (gzip, Zstandard), unpacked as a stream and up to a limit."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from pathlib import Path, PurePath
from typing import IO, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUFFIXES = {".gz": "gzip", ".zst": "Zstandard"}
MAX_RATIO = 200  # text seldom shrinks to a twentieth; a higher ratio is an attack on the disk
FREE_BYTES = 16 << 20  # any file may unpack to this much: a short one can be all repetition
# Log2 of the largest window a frame may ask for, which is held in memory, as in the zstd command.
_WINDOW_LOG = 27
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "Zstandard"}
_FOREIGN = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"BZh91AY&SY": "compressed with bzip2",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"%PDF-": "a PDF",
}
_CORRUPT = (OSError, EOFError, zlib.error, zstd.ZstdError)


class UnreadableFile(ValueError):
    """A file's bytes are not what its name says, or unpack to too much; the message says which."""


def plain_name(filename: str) -> str:
    """A file name without the suffix of a compression."""
    path = PurePath(filename)
    return filename[: -len(path.suffix)] if path.suffix.lower() in SUFFIXES else filename


def open_text(path: Path, name: str, max_bytes: int) -> io.BufferedReader:
    """Open a file whose bytes are unpacked while they are read; its first bytes tell how.

    ``name`` is the name the user gave it. ``max_bytes`` limits what it may unpack to. Raises
    UnreadableFile here and from every read.
    """
    file = path.open("rb")
    try:
        start = file.read(10)
        file.seek(0)
        packed = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
        _refuse_foreign(start)
        named = SUFFIXES.get(PurePath(name).suffix.lower())
        if packed is None and named is not None:
            raise UnreadableFile(
                f"the name says {named}, but the content is not compressed so; correct the name, "
                "or compress the file again"
            )
    except BaseException:
        file.close()
        raise
    if packed is None:
        return file
    return io.BufferedReader(_Unpacked(file, packed, max_bytes), 1 << 16)


def _refuse_foreign(start: bytes) -> None:
    for magic, kind in _FOREIGN.items():
        if start.startswith(magic):
            raise UnreadableFile(f"the file is {kind}; send csv, tsv or jsonl, plain, gz or zst")
    if start.startswith(b"PAR1\x15"):
        raise UnreadableFile("the file is Parquet; let its name end in .parquet")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableFile("the file is UTF-16; save it with the encoding UTF-8")


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a compressed file, which is never unpacked further than read."""

    def __init__(self, file: io.BufferedReader, kind: str, max_bytes: int) -> None:
        self._file, self._kind, self._max_bytes = file, kind, max_bytes
        self._taken = 0
        if kind == "gzip":
            self._stream = cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="rb"))
        else:
            window = {int(zstd.DecompressionParameter.window_log_max): _WINDOW_LOG}
            self._stream = cast("IO[bytes]", zstd.ZstdFile(file, "rb", options=window))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read up to the buffer's length of unpacked bytes; returns how many, 0 at the end."""
        try:
            chunk = self._stream.read(len(buffer))
        except _CORRUPT as error:
            reason = str(error).strip() or type(error).__name__
            raise UnreadableFile(
                f"the {self._kind} data are damaged or cut off ({reason}); compress the file again"
            ) from None
        self._taken += len(chunk)
        self._check_size()
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def _check_size(self) -> None:
        if self._taken > self._max_bytes:
            raise UnreadableFile(
                f"the file unpacks to more than {self._max_bytes:,} bytes; send a sample of it"
            )
        if self._taken > max(FREE_BYTES, MAX_RATIO * self._file.tell()):
            raise UnreadableFile(
                f"the file unpacks to more than {MAX_RATIO} times its size, as no text does; "
                "if it is text, send it uncompressed"
            )

    def close(self) -> None:
        self._stream.close()
        self._file.close()
        super().close()
