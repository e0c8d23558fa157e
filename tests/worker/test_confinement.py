"""What a process may still touch once it is confined, each tried in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from worker.confinement import Confinement

ROOT = Path(__file__).parents[2]
PREAMBLE = """
import json, os, socket, sys
import surgery, worker
from worker.confinement import Confinement, confine
def tried(act):
    try:
        return repr(act())[:200]
    except OSError as error:
        return type(error).__name__
"""
CONFINE = """
failed = confine(Confinement.from_json(sys.argv[1]))
assert failed == [], failed
"""
WITHOUT_LANDLOCK = """
from worker.confinement import enter_private_root
enter_private_root(Confinement.from_json(sys.argv[1]))
"""


def run(
    code: str, kept: Confinement, *arguments: str, how: str = CONFINE, **environment: str
) -> Any:
    """What the code prints as JSON, once it is confined."""
    command = [sys.executable, "-c", PREAMBLE + how + code, kept.to_json(), *arguments]
    printed = subprocess.run(
        command, env=os.environ | {"CANARY": "of the parent"} | environment, cwd=ROOT, check=True,
        capture_output=True, text=True, timeout=100,
    ).stdout  # fmt: skip
    return json.loads(printed)


@pytest.fixture
def kept(tmp_path: Path) -> Confinement:
    for name in ("given", "own", "others"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"text of {name}")
    return Confinement(read=(str(tmp_path / "given"),), write=(str(tmp_path / "own"),))


FILES = """
folder = sys.argv[2]
print(json.dumps({
    "given": tried(lambda: open(f"{folder}/given/file").read()),
    "given written": tried(lambda: open(f"{folder}/given/file", "w")),
    "given linked": tried(lambda: os.link(f"{folder}/given/file", f"{folder}/own/link")),
    "own": tried(lambda: open(f"{folder}/own/new", "w").write("x")),
    "others": tried(lambda: open(f"{folder}/others/file").read()),
    "others listed": tried(lambda: os.listdir(f"{folder}/others")),
    "passwords": tried(lambda: open("/etc/passwd").read()),
    "project": tried(lambda: open("README.md").read()),
    "parent": tried(lambda: open(f"/proc/{os.getppid()}/environ").read()),
    "killed": tried(lambda: os.kill(os.getppid(), 0)),
    "library": tried(lambda: __import__("torch").ones(2).sum().item()),
    "module": tried(lambda: __import__("surgery.errors").__name__),
}))
"""


@pytest.mark.parametrize("multi_process", [False, True], ids=["one process", "several"])
def test_files_outside_are_out_of_reach(
    kept: Confinement, tmp_path: Path, multi_process: bool
) -> None:
    own = str(tmp_path / "own")
    confined = Confinement(kept.read, kept.write, multi_process=multi_process)
    found = run(FILES, confined, str(tmp_path), TMPDIR=own, HOME=own)
    assert found.pop("given linked") == "OSError"  # to write through: the kernel says EXDEV
    reached = {name: what for name, what in found.items() if what != "PermissionError"}
    assert reached == {
        "given": "'text of given'", "own": "1", "library": "2.0", "module": "'surgery'",
    }  # fmt: skip


def test_without_landlock_all_else_is_not_there(kept: Confinement, tmp_path: Path) -> None:
    """By namespaces: what is out of reach has no name any more."""
    own = str(tmp_path / "own")
    found = run(FILES, kept, str(tmp_path), how=WITHOUT_LANDLOCK, TMPDIR=own, HOME=own)
    assert found.pop("given written") == "OSError"  # a read-only file system
    assert found.pop("given linked") == "OSError"
    assert found.pop("killed") == "None"  # signals are Landlock's
    reached = {name: what for name, what in found.items() if what != "FileNotFoundError"}
    assert reached == {
        "given": "'text of given'", "own": "1", "library": "2.0", "module": "'surgery'",
    }  # fmt: skip


SOCKETS = """
def speak():
    with socket.socket() as ear:
        ear.bind(("127.0.0.1", 0))
        ear.listen()
        with socket.create_connection(ear.getsockname(), timeout=5) as mouth:
            return mouth.send(b"x")
print(json.dumps({
    "alone": tried(speak),
    "unix": tried(lambda: socket.socket(socket.AF_UNIX).close()),
    "datagram": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()),
    "outside": tried(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=5)),
    "far": tried(lambda: socket.create_connection(("192.0.2.1", 80), timeout=5)),
}))
"""


def test_no_socket_is_opened(kept: Confinement) -> None:
    found = run(SOCKETS, kept, "9")
    assert set(found.values()) == {"PermissionError"}


def test_processes_of_a_job_reach_each_other_alone(kept: Confinement) -> None:
    import socket

    with socket.socket() as outside:
        outside.bind(("127.0.0.1", 0))
        outside.listen()
        confined = Confinement(kept.read, kept.write, multi_process=True)
        found = run(SOCKETS, confined, str(outside.getsockname()[1]))
    assert found["alone"] == "1"
    assert found["outside"] == "ConnectionRefusedError"  # its own loopback, not this one
    assert found["far"] == "OSError"


def test_what_it_starts_is_confined_too(kept: Confinement, tmp_path: Path) -> None:
    code = """
import subprocess
inner = "import socket, sys; open(sys.argv[1]).read()"
ended = subprocess.run([sys.executable, "-c", inner, sys.argv[2]], capture_output=True, text=True)
print(json.dumps(ended.stderr.splitlines()[-1]))
"""
    assert run(code, kept, str(tmp_path / "others" / "file")).startswith("PermissionError")


def test_memory_ends_where_it_is_said_to(kept: Confinement) -> None:
    code = """
def fill():
    try:
        return len(bytearray(int(sys.argv[2])))
    except MemoryError:
        return "MemoryError"
print(json.dumps(fill()))
"""
    most = 1 << 30
    confined = Confinement(kept.read, kept.write, memory_bytes=most)
    assert run(code, confined, str(most // 4)) == most // 4
    assert run(code, confined, str(most)) == "MemoryError"


def test_processor_time_ends_where_it_is_said_to() -> None:
    code = "from worker.confinement import limit_cpu\nlimit_cpu(0.2)\nwhile True: pass"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60)
    assert ended.returncode == -24  # SIGXCPU
