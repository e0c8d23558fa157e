"""Rank and tune on local files, without the service.

python -m surgery rank MODEL TRAIN [--validation FILE] [--samples N] [--method METHOD] …
python -m surgery search MODEL TRAIN [--families single,all] [--learning-rates 1e-4,3e-4] …
python -m surgery tune MODEL TRAIN OUT --top-k 2 [--granularity sublayer] [--epochs N] …

MODEL is a folder or a Hugging Face model id; TRAIN is a CSV, TSV, JSON Lines or Parquet file, a
preset such as glue/cola, or a dataset of the Hub as JSON, {"hub": "owner/name", "columns": …}.
Results are JSON on standard output, progress goes to standard error.

Under torchrun, rank shares the samples among the processes; the first one prints:
torchrun --nproc-per-node 2 -m surgery rank MODEL TRAIN …
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from pydantic import ValidationError

from surgery.command_line.options import DATASET_OPTIONS, is_file, reference_of, upload_spec
from surgery.command_line.wording import Words, fault_lines
from surgery.data.files.source import format_of
from surgery.data.ingest.ingest import ingest
from surgery.data.presets.tasks import metrics_for
from surgery.data.references import materialise, resolve_dataset
from surgery.data.tokens.dataset import EvaluationSet, TaskData, open_data
from surgery.errors import OutOfMemory, ScoresNotFinite, SurgeryError
from surgery.evaluation.evaluate import MeasuredSet, open_evaluation_sets
from surgery.evaluation.evaluation_sets import find_evaluation_sets
from surgery.io.reporter import Quiet
from surgery.io.sources import Sources
from surgery.models.distributed import Share, present_share
from surgery.models.loading import LoadedModel, load_model
from surgery.models.source.resolve import ModelSource, local_model, resolve_model
from surgery.models.trainable import included_parameters, layers_of_model
from surgery.ranking.ranking import rank_layers
from surgery.ranking.selection import choose_layers, granularity_of
from surgery.schemas.data.dataset import HubDataset, UploadSpec
from surgery.schemas.enums import METHODS, POLICIES, Policy, described
from surgery.schemas.fields import Option, option_of, options_of
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.ranking import RANKING_OPTIONS, RankingOptions, RankingResult
from surgery.schemas.jobs.search import SEARCH_OPTIONS, SearchResult, SearchSpec
from surgery.schemas.jobs.selection import SELECTION_OPTIONS, SelectionSpec, selection_from
from surgery.schemas.options.head import HEAD_FIT
from surgery.schemas.options.training import (
    TRIAL_OPTIONS,
    CheckpointSpec,
    TrainingSpec,
    trials_from,
)
from surgery.schemas.validation import faults_of
from surgery.training.loop import finetune
from surgery.training.search.search import search_layers
from surgery.training.tracking.trackers import tracking

# What one process of several may meet alone; any other error meets all of them.
OWN_ERRORS = (OutOfMemory, ScoresNotFinite)
CACHE = Option(
    "cache",
    Path,
    metavar="DIR",
    help="Keep datasets and tokens there for later runs. Left out, they are kept in "
    "SURGEON_DATA_DIR/cache where that is set, else not at all.",
)
OF_RANKING_ALONE = {
    "granularity",
    "model_prior",
}  # tune chooses at the granularity of its selection
TRAINING_OPTIONS = options_of(TrainingSpec, "epochs", "learning_rate", "batch_size")
OPTIONS_TO_SEARCH = (
    *SEARCH_OPTIONS,
    *options_of(TrainingSpec, "epochs", "batch_size", "max_length"),
    HEAD_FIT,
)
TUNE_OPTIONS = (
    *(option for option in RANKING_OPTIONS if option.name not in OF_RANKING_ALONE),
    *SELECTION_OPTIONS,
    *TRAINING_OPTIONS,
    *TRIAL_OPTIONS,
    option_of(CheckpointSpec, "form", default="full"),  # transformers loads it without this library
    option_of(FinetuneSpec, "also_evaluate", repeated=True, metavar="PRESET"),
    *options_of(FinetuneSpec, "track_ranking"),
)
OPTIONS: Mapping[str, tuple[Option, ...]] = {
    "rank": (*DATASET_OPTIONS, CACHE, *RANKING_OPTIONS, HEAD_FIT),
    "search": (*DATASET_OPTIONS, CACHE, *OPTIONS_TO_SEARCH),
    "tune": (*DATASET_OPTIONS, CACHE, *TUNE_OPTIONS),
}
"""The options of each command."""


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
    separator = given.label_separator
    tokens = None if sources.cache.is_relative_to(scratch) else sources.tokens
    if is_file(given.train):
        return _own_files(given, scratch / "data", tokens)
    if given.validation or upload_spec(given.columns, given.problem, given.labels, 0, separator):
        raise SurgeryError(
            "--validation, --columns, --problem, --labels and --label-separator go with a file as "
            f"TRAIN, and there is no file {given.train}"
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
        upload_spec(
            given.columns, given.problem, given.labels, given.split_seed, given.label_separator
        )
    )
    report = ingest(
        train,
        validation,
        out,
        train_format=format_of(train.name),
        train_name=train.name,
        validation_format=format_of(validation.name) if validation else None,
        validation_name=validation.name if validation else "validation",
        columns=spec.columns,
        problem=spec.problem,
        labels=spec.labels,
        label_separator=spec.label_separator,
        seed=spec.seed,
    )
    return open_data(out, report, metrics_for(report.problem, report.labels), tokens)


class Lines(Quiet):
    """Progress as lines on standard error."""

    def phase(self, name: str) -> None:
        """One line a phase."""
        sys.stderr.write(f"{name}\n")

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        """One line a measurement."""
        shown = " ".join(f"{k} {v:.4g}" for k, v in values.items() if v is not None)
        sys.stderr.write(f"step {step} epoch {epoch:.2f} {shown}\n")


def _model(name: str, sources: Sources) -> ModelSource:
    return local_model(Path(name)) if Path(name).is_dir() else resolve_model(name, sources)


@contextmanager
def _processes() -> Iterator[Share]:
    """The group that torchrun started, for as long as the command runs; else this one alone."""
    if "WORLD_SIZE" not in os.environ:
        yield Share()
        return
    state = PartialState()
    try:
        yield present_share()
    finally:
        state.destroy_process_group()


def _device() -> torch.device:
    """This process's own GPU where there are any."""
    if torch.distributed.is_initialized():
        return torch.device(PartialState().device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load(given: argparse.Namespace, sources: Sources, data: TaskData, head: str) -> LoadedModel:
    source = _model(given.model, sources)
    return load_model(source, sources, data, seed=given.seed, head=head, device=_device())


def _rank(given: argparse.Namespace, sources: Sources, data: TaskData) -> RankingResult:
    head = "new" if given.head_seeds > 1 else "auto"
    asked = {option.name: getattr(given, option.name) for option in RANKING_OPTIONS}
    asked["head"] = {"init": head, "fit": given.head_fit}
    options = RankingOptions.model_validate(asked)
    report = Lines() if present_share().rank == 0 else Quiet()
    return rank_layers(_load(given, sources, data, head), data, options, report)


def _tune(given: argparse.Namespace, sources: Sources, data: TaskData) -> Any:
    if present_share().world > 1:
        raise SurgeryError("tune runs in one process; start it without torchrun")
    spec = _finetune_spec(given)
    given.granularity = granularity_of(spec.selection)
    given.model_prior = given.method not in {"fisher", "all"}  # off: nobody would see it
    ranked = POLICIES[spec.selection.policy].needs_ranking
    ranking = _rank(given, sources, data) if ranked else None
    if POLICIES[spec.selection.policy].searches:
        spec = _as_found(spec, _search_first(spec, given, sources, data))
    loaded = _load(given, sources, data, "auto")
    included = sum(p.numel() for p in included_parameters(loaded, spec.selection.include))
    parts = layers_of_model(loaded, given.granularity)
    layers = choose_layers(spec.selection, parts, ranking, included)
    data = replace(data, also=_also(given, sources, data, loaded))
    scores = {layer.name: layer.score for layer in ranking.layers} if ranking else None
    with tracking(Lines(given.out), given.out.resolve().name, spec) as reporter:
        result = finetune(loaded, data, spec, layers, reporter, scores=scores)
    result.warnings += reporter.warnings
    return result


def _finetune_spec(given: argparse.Namespace) -> FinetuneSpec:
    return FinetuneSpec(
        model="local",
        dataset="local",
        selection=SelectionSpec.model_validate(selection_from(vars(given), Policy.ALL)),
        training=TrainingSpec(
            epochs=given.epochs,
            learning_rate=given.learning_rate,
            batch_size=given.batch_size,
            max_length=given.max_length,
            seed=given.seed,
            **trials_from(vars(given)),
        ),
        checkpoints=CheckpointSpec(form=given.form),
        also_evaluate=given.also_evaluate,
        track_ranking=given.track_ranking,
    )


def _search(given: argparse.Namespace, sources: Sources, data: TaskData) -> SearchResult:
    if present_share().world > 1:
        raise SurgeryError("search runs in one process; start it without torchrun")
    asked = {option.name: getattr(given, option.name) for option in SEARCH_OPTIONS}
    lists = {name: asked[name].split(",") for name in ("families", "learning_rates")}
    training = {
        "epochs": given.epochs,
        "batch_size": given.batch_size,
        "max_length": given.max_length,
        "seed": given.seed,
        "head": {"fit": given.head_fit},
    }
    spec = SearchSpec.model_validate(
        {"model": "local", "dataset": "local", **asked, **lists, "training": training}
    )
    return search_layers(_load(given, sources, data, "auto"), data, spec, Lines())


def _search_first(
    spec: FinetuneSpec, given: argparse.Namespace, sources: Sources, data: TaskData
) -> SearchResult:
    searched = SearchSpec(model="local", dataset="local", training=spec.training)
    return search_layers(_load(given, sources, data, "auto"), data, searched, Lines(given.out))


def _as_found(spec: FinetuneSpec, found: SearchResult) -> FinetuneSpec:
    """The fine-tune of the layers that a search has found, at their learning rate."""
    selection = SelectionSpec(policy=Policy.LAYERS, layers=list(found.layers))
    training = spec.training.model_copy(update={"learning_rate": found.learning_rate})
    return spec.model_copy(update={"selection": selection, "training": training})


def _also(
    given: argparse.Namespace, sources: Sources, data: TaskData, loaded: LoadedModel
) -> tuple[EvaluationSet, ...]:
    names = given.also_evaluate
    found = find_evaluation_sets(names, given.train, data.problem, data.labels, sources)
    measured = [MeasuredSet.fetched(source, sources) for source in found]
    return open_evaluation_sets(measured, data.labels, loaded.tokenizer, given.max_length, sources)


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m surgery", description=__doc__, formatter_class=layout
    )
    commands = parser.add_subparsers(dest="command", required=True)
    methods = f"methods:\n{described(METHODS)}"
    texts = {
        "rank": "rank the layers",
        "search": "search for the layers to train and their learning rate, by short runs",
        "tune": "fine-tune chosen layers, or every layer where no option chooses",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text, epilog=methods, formatter_class=layout)
        command.add_argument("model")
        command.add_argument("train")
        if name == "tune":
            command.add_argument("out", type=Path, help="where checkpoints are written")
        for option in OPTIONS[name]:
            _add_option(command, option)
    return parser


def _add_option(command: argparse.ArgumentParser, option: Option) -> None:
    text = option.help.replace("%", "%%")
    if option.type is bool:
        action = "store_false" if option.default else "store_true"
        command.add_argument(option.flag, dest=option.name, action=action, help=text)
        return
    if option.default is not None:
        text += " (default: %(default)s)"
    command.add_argument(
        option.flag,
        dest=option.name,
        default=[] if option.repeated else option.default,
        help=text,
        type=str if option.choices else option.type,
        choices=option.choices or None,
        metavar=option.metavar,
        nargs="+" if option.repeated else None,
    )


def _told(error: SurgeryError | ValidationError, given: argparse.Namespace, share: Share) -> str:
    """Nothing where the first process says the same."""
    words = _words(given)
    if share.rank == 0:
        return "".join(f"{line}\n" for line in _lines(error, words))
    alone = isinstance(error, OWN_ERRORS)
    return f"process {share.rank} of {share.world}: {words.told(str(error))}\n" if alone else ""


def _words(given: argparse.Namespace) -> Words:
    """How the command that was given writes the fields of a request."""
    options = OPTIONS[given.command]
    written = [each.flag for each in options if getattr(given, each.name) != each.default]
    flags = {option.name: option.flag for option in options}
    return Words(flags, {"model": "MODEL", "dataset": "TRAIN"}, written)


def _lines(error: SurgeryError | ValidationError, words: Words) -> Iterator[str]:
    """What is wrong, where, and what to try: as the service says it, with options for fields."""
    if isinstance(error, ValidationError):
        lines = fault_lines({"errors": faults_of(error)}, words)
        yield from (line.removeprefix("  ") for line in lines)
        return
    yield words.told(error.detail)
    yield from fault_lines(error.as_problem(), words)


def main() -> int:
    """Run one command; expected failures are a message and exit code 1."""
    given = _parser().parse_args()
    run = {"rank": _rank, "search": _search, "tune": _tune}[given.command]
    with tempfile.TemporaryDirectory(prefix="surgery-") as scratch, _processes() as share:
        try:
            sources = sources_for(given, Path(scratch))
            result = run(given, sources, read_data(given, sources, Path(scratch)))
        except (SurgeryError, ValidationError) as error:
            sys.stderr.write(_told(error, given, share))
            return 1
    if share.rank == 0:
        sys.stdout.write(result.model_dump_json(indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
