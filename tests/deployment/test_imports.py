"""What processes load: no torch in the API, no server in the command; and nothing unpickles."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "accelerate", "sklearn", "datasets"}


def heavy_modules(*loaded: str, heavy: set[str] = HEAVY) -> list[str]:
    """Which of the heavy packages a process has once it has imported these modules."""
    code = f"import sys, {', '.join(loaded)}; print(*sorted({heavy!r} & set(sys.modules)))"
    return subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).split()


def test_the_api_and_the_supervisor_never_load_torch() -> None:
    modules = ("app.main", "surgeon.cli", "worker.main", "worker.supervisor.supervisor")
    assert heavy_modules(*modules) == []


def test_the_fetcher_never_loads_torch() -> None:
    assert heavy_modules("worker.child.fetcher") == []


def test_the_command_loads_no_server() -> None:
    server = {"app", "alembic", "celery", "fastapi", "numpy", "pyarrow", "sqlalchemy", "uvicorn"}
    heavy = HEAVY | server | {"matplotlib", "mcp"}
    assert heavy_modules("surgeon.cli", "surgeon.client", "surgeon.plots", heavy=heavy) == []


def test_no_pickle_and_no_remote_code_anywhere() -> None:
    banned = {"torch.load", "pickle.load", "pickle.loads", "yaml.load", "joblib.load"}
    for package in ("surgery", "app", "worker", "surgeon"):
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
