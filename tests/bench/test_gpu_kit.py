"""What a GPU machine gets of the kit, and which rows it says it has."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bench.data.capped import mirrors_held, write_cola
from bench.fisher.cases import sentences
from tests.support.service.deployment import ROOT

PROJECT = """[project]
dependencies = ["rich>=999", "numpy>=999", "pydantic>=2"]
optional-dependencies.server = []
optional-dependencies.worker = ["torch>=2"]
"""


def wheel(folder: Path, name: str, version: str) -> None:
    """The smallest that pip installs: a module that tells the version."""
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")


def test_what_is_lacking_or_too_old_is_installed(tmp_path: Path) -> None:
    kit, place = tmp_path / "kit", tmp_path / "place"
    (kit / "wheels").mkdir(parents=True)
    (kit / "source").mkdir()
    (kit / "source" / "pyproject.toml").write_text(PROJECT)
    for name, version in (("rich", "999.1"), ("pydantic", "2.999"), ("invented_here", "1.0")):
        wheel(kit / "wheels", name, version)
    with zipfile.ZipFile(kit / "model.zip", "w") as archive:
        archive.writestr("model/config.json", "{}")
    told = subprocess.run(
        [sys.executable, ROOT / "bench/gpu/unpack.py", kit, place],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    first, second = told.splitlines()
    assert first == "installing invented_here, rich"
    assert second.startswith("older here than what this was tested with: numpy 2")
    assert "torch" not in second
    assert {path.name for path in place.glob("*.py")} == {"invented_here.py", "rich.py"}
    assert (place / "model" / "config.json").is_file()


def test_made_up_rows_are_not_called_colas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SURGEON_MIRROR_DIR", raising=False)
    for name in ("kit", "machine"):
        assert write_cola(tmp_path / name, mirrors_held(tmp_path), 8, 4) == "made-up sentences"
        monkeypatch.setenv("SURGEON_MIRROR_DIR", str(tmp_path / name))
    assert sentences(4)[0] == "made-up sentences"
    (tmp_path / "machine" / "rows.txt").unlink()
    assert sentences(4)[0] == "CoLA"
    assert write_cola(tmp_path / "other", mirrors_held(tmp_path), 8, 4) == "CoLA"
