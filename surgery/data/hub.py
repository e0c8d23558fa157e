"""Find and fetch the files of a dataset on the Hugging Face Hub.

Files are picked from the repository's listing at one commit, and read with the readers of
``surgery.data.files``. `datasets.load_dataset` is not used on untrusted repositories: their card
may point it at any URL or at a path of this machine, and it unpacks archives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.data.splits import choose_config, split_files
from surgery.errors import DatasetInvalid
from surgery.io.hub import DATASET, hub_errors
from surgery.io.sources import Sources
from surgery.schemas.data.dataset import HubDataset

MAX_DOWNLOAD_BYTES = 20 << 30


@dataclass(frozen=True)
class HubFiles:
    """A dataset at one commit: the files and row counts of its two splits."""

    revision: str
    files: dict[str, tuple[str, ...]]
    rows: dict[str, int | None]
    labels: tuple[str, ...] | None


def describe(reference: HubDataset, sources: Sources) -> HubFiles:
    """Ask the Hub for a dataset's commit and files, without downloading them.

    ``files`` and ``rows`` have the keys train and validation. ``labels`` are the class names in
    the dataset card, if it has any. Raises DatasetNotFound, DatasetInvalid, UpstreamUnavailable.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=sources.endpoint, token=sources.token or False)
    with hub_errors(DATASET, reference.hub, reference.revision):
        info = api.dataset_info(
            reference.hub, revision=reference.revision, timeout=10, files_metadata=True
        )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    _refuse_code(reference.hub, sizes)
    card = info.card_data.to_dict() if info.card_data else {}
    config = choose_config(reference, _listed(card.get("configs")))
    files = {
        role: split_files(reference, split, config, list(sizes))
        for role, split in (("train", reference.train), ("validation", reference.validation))
    }
    total = sum(sizes[name] for names in files.values() for name in names)
    if total > MAX_DOWNLOAD_BYTES:
        raise DatasetInvalid(f"{reference.hub} is {total:,} bytes; upload a sample of it instead")
    facts = _facts(card, reference.config or (config or {}).get("config_name"))
    rows = {"train": reference.train, "validation": reference.validation}
    return HubFiles(
        str(info.sha),
        files,
        {role: _rows(facts, split) for role, split in rows.items()},
        _class_names(facts, reference.columns.label_name),
    )


def download(
    hub: str, revision: str, names: tuple[str, ...], folder: Path, sources: Sources
) -> list[Path]:
    """Fetch files of one commit into ``folder``; raises UpstreamUnavailable."""
    from huggingface_hub import hf_hub_download

    with hub_errors(DATASET, hub, revision):
        return [
            Path(
                hf_hub_download(
                    hub,
                    name,
                    repo_type="dataset",
                    revision=revision,
                    local_dir=folder,
                    token=sources.token or False,
                    endpoint=sources.endpoint,
                )
            )
            for name in names
        ]


def _refuse_code(hub: str, sizes: Mapping[str, int]) -> None:
    if f"{hub.rpartition('/')[2]}.py" in sizes:
        raise DatasetInvalid(
            f"the dataset {hub} is loaded by its own script, and no code of a dataset is run; name "
            "a copy of it in Parquet, or upload its files"
        )


def _facts(card: Mapping[str, Any], config: str | None) -> dict[str, Any]:
    """The `dataset_info` of one config in the dataset card."""
    entries = _listed(card.get("dataset_info"))
    named = {str(entry.get("config_name", "default")): entry for entry in entries}
    if config is None and len(entries) == 1:
        return entries[0]
    return named.get(config or "default", {})


def _rows(facts: Mapping[str, Any], split: str) -> int | None:
    for entry in _listed(facts.get("splits")):
        count = entry.get("num_examples")
        if entry.get("name") == split and isinstance(count, int):
            return count
    return None


def _class_names(facts: Mapping[str, Any], column: str) -> tuple[str, ...] | None:
    for entry in _listed(facts.get("features")):
        kind = next((entry[key] for key in ("dtype", "sequence", "list") if key in entry), None)
        names = kind.get("class_label", {}).get("names") if isinstance(kind, Mapping) else None
        if entry.get("name") != column or not isinstance(names, list | Mapping):
            continue
        if isinstance(names, list):
            return tuple(str(name) for name in names)
        # {"0": "negative", "1": "positive"}
        return tuple(str(names[key]) for key in sorted(names, key=int))
    return None


def _listed(value: object) -> list[dict[str, Any]]:
    entries = value if isinstance(value, list) else [value]
    return [entry for entry in entries if isinstance(entry, dict)]
