"""`surgeon upload`, and how other commands turn their argument DATASET into a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from surgeon.client import Client
from surgeon.commands.failures import expected_failures
from surgeon.commands.options import DEFAULT_URL, AsJson, Json, Key, Url, with_options
from surgeon.terminal import terminal
from surgery.command_line.options import DATASET_OPTIONS, is_file, reference_of, upload_spec
from surgery.command_line.wording import Words
from surgery.errors import SurgeryError

WORDS = Words({option.name: option.flag for option in DATASET_OPTIONS})  # for what was noticed


@dataclass(frozen=True)
class FileOptions:
    """The options that describe a file to upload."""

    validation: Path | None = None
    spec: Json | None = None


def file_options(given: Mapping[str, Any]) -> FileOptions:
    """Read the options that describe a file. Raises BadParameter if one is malformed."""
    validation: Path | None = given["validation"]
    if validation is not None and not is_file(validation):
        raise typer.BadParameter(f"--validation: there is no file {validation}")
    names = ("columns", "problem", "labels", "label_separator", "split_seed")
    try:
        return FileOptions(validation, upload_spec(**{name: given[name] for name in names}))
    except SurgeryError as error:
        raise typer.BadParameter(str(error)) from None


def dataset_of(client: Client, given: str, options: FileOptions) -> str | Json:
    """The dataset of a request. A file is uploaded first; the service checks anything else."""
    if is_file(given):
        return str(uploaded(client, Path(given), options)["id"])
    if options.validation is not None or options.spec:
        raise typer.BadParameter(
            "--validation, --columns, --problem, --labels, --label-separator and --split-seed go "
            f"with a file as DATASET, and there is no file {given}"
        )
    try:
        return reference_of(given)
    except SurgeryError as error:
        raise typer.BadParameter(str(error)) from None


def uploaded(client: Client, path: Path, options: FileOptions, name: str | None = None) -> Json:
    """Upload a file, and print to standard error how the service understood it."""
    stored = client.upload(path, options.validation, spec=options.spec, name=name, progress=True)
    dataset = stored.model_dump(mode="json")
    rows, columns = dataset["rows"], dataset["columns"]
    parts = ", ".join(f"{part} {_joined(name)}" for part, name in columns.items() if name)
    inferred = f"; inferred: {', '.join(dataset['inferred'])}" if dataset["inferred"] else ""
    counts = f"{rows['train']:,} training and {rows['validation']:,} validation rows"
    lines = [
        f"uploaded {path.name} as {dataset['id']}: {counts}",
        f"{dataset['problem']} of {parts}{inferred}",
        *(f"warning: {WORDS.told(warning)}" for warning in dataset["warnings"]),
        *([f"note: {dataset['note']}"] if dataset.get("note") else []),
    ]
    for line in lines:
        terminal.errors.print(line, highlight=False, markup=False)
    return dataset


def _joined(column: str | list[str]) -> str:
    return column if isinstance(column, str) else ", ".join(column)


@with_options(*DATASET_OPTIONS)
def upload(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", exists=True, dir_okay=False)],
    name: Annotated[
        str | None, typer.Option(help="A name of your choice, which lists show.")
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Check a dataset and store it. Other commands take the printed id as their DATASET."""
    data = file_options(given)
    with expected_failures(), Client(url, key) as client:
        dataset = uploaded(client, train, data, name)
    if as_json:
        terminal.show_json(dataset)
    else:
        terminal.console.out(dataset["id"], highlight=False)


def datasets(
    name: Annotated[str | None, typer.Option(help="Only those of this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List stored datasets, newest first."""
    with expected_failures(), Client(url, key) as client:
        listed = client.datasets(limit, name)
    if as_json:
        terminal.show_json(listed)
    else:
        terminal.show_datasets(listed)
