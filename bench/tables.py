"""Tables that benchmarks print, at most 120 columns wide, and what they ran on."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

PACKAGES = [
    *("torch", "transformers", "numpy"),
    *("opacus", "backpack-for-pytorch", "nngeometry", "curvlinops-for-pytorch"),
]


@dataclass(frozen=True)
class Target:
    """A ratio of two times, and the limit that it should stay below or reach."""

    case: str
    ratio: str
    median: float
    minima: float
    target: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the medians meet the target."""
        return self.median >= self.target if self.at_least else self.median <= self.target


def plain_table(title: str, columns: Sequence[str], left: int = 1) -> Table:
    """A table with a line below its header only; its first ``left`` columns are text."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place < left else "right", no_wrap=True)
    return table


def targets_table(targets: Sequence[Target]) -> Table:
    """The measured ratios and their targets."""
    columns = ["case", "time of … / time of …", "medians", "minima", "target", ""]
    table = plain_table("Targets", columns, left=2)
    for each in targets:
        table.add_row(
            *(each.case, each.ratio, f"{each.median:.2f}", f"{each.minima:.2f}"),
            f"{'>=' if each.at_least else '<='} {each.target:.2f}",
            "[green]met[/]" if each.met else "[red]missed[/]",
        )
    return table


def machine() -> dict[str, Any]:
    """The hardware and the library versions of the measurement."""
    models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": models[0] if models else platform.machine(),
        "cpus": len(models),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
    }


def resident(key: str) -> int:
    """VmRSS or VmHWM of this process, in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {key} in /proc/self/status")
