"""Unpacks the bodies of requests that a client has compressed (`Content-Encoding`)."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES = 1 << 18  # unpacked at a time, so that a small body cannot fill the memory
_WINDOW_LOG = 23  # 8 MiB, the largest window that RFC 9659 allows a frame to ask for


class Damaged(ValueError):
    """The data are not what `Content-Encoding` says, or they end early."""


class _Gzip:
    """One member of gzip data."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self.rest = b""  # what was not looked at yet

    def unpack(self, data: bytes) -> bytes:
        piece = self._inflate.decompress(data, PIECE_BYTES)
        self.rest = self._inflate.unconsumed_tail or self._inflate.unused_data
        return piece

    @property
    def ended(self) -> bool:
        return self._inflate.eof


class _Zstandard:
    """One frame of Zstandard data."""

    def __init__(self) -> None:
        limit = {int(zstd.DecompressionParameter.window_log_max): _WINDOW_LOG}
        self._frame = zstd.ZstdDecompressor(options=limit)
        self.rest = b""

    def unpack(self, data: bytes) -> bytes:
        piece = self._frame.decompress(data, PIECE_BYTES)
        self.rest = self._frame.unused_data if self._frame.eof else b""
        return piece

    @property
    def ended(self) -> bool:
        return self._frame.eof


CODINGS: dict[str, Callable[[], _Gzip | _Zstandard]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,  # RFC 9110 asks to treat it as gzip
    "zstd": _Zstandard,
}
ACCEPTED = "gzip, zstd"


class Unpacking:
    """Unpacks a body piece by piece; a body may consist of several members or frames."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._part = CODINGS[coding]()
        self._begun = False  # whether the current part has been given any byte

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes of the body unpack to, a bounded piece at a time. Raises Damaged."""
        while data:
            if self._part.ended:
                self._part = CODINGS[self._coding]()
            self._begun = True
            piece = self._unpacked(data)
            data = self._part.rest
            if piece:
                yield piece
            yield from self._waiting()

    def _waiting(self) -> Iterator[bytes]:
        """What the data given so far still unpack to: Zstandard keeps what did not fit."""
        while not self._part.ended and not self._part.rest and (piece := self._unpacked(b"")):
            yield piece

    def _unpacked(self, data: bytes) -> bytes:
        try:
            return self._part.unpack(data)
        except (zlib.error, zstd.ZstdError) as error:
            raise Damaged(f"the body is not {self._coding} data: {error}") from None

    def finish(self) -> None:
        """Raises Damaged if the body ended early."""
        if not self._begun or not self._part.ended:
            raise Damaged(f"the {self._coding} data of the body are cut off")
