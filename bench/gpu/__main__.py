"""Whether everything works on a GPU, and how fast it is: python -m bench.gpu [--out DIR]

First the tests that are marked ``gpu``, then the figures. Every section is a process of its own
with a limit of time, and writes its text and JSON into the folder as it goes, so that a run that is
cut off keeps what it had; ``summary.txt`` and ``summary.json`` say what fell short of the aims. All
limits together are under eight minutes. Without a GPU it says so and exits with 2; ``--device cpu
--quick`` rehearses it on the CPU with little of everything.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.data.capped import mirrors_held, write_cola
from bench.tables import Target, machine

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
ROWS, VALIDATION = 1600, 200  # of CoLA, to fine-tune on and to measure on
ONE_BY_ONE = 15.0  # times slower than the trace, at so many tokens:
AT_TOKENS = 128
NO_GPU = (
    "PyTorch {version} sees no GPU on this machine; run this where it does, or rehearse it on the "
    "CPU with --device cpu --quick"
)
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
COUNTS = re.compile(r"(\d+) (passed|failed|deselected|skipped|errors?)\b")


@dataclass(frozen=True)
class Section:
    """A part of the run: ``python -m ARGUMENT …``, stopped after ``limit`` seconds."""

    name: str
    title: str
    limit: float
    arguments: tuple[str, ...]


@dataclass
class Outcome:
    """The outcome of a section. ``status`` is ``done``, ``failed`` or ``cut off``."""

    name: str
    title: str
    status: str
    seconds: float
    limit: float
    counts: dict[str, int] = field(default_factory=dict)
    targets: list[Json] = field(default_factory=list)


def sections(device: str, out: Path, *, quick: bool) -> list[Section]:
    """All sections, in order. Their limits add up to 470 s."""
    marked = "gpu" if device == "cuda" else "not gpu and not slow" if quick else "not gpu"
    tests = (
        *("pytest", "tests/gpu", "-m", marked, "--confcutdir", "tests/gpu"),
        *("-p", "no:cacheprovider", "-o", "filterwarnings=default"),
        *("--timeout", "100" if device == "cuda" else "1000"),
    )
    traces = [
        Section(
            f"trace-{name}",
            f"scores beside their limit, {name}",
            60,
            _fisher(device, name, out, quick=quick),
        )
        for name in DTYPES
    ]
    return [
        Section("tests", f"tests on {device}", 150, tests),
        *traces,
        Section("ranking", "256 samples of BERT-base", 35, _ranking(device, out, quick=quick)),
        Section("finetune", "fine-tuning beside Trainer", 110, _finetune(device, out, quick=quick)),
        Section("memory", "peak memory beside the estimate", 55, _memory(out, quick=quick)),
    ]


def _fisher(device: str, name: str, out: Path, *, quick: bool) -> tuple[str, ...]:
    lengths = ("16",) if quick else ("16", "128", "512")
    methods = ("plain", "limit", "one by one", "trace", "frobenius")
    return (
        *("bench.fisher", "--device", device, "--dtype", DTYPES[name], "--samples", "0"),
        *("--no-memory", "--lengths", *lengths, "--tokens", "32" if quick else "8192"),
        *("--methods", *methods, "--rounds", "1" if quick else "5"),
        *("--json", str(out / f"trace-{name}.json")),
    )


def _ranking(device: str, out: Path, *, quick: bool) -> tuple[str, ...]:
    less = ("--encoder", "minilm", "--samples", "8", "--rounds", "1") if quick else ()
    return ("bench.fisher.ranking", "--device", device, "--json", str(out / "ranking.json"), *less)


def _finetune(device: str, out: Path, *, quick: bool) -> tuple[str, ...]:
    arms = ("trainer all", "ours all", "trainer last-2", "ours last-2")
    rows, encoder = ("16", "minilm") if quick else (str(ROWS), "bert-base")
    precision = "bf16" if device == "cuda" else "fp32"
    return (
        *("bench.finetune", "--device", device, "--precision", precision),
        *("--encoder", encoder, "--task", "cola", "--rows", rows, "--rounds", "1"),
        *("--epochs", "2" if quick else "3", "--arms", *(arms[1:4:2] if quick else arms)),
        *("--cache", str(out / "cache"), "--json", str(out / "finetune.json")),
    )


def _memory(out: Path, *, quick: bool) -> tuple[str, ...]:
    rows = "24" if quick else "240"
    return (
        *("bench.finetune.estimates", "--rows", rows, "--epochs", "1"),
        *("--json", str(out / "memory.json")),
    )


def run(section: Section, out: Path, environment: dict[str, str], patience: float) -> Outcome:
    """Run a section. Its output goes to NAME.txt at once, and its warnings to NAME.log."""
    began, limit = time.monotonic(), section.limit * patience
    with (
        (out / f"{section.name}.txt").open("w") as text,
        (out / f"{section.name}.log").open("w") as log,
    ):
        process = subprocess.Popen(
            [sys.executable, "-m", *section.arguments],
            cwd=ROOT,
            env=environment,
            stdout=text,
            stderr=log,
            start_new_session=True,
        )
        try:
            status = "done" if process.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "cut off"
        finally:
            _kill(process)
    seconds = round(time.monotonic() - began, 1)
    outcome = Outcome(section.name, section.title, status, seconds, limit)
    if section.name == "tests":
        last = (out / "tests.txt").read_text().splitlines()[-1:]
        outcome.counts = {name: int(count) for count, name in COUNTS.findall("".join(last))}
    outcome.targets = [{**asdict(each), "met": each.met} for each in targets_of(section.name, out)]
    return outcome


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all processes that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def targets_of(name: str, out: Path) -> Iterator[Target]:
    """The targets of a section, as far as its JSON was written."""
    path = out / f"{name}.json"
    if not path.exists():
        return
    found = json.loads(path.read_text())
    if name == "memory":
        for line in found:
            share = line["measured"] / (line["estimated"] + (line["process"] or 0))
            label = f"{line['trains']}, cache {line['cache']}"
            yield Target(label, "peak memory / the estimate", share, share, 1.0)
        return
    written = [*found.get("targets", [])]
    written += [target for case in found.get("cases", []) for target in case.get("targets", [])]
    for target in written:
        target.pop("met")
        yield Target(**target)
    if name.startswith("trace"):
        yield from _loops(found["cases"])


def _loops(cases: Sequence[Json]) -> Iterator[Target]:
    """Targets for the trace against computing one sample at a time."""
    for case in cases:
        seconds = {m["method"]: sorted(m["seconds"]) for m in case["methods"] if m["seconds"]}
        if case["tokens"] == AT_TOKENS and {"one by one", "trace"} <= seconds.keys():
            loop, trace = seconds["one by one"], seconds["trace"]
            middle = loop[len(loop) // 2] / trace[len(trace) // 2]
            ratio, fastest = "one by one / trace", loop[0] / trace[0]
            yield Target(case["case"], ratio, middle, fastest, ONE_BY_ONE, at_least=True)


def write_summary(out: Path, told: Json, outcomes: Sequence[Outcome]) -> str:
    """Write the results so far as text and as JSON. Returns the text."""
    whole = {**told, "sections": [asdict(outcome) for outcome in outcomes]}
    (out / "summary.json").write_text(json.dumps(whole, indent=2) + "\n")
    lines = [", ".join(f"{key}: {value}" for key, value in told.items()), ""]
    if told["device"] == "cpu":
        lines += ["A rehearsal: the aims are a GPU's.", ""]
    for outcome in outcomes:
        counts = ", ".join(f"{count} {name}" for name, count in outcome.counts.items())
        lines.append(
            f"{outcome.name:12} {outcome.status:8} {outcome.seconds:6.1f} s of "
            f"{outcome.limit:.0f}  {counts or outcome.title}"
        )
    targets = [target for outcome in outcomes for target in outcome.targets]
    for title, met in (("Fell short of the aim", False), ("Met", True)):
        own = [target for target in targets if target["met"] is met]
        lines += ["", f"{title}: {len(own)}"]
        lines += [
            f"  {each['case']}: {each['ratio']} is {each['median']:.2f}, aim "
            f"{'at least' if each['at_least'] else 'at most'} {each['target']:.2f}"
            for each in own
        ]
    text = "\n".join(lines) + "\n"
    (out / "summary.txt").write_text(text)
    return text


def environment_with(mirror: Path) -> dict[str, str]:
    """The environment of the sections: CoLA from this mirror, no Hub, no spinning threads."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "1000",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "SURGEON_MIRROR_DIR": str(mirror.resolve()),
        "HF_HUB_OFFLINE": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TOKENIZERS_PARALLELISM": "true",
    }


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="where tables go")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="little of everything")
    parser.add_argument("--only", nargs="+", help="these sections, by name")
    parser.add_argument(
        "--patience", type=float, help="times the limits; default: 1, and 10 on the CPU"
    )
    return parser.parse_args()


def main() -> int:
    """Returns 0 if every section succeeded, 1 if one failed or was cut off, 2 without a GPU."""
    given = arguments()
    if given.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU.format(version=torch.__version__), file=sys.stderr)
        return 2
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    rows = write_cola(out / "mirror", mirrors_held(out), ROWS, VALIDATION)
    told = {"device": given.device, "quick": given.quick, "rows": rows, **machine()}
    patience = given.patience or (1.0 if given.device == "cuda" else 10.0)
    outcomes: list[Outcome] = []
    for section in sections(given.device, out, quick=given.quick):
        if given.only and section.name not in given.only:
            continue
        print(f"{section.title}: at most {section.limit * patience:.0f} s", flush=True)
        outcomes.append(run(section, out, environment_with(out / "mirror"), patience))
        print((out / f"{section.name}.txt").read_text(), flush=True)
        text = write_summary(out, told, outcomes)
    print(text)
    return int(any(outcome.status != "done" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
