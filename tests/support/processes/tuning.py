"""One of several processes that fine-tune together: ``tuning.py MODEL OUT``.

The first one writes the weights, losses and metrics to OUT. Started by accelerate's launcher.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import nn

from surgery.io.reporter import Quiet, Stopped
from surgery.models.trainable import layers_of_model
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.training.loop import finetune
from tests.support.models.checkpoints import loaded_from
from tests.support.models.toys import sentences

TRAINING: dict[str, Any] = {
    "epochs": 2, "learning_rate": 3e-3, "batch_size": 4, "max_length": 24, "seed": 3,
    "class_weights": "balanced",
}  # fmt: skip
RATES: dict[str, Any] = {"learning_rate": 5e-5, "learning_rates": [1e-4, 3e-3]}


class Cut(Quiet):
    """Asks for an end after so many steps."""

    def __init__(self, out: Path, stop_at: int | None = None) -> None:
        super().__init__(out)
        self._stop_at = stop_at

    def step(self, done: int, _total: int | None, unit: str) -> None:
        if unit == "steps" and done == self._stop_at:
            raise Stopped(resumable=True)

    def state(self, directory: Path, _step: int) -> None:
        (self.out / "saved").write_text(str(directory)) if self.out else None


def exact(model: nn.Module) -> None:
    """In float64 and without dropout, so that the order of sums and draws does not show."""
    model.double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def tuned(model: Path, out: Path, *, cut: int | None = None, dropout: bool, **changed: Any) -> Any:
    """A run of a tiny model; cut after a step, it goes on from the state it left."""
    rank, resume = PartialState().process_index, None
    data = sentences(44)
    spec = FinetuneSpec.model_validate(
        {"model": "m", "dataset": "d", "selection": {"policy": "all"},
         "training": {**TRAINING, **changed}}
    )  # fmt: skip
    for stop_at in [cut, None] if cut else [None]:
        loaded = loaded_from(model, data)
        if not dropout:
            exact(loaded.model)
        report = Cut(out, stop_at) if rank == 0 else Quiet(out / str(rank))
        try:
            result = finetune(loaded, data, spec, layers_of_model(loaded), report, resume)
        except Stopped:
            PartialState().wait_for_everyone()
            resume = Path((out / "saved").read_text())
    weights = {name: tensor.contiguous() for name, tensor in loaded.model.state_dict().items()}
    entries = [entry.model_dump() for entry in result.epochs]
    trials = [trial.model_dump(exclude={"seconds"}) for trial in result.learning_rates]
    return weights, {"epochs": entries, "processes": result.processes, "trials": trials}


def main() -> None:
    """Join the group and train; once whole, once cut and resumed, with and without dropout.

    The last run chooses its learning rate first.
    """
    torch.set_num_threads(1)
    model, out = Path(sys.argv[1]), Path(sys.argv[2])
    state = PartialState(cpu=not torch.cuda.is_available())
    runs: dict[str, dict[str, Any]] = {
        "plain": {"dropout": False}, "whole": {"dropout": True}, "cut": {"dropout": True, "cut": 3},
        "rates": {"dropout": False, **RATES},
    }  # fmt: skip
    for name, options in runs.items():
        weights, told = tuned(model, out / name, **options)
        if PartialState().process_index == 0:
            save_file(weights, out / f"{name}.safetensors")
            (out / f"{name}.json").write_text(json.dumps({**told, "backend": state.backend}))
    state.destroy_process_group()


if __name__ == "__main__":
    main()
