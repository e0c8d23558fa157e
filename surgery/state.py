"""The state of an interrupted run, as safetensors and JSON: enough to end with the same weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from surgery.folder import complete_folder
from surgery.results import EpochReport

TENSORS = "state.safetensors"
ENTRIES = "state.json"


@dataclass
class Progress:
    """How far a run is. ``batch`` counts within the epoch."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    rows: int = 0
    train_seconds: float = 0.0
    reports: list[EpochReport] = field(default_factory=list)
    # Losses stay on the device until someone asks: no synchronisation a step.
    epoch_total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    epoch_rows: int = 0
    recent_total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    recent_rows: int = 0

    def add_loss(self, mean: Tensor, rows: int) -> None:
        """The mean loss of a batch of so many rows."""
        weighted = mean.double() * rows
        self.epoch_total = self.epoch_total.to(weighted.device) + weighted
        self.recent_total = self.recent_total.to(weighted.device) + weighted
        self.epoch_rows += rows
        self.recent_rows += rows
        self.rows += rows

    def recent_loss(self) -> float:
        """Mean loss since the last call."""
        mean = float(self.recent_total) / max(1, self.recent_rows)
        self.recent_total, self.recent_rows = torch.zeros_like(self.recent_total), 0
        return mean

    def epoch_loss(self) -> float | None:
        """Mean loss of the epoch, which ends here."""
        mean = float(self.epoch_total) / self.epoch_rows if self.epoch_rows else None
        self.epoch_total, self.epoch_rows = torch.zeros_like(self.epoch_total), 0
        return mean


COUNTERS = ("step", "epoch", "batch", "rows", "train_seconds", "epoch_rows", "recent_rows")
TOTALS = ("epoch_total", "recent_total")


def save_state(
    target: Path,
    progress: Progress,
    trained: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """Write everything the next step depends on: weights, moments, rates, random states."""
    tensors = {f"weight.{name}": p.detach() for name, p in trained.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(v) for key, v in moments.items()}
    tensors |= {name: getattr(progress, name) for name in TOTALS}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    entries = {name: getattr(progress, name) for name in COUNTERS} | {
        "reports": [report.model_dump() for report in progress.reports],
        "trained": list(trained),
        "scheduler": scheduler.last_epoch,
    }
    with complete_folder(target) as folder:
        kept = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(kept, folder / TENSORS)
        (folder / ENTRIES).write_text(json.dumps(entries))


def load_state(
    folder: Path,
    trained: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> Progress:
    """Restore weights, moments, rates and random states in place; return the counters.

    Raises ValueError when the state is of another selection: a resumed job never trains other
    layers than it began with.
    """
    entries = json.loads((folder / ENTRIES).read_text())
    if entries["trained"] != list(trained):
        raise ValueError("the saved state is of another selection")
    tensors = load_file(folder / TENSORS)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[f"weight.{name}"])
    state: dict[str, Any] = optimizer.state_dict()
    state["state"] = _moments(tensors)
    optimizer.load_state_dict(state)
    _fast_forward(scheduler, optimizer, entries["scheduler"])
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    progress = Progress(**{name: entries[name] for name in COUNTERS})
    progress.reports = [EpochReport(**report) for report in entries["reports"]]
    for name in TOTALS:
        setattr(progress, name, tensors[name])
    return progress


def _moments(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, key = rest.partition(".")
            moments.setdefault(int(index), {})[key] = tensor
    return moments


def _fast_forward(
    scheduler: torch.optim.lr_scheduler.LRScheduler, optimizer: torch.optim.Optimizer, steps: int
) -> None:
    """Set the rate of step ``steps``: the schedules are functions of the step alone."""
    scheduler.last_epoch = steps
    assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
    rates = [
        base * rule(steps)
        for base, rule in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    scheduler._last_lr = rates  # noqa: SLF001  # LambdaLR has no public way to set it
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
