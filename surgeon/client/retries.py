"""Decides whether a request that failed is sent again, and when."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from surgeon.client.errors import ApiError, Unreachable

log = logging.getLogger("surgeon.client")
FIRST_SECONDS = 0.5  # before the second try; each later one waits twice as long
MOST_SECONDS = 10.0
PASSING = {429, 502, 503, 504}  # a limit, a restart, an outage
IN_PROGRESS = "idempotency_key_in_use"  # an earlier try of the same request is not over


class Retries:
    """The tries of one request, or of one long wait.

    A service that does not answer, or asks to come back later, is asked again until ``patience``
    seconds have passed without success.
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience, self._clock = patience, clock
        self._since: float | None = None
        self.tries = 0

    def succeeded(self) -> None:
        """Begin anew: the service has answered."""
        self._since, self.tries = None, 0

    def seconds_until_next(self, error: Unreachable | ApiError) -> float:
        """How long to wait before the next try. Raises the error if there is to be none."""
        now = self._clock()
        self._since = now if self._since is None else self._since
        left = self._since + self._patience - now
        delay = self._delay(error)
        if not is_passing(error) or delay > left:
            raise error
        if not self.tries:
            log.warning("%s; asking again for %.0f s at most", _first_line(error), left)
        self.tries += 1
        return delay

    def _delay(self, error: Unreachable | ApiError) -> float:
        """What the service asks for; else ever longer, and not at the same time as others."""
        if isinstance(error, ApiError) and error.retry_after is not None:
            return error.retry_after
        longest = min(MOST_SECONDS, FIRST_SECONDS * 2 ** min(self.tries, 10))
        return random.uniform(longest / 2, longest)  # noqa: S311  # no secret


def is_passing(error: Unreachable | ApiError) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, Unreachable):
        return True
    problem = error.problem
    return problem.get("status") in PASSING or problem.get("code") == IN_PROGRESS


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
