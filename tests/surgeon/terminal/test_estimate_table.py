"""What the command line shows of an estimate."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from app.api.examples.answers import ESTIMATE
from surgeon.terminal.results.estimates import estimate_view

[ROW] = ESTIMATE["rows"]
LARGE = {
    **ROW, "k": 24, "lowest_layer": 0, "trainable_parameters": 1_234_567_890,
    "peak_memory_bytes": 123_456 << 20, "checkpoint_bytes": 12_345 << 20,
    "seconds": {"first_epoch": 123456.7, "later_epoch": 99.94, "rates": None, "total": 1234567.8},
}  # fmt: skip


def printed(**changes: Any) -> list[str]:
    text = StringIO()
    Console(width=80, file=text).print(estimate_view({**ESTIMATE, **changes}))
    return text.getvalue().splitlines()


def test_no_number_is_cut_at_80_columns() -> None:
    lines = printed(rows=[LARGE])
    assert all(len(line) <= 80 for line in lines)
    (row,) = [line for line in lines if line.split()[:1] == ["24"]]
    assert row.split() == [
        "24", "0", "1,234,567,890", "123,456", "12,345", "123,457", "99.9", "1,234,568",
    ]  # fmt: skip


def test_the_basis_is_said_with_its_accuracy() -> None:
    text = " ".join(" ".join(printed()).split())
    assert (
        "seconds: measured on this model, NVIDIA A10, fp32, 3 fine-tunes accuracy: rarely" in text
    )
    assert "tokens: 11.3 a row, as job ft_01kaszb2e8r5t6y7u9i0p3a4s5 counted them" in text
    probe = {
        "basis": "measured by a worker when it started", "accuracy": "about two", "jobs": 0,
        "device": "AMD EPYC, 2 threads", "precision": "fp32", "operations_per_second": 5e10,
        "worker": "host:12", "measured_at": "2026-11-23T09:00:11Z",
    }  # fmt: skip
    text = " ".join(" ".join(printed(throughput=probe)).split())
    assert (
        "seconds: measured by a worker when it started, AMD EPYC, 2 threads, fp32, host:12 at "
        "2026-11-23 09:00:11 accuracy: about two"
    ) in text
    none = {**dict.fromkeys(probe), "basis": "none", "accuracy": "no worker", "jobs": 0}
    lines = printed(throughput=none, rows=[{**ROW, "seconds": None}])
    assert "seconds: none" in lines
    assert "why: no worker" in lines
