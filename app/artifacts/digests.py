"""SHA-256 digests of what is put together while it is sent, such as archives.

They are known once all of it was read. Each is remembered under a name that stands for exactly
these bytes, such as an ETag.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator

from app.artifacts.tar import Chunks

MOST = 10_000  # about 2 MB; the least recently used are forgotten


class Digests:
    """The digests that this process has computed."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> bytes | None:
        """The digest of what has this name, or None if it is not known."""
        with self._lock:
            if name in self._known:
                self._known.move_to_end(name)
            return self._known.get(name)

    def computed(self, name: str, size: int, chunks: Chunks) -> bytes:
        """The digest; unless it is known, all bytes are read for it."""
        known = self.get(name)
        if known is None:
            for _ in self.watching(name, size, chunks)(0, size):
                pass
            known = self.get(name)
            assert known is not None, "all of it was read"
        return known

    def watching(self, name: str, size: int, chunks: Chunks) -> Chunks:
        """The same parts; the digest is computed on the way where all of it is read at once."""

        def watched(start: int, end: int) -> Iterator[bytes]:
            if (start, end) == (0, size) and self.get(name) is None:
                return self._hashed(name, chunks(start, end))
            return chunks(start, end)

        return watched

    def _hashed(self, name: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for chunk in chunks:
            digest.update(chunk)
            yield chunk
        with self._lock:
            self._known[name] = digest.digest()
            while len(self._known) > MOST:
                self._known.popitem(last=False)
