"""Hundreds of models of strangers: each has a named code or runs, and touches nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from surgery import errors
from tests.support.corpus.all import MODELS, some_of
from tests.support.corpus.case import Case, Comes
from tests.support.corpus.code import RAN
from tests.support.models.mirror import TINY

ROOT = Path(__file__).parents[4]
SECRET = "canary beside the mirror"
# The model's or the request's fault, as the code says. Not `internal`, and not `worker_lost`.
NAMED = {
    errors.ModelUnsupported.code, errors.UnsafeFiles.code, errors.UnsafeWeights.code,
    errors.ModelNotFound.code, errors.ScoresNotFinite.code,
    errors.DeadlineExceeded.code, errors.TrainingInvalid.code, errors.TrainingDiverged.code,
    errors.DatasetInvalid.code,
}  # fmt: skip


@pytest.fixture(scope="module", params=["some", pytest.param("all", marks=pytest.mark.slow)])
def which(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def models(which: str) -> dict[str, Case]:
    return MODELS if which == "all" else some_of(MODELS)


@pytest.fixture(scope="module")
def outcomes(which: str, mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each model, and what its process did that it must not."""
    work = tmp_path_factory.mktemp("corpus")
    for folder in ("home", "mirror/models", "cache"):
        (work / folder).mkdir(parents=True)
    secret = tmp_path_factory.mktemp("beside") / "secret.txt"
    secret.write_text(SECRET)
    weights = (mirror / "models" / TINY / "model.safetensors").read_bytes()
    secret.with_name("secret.safetensors").write_bytes(weights)
    (Path("/tmp") / RAN).unlink(missing_ok=True)
    script = ROOT / "tests/support/processes/corpus_run.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                   "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}  # fmt: skip
    ended = subprocess.run(
        [sys.executable, str(script), str(mirror), str(work), str(secret), which],
        cwd=work, env=environment, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    return {line["name"]: line for line in lines}


PROBE = """
import json, os, pickle, socket, sys
from pathlib import Path
from tests.support.corpus.watch import Watch
def quietly(act):
    try:
        act()
    except Exception:
        pass
watch = Watch(Path(sys.argv[1]))
noted = {}
for name, act in {
    "inside": lambda: open(f"{sys.argv[1]}/file", "w"),
    "passwords": lambda: open("/etc/passwd"),
    "beside": lambda: open(f"{sys.argv[1]}/../secret.txt"),
    "socket": lambda: socket.create_connection(("127.0.0.1", 1), 1),
    "process": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "shell": lambda: os.system("true"),
    "pickle": lambda: pickle.loads(pickle.dumps(Path)),
}.items():
    with watch.on() as seen:
        quietly(act)
    noted[name] = bool(seen)
print(json.dumps(noted))
"""


def test_the_watch_sees_what_it_is_for(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path / "own")],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    seen = {"passwords", "beside", "socket", "process", "shell", "pickle"}
    noted = json.loads(ended.stdout)
    assert {name for name, was in noted.items() if was} == seen


def test_there_are_hundreds() -> None:
    assert len(MODELS) >= 200


def test_none_is_anybody_else_s_fault(outcomes: dict[str, Any], models: dict[str, Case]) -> None:
    assert outcomes.keys() == models.keys()
    odd = {name: told["code"] for name, told in outcomes.items()
           if told["code"] not in {*NAMED, "runs"}}  # fmt: skip
    assert odd == {}


def test_what_is_hostile_never_runs_and_what_is_harmless_does(
    outcomes: dict[str, Any], models: dict[str, Case]
) -> None:
    ran = {name for name, told in outcomes.items() if told["code"] == "runs"}
    assert {name for name, case in models.items() if case.comes is Comes.REFUSED} & ran == set()
    assert {name for name, case in models.items() if case.comes is Comes.RUNS} - ran == set()


def test_no_file_outside_no_socket_and_no_process_is_opened(outcomes: dict[str, Any]) -> None:
    noted = {name: told["noted"] for name, told in outcomes.items() if told["noted"]}
    assert noted == {}
    assert not (Path("/tmp") / RAN).exists(), "code of a model ran"
