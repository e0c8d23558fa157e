"""The data of `python -m surgery`: its options, and the dataset they name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from surgery.data import TaskData, open_data
from surgery.dataset_spec import HubDataset, UploadSpec
from surgery.errors import SurgeryError
from surgery.files import format_of
from surgery.ingest import ingest
from surgery.references import materialise, resolve_dataset
from surgery.sources import Sources
from surgery.tasks import metrics_for
from surgery.terms import Problem
from surgery.upload_options import (
    COLUMNS_HELP,
    LABELS_HELP,
    SPLIT_SEED_HELP,
    is_file,
    reference_of,
    upload_spec,
)


def add_data_options(command: argparse.ArgumentParser) -> None:
    """All but the cache go with a file as TRAIN."""
    command.add_argument("--validation", type=Path, help="a file")
    command.add_argument("--columns", metavar="PART=COLUMN,…", help=COLUMNS_HELP)
    command.add_argument("--problem", choices=[*Problem], help="inferred where left out")
    command.add_argument("--labels", metavar="NAME,…", help=LABELS_HELP)
    command.add_argument("--split-seed", type=int, default=0, help=SPLIT_SEED_HELP)
    command.add_argument(
        "--cache", type=Path, metavar="DIR",
        help="keep datasets and tokens there for later runs; left out, SURGEON_DATA_DIR/cache "
        "where that is set, else nothing is kept",
    )  # fmt: skip


def sources_for(given: argparse.Namespace, scratch: Path) -> Sources:
    """Mirrors as for the service, and the cache that is asked for, else one in ``scratch``."""
    mirrors = os.environ.get("SURGEON_MIRROR_DIR", "").split(os.pathsep)
    offline = os.environ.get("SURGEON_OFFLINE", "").lower() in {"1", "true"}
    cache = _kept_cache(given) or scratch / "cache"
    return Sources(tuple(Path(part) for part in mirrors if part), cache=cache, offline=offline)


def _kept_cache(given: argparse.Namespace) -> Path | None:
    service = os.environ.get("SURGEON_DATA_DIR")
    kept: Path | None = given.cache or (Path(service) / "cache" if service else None)
    try:
        if kept is not None:
            kept.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SurgeryError(f"--cache: {kept} cannot be written ({error.strerror})") from None
    return kept


def read_data(given: argparse.Namespace, sources: Sources, scratch: Path) -> TaskData:
    """The dataset that TRAIN is, read and checked.

    Raises SurgeryError, or pydantic's ValidationError for a wrong option or reference.
    """
    # Tokens are worth writing where a later run finds them.
    tokens = None if sources.cache.is_relative_to(scratch) else sources.tokens
    if is_file(given.train):
        return _own_files(given, scratch / "data", tokens)
    if given.validation or upload_spec(given.columns, given.problem, given.labels):
        raise SurgeryError(
            "--validation, --columns, --problem and --labels go with a file as TRAIN, and there "
            f"is no file {given.train}"
        )
    reference = reference_of(given.train)
    source = resolve_dataset(
        reference if isinstance(reference, str) else HubDataset.model_validate(reference), sources
    )
    folder, report = materialise(source, sources)
    metrics = source.metrics or metrics_for(report.problem, report.labels)
    return open_data(folder, report, metrics, tokens)


def _own_files(given: argparse.Namespace, out: Path, tokens: Path | None) -> TaskData:
    train, validation = Path(given.train), given.validation
    if validation is not None and not is_file(validation):
        raise SurgeryError(f"--validation: there is no file {validation}")
    spec = UploadSpec.model_validate(
        upload_spec(given.columns, given.problem, given.labels, given.split_seed)
    )
    report = ingest(
        train, validation, out,
        train_format=format_of(train.name), train_name=train.name,
        validation_format=format_of(validation.name) if validation else None,
        validation_name=validation.name if validation else "validation",
        columns=spec.columns, problem=spec.problem, labels=spec.labels, seed=spec.seed,
    )  # fmt: skip
    return open_data(out, report, metrics_for(report.problem, report.labels), tokens)
