"""Save and load the state of a run, so that a resumed run ends with the same weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from surgery.io.folders import complete_folder
from surgery.models.distributed import Share, gather_rows
from surgery.schemas.jobs.finetune import EpochReport, RateTrial

TENSORS = "state.safetensors"
ENTRIES = "state.json"


@dataclass
class Progress:
    """How far a run has come. ``batch`` counts the optimizer steps of the current epoch."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    rows: int = 0
    halvings: int = 0
    precision: str | None = None  # see `numerics.with_precision`
    replays: bool | None = None  # whether states of a frozen prefix are; None until decided
    lowest: int = 0  # the lowest scheduled layer above that prefix, see `ActiveLayers.lowest_at`
    trial: int | None = None  # the place of the learning rate that is tried; None in the run itself
    train_seconds: float = 0.0
    reports: list[EpochReport] = field(default_factory=list)
    trials: list[RateTrial] = field(default_factory=list)  # the learning rates that were tried
    # Losses stay on the device until they are needed, so that steps need not wait for it.
    epoch_total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    epoch_rows: int = 0
    recent_total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    recent_rows: int = 0

    def add_step(self, mean: Tensor, rows: int, steps_per_epoch: int) -> None:
        """Count a step of ``rows`` rows with this mean loss."""
        self.step += 1
        self.batch += 1
        if self.batch == steps_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0
        weighted = mean.double() * rows
        self.epoch_total = self.epoch_total.to(weighted.device) + weighted
        self.recent_total = self.recent_total.to(weighted.device) + weighted
        self.epoch_rows += rows
        self.recent_rows += rows
        self.rows += rows

    def recent_loss(self) -> float:
        """The mean loss since the last call."""
        mean = float(self.recent_total) / max(1, self.recent_rows)
        self.recent_total, self.recent_rows = torch.zeros_like(self.recent_total), 0
        return mean

    def epoch_loss(self) -> float | None:
        """The mean loss since the last call, which every evaluation makes."""
        mean = float(self.epoch_total) / self.epoch_rows if self.epoch_rows else None
        self.epoch_total, self.epoch_rows = torch.zeros_like(self.epoch_total), 0
        return mean


COUNTERS = (
    "step",
    "epoch",
    "batch",
    "rows",
    "halvings",
    "precision",
    "replays",
    "lowest",
    "trial",
    "train_seconds",
    "epoch_rows",
    "recent_rows",
)
TOTALS = ("epoch_total", "recent_total")


@dataclass(frozen=True)
class TrainState:
    """What a step changes: the trained tensors by name, the optimizer, the schedule, the scaler."""

    trained: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler


def random_state(device: torch.device) -> Tensor:
    """The states of the random generators of the CPU and of this process's GPU, as bytes."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Restore the random generators to a ``random_state``."""
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size].clone())  # it reads a view from the start of its storage
    if device.type == "cuda" and len(state) > size:
        torch.cuda.set_rng_state(state[size:].clone(), device)


def save_state(
    target: Path, progress: Progress, train_state: TrainState, device: torch.device, share: Share
) -> None:
    """Write everything the next step depends on: weights, moments, schedule, random states.

    Every process of a run must call this; the first one writes.
    """
    own = random_state(device).unsqueeze(0)
    random = gather_rows(own, [share.rank], share.world, share)
    if share.rank != 0:
        return
    tensors = {f"weight.{name}": p.detach() for name, p in train_state.trained.items()}
    for index, moments in train_state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(v) for key, v in moments.items()}
    tensors |= {name: getattr(progress, name) for name in TOTALS}
    tensors["random"] = random
    entries = {name: getattr(progress, name) for name in COUNTERS} | {
        "reports": [report.model_dump() for report in progress.reports],
        "trials": [trial.model_dump() for trial in progress.trials],
        "trained": list(train_state.trained),
        "schedule": train_state.schedule.last_epoch,
        "scaler": train_state.scaler.state_dict(),
    }
    with complete_folder(target) as folder:
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, folder / TENSORS)
        (folder / ENTRIES).write_text(json.dumps(entries))


def load_state(
    folder: Path, train_state: TrainState, device: torch.device, share: Share
) -> Progress:
    """Restore weights, moments, schedule and random states in place; return the progress.

    Raises ValueError if the state is of another selection or number of processes: a resumed job
    never trains other layers than before.
    """
    entries = json.loads((folder / ENTRIES).read_text())
    tensors = load_file(folder / TENSORS)
    if entries["trained"] != list(train_state.trained):
        raise ValueError("the saved state is of another selection")
    if len(tensors["random"]) != share.world:
        raise ValueError("the saved state is of another number of processes")
    with torch.no_grad():
        for name, parameter in train_state.trained.items():
            parameter.copy_(tensors[f"weight.{name}"])
    state: dict[str, Any] = train_state.optimizer.state_dict()
    state["state"] = _moments(tensors)
    train_state.optimizer.load_state_dict(state)
    train_state.scaler.load_state_dict(entries["scaler"])
    fast_forward(train_state, entries["schedule"])
    set_random_state(tensors["random"][share.rank], device)
    # A state that an earlier version wrote may lack some.
    progress = Progress(**{name: entries[name] for name in COUNTERS if name in entries})
    progress.reports = [EpochReport(**report) for report in entries["reports"]]
    progress.trials = [RateTrial(**trial) for trial in entries.get("trials", [])]
    for name in TOTALS:
        setattr(progress, name, tensors[name])
    return progress


def saved_step(folder: Path) -> int:
    """The step of the run that a saved state is of; 0 while learning rates are tried."""
    entries = json.loads((folder / ENTRIES).read_text())
    return 0 if entries.get("trial") is not None else int(entries["step"])


def saved_trials(folder: Path) -> tuple[list[RateTrial], int | None]:
    """The learning rates that were tried, and the place of the one that was being tried."""
    entries = json.loads((folder / ENTRIES).read_text())
    return [RateTrial(**trial) for trial in entries.get("trials", [])], entries.get("trial")


def saved_precision(folder: Path) -> str | None:
    """The precision of the interrupted run; None in a state that an earlier version wrote."""
    precision: str | None = json.loads((folder / ENTRIES).read_text()).get("precision")
    return precision


def _moments(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, key = rest.partition(".")
            moments.setdefault(int(index), {})[key] = tensor
    return moments


def fast_forward(train_state: TrainState, steps: int) -> None:
    """Set the learning rates of step ``steps``: a schedule is a function of the step alone."""
    schedule = train_state.schedule
    schedule.last_epoch = steps
    rates = [
        base * rule(steps)
        for base, rule in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    schedule._last_lr = rates  # noqa: SLF001  # LambdaLR has no public way to set it
    for group, rate in zip(train_state.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
