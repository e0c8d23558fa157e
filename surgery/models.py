"""Model ids: find them in the mirror or on the Hub, pin them, read what they are.

Nothing here imports torch or runs anything a repository brings: ``config.json`` is data, weights
are safetensors, and only the encoders in ``ENCODERS`` are loaded.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgery.errors import (
    ModelGated,
    ModelNotFound,
    ModelUnsupported,
    UnsafeWeights,
    UpstreamUnavailable,
)
from surgery.headers import FLOATS, check_count, encoder_sizes, read_header
from surgery.hub_headers import hub_header
from surgery.parts import parts_of
from surgery.results import ModelInfo
from surgery.sources import Sources, file_digest, mirror_path
from surgery.spec import MODEL_PATTERN
from surgery.tensor_names import sizes_in_model
from surgery.terms import Granularity

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
WEIGHTS = re.compile(r"^model(-\d{5}-of-\d{5})?\.safetensors$")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt", "spm.model", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
VOCABULARIES = {"tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "spiece.model",
                "sentencepiece.bpe.model"}  # fmt: skip
MAX_CONFIG_BYTES = 1_000_000
FINER = (Granularity.SUBLAYER, Granularity.TENSOR)


@dataclass(frozen=True)
class ModelSource:
    """A model id, resolved: where it is and exactly which bytes it means."""

    id: str
    origin: str  # "mirror" or "hub"
    revision: str | None
    fingerprint: str
    config: dict[str, Any] = field(repr=False)
    files: tuple[str, ...] = field(repr=False)
    directory: Path | None = field(default=None, repr=False)

    @property
    def prefix(self) -> str:
        """The name under which the task model holds the encoder."""
        return ENCODERS[self.config["model_type"]]

    @property
    def weights(self) -> list[str]:
        """The safetensors files, in order."""
        return sorted(name for name in self.files if WEIGHTS.match(name))


def resolve_model(model_id: str, sources: Sources) -> ModelSource:
    """Find a model in the mirror, else on the Hub, and pin it.

    Raises ModelNotFound, ModelGated, ModelUnsupported (not an encoder we load), UnsafeWeights (no
    safetensors) or UpstreamUnavailable.
    """
    if not re.fullmatch(MODEL_PATTERN, model_id):
        raise ModelNotFound(
            f"{model_id[:100]!r} is no model id: give owner/name or name, with an optional "
            "@revision, as on the Hugging Face Hub; paths and URLs are not accepted"
        )
    name, _, revision = model_id.partition("@")
    directory = mirror_path(sources, "models", *name.split("/"))
    if directory is not None and (directory / "config.json").is_file():
        return _from_mirror(name, revision or None, directory)
    if sources.offline:
        raise ModelNotFound(
            f"model {name!r} is not in the mirror and the service runs offline; put it under "
            f"models/{name} of a mirror directory"
        )
    return _from_hub(name, revision or None, sources)


def local_model(directory: Path) -> ModelSource:
    """A model in a folder of one's own, under the same checks. For the library and its command."""
    if not (directory / "config.json").is_file():
        raise ModelNotFound(f"{directory} is no folder with a config.json")
    return _from_mirror(directory.resolve().name, None, directory)


def _from_mirror(name: str, revision: str | None, directory: Path) -> ModelSource:
    files = tuple(sorted(path.name for path in directory.iterdir() if _wanted(path.name)))
    config = _read_config((directory / "config.json").read_bytes()[: MAX_CONFIG_BYTES + 1], name)
    _check_files(name, files)
    for weights in (file for file in files if WEIGHTS.match(file)):
        read_header(directory / weights)
    digest = hashlib.sha256()
    for file in files:
        path = directory / file
        if path.resolve().parent != directory.resolve():
            raise UnsafeWeights(f"{file} of {name} is a link that leaves the model's folder")
        digest.update(f"{file}:{file_digest(path)}\n".encode())
    fingerprint = f"sha256:{digest.hexdigest()}"
    return ModelSource(name, "mirror", revision, fingerprint, config, files, directory)


def _from_hub(name: str, revision: str | None, sources: Sources) -> ModelSource:
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi(token=sources.token).model_info(name, revision=revision, timeout=10)
        path = hf_hub_download(
            name,
            "config.json",
            revision=info.sha,
            token=sources.token,
            cache_dir=sources.cache / "hub",
        )
    except GatedRepoError as error:
        raise ModelGated(f"model {name!r} is gated: {ModelGated.__doc__}") from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(f"model {name!r} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"no model {name!r} in the mirror or on the Hub, or it is private to others"
        ) from error
    except RemoteEntryNotFoundError as error:
        raise ModelUnsupported(f"model {name!r} has no config.json") from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise UpstreamUnavailable(
            f"the Hugging Face Hub did not answer about model {name!r}; try again, or put the "
            "model in a mirror directory"
        ) from error
    files = tuple(sorted(s.rfilename for s in info.siblings or [] if _wanted(s.rfilename)))
    config = _read_config(Path(path).read_bytes()[: MAX_CONFIG_BYTES + 1], name)
    _check_files(name, files)
    digest = hashlib.sha256(f"hub:{name}@{info.sha}".encode()).hexdigest()
    return ModelSource(name, "hub", info.sha, f"sha256:{digest}", config, files)


def _wanted(name: str) -> bool:
    known = ("config.json", "model.safetensors.index.json", *TOKENIZER_FILES)
    return name in known or WEIGHTS.match(name) is not None


def _read_config(raw: bytes, name: str) -> dict[str, Any]:
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelUnsupported(f"config.json of {name!r} is not JSON") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type not in ENCODERS:
        raise ModelUnsupported(
            f"model {name!r} is of type {str(model_type)[:60]!r}; supported encoders: "
            + ", ".join(sorted(ENCODERS))
        )
    return dict(config)


def _check_files(name: str, files: tuple[str, ...]) -> None:
    if not any(WEIGHTS.match(file) for file in files):
        raise UnsafeWeights(
            f"model {name!r} has no model.safetensors; pickled weights (pytorch_model.bin) are "
            "never read. Convert it with transformers' save_pretrained and name that copy"
        )
    if not VOCABULARIES & set(files):
        raise ModelUnsupported(f"model {name!r} has no tokenizer files")


def inspect_model(source: ModelSource, sources: Sources) -> ModelInfo:
    """Architecture and layers of a resolved model, from its config and headers alone."""
    sizes = tensor_sizes(source, sources)
    config = source.config
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
        layers=parts_of(sizes, source.prefix, Granularity.LAYER),
        parts={each: parts_of(sizes, source.prefix, each) for each in FINER},
        groups=_groups(encoder_sizes(sizes, source.prefix)),
        source="mirror" if source.directory else "hub",
    )


def _groups(sizes: dict[str, int]) -> dict[str, int]:
    parts = {"embeddings": ("embeddings.", "word_embedding."), "pooler": ("pooler.",)}
    return {
        part: sum(size for name, size in sizes.items() if name.startswith(starts))
        for part, starts in parts.items()
    }


def tensor_sizes(source: ModelSource, sources: Sources) -> dict[str, int]:
    """Tensor name in the model → number of parameters, buffers of integers left out.

    Raises UnsafeWeights for headers that are malformed or hold more tensors than any encoder.
    """
    sizes: dict[str, int] = {}
    for file in source.weights:
        if source.directory is None:
            header = hub_header(source.id, source.revision, file, sources)
        else:
            header, _ = read_header(source.directory / file)
        sizes |= {name: each.size for name, each in header.items() if each.dtype in FLOATS}
        check_count(len(sizes), source.id)
    return sizes_in_model(sizes, source.prefix, source.config["model_type"])


def weights_on_disk(source: ModelSource, sources: Sources) -> list[Path]:
    """The safetensors files of a resolved model, fetched from the Hub where needed."""
    if source.directory is not None:
        return [source.directory / name for name in source.weights]
    folder = download(source, sources)
    return [folder / name for name in source.weights]


def download(source: ModelSource, sources: Sources) -> Path:
    """The wanted files of a Hub model at its pinned revision, in the Hub's own cache."""
    from httpx2 import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = snapshot_download(
            source.id,
            revision=source.revision,
            allow_patterns=list(source.files),
            token=sources.token,
            cache_dir=sources.cache / "hub",
        )
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise UpstreamUnavailable(f"downloading model {source.id!r} failed; try again") from error
    return Path(folder)
