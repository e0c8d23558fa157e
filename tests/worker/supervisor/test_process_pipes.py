"""What the supervisor takes of a process that writes without end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from surgery.schemas.jobs.estimate import Probe, ProbedSpeed
from worker.protocol import Probed, Ready
from worker.supervisor import child_process
from worker.supervisor.child_process import ChildProcess, ProcessEnded, UnreadableMessage

WRITER = """
import sys
where = sys.stdout if sys.argv[2] == "message" else sys.stderr
where.write("x" * 5000 + "\\n" if sys.argv[2] == "log" else "x" * 5000)
where.flush()
sys.stdin.read()
"""


@contextmanager
def writing(folder: Path, what: str) -> Iterator[ChildProcess]:
    """A process that writes 5,000 characters: a message, or a line of the log."""
    (folder / "writer.py").write_text(WRITER)
    child = ChildProcess(("writer", what), {**os.environ, "PYTHONPATH": str(folder)})
    try:
        yield child
    finally:
        child.kill()


def test_a_message_without_end_costs_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "MAX_MESSAGE_BYTES", 1000)
    with writing(tmp_path, "message") as child:
        assert isinstance(child.receive(60), ProcessEnded)
        assert "SIGKILL" in child.how_it_ended()


def test_a_line_of_the_log_without_end_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "MAX_LOG_LINE_BYTES", 1000)
    with writing(tmp_path, "log") as child:
        while len(child.log_tail) < 6:  # the test's time limit ends it
            child.receive(0.1)
        assert [len(line) for line in child.log_tail] == [1000] * 5 + [0]


SPEAKER = """
import sys
sys.stdout.write(sys.argv[2])
sys.stdout.flush()
"""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "JSONDecodeError"),
        ("[" * 100_000, "RecursionError"),
        ("[]", "dict"),
        ('{"type": "gone"}', "expected tags"),
        ('{"type": "phase"}', "phase.name: Field required"),
        ('{"type": "metric", "step": 1, "epoch": NaN, "values": {}}', "finite number"),
        ('{"type": "state", "path": 1, "step": 1}', "not a valid path"),
    ],
    ids=["no JSON", "too deep", "no object", "no such kind", "field missing", "NaN", "wrong type"],
)
def test_a_line_that_is_no_message_is_told_as_such(line: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "speaker.py").write_text(SPEAKER)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    child = ChildProcess(("speaker", f'{line}\n{{"type": "ready"}}\n{{"type": "cut o'), environment)
    try:
        wrong = child.receive(60)
        assert isinstance(wrong, UnreadableMessage)
        assert words in str(wrong)
        assert isinstance(child.receive(60), Ready)
        assert isinstance(
            child.receive(60), ProcessEnded
        )  # of a message it died over nothing is told
    finally:
        child.kill()


PROBE = Probe(
    device="cpu",
    torch="2.11.0",
    speeds=[ProbedSpeed(precision="fp32", width=384, operations_per_second=5e10)],
    seconds=0.5,
)


@pytest.mark.parametrize("first", [True, False])
def test_a_probe_counts_only_as_the_first_message(first: bool, tmp_path: Path) -> None:
    (tmp_path / "speaker.py").write_text(SPEAKER)
    lines = [Probed(probe=PROBE).line(), Ready().line()]
    text = "".join(lines if first else [lines[1], lines[0]])
    heard: list[Probe] = []
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    child = ChildProcess(("speaker", text), environment, on_probe=heard.append)
    try:
        received = [child.receive(60) for _ in range(2 if first else 3)]
    finally:
        child.kill()
    assert [type(each) for each in received] == (
        [Ready, ProcessEnded] if first else [Ready, Probed, ProcessEnded]
    )
    assert heard == ([PROBE] if first else [])
