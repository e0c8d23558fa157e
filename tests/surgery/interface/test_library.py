"""The package in Python, as docs/clients/library.md shows it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import surgery
from tests.support.models.mirror import TINY
from tests.support.service.deployment import ROOT


def test_every_exported_name_is_there() -> None:
    assert all(hasattr(surgery, name) for name in surgery.__all__)
    with pytest.raises(AttributeError, match="no attribute 'rank'"):
        _ = surgery.rank


def test_the_documented_program_runs(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(mirror / "models" / TINY, "path/to/encoder")
    rows = [f"a {'fine' if n % 2 else 'poor'} sentence {n},{n % 2}" for n in range(60)]
    Path("train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    program = re.search(
        r"```python\n(.*?)```", (ROOT / "docs/clients/library.md").read_text(), re.DOTALL
    )
    assert program is not None
    names: dict[str, Any] = {}
    exec(program[1], names)
    assert len(names["layers"]) == 2
    assert names["result"].frozen_verified
    assert names["model"].config.num_labels == 2
