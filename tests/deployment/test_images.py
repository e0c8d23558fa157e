"""The Dockerfiles, and the health checks of their images."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.service.deployment import (
    API,
    PROJECT,
    ROOT,
    SECRET,
    WORKER,
    arguments,
    final_stage,
    instructions,
    parse_command,
)

DOCKERFILES = pytest.mark.parametrize("path", [API, WORKER], ids=lambda path: path.name)


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    """The linter's verdict."""
    binary = Path(sysconfig.get_path("scripts")) / "hadolint"
    return subprocess.run([binary, path], capture_output=True, text=True, check=False)


@DOCKERFILES
def test_the_linter_finds_nothing(path: Path) -> None:
    verdict = hadolint(path)
    assert (verdict.returncode, verdict.stdout + verdict.stderr) == (0, "")


def test_the_linter_finds_something_where_there_is_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN pip install torch\nCMD surgeon api\n")
    verdict = hadolint(bad)
    assert verdict.returncode == 1
    assert {"DL3007", "DL3013", "DL3025"} <= set(re.findall(r"DL\d+", verdict.stdout))


@DOCKERFILES
def test_bases_are_pinned_to_a_patch_release(path: Path) -> None:
    bases = [rest.split()[0] for word, rest in instructions(path) if word == "FROM"]
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base) for base in bases)


@DOCKERFILES
def test_the_image_runs_as_a_fixed_user_that_is_not_root(path: Path) -> None:
    words = [word for word, _ in final_stage(path)]
    assert arguments(path, "USER") == ["10001:10001"]
    assert words.index("USER") < words.index("CMD")
    assert "COPY" not in words[words.index("USER") :]


@DOCKERFILES
def test_the_image_gets_one_folder_and_builds_nothing(path: Path) -> None:
    assert arguments(path, "COPY") == ["--from=build /opt/venv /opt/venv"]
    assert not re.search(r"\b(pip|apt-get|curl|gcc)\b", " ".join(arguments(path, "RUN")))


@DOCKERFILES
def test_nothing_is_fetched_by_url_and_no_secret_is_baked_in(path: Path) -> None:
    found = instructions(path)
    assert "ADD" not in {word for word, _ in found}
    assert "://" not in path.read_text()
    names = [
        name
        for word, rest in found
        if word in {"ENV", "ARG"}
        for name in re.findall(r"(\w+)(?:=|$)", rest)
    ]
    assert names
    assert not [name for name in names if SECRET.search(name)]


@DOCKERFILES
def test_dependencies_are_installed_at_their_pinned_versions(path: Path) -> None:
    runs = [rest for word, rest in instructions(path) if word == "RUN"]
    installs = [run for run in runs if re.search(r"\binstall\b", run) and "pip" in run]
    assert installs
    assert all("--constraint constraints.txt" in run for run in installs)
    pins = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text()))
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["server"], *extras["worker"], "hatchling"]
    known = {PROJECT["name"], *(name.lower().replace("_", "-") for name in pins)}
    assert [w for w in wanted if re.split(r"[\[>=<]", w)[0] not in known] == []


@DOCKERFILES
def test_what_is_copied_exists_and_reaches_the_builder(path: Path) -> None:
    allowed = (ROOT / ".dockerignore").read_text().split()
    for word, rest in instructions(path):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in allowed


@DOCKERFILES
def test_the_image_runs_a_real_command(path: Path) -> None:
    (command,) = arguments(path, "CMD")
    assert parse_command(json.loads(command)) == path.name.partition(".")[0]


def health_check(path: Path, here: str, there: str) -> int:
    """Run an image's health check on something else than it looks at in a container."""
    (check,) = arguments(path, "HEALTHCHECK")
    python, flag, code = json.loads(check.partition("CMD ")[2])
    assert (python, flag) == ("python", "-c")
    assert here in code
    command = [sys.executable, flag, code.replace(here, there)]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.parametrize(("status", "well"), [(200, True), (503, False)])
def test_an_api_is_well_while_it_answers(status: int, well: bool) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        returned = health_check(API, "8000", str(server.server_port))
        server.shutdown()
    assert (returned == 0) == well
    assert health_check(API, "8000", str(server.server_port)) != 0  # it is gone


def test_a_worker_is_well_while_it_has_its_job_process(tmp_path: Path) -> None:
    (tmp_path / "worker/child").mkdir(parents=True)
    (tmp_path / "worker/__init__.py").touch()  # before the installed package of that name
    (tmp_path / "worker/child/__init__.py").touch()
    (tmp_path / "worker/child/__main__.py").write_text("print(flush=True); input()")
    child = subprocess.Popen(
        # as worker/supervisor/child_process.py starts it
        [sys.executable, "-m", "worker.child", "1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, env={},
    )  # fmt: skip
    assert child.stdout
    child.stdout.readline()
    words = Path(f"/proc/{child.pid}/cmdline").read_bytes()
    child.kill()
    child.communicate()
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_bytes(b"python\0-c\0-m worker.child\0")  # talks of it
    assert health_check(WORKER, "/proc", str(tmp_path)) == 1
    (tmp_path / "8").mkdir()
    (tmp_path / "8/cmdline").write_bytes(words)
    assert health_check(WORKER, "/proc", str(tmp_path)) == 0


def test_the_api_image_has_no_torch() -> None:
    text = " ".join(rest for _, rest in instructions(API))
    assert "torch" not in text
    assert "[worker]" not in text
    assert not {"torch", "datasets"} & {
        re.split(r"[\[>=<]", wanted)[0]
        for wanted in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["server"]]
    }
