"""The examples of the guide and the notebook run as they are written, on a small model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.models.mirror import TINY
from tests.support.service.deployment import ROOT
from tests.support.service.services import Running

GUIDE = ROOT / "docs/clients/python.md"
NOTEBOOK = ROOT / "examples/rank_choose_compare_load.ipynb"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
URL, MODEL = "http://127.0.0.1:8000", "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that the examples upload."""
    for name, start, end in (("train.csv", 0, 80), ("validation.csv", 80, 100)):
        rows = [f"a {'fine' if i % 2 else 'poor'} sentence {i},{i % 2}" for i in range(start, end)]
        (tmp_path / name).write_text("text,label\n" + "\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(code: str, names: dict[str, Any], service: Running, where: str) -> Any:
    """Run some lines in the place of a user; returns the value of a last line without a target."""
    code = code.replace(URL, service.client.url).replace(MODEL, TINY)
    *head, last = code.strip().split("\n")
    try:
        value = compile(last, where, "eval")
    except SyntaxError:
        exec(compile(code, where, "exec"), names)
        return None
    exec(compile("\n".join(head), where, "exec"), names)
    return eval(value, names)


def test_the_examples_of_the_guide_run(
    embedded_service: Running, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = BLOCK.findall(GUIDE.read_text())
    names: dict[str, Any] = {}
    outputs = []
    for number, block in enumerate(blocks):
        run(block, names, embedded_service, f"block {number} of {GUIDE.name}")
        outputs.append(capsys.readouterr())
    first, refused, queue, followed, both, stopped = outputs
    assert "80 ['0', '1']" in first.out
    assert "1 encoder.layer." in first.out
    assert f"{names['tuned'].id}: succeeded" in first.err, "progress comes as lines"
    assert "100 % of" in first.err
    assert (folder / "model/config.json").is_file()
    assert "did you mean" in refused.out
    assert "finetune" in queue.out
    layers = [layer.name for layer in names["ranking"].result.layers]
    assert [name for name in layers if name not in (folder / "ranking.svg").read_text()] == []
    assert "{'status': 'succeeded'}" in followed.out
    assert followed.out.splitlines()[-1] == "succeeded"
    assert both.out.splitlines()[-1] == "status"
    assert "cancelled" in stopped.out


def test_the_guide_shows_the_script_as_it_is() -> None:
    assert (ROOT / "examples/rank_tune_predict.py").read_text() in GUIDE.read_text()


def shown(value: Any) -> str:
    """What a notebook would show."""
    if hasattr(value, "_repr_png_"):
        return str(value._repr_png_()[1:4], "ascii")
    return value._repr_html_() if hasattr(value, "_repr_html_") else repr(value)


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_in_order(embedded_service: Running, folder: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    names: dict[str, Any] = {}
    outputs: Iterator[str] = iter(
        [
            shown(run("".join(cell["source"]), names, embedded_service, cell["id"]))
            for cell in cells
            if cell["cell_type"] == "code"
        ]
    )
    names["client"].close()
    assert "'train': 80" in next(outputs)
    ranking = next(outputs)
    assert "<pre" in ranking
    assert "recommended k" in ranking
    assert next(outputs) == "PNG"
    assert next(outputs).startswith("[(")
    comparison = next(outputs)
    assert "<pre" in comparison
    assert "fisher" in comparison
    assert next(outputs) == "PNG"
    assert "layer" in next(outputs)
    assert "label" in next(outputs)
    assert (folder / "best/config.json").is_file()
