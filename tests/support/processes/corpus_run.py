"""Takes models through all that a job does with one, each in a process of its own with limits.

``corpus_run.py MIRROR WORK SECRET all|some``: models of the corpus, as copies of MIRROR's, below
WORK; a line of JSON for each says what became of it. The process is forked when all is imported, so that
a model that ends its process, or fills it, costs no more than itself.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from surgery.errors import SurgeryError
from surgery.io.library_errors import failure_of_model, is_out_of_memory
from surgery.io.sources import Sources
from surgery.models.loading import load_model
from surgery.models.source.copy import checked_copy
from surgery.models.source.resolve import inspect_model, resolve_model
from surgery.ranking.ranking import rank_layers
from surgery.schemas.jobs.ranking import RankingOptions
from tests.support.corpus.all import MODELS, some_of
from tests.support.corpus.case import Case
from tests.support.corpus.watch import Watch
from tests.support.models.hostile_folders import Canaries
from tests.support.models.mirror import TINY
from tests.support.models.toys import sentences

MEMORY_BYTES = 3 << 30
CPU_SECONDS = 10
DATA = sentences(24)
OPTIONS = RankingOptions.model_validate(
    {"samples": 4, "max_length": 16, "model_prior": False, "head": {"fit": "epochs",
     "warmup_samples": 8}}
)  # fmt: skip
READING = ("load",)  # where a library that aborts is the model's fault


def carry_out(name: str, sources: Sources, note: Any) -> str:
    """What the API, the fetcher and the job's process do; the code that it ends with."""
    try:
        note("resolve")
        source = resolve_model(name, sources)
        inspect_model(source, sources)
        note("copy")
        checked_copy(source, sources)
        note("load")
        loaded = load_model(source, sources, DATA, seed=0)
        note("rank")
        rank_layers(loaded, DATA, OPTIONS)
    except SurgeryError as error:
        return error.code if error.detail else f"{error.code} without a word"
    except BaseException as error:  # noqa: BLE001  # as the process of a job does
        if is_out_of_memory(error):
            return "out_of_memory"
        blamed = failure_of_model(error)
        return blamed.code if blamed else f"internal: {type(error).__name__}: {error!s:.300}"
    return "runs"


def run(name: str, case: Case, mirror: Path, work: Path, canaries: Canaries, out: int) -> None:
    """In the process of one case: prepare it, limit this process, and say how it went."""

    def say(**told: Any) -> None:
        os.write(out, json.dumps(told).encode() + b"\n")

    own = work / "mirror" / "models" / "corpus" / name
    shutil.copytree(mirror / "models" / TINY, own)
    case.change(own, canaries)
    watch = Watch(own, work / "cache", work / "home")
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    sources = Sources((work / "mirror",), work / "cache", offline=True)
    with watch.on() as noted:
        code = carry_out(f"corpus/{name}", sources, lambda phase: say(phase=phase))
    say(code=code, noted=noted[:5])


def in_a_process(number: int, case: Case, mirror: Path, work: Path, canaries: Canaries) -> Any:
    """What became of a case, also if its process has ended."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        run(f"m{number}", case, mirror, work, canaries, writable)
        os._exit(0)
    os.close(writable)
    told: dict[str, Any] = {"noted": []}
    with os.fdopen(readable) as lines:
        for line in lines:
            told |= json.loads(line)
    _, status = os.waitpid(child, 0)
    if "code" not in told:
        told["code"] = ended_by(status, told.get("phase", ""))
    shutil.rmtree(work / "mirror" / "models" / "corpus" / f"m{number}")
    shutil.rmtree(work / "cache" / "models", ignore_errors=True)
    return told


def ended_by(status: int, phase: str) -> str:
    """The code that a supervisor gives to a job whose process has ended so."""
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        if name == "SIGXCPU":
            return "deadline_exceeded"
        if name in {"SIGABRT", "SIGSEGV"} and phase in READING:
            return "model_unsupported"
        return f"killed by {name} in {phase}"
    return f"exited with {os.WEXITSTATUS(status)} in {phase}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    mirror_folder, work_folder, secret = map(Path, sys.argv[1:4])
    os.environ |= {"HOME": str(work_folder / "home"), "TMPDIR": str(work_folder / "home")}
    chosen = MODELS if sys.argv[4] == "all" else some_of(MODELS)
    for place, (title, each) in enumerate(chosen.items()):
        seen = Canaries(secret, secret.with_name("secret.safetensors"))
        ended = in_a_process(place, each, mirror_folder, work_folder, seen)
        sys.stdout.write(json.dumps({"name": title, **ended}) + "\n")
