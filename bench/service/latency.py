"""The main job on running services: seconds from POST to result, and whether they agree.

    python -m bench.service.latency --url http://127.0.0.1:8000 [--url …]
        [--tasks glue/cola glue/rte]

Each service ranks 256 samples of each task twice (the first warms the worker), asks for the same
again, and fine-tunes the top two layers. With several services, such as an embedded and a
production one on the same mirror, the scores are compared to the last bit.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from surgeon.client import Client

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
Json = dict[str, Any]


def timed(client: Client, collection: str, body: Json) -> tuple[Json, float]:
    """A job and the seconds from its POST to its end as a client sees them."""
    began = time.perf_counter()
    job = client.wait(client.submit(collection, body))
    if job["status"] != "succeeded":
        raise SystemExit(f"{job['id']} {job['status']}: {job['error']}")
    return job, time.perf_counter() - began


def measure(client: Client, task: str, epochs: int) -> Json:
    """Measure one task on one service."""
    ranking = {"model": MODEL, "dataset": task, "cache": "bypass"}
    timed(client, "rankings", {**ranking, "seed": 1})
    ranked, seconds = timed(client, "rankings", ranking)
    again, stored = timed(client, "rankings", {**ranking, "cache": "use"})
    assert again["cached"]
    tuned, tuning = timed(
        client,
        "finetunes",
        {
            "model": MODEL,
            "dataset": task,
            "selection": {"policy": "top_k", "k": 2, "ranking": ranked["id"]},
            "training": {"epochs": epochs, "learning_rate": 2e-4},
        },
    )
    return {
        "task": task,
        "service": client.url,
        "rank_seconds": seconds,
        "stored_seconds": stored,
        "phases": ranked["result"]["seconds"],
        "scores": {layer["name"]: layer["score"] for layer in ranked["result"]["layers"]},
        "tune_seconds": tuning,
        "metrics": tuned["result"]["best"]["metrics"],
        "trained": tuned["result"]["trained_layers"],
    }


def show(found: list[Json]) -> Table:
    """One row for each task and service."""
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("task", "service"):
        table.add_column(name)
    for name in ("rank s", "stored s", "tune s", "metric", "same scores"):
        table.add_column(name, justify="right")
    first: dict[str, Json] = {}
    for entry in found:
        same = first.setdefault(entry["task"], entry)["scores"] == entry["scores"]
        metrics = " ".join(f"{value:.3f}" for value in entry["metrics"].values())
        table.add_row(
            entry["task"],
            entry["service"],
            f"{entry['rank_seconds']:.1f}",
            f"{entry['stored_seconds']:.3f}",
            f"{entry['tune_seconds']:.0f}",
            metrics,
            "yes" if same else "NO",
        )
    return table


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", action="append", required=True)
    parser.add_argument("--tasks", nargs="+", default=["glue/cola", "glue/rte", "glue/stsb"])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("bench/results/main_job.json"))
    given = parser.parse_args()
    clients = [Client(url) for url in given.url]
    found = [measure(client, task, given.epochs) for task in given.tasks for client in clients]
    Console().print(show(found))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
