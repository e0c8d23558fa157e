"""One of several processes that rank together: ``ranking.py RANK WORLD PORT OUT``.

Writes the results of ``CASES`` by name to the file OUT.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from surgery.errors import SurgeryError
from tests.support.models.toys import rank, toy_model

CASES: dict[str, dict[str, Any]] = {
    "trace": {"model_prior": True},
    "sublayers": {"granularity": "sublayer", "aggregate": "mean"},
    "frobenius": {"aggregate": "frobenius", "model_prior": True},
    "sampled": {"fisher": "sampled", "draws": 2},
    "gradient_norm": {"method": "gradient_norm"},
    "tangent": {"method": "tangent"},
    "cls_similarity": {"method": "cls_similarity"},
    "adaptive": {"adaptive": True, "rows": 70},
    "heads": {"head_seeds": 2, "head": {"init": "new", "warmup_epochs": 2}},
    "small batches": {"batch_size": 3},
    "minus": {"minus": "shuffled"},
    "all": {"method": "all"},
}


def results() -> dict[str, Any]:
    """Every case, ranked from the same start."""
    found: dict[str, Any] = {}
    for name, given in CASES.items():
        options = dict(given)
        if options.get("method", "all") != "all":
            options["model_prior"] = True  # the default: it means nothing there
        result = rank(toy_model(new=True), **options)
        found[name] = result.model_dump(mode="json", exclude={"seconds", "processes"})
        found[f"{name}: processes"] = result.processes
    found["33 rows"] = rank(toy_model(), rows=33, adaptive=True).model_dump(mode="json")
    try:
        rank(toy_model(), rows=1, samples=2)
    except SurgeryError as error:
        found["too few"] = str(error)
    return found


def main() -> None:
    """Join the group, rank, and write."""
    rank_of, world, port, out = sys.argv[1:]
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=int(rank_of), world_size=int(world)
    )
    Path(out).write_text(json.dumps(results()))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
