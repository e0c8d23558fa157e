"""Change the state machine and the lease code in small ways, and see whether a test notices.

``make mutants``: mutmut writes each change, a mutant, and runs the tests that come to the function
with it, on SQLite. Of all mutants a sample is tried, drawn by a fixed seed. Results are kept in
build/mutants, so that a second call tries only what is new; whoever has written a test for one that
survived gives ``--again``, and those are tried anew.

A mutant that no test can tell from the original, as it does the same, is listed with the reason in
mutants.toml. Exits with 1 if fewer than 90 % of the others were killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TREES = ROOT / "build" / "mutants"
COPIED = ("app", "worker", "surgery", "surgeon", "tests", "alembic", "alembic.ini", "bench")
BOUND = 0.9
SEED = 0
JOBS = "tests/app/jobs"
HOOKS = "tests/app/webhooks/test_deliveries.py"
SLOW = (
    "state_machine/test_life_model.py", "state_machine/test_life_races.py", "test_error_codes.py",
    "test_whole_progress.py", "test_retention.py", "test_export_folders.py",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Some files, and the tests that are run with each change of them."""

    name: str
    files: str
    tests: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # slow ones, or of other things

    @property
    def tree(self) -> Path:
        """A copy of the project with all mutants of this part in it."""
        return TREES / self.name.replace(" ", "-")


PARTS = (
    Part(
        "state machine",
        "app/jobs/state_machine/*.py",
        (
            JOBS,
            f"{HOOKS}::test_a_jobs_life_is_told_as_it_happened",
            f"{HOOKS}::test_another_projects_jobs_are_not_told",
            "tests/worker/faults/test_lost_replies.py::test_only_what_was_claimed_since_is_given_back",
        ),
        tuple(f"{JOBS}/{each}" for each in SLOW),
    ),
    Part(
        "heartbeat",
        "worker/supervisor/attempt/heartbeat.py",
        ("tests/worker/faults/test_heartbeats.py",),
    ),
)


@dataclass
class Found:
    """What became of the mutants of a part."""

    all: int = 0
    tried: int = 0
    killed: int = 0
    equivalent: int = 0
    survived: list[str] = field(default_factory=list)  # name and change of each

    @property
    def share(self) -> float:
        """Of those that are not equivalent, how many were killed."""
        return self.killed / max(1, self.tried - self.equivalent)


def prepare(part: Part) -> None:
    """Copy what is new of the project, and write mutmut's settings."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *COPIED]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True)
    shutil.rmtree(part.tree / "mutants" / "tests", ignore_errors=True)
    for name in names.stdout.splitlines():
        source, target = ROOT / name, part.tree / name
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    tests = [*part.tests, *(word for each in part.left_out for word in ("--deselect", each))]
    settings = {
        "source_paths": ["app", "worker"],
        "only_mutate": [part.files],
        "also_copy": [name for name in COPIED if name not in {"app", "worker", "tests"}],
        "pytest_add_cli_args": [
            *("-n0", "-p", "no:cacheprovider", "-k", "not postgres", "-p", "no:warnings"),
        ],
        "pytest_add_cli_args_test_selection": tests,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    own = (ROOT / "pyproject.toml").read_text()
    (part.tree / "pyproject.toml").write_text("\n".join([own, "[tool.mutmut]", *lines, ""]))


def generate() -> None:
    """Write the mutants of the tree that this process is in."""
    from mutmut import __main__ as mutmut

    mutmut.set_mutant_under_test("mutant_generation")
    Path("mutants").mkdir(exist_ok=True)
    mutmut.copy_src_dir()
    mutmut.copy_also_copy_files()
    mutmut.setup_source_paths()
    mutmut.create_mutants(1)


def outcomes(tree: Path) -> Iterator[tuple[Path, dict[str, int | None]]]:
    """Each file that has mutants, and the exit code of each of them that was tried."""
    for path in sorted((tree / "mutants").rglob("*.meta")):
        codes = json.loads(path.read_text())["exit_code_by_key"]
        if codes:
            yield path.relative_to(tree / "mutants").with_suffix(""), codes


def forget_survivors(tree: Path) -> None:
    """Let those be tried again that no test has killed."""
    for path in (tree / "mutants").rglob("*.meta"):
        known = json.loads(path.read_text())
        codes = known["exit_code_by_key"]
        known["exit_code_by_key"] = {name: code or None for name, code in codes.items()}
        path.write_text(json.dumps(known))


def run(part: Part, sample: int | None, *, again: bool) -> Found:
    """Try the part's mutants, or a sample of them, and say what became of them."""
    prepare(part)
    inside: dict[str, Any] = {"cwd": part.tree, "stdout": subprocess.DEVNULL}
    subprocess.run([sys.executable, __file__, "--generate"], check=True, **inside)
    if again:
        forget_survivors(part.tree)
    known = {name: code for _, codes in outcomes(part.tree) for name, code in codes.items()}
    names = sorted(known)
    if sample is not None and sample < len(names):
        names = random.Random(SEED).sample(names, sample)  # noqa: S311
    new = [name for name in names if known[name] is None]
    if new:
        command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", "1"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)  # the project itself would be found before its copy
        subprocess.run([*command, *new], check=True, env=environment, **inside)
    return judge(part, set(names), len(known))


def judge(part: Part, names: set[str], count: int) -> Found:
    """Count, and look each survivor up among the equivalent ones."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.stats import status_by_exit_code

    listed = tomllib.loads((ROOT / ".ci" / "mutants.toml").read_text())["equivalent"]
    known = {(each["function"], each["from"], each["to"]) for each in listed}
    found = Found(all=count, tried=len(names))
    os.chdir(part.tree)
    for path, codes in outcomes(part.tree):
        for name in sorted(names & codes.keys()):
            if status_by_exit_code[codes[name]] not in {"survived", "no tests", "suspicious"}:
                found.killed += 1
                continue
            lines = get_diff_for_mutant(name, path=path).splitlines()[2:]
            changed = [line for line in lines if line[:1] in {"+", "-"}]
            if (function_of(name), _text(changed, "-"), _text(changed, "+")) in known:
                found.equivalent += 1
            else:
                found.survived.append("\n".join([f"{path} {name.rpartition('.')[2]}", *changed]))
    os.chdir(ROOT)
    return found


def function_of(mutant: str) -> str:
    """The name of the function, or of class and method, that a mutant is one of."""
    return mutant.rpartition("__mutmut_")[0].rpartition(".x")[2].strip("_ǁ").replace("ǁ", ".")


def _text(changed: list[str], sign: str) -> str:
    return " ".join(line[1:].strip() for line in changed if line.startswith(sign))


def show(part: Part, found: Found) -> None:
    """A line of the table, and what survived below it."""
    cells = (found.all, found.tried, found.killed, found.equivalent, len(found.survived))
    numbers = " | ".join(f"{cell:>10}" for cell in cells)
    print(f"| {part.name:13} | {numbers} | {found.share:6.1%} |", flush=True)  # noqa: T201
    for each in found.survived:
        print(each)  # noqa: T201


def main() -> None:
    """Try every part."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=600, help="mutants of each part (600)")
    parser.add_argument("--all", action="store_true", help="try all, about an hour")
    parser.add_argument("--again", action="store_true", help="try survivors again")
    parser.add_argument("--generate", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.generate:
        generate()
        return
    titles = ("mutants", "tried", "killed", "equivalent", "survived")
    print(f"| {'':13} | {' | '.join(f'{each:>10}' for each in titles)} |  share |")  # noqa: T201
    below = []
    for part in PARTS:
        found = run(part, None if given.all else given.sample, again=given.again)
        show(part, found)
        if found.share < BOUND:
            below.append(part.name)
    if below:
        sys.exit(f"fewer than {BOUND:.0%} were killed: {', '.join(below)}")


if __name__ == "__main__":
    main()
