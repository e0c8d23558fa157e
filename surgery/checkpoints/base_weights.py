"""Find the tensors of a model in the checkpoint of its base."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from surgery.checkpoints.merge import Origin
from surgery.models.layers import FUSED, LEGACY, RENAMED, SAVED_AS, strip_prefix
from surgery.models.loading import LoadedModel


class BaseWeights:
    """The tensors of some safetensors files, each of which is read when it is needed."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._files: dict[str, Any] = {}
        for path in paths:
            file = safe_open(path, framework="pt")
            self._files |= dict.fromkeys(file.keys(), file)

    def __contains__(self, origin: Origin) -> bool:
        if origin.key not in self._files:
            return False
        shape = self._files[origin.key].get_slice(origin.key).get_shape()
        return origin.rows is None or (len(shape) > 0 and origin.rows[1] <= shape[0])

    def read(self, origin: Origin) -> Tensor:
        """The tensor, or the rows of it that the origin names, as stored."""
        file = self._files[origin.key]
        if origin.rows is None:
            whole: Tensor = file.get_tensor(origin.key)
            return whole
        first, end = origin.rows
        rows: Tensor = file.get_slice(origin.key)[first:end]
        return rows


def weights_of(loaded: LoadedModel) -> tuple[Path, ...]:
    """The weight files that a model was loaded from."""
    return tuple(loaded.snapshot / file for file in loaded.source.weights)


def digest_of_origins(files: Iterable[Path], origins: Iterable[Origin]) -> str:
    """The SHA-256 of the tensors at some origins, however the base is split into files."""
    states = [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return _digest(tuple(states), tuple(sorted(set(origins), key=str)))


@lru_cache(maxsize=4)  # every checkpoint of a run needs the same digest
def _digest(files: tuple[tuple[Path, int, int], ...], origins: tuple[Origin, ...]) -> str:
    base, digest = BaseWeights(path for path, _, _ in files), hashlib.sha256()
    for origin in origins:
        tensor = base.read(origin)
        digest.update(f"{origin.key} {origin.rows} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def find_origins(loaded: LoadedModel, tensors: Mapping[str, Tensor]) -> dict[str, Origin]:
    """Tensor of the model → its origin in the base, for all of ``tensors`` that the base holds.

    A name alone proves nothing, so the values are compared too, after a cast to the model's type.
    """
    base = BaseWeights(weights_of(loaded))
    origins = {}
    for name, placed in tensors.items():
        tensor = placed.cpu()
        for origin in _candidates(name, tensor, loaded):
            if origin in base and torch.equal(base.read(origin).to(tensor.dtype), tensor):
                origins[name] = origin
                break
    return origins


def _candidates(name: str, tensor: Tensor, loaded: LoadedModel) -> Iterator[Origin]:
    """Where a tensor may be in the base: with or without the task model's prefix, by any name."""
    model_type, prefix = loaded.source.config["model_type"], loaded.source.prefix
    short = strip_prefix(name, prefix)
    saved = _replaced(short, {new: old for old, new in RENAMED.get(model_type, {}).items()})
    saved = _replaced(saved, SAVED_AS.get(model_type, {}))
    for option in (name, short, saved, f"{prefix}.{saved}"):
        yield Origin(option)
        yield Origin(_replaced(option, LEGACY))
    parts, whole = FUSED.get(model_type, ((), ""))
    for index, part in enumerate(parts):
        if part in saved:
            rows = (index * tensor.shape[0], (index + 1) * tensor.shape[0])
            fused = saved.replace(part, whole)
            yield from (Origin(fused, rows), Origin(f"{prefix}.{fused}", rows))


def _replaced(name: str, parts: dict[str, str]) -> str:
    for old, new in parts.items():
        name = name.replace(old, new)
    return name
