"""Make a checked copy of a model, the only folder of it that transformers ever sees.

It holds the weights, the vocabularies, and JSON files that are rewritten with known keys only. It
lies in the cache under the model's fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

from surgery.errors import ModelNotFound
from surgery.io.folders import first_wins, mark_used, whole_folder
from surgery.io.regular_files import open_regular
from surgery.io.safetensors import read_open_header
from surgery.io.sources import Sources
from surgery.models.source.documents import CLEANERS, TOKENIZER, TOKENIZER_CONFIG
from surgery.models.source.folder import (
    GENERIC_CLASS,
    INDEX,
    TOKENIZER_CLASSES,
    WEIGHTS,
    digest_of_open,
    fingerprint_of,
    limit_of,
    tensors_in,
)
from surgery.models.source.resolve import ModelSource, download

COPY_VERSION = 3  # to be raised when a copy keeps other parts of the original


def copies_in(sources: Sources) -> Path:
    """The folder that holds a folder for each copy."""
    return sources.cache / "models"


def checked_copy(source: ModelSource, sources: Sources) -> Path:
    """The folder with the checked copy of a model, which is made on first use.

    Raises ModelNotFound if the model's files changed since it was resolved, and what
    `resolve_model` raises for files that are not safe to read.
    """
    name = f"{source.fingerprint.removeprefix('sha256:')}-{COPY_VERSION}"
    folder = copies_in(sources) / name
    if folder.is_dir():
        mark_used(folder)  # copies are evicted by this time
        return folder
    origin = source.directory or download(source, sources)
    with first_wins(folder), whole_folder(folder) as building:
        _fill(building, origin, source)
    return folder


def tokenizer_copy(source: ModelSource, sources: Sources, folder: Path) -> None:
    """Put checked copies of a model's files into a folder, but of its weights.

    Raises what `resolve_model` raises for files that are not safe to read.
    """
    names = [name for name in source.files if name != INDEX and not WEIGHTS.fullmatch(name)]
    origin = source.directory or download(source, sources, names)
    for name in names:
        _place(origin, name, folder, source)


def _fill(building: Path, origin: Path, source: ModelSource) -> None:
    digests = {name: _place(origin, name, building, source) for name in source.files}
    if source.directory is not None and fingerprint_of(digests) != source.fingerprint:
        raise ModelNotFound(f"the files of {source.id} changed while they were read; submit again")
    parts = source.weights
    if len(parts) > 1:
        tensors = tensors_in(building, parts, source.id)
        index = {"metadata": {}, "weight_map": {key: part for key, (part, _) in tensors.items()}}
        (building / INDEX).write_text(json.dumps(index))


def _place(origin: Path, name: str, building: Path, source: ModelSource) -> str:
    """Put the parts of a file that are used into the copy; returns the whole file's SHA-256."""
    # The Hub's cache consists of links into its store. In a user's folder, no link is followed.
    path = origin / name if source.directory else Path(os.path.realpath(origin / name))
    with open_regular(path, limit_of(name)) as file:
        if WEIGHTS.fullmatch(name):
            if name in source.weights:
                _place_weights(file, building / name)
            return digest_of_open(file)
        content = file.read()
    if name in CLEANERS:
        document = CLEANERS[name](content, source.id)
        if name == TOKENIZER_CONFIG:
            document = _loadable(document, source)
        (building / name).write_text(json.dumps(document))
    elif name != INDEX:  # the index is written from the headers
        (building / name).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _place_weights(file: BinaryIO, target: Path) -> None:
    """Copy an open file; a link to it instead could be changed from outside."""
    with target.open("wb") as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
    with target.open("rb") as placed:
        read_open_header(placed, target.name)


def _loadable(document: dict[str, Any], source: ModelSource) -> dict[str, Any]:
    """The config with a generic class if its tokenizer class is unknown and there is TOKENIZER."""
    named = str(document.get("tokenizer_class") or GENERIC_CLASS)
    if named.removesuffix("Fast") not in TOKENIZER_CLASSES and TOKENIZER in source.files:
        return document | {"tokenizer_class": GENERIC_CLASS}
    return document
