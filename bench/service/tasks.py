"""Every preset ranked and fine-tuned on the real encoder, over HTTP.

    SURGEON_MIRROR_DIR=… python -m bench.service.tasks [--presets glue/rte …] [--rows 2000] [--k 2]

For each preset that the mirror holds, a service of its own ranks the layers by Fisher information
and trains the head alone, the k best layers, the k last layers and all layers, with the same
settings. The service runs two jobs side by side. Finished runs are lines of the JSON file: the same
command again does what is missing, and prints the table of all.

±se is one standard error of the metric of all layers: the spread over 200 bootstrap resamples of
the validation rows, from the downloaded checkpoint, which has to measure what the service told.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench.data.capped import held_presets, write_capped
from bench.service.noise import outcome_of
from surgeon.client import Client
from surgeon.demo.service import MODEL, free_port, install_model, running_service
from surgeon.demo.tour import succeeded
from surgery.data.presets.tasks import TASKS
from surgery.io.sources import Sources

Json = dict[str, Any]
ARMS = ("head_only", "top_k", "last_k", "all")
SAME = 1e-4  # of a metric, between the service and the downloaded checkpoint
SETTINGS = ("rows", "k", "epochs", "max_steps", "learning_rate", "max_length", "seed")


@dataclass(frozen=True)
class Bench:
    """A running service, and the settings of the runs on it."""

    client: Client
    folder: Path
    given: argparse.Namespace

    @property
    def sources(self) -> Sources:
        """The folders from which the service reads presets."""
        return Sources((self.folder / "mirror",), self.folder / "cache", offline=True)

    def run(self, preset: str, arms: list[str]) -> Iterator[Json]:
        """Train some arms on a preset. Yields one line for the file as each finishes."""
        ranking = self._ranking(preset) if "top_k" in arms else None
        jobs = {
            arm: self.client.submit("finetunes", self._body(preset, arm, ranking)) for arm in arms
        }
        for arm, job in jobs.items():
            done = succeeded(self.client.wait(job))
            result = done["result"]
            cell = {
                "preset": preset,
                "arm": arm,
                **settings(self.given),
                "trained": result["trained_layers"],
                "metrics": result["best"]["metrics"],
                "counted": done["resolved"]["rows"],
                "seconds": result["seconds"]["total"],
                "truncated": result["lengths"]["truncated"],
            }
            if arm == "top_k" and ranking is not None:
                cell["rank_seconds"] = sum(ranking["result"]["seconds"].values())
            if arm == "all":
                cell["standard_errors"] = self._standard_errors(preset, result)
            yield cell

    def _ranking(self, preset: str) -> Json:
        body = {
            "model": MODEL,
            "dataset": preset,
            "seed": self.given.seed,
            "model_prior": False,
            "max_length": self.given.max_length,
        }
        return succeeded(self.client.wait(self.client.submit("rankings", body)))

    def _body(self, preset: str, arm: str, ranking: Json | None) -> Json:
        selection: Json = {"policy": arm}
        if arm.endswith("_k"):
            selection["k"] = self.given.k
        if arm == "top_k" and ranking is not None:
            selection["ranking"] = ranking["id"]
        names = ("epochs", "max_steps", "learning_rate", "max_length", "seed")
        training = {name: getattr(self.given, name) for name in names}
        return {
            "model": MODEL,
            "dataset": preset,
            "selection": selection,
            "training": training,
            "checkpoints": {"keep": "best"},
        }

    def _standard_errors(self, preset: str, result: Json) -> dict[str, float | None]:
        base = self.folder / "mirror" / "models" / MODEL
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            checkpoint = self.client.download(result["best_checkpoint"], Path(folder))
            outcome = outcome_of(
                TASKS[preset], base, checkpoint, self.sources, self.given.max_length
            )
        told = result["best"]["metrics"]
        for name, value in outcome.metrics().items():
            if (value is None) != (told[name] is None) or abs(
                (value or 0) - (told[name] or 0)
            ) > SAME:
                raise SystemExit(f"{preset}: the checkpoint has {name} {value}, not {told[name]}")
        return outcome.standard_errors()


def settings(given: argparse.Namespace) -> Json:
    """The settings that two lines must share to appear in one table."""
    return {name: getattr(given, name) for name in SETTINGS}


def finished(given: argparse.Namespace) -> dict[tuple[str, str], Json]:
    """The lines of the file that have these settings, by preset and arm."""
    if not given.json.exists():
        return {}
    lines = [json.loads(line) for line in given.json.read_text().splitlines()]
    wanted = settings(given)
    return {
        (line["preset"], line["arm"]): line
        for line in lines
        if all(line[name] == value for name, value in wanted.items())
    }


def table(
    cells: dict[tuple[str, str], Json], presets: list[str], given: argparse.Namespace
) -> Table:
    """One row for each preset and metric."""
    rows = f"{given.rows:,} training rows at most" if given.rows else "all training rows"
    steps = f", {given.max_steps} steps at most" if given.max_steps else ""
    found = Table(
        title=f"{rows}, {given.epochs} epochs{steps}, rate {given.learning_rate:g}, "
        f"{given.max_length} tokens, seed {given.seed}; k = {given.k}",
        title_justify="left",
        box=SIMPLE,
        pad_edge=False,
    )
    for name in ("preset", "metric"):
        found.add_column(name, no_wrap=True)
    for name in ("train", "valid.", "cut", *ARMS, "±se", "rank s", "tune s"):
        found.add_column(name, justify="right", no_wrap=True)
    for preset in presets:
        own = {arm: cells[preset, arm] for arm in ARMS if (preset, arm) in cells}
        for place, metric in enumerate(TASKS[preset].metrics if own else ()):
            found.add_row(*_row(preset, metric, own, first=place == 0))
    return found


def _row(preset: str, metric: str, own: dict[str, Json], *, first: bool) -> list[str]:
    values = [shown(own[arm]["metrics"][metric]) if arm in own else "" for arm in ARMS]
    errors = own.get("all", {}).get("standard_errors", {})
    error = shown(errors.get(metric)) if errors else ""
    if not first:
        return ["", metric, "", "", "", *values, error, "", ""]
    one = next(iter(own.values()))
    ranked = own.get("top_k", {}).get("rank_seconds")
    seconds = " ".join(f"{own[arm]['seconds']:.0f}" if arm in own else "-" for arm in ARMS)
    counts = [f"{one['counted'][split]:,}" for split in ("train", "validation")]
    rank_seconds = "" if ranked is None else f"{ranked:.0f}"
    truncated = f"{one['truncated']:.0%}"
    return [preset, metric, *counts, truncated, *values, error, rank_seconds, seconds]


def shown(value: float | None) -> str:
    """A metric with three digits, or `undefined`."""
    return "undefined" if value is None else f"{value:.3f}"


def arguments() -> argparse.Namespace:
    """Parse the command line. Without named presets, all presets of the mirror are run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", choices=list(TASKS), metavar="NAME")
    parser.add_argument("--rows", type=int, default=0, help="training rows, seeded; 0: all")
    parser.add_argument("--k", type=int, default=2, help="layers, for top_k and last_k")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("bench/results/tasks.jsonl"))
    return parser.parse_args()


def main() -> None:
    """Run what is missing, then print the table."""
    given = arguments()
    mirrors = [part for part in os.environ.get("SURGEON_MIRROR_DIR", "").split(os.pathsep) if part]
    given.json.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-tasks-") as name:
        folder = Path(name)
        held = Sources(tuple(map(Path, mirrors)), folder / "held", offline=True)
        presets = given.presets or held_presets(held)
        cells = finished(given)
        missing = [p for p in presets if any((p, arm) not in cells for arm in ARMS)]
        if missing:
            install_model(folder)
            for preset in missing:
                write_capped(preset, held, folder / "mirror", given.rows, given.seed)
            with running_service(folder, free_port()) as client:
                run_missing(Bench(client, folder, given), missing, cells)
    Console(width=150).print(table(finished(given), presets, given))


def run_missing(bench: Bench, presets: list[str], cells: dict[tuple[str, str], Json]) -> None:
    """Append a line for every run as it finishes."""
    for place, preset in enumerate(presets, 1):
        arms = [arm for arm in ARMS if (preset, arm) not in cells]
        for cell in bench.run(preset, arms):
            with bench.given.json.open("a") as file:
                file.write(json.dumps(cell) + "\n")
            values = " ".join(f"{name} {shown(value)}" for name, value in cell["metrics"].items())
            done = f"[{place}/{len(presets)}] {preset} {cell['arm']}"
            print(f"{done}: {values} in {cell['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
