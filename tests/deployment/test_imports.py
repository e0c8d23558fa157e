"""Imports run one way, and the API process stays free of torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "accelerate", "sklearn", "datasets"}


def imported(package: str) -> dict[Path, set[str]]:
    """Top-level names that each file of a package imports anywhere."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
        found[path] = names
    return found


def test_the_science_knows_no_service() -> None:
    banned = {"app", "worker", "fastapi", "sqlalchemy", "celery", "alembic", "pydantic_settings"}
    assert {
        str(path): names & banned for path, names in imported("surgery").items() if names & banned
    } == {}


def test_the_service_knows_neither_worker_nor_torch() -> None:
    banned = {"worker", *HEAVY}
    assert {
        str(path): names & banned for path, names in imported("app").items() if names & banned
    } == {}


def test_the_api_and_the_supervisor_never_load_torch() -> None:
    code = (
        "import sys, app.main, surgeon.cli, worker.main, worker.supervisor.supervisor; "
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT)
    assert printed.strip() == "[]"


def test_no_pickle_and_no_remote_code_anywhere() -> None:
    banned = {"torch.load", "pickle.load", "pickle.loads", "yaml.load", "joblib.load"}
    for package in ("surgery", "app", "worker"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            calls = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
            assert not calls & banned, path
            trusting = [
                keyword
                for node in ast.walk(tree)
                if isinstance(node, ast.keyword) and (keyword := node).arg == "trust_remote_code"
            ]
            assert all(ast.unparse(keyword.value) == "False" for keyword in trusting), path


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("package", ["surgery", "app", "worker", "bench", "tests"])
def test_functions_and_files_stay_small(package: str) -> None:
    texts = {path: path.read_text() for path in (ROOT / package).rglob("*.py")}
    assert [str(path) for path, text in texts.items() if len(text.splitlines()) > 400] == []
    long = [
        (str(path), node.name)
        for path, text in texts.items()
        for node in functions(ast.parse(text))
        if (node.end_lineno or 0) - node.lineno >= 40
    ]
    assert long == []
