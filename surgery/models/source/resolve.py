"""Resolve a model id: find it in the mirror or on the Hub, pin it, and read its architecture.

Nothing here imports torch or runs code of a repository: its files are data (see
`surgery.models.source.folder`), weights are safetensors, and only the encoders in ``ENCODERS`` are
loaded.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from surgery.errors import (
    ModelNotFound,
    ModelUnsupported,
    UnsafeFiles,
)
from surgery.io.folders import mark_used
from surgery.io.hub import MODEL, hub_errors, hub_header
from surgery.io.regular_files import read_regular
from surgery.io.safetensors import FLOATS, TensorHeader, check_count
from surgery.io.sources import Sources, mirror_path, recorded_revision, records_of
from surgery.models.inputs import longest_row
from surgery.models.layers import encoder_sizes, parts_of, sizes_beside, sizes_in_model
from surgery.models.source.checks import check_weights, check_wrapper, explain_folder
from surgery.models.source.documents import CLEANERS, CONFIG, TOKENIZER_CONFIG
from surgery.models.source.folder import (
    checked_documents,
    is_read,
    limit_of,
    read_folder,
    weights_among,
)
from surgery.models.source.known import with_models
from surgery.schemas.enums import Granularity
from surgery.schemas.fields import MODEL_PATTERN
from surgery.schemas.resolved import ModelInfo

# model_type → the name under which its task model holds the encoder.
ENCODERS = {
    "albert": "albert",
    "bert": "bert",
    "big_bird": "bert",
    "camembert": "roberta",
    "deberta": "deberta",
    "deberta-v2": "deberta",
    "distilbert": "distilbert",
    "electra": "electra",
    "fnet": "fnet",
    "funnel": "funnel",
    "longformer": "longformer",
    "modernbert": "model",
    "mpnet": "mpnet",
    "nomic_bert": "nomic_bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "xlnet": "transformer",
}
FolderState = tuple[tuple[str, ...], dict[str, tuple[int, ...] | None]]
MAX_FOLDERS = 64
# File systems store times in steps of up to two seconds.
SETTLED_NANOSECONDS = 2_000_000_000
# The models of local folders, each with the state of its folder when it was read.
_FOLDERS: dict[tuple[str, Path], tuple[FolderState, ModelSource]] = {}
# A process reads one folder at a time: this keeps the processor busy, and other requests wait.
_READING = threading.Lock()
FINER = (Granularity.SUBLAYER, Granularity.TENSOR)


@dataclass(frozen=True)
class ModelSource:
    """A resolved model id: where the model is, and exactly which bytes it has."""

    id: str
    origin: str  # "mirror" or "hub"
    revision: str | None
    fingerprint: str
    config: dict[str, Any] = field(repr=False)
    files: tuple[str, ...] = field(repr=False)
    directory: Path | None = field(default=None, repr=False)
    tensors: dict[str, TensorHeader] = field(default_factory=dict, repr=False)  # in ``directory``
    longest: int | None = None  # the most tokens of a row, if known

    @property
    def prefix(self) -> str:
        """The name under which the task model holds the encoder."""
        return ENCODERS[self.config["model_type"]]

    @property
    def weights(self) -> list[str]:
        """The safetensors files that are read, in order."""
        return weights_among(self.files)

    @cached_property
    def local_sizes(self) -> dict[str, int]:
        """As `tensor_sizes`, of a model in a local folder."""
        return _sizes(self, self.tensors)

    @cached_property
    def local_info(self) -> ModelInfo:
        """As `inspect_model`, of a model in a local folder."""
        return _info(self, self.local_sizes)


def resolve_model(model_id: str, sources: Sources) -> ModelSource:
    """Find a model in the mirror, or else on the Hub, and pin it.

    A mirror has the one revision that `hf download` recorded in it, or an unknown one; an id with
    another revision is looked up on the Hub. Raises ModelNotFound, ModelGated, ModelUnsupported
    (for other models than the supported encoders), UnsafeWeights (without safetensors), UnsafeFiles
    or UpstreamUnavailable.
    """
    if not re.fullmatch(MODEL_PATTERN, model_id):
        raise ModelNotFound(
            f"{model_id[:100]!r} is not a model id: give owner/name or name, with an optional "
            "@revision, as on the Hugging Face Hub; paths and URLs are not accepted"
        )
    try:
        return _found(model_id, sources)
    except ModelNotFound as error:
        raise with_models(error, model_id, sources) from error.__cause__


def _found(model_id: str, sources: Sources) -> ModelSource:
    name, _, revision = model_id.partition("@")
    directory = mirror_path(sources, "models", *name.split("/"))
    if directory is not None and (not revision or _revision_of(directory) == revision):
        found = _in_mirror(name, directory)
        if found is not None:
            return found
    if sources.offline:
        raise ModelNotFound(_offline(name, revision, directory))
    return _from_hub(name, revision or None, sources)


def _revision_of(directory: Path) -> str | None:
    """The commit that a mirrored model is of, if that is recorded."""
    names = [CONFIG, *(path.name for path in directory.glob("*.safetensors"))]
    return recorded_revision(directory / name for name in names)


def _offline(name: str, revision: str, directory: Path | None) -> str:
    if revision and directory is not None:
        has = _revision_of(directory)
        return (
            f"model {name!r} is asked for at revision {revision!r}, but this service is offline: "
        ) + (
            f"its mirror has revision {has!r} only; name that, or leave the revision out"
            if has
            else "its mirror holds no revisions, so leave the revision out"
        )
    return (
        f"model {name!r} is not in the mirror and the service runs offline; put it under "
        f"models/{name} of a mirror directory"
    )


def _in_mirror(name: str, directory: Path) -> ModelSource | None:
    if os.path.lexists(directory / CONFIG):
        return _from_folder(name, directory)
    explain_folder(directory, name)
    return None


def local_model(directory: Path) -> ModelSource:
    """A model in any local folder, with the same checks; for the library and its command."""
    if not os.path.lexists(directory / CONFIG):
        raise ModelNotFound(f"{directory} is not a folder with a config.json")
    return _from_folder(directory.resolve().name, directory)


def _from_folder(name: str, directory: Path) -> ModelSource:
    """The model of a folder, which this process reads again only when a file has changed."""
    key = (name, directory)
    seen, known = _state_of(directory), _FOLDERS.get(key)
    if seen is not None and known is not None and known[0] == seen:
        return known[1]
    with _READING:
        seen, known = _state_of(directory), _FOLDERS.get(key)
        if seen is not None and known is not None and known[0] == seen:
            return known[1]  # somebody else has read it meanwhile
        _check_type(read_folder_config(directory, name), name)
        folder = read_folder(directory, name)
        revision = _revision_of(directory)
        source = ModelSource(name, "mirror", revision, directory=directory, **vars(folder))
        if seen is not None and _is_settled(seen) and seen == _state_of(directory):
            if len(_FOLDERS) >= MAX_FOLDERS:
                _FOLDERS.clear()
            _FOLDERS[key] = seen, source
    return source


def _state_of(directory: Path) -> FolderState | None:
    """What changes with every change of a folder from which its model was read.

    That is each file's name and, of the files that are read and of the records of their commit,
    the device, inode, size and times. None if the folder cannot be listed.
    """
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError:
        return None
    read = [directory / name for name in names if is_read(name)]
    weights = [directory / name for name in names if name.endswith(".safetensors")]
    records = [path for file in {directory / CONFIG, *weights} for path in records_of(file)]
    return tuple(names), {str(path): _identity(path) for path in (*read, *records)}


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        state = path.lstat()
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _is_settled(state: FolderState) -> bool:
    """Whether the newest change is so old that a further one must have another time."""
    newest = max((each[-1] for each in state[1].values() if each is not None), default=0)
    return newest < time.time_ns() - SETTLED_NANOSECONDS


def read_folder_config(directory: Path, name: str) -> dict[str, Any]:
    """The cleaned config of a model's folder; nothing else of the folder is read."""
    return CLEANERS[CONFIG](read_regular(directory / CONFIG, limit_of(CONFIG)), name)


def _from_hub(name: str, revision: str | None, sources: Sources) -> ModelSource:
    from huggingface_hub import HfApi, hf_hub_download

    with hub_errors(MODEL, name, revision):
        api = HfApi(endpoint=sources.endpoint, token=sources.token)
        info = api.model_info(name, revision=revision, timeout=10, files_metadata=True)
    sizes = {s.rfilename: s.size or 0 for s in info.siblings or [] if is_read(s.rfilename)}
    _check_sizes(name, sizes)

    _mark_download(name, sources)

    def fetched(file: str) -> Path:
        with hub_errors(MODEL, name, revision):
            path = hf_hub_download(
                name,
                file,
                revision=info.sha,
                token=sources.token,
                endpoint=sources.endpoint,
                cache_dir=sources.downloads,
            )
        return Path(os.path.realpath(path))  # this cache is trusted, and made of links

    files = tuple(sorted(sizes))
    if CONFIG not in files:
        raise ModelUnsupported(f"model {name!r} has no config.json")
    config = CLEANERS[CONFIG](read_regular(fetched(CONFIG), limit_of(CONFIG)), name)
    _check_type(config, name)
    documents = checked_documents(files, fetched, name)
    longest = longest_row(config, documents.get(TOKENIZER_CONFIG, {}))
    digest = hashlib.sha256(f"hub:{name}@{info.sha}".encode()).hexdigest()
    fingerprint = f"sha256:{digest}"
    return ModelSource(name, "hub", info.sha, fingerprint, config, files, longest=longest)


def _check_sizes(name: str, sizes: dict[str, int]) -> None:
    for file, size in sizes.items():
        if size > limit_of(file):
            raise UnsafeFiles(
                f"{file} of {name!r} has {size:,} bytes; such a file may have at most "
                f"{limit_of(file):,}"
            )


def _check_type(config: dict[str, Any], name: str) -> None:
    model_type = config.get("model_type")
    if model_type not in ENCODERS:
        if model_type is None:
            raise ModelUnsupported(
                f"config.json of {name!r} has no model_type; add it, as in "
                '"model_type": "bert"; supported encoders: ' + ", ".join(sorted(ENCODERS))
            )
        raise ModelUnsupported(
            f"model {name!r} is of type {str(model_type)[:60]!r}; supported encoders: "
            + ", ".join(sorted(ENCODERS))
        )


def inspect_model(source: ModelSource, sources: Sources) -> ModelInfo:
    """The architecture and layers of a resolved model, from its config and headers."""
    return model_info(source, tensor_sizes(source, sources))


def model_info(source: ModelSource, sizes: dict[str, int]) -> ModelInfo:
    """As `inspect_model`, for known ``sizes`` of the model's tensors."""
    return _info(source, sizes) if source.directory is None else source.local_info


def _info(source: ModelSource, sizes: dict[str, int]) -> ModelInfo:
    config = source.config
    layers = parts_of(sizes, source.prefix, Granularity.LAYER)
    check_weights(config, sizes, len(layers), source.id)
    architectures = config.get("architectures") or [None]
    hidden = config.get("hidden_size") or config.get("dim") or config.get("d_model")
    return ModelInfo(
        id=source.id,
        revision=source.revision,
        fingerprint=source.fingerprint,
        model_type=config["model_type"],
        architecture=architectures[0],
        hidden_size=hidden,
        parameters=sum(sizes.values()),
        layers=layers,
        parts={each: parts_of(sizes, source.prefix, each) for each in FINER},
        groups=sizes_beside(encoder_sizes(sizes, source.prefix)),
        source="mirror" if source.directory else "hub",
    )


def tensor_sizes(source: ModelSource, sources: Sources) -> dict[str, int]:
    """Tensor name in the model → number of parameters, without integer buffers.

    Raises UnsafeWeights for headers that are malformed or have more tensors than any encoder, and
    ModelUnsupported for names that no encoder has.
    """
    if source.directory is not None:
        return source.local_sizes
    headers: dict[str, TensorHeader] = {}
    for file in source.weights:
        headers |= hub_header(source.id, source.revision, file, sources)
        check_count(len(headers), source.id)
    return _sizes(source, headers)


def _sizes(source: ModelSource, tensors: dict[str, TensorHeader]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    check_wrapper(tensors, source.prefix, source.id)
    for tensor, header in tensors.items():
        if header.dtype in FLOATS:
            sizes[tensor] = header.size
    check_count(len(sizes), source.id)
    return sizes_in_model(sizes, source.prefix, source.config["model_type"])


def _mark_download(name: str, sources: Sources) -> None:
    """Let what was downloaded of a model stay for longer."""
    mark_used(sources.downloads / f"models--{name.replace('/', '--')}")


def download(source: ModelSource, sources: Sources, names: Sequence[str] | None = None) -> Path:
    """Download files of a Hub model at its pinned revision, all if none is named.

    Returns their folder.
    """
    from huggingface_hub import snapshot_download

    _mark_download(source.id, sources)
    with hub_errors(MODEL, source.id, source.revision):
        folder = snapshot_download(
            source.id,
            revision=source.revision,
            allow_patterns=list(source.files if names is None else names),
            token=sources.token,
            endpoint=sources.endpoint,
            cache_dir=sources.downloads,
        )
    return Path(folder)
