"""A fine-tune that is killed two steps after its first saved state.

``killed_run.py MIRROR OUT PRECISION`` writes where the state lies to OUT/saved.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from surgery.io.reporter import Quiet
from tests.support.models.sentence_runs import fresh, tuned
from tests.support.models.toys import sentences

ROWS = 48
# Saved at the second step and killed at the fourth, of ten.
TRAINING: dict[str, Any] = {"evaluate_every_steps": 2, "deterministic": True}
AFTER = 2


class Doomed(Quiet):
    """Notes the first state, and dies by kill -9 soon after."""

    saved_at: int | None = None

    def state(self, directory: Path, step: int) -> None:
        if self.saved_at is None and self.out is not None:
            self.saved_at = step
            (self.out / "saved").write_text(str(directory))

    def step(self, done: int, _total: int | None, unit: str) -> None:
        if unit == "steps" and self.saved_at is not None and done == self.saved_at + AFTER:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    mirror, out, precision = sys.argv[1:]
    data = sentences(ROWS)
    loaded, report = fresh(Path(mirror), data, dropout=True), Doomed(Path(out))
    tuned(loaded, data, Path(out), report=report, precision=precision, **TRAINING)
