"""How fast fine-tunes will run: as earlier ones measured, or else as a worker's probe did."""

from __future__ import annotations

import math
from collections.abc import Sequence

from app.db import Database
from app.db.tables import Job, JobKind
from app.submissions.estimating.finished import newest_finished
from app.submissions.fleet import Probed, probed_workers
from surgery.schemas.enums import TrainingPrecision
from surgery.schemas.jobs.estimate import ProbedSpeed, SpeedBasis, ThroughputBasis
from surgery.schemas.resolved import Resolved

# From docs/science/estimates.md, which has the measurements.
ACCURACY = {
    SpeedBasis.OWN_RUNS: "rarely off by more than a third: measured by fine-tunes of this model",
    SpeedBasis.OTHER_RUNS: "an order of magnitude: measured by fine-tunes of other models",
    SpeedBasis.PROBE: "within a factor of about two for small encoders, until a fine-tune has run: "
    "measured on made tokens by a small encoder",
}
NO_WORKER = "no worker has registered yet: start one, and it measures its device"
MEASURING = "no worker has measured its device yet: it does so within seconds of its start"


def throughput(
    database: Database, fingerprint: str, precision: str | None, width: int | None
) -> tuple[ThroughputBasis, int | None]:
    """How fast a model trains, and the memory of a worker's process, None if nobody measured it.

    Fine-tunes that have run count more than a probe. ``width`` is that of the model's states.
    """
    measured, device, process = measured_rate(database, fingerprint, precision)
    return measured or _probed_rate(database, precision, width, device), process


def _probed_rate(
    database: Database, precision: str | None, width: int | None, device: str | None
) -> ThroughputBasis:
    """The speed by the probe of a worker, if possible of one with this ``device``."""
    workers = probed_workers(database)
    known = [(worker, worker.probe) for worker in workers if worker.probe is not None]
    for worker, probe in sorted(known, key=lambda each: each[1].device != device):
        chosen = precision or _chosen_by(worker)
        speeds = [speed for speed in probe.speeds if speed.precision == chosen]
        if speeds:
            return ThroughputBasis(
                basis=SpeedBasis.PROBE,
                accuracy=ACCURACY[SpeedBasis.PROBE],
                device=probe.device,
                precision=chosen,
                operations_per_second=at_width(speeds, width),
                worker=worker.id,
                measured_at=worker.probed_at,
            )
    return ThroughputBasis(basis=SpeedBasis.NONE, accuracy=_why_none(workers, precision))


def _chosen_by(worker: Probed) -> str:
    """The precision that the worker's jobs choose by themselves: bf16 on a GPU that has it."""
    on_gpu = worker.device != "cpu" and TrainingPrecision.BF16 in worker.precisions
    return TrainingPrecision.BF16 if on_gpu else TrainingPrecision.FP32


def at_width(speeds: Sequence[ProbedSpeed], width: int | None) -> float:
    """The speed of an encoder of this width; between two that were measured, on a line through
    their logarithms, and beyond them as the nearest one."""
    below, *others = sorted(speeds, key=lambda speed: speed.width)
    for above in others:
        if width is not None and width < above.width:
            whole = math.log(above.width / below.width)
            part = max(0.0, math.log(width / below.width) / whole)
            ratio = above.operations_per_second / below.operations_per_second
            return below.operations_per_second * math.pow(ratio, part)
        below = above
    return below.operations_per_second


def _why_none(workers: Sequence[Probed], precision: str | None) -> str:
    """Why there is no speed."""
    failed = [
        f"{worker.id} could not measure {name}: {why}"
        for worker in workers
        if worker.probe is not None
        for name, why in worker.probe.failures.items()
        if precision in {None, name}
    ]
    if failed:
        return failed[0]
    if any(worker.probe is not None for worker in workers):
        return f"no worker has measured precision {precision}"
    return MEASURING if workers else NO_WORKER


def measured_rate(
    database: Database, fingerprint: str, precision: str | None
) -> tuple[ThroughputBasis | None, str | None, int | None]:
    """Operations per second on the device of the newest fine-tune, that device, and the memory of
    its process.

    The rate is measured by fine-tunes of this model in this precision if there are any, else by
    those of other models. Without a precision, it is the one that a worker last chose there.
    """
    jobs = [
        job
        for job in newest_finished(database, Job.kind == JobKind.FINETUNE)
        if job.result and job.result.get("throughput") and job.result["processes"] == 1
    ]
    if not jobs:
        return None, None, None
    newest = jobs[0].result["throughput"]  # type: ignore[index]
    device, process = newest["device"], newest["process_bytes"]
    precision = precision or _chosen_precision(jobs, device)
    alike = [
        (job, measured)
        for job in jobs
        if (measured := job.result["throughput"])["device"] == device  # type: ignore[index]
        and measured["precision"] == precision
    ]
    own = [
        measured
        for job, measured in alike
        if Resolved.of(job.resolved).model.fingerprint == fingerprint
    ]
    used = own or [measured for _, measured in alike]
    seconds = sum(measured["seconds"] for measured in used)
    if not seconds:
        return None, device, process
    source = SpeedBasis.OWN_RUNS if own else SpeedBasis.OTHER_RUNS
    basis = ThroughputBasis(
        basis=source,
        accuracy=ACCURACY[source],
        device=device,
        precision=precision,
        operations_per_second=sum(measured["operations"] for measured in used) / seconds,
        jobs=len(used),
    )
    return basis, device, process


def _chosen_precision(jobs: Sequence[Job], device: str) -> str:
    """The precision that a worker last chose by itself on a device, else fp32."""
    for job in jobs:
        measured = job.result["throughput"]  # type: ignore[index]
        if measured["device"] == device and job.spec["training"].get("precision") is None:
            return str(measured["precision"])
    return "fp32"
