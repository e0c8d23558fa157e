"""Save and load the state of a search: its finished pieces, and the tensors of its runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from surgery.io.folders import complete_folder
from surgery.schemas import JobWarning
from surgery.training.search.decision.candidates import Candidate
from surgery.training.search.decision.race import Memory, Piece, Reading, RunKey
from surgery.training.search.trials import Run

TENSORS = "search.safetensors"
ENTRIES = "search.json"


@dataclass(kw_only=True)
class SearchState(Memory):
    """All that a search has learned; what else it needs follows from its request.

    ``logits`` are those of every run for the rows that judge, after its last piece. ``head`` is the
    head that all runs begin with, and ``scores`` are those by method, bottom to top.
    """

    head: dict[str, Tensor]
    scores: dict[str, list[float]]
    warnings: list[JobWarning] = field(default_factory=list)
    runs: dict[RunKey, Run] = field(default_factory=dict)
    logits: dict[RunKey, np.ndarray[Any, Any]] = field(default_factory=dict)


def save_search(target: Path, state: SearchState) -> None:
    """Write a state as a folder, which exists whole or not at all."""
    tensors = {f"head.{name}": tensor.cpu().contiguous() for name, tensor in state.head.items()}
    runs: dict[str, Any] = {}
    for key, run in state.runs.items():
        name = f"{key.point}.{key.repeat}"
        tensors[f"logits.{name}"] = torch.from_numpy(state.logits[key]).contiguous()
        tensors |= {f"weight.{name}.{own}": tensor for own, tensor in run.weights.items()}
        tensors |= {
            f"moment.{name}.{kind}.{own}": tensor
            for own, moments in run.moments.items()
            for kind, tensor in moments.items()
        }
        runs[name] = {
            "family": run.candidate.family,
            "layers": run.candidate.layers,
            "learning_rate": run.learning_rate,
            "seed": run.seed,
            "step": run.step,
            "schedule": run.schedule,
            "scaler": run.scaler,
        }
    entries = {
        "scores": state.scores,
        "warnings": [warning.model_dump() for warning in state.warnings],
        "overhead": state.overhead,
        "looks": state.looks,
        "readings": [asdict(reading) for reading in state.readings],
        "runs": runs,
    }
    with complete_folder(target) as folder:
        save_file({name: t.contiguous() for name, t in tensors.items()}, folder / TENSORS)
        (folder / ENTRIES).write_text(json.dumps(entries))


def load_search(folder: Path) -> SearchState:
    """Read a state that `save_search` wrote."""
    entries: Mapping[str, Any] = json.loads((folder / ENTRIES).read_text())
    tensors = load_file(folder / TENSORS)
    state = SearchState(
        head=_under(tensors, "head."),
        scores=entries["scores"],
        warnings=[JobWarning.model_validate(each) for each in entries["warnings"]],
        overhead=entries["overhead"],
        looks=entries["looks"],
        readings=[_reading(entry) for entry in entries["readings"]],
    )
    for name, own in entries["runs"].items():
        key = RunKey(*map(int, name.split(".")))
        candidate = Candidate(own.pop("family"), tuple(own.pop("layers")))
        run = Run(candidate, weights=_under(tensors, f"weight.{name}."), **own)
        for path, tensor in _under(tensors, f"moment.{name}.").items():
            kind, _, tensor_name = path.partition(".")
            run.moments.setdefault(tensor_name, {})[kind] = tensor
        state.runs[key] = run
        state.logits[key] = tensors[f"logits.{name}"].numpy()
    return state


def _under(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(start): tensor
        for name, tensor in tensors.items()
        if name.startswith(start)
    }


def _reading(entry: dict[str, Any]) -> Reading:
    piece = entry.pop("piece")
    return Reading(piece=Piece(RunKey(*piece["run"]), piece["fraction"]), **entry)
