"""Parts of a process that must never stop quietly: threads, tasks and the steps of sweeps.

Whatever goes wrong in one is logged with its traceback and counted, and the part goes on.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger("surgeon.parts")
RESTART_SECONDS = 1.0  # before a thread that died is started again


class Restarts:
    """How often each part of this process has died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def note(self, part: str) -> None:
        """Count one more."""
        with self._lock:
            self._counts[part] += 1

    def counted(self) -> dict[str, int]:
        """The number of each part that has ever died."""
        with self._lock:
            return dict(self._counts)


RESTARTS = Restarts()
"""Those of this process, as there is one log of a process."""


@contextmanager
def surviving(part: str, *expected: type[Exception]) -> Iterator[None]:
    """Log and count an error, and go on after the block.

    An error that is ``expected``, such as a database that does not answer, is only logged.
    """
    try:
        yield
    except expected as error:
        log.warning("%s: %s", part, error)
    except Exception:  # whatever it is, the part must go on
        RESTARTS.note(part)
        log.exception("%s failed and goes on", part)


def lasting_thread(
    part: str, loop: Callable[[], object], stopping: threading.Event
) -> threading.Thread:
    """A thread that runs a loop until it returns; if it dies, it is started again.

    It is not when the worker, or whatever else it belongs to, is ``stopping``.
    """

    def run() -> None:
        while not stopping.is_set():
            with surviving(part):
                loop()
                return
            stopping.wait(RESTART_SECONDS)

    return threading.Thread(target=run, name=part, daemon=True)
