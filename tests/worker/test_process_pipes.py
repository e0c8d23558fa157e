"""What the supervisor takes of a process that writes without end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worker import process
from worker.process import ChildProcess

WRITER = """
import sys
where = sys.stdout if sys.argv[2] == "message" else sys.stderr
where.write("x" * 5000 + "\\n" if sys.argv[2] == "log" else "x" * 5000)
where.flush()
sys.stdin.read()
"""


def started(folder: Path, what: str) -> ChildProcess:
    (folder / "writer.py").write_text(WRITER)
    return ChildProcess(("writer", what), {**os.environ, "PYTHONPATH": str(folder)})


def test_a_message_without_end_costs_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MAX_MESSAGE_BYTES", 1000)
    child = started(tmp_path, "message")
    try:
        assert child.receive(60) == {"type": "gone"}
        assert "SIGKILL" in child.how_it_ended()
    finally:
        child.kill()


def test_a_line_of_the_log_without_end_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MAX_LOG_LINE_BYTES", 1000)
    child = started(tmp_path, "log")
    try:
        while len(child.log_tail) < 6:  # the test's time limit ends it
            child.receive(0.1)
        assert [len(line) for line in child.log_tail] == [1000] * 5 + [0]
    finally:
        child.kill()
