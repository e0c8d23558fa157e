"""Sums over samples of the shape of the parameters: of squared gradients, or of gradients."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from surgery.accumulators import Accumulator, Kept, formed, same_ids, wide
from surgery.squares import add_squared_products

PARKED_BYTES = 64 << 20  # smaller sums stay where they are


class Parked(Mapping[str, Tensor]):
    """Tensors out of the way: in the host's memory if they were on a GPU, else in a file.

    Each is read anew, so that only one is held at a time.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._devices = {name: tensor.device for name, tensor in tensors.items()}
        self._hosted = {n: t.cpu() for n, t in tensors.items() if t.device.type != "cpu"}
        folder = tempfile.mkdtemp(prefix="surgery-sums-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._file = Path(folder) / "sums.safetensors"
        save_file({n: t for n, t in tensors.items() if n not in self._hosted}, self._file)

    def __getitem__(self, name: str) -> Tensor:
        if name in self._hosted:
            return self._hosted[name].to(self._devices[name])
        with safe_open(self._file, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._devices)

    def __len__(self) -> int:
        return len(self._devices)


class Sums(Accumulator):
    """One tensor a parameter, float32 or wider: ``sums``."""

    def __init__(self, scored: Mapping[str, nn.Parameter]) -> None:
        super().__init__(scored)
        self._tensors = {
            name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
            for name, p in scored.items()
        }
        self._parked: Parked | None = None

    @property
    def sums(self) -> Mapping[str, Tensor]:
        """Parameter name → sum over the samples so far, in the parameter's shape."""
        return self._parked or self._tensors

    def park(self) -> None:
        """Put the sums out of the way of the next ones: nothing can be added any more."""
        size = sum(tensor.nbytes for tensor in self._tensors.values())
        if size > PARKED_BYTES:
            self._parked, self._tensors = Parked(self._tensors), {}

    def scale(self, factor: float) -> None:
        """Multiply all sums, in place."""
        for tensor in self._tensors.values() if factor != 1 else ():
            tensor.mul_(factor)

    def begin(self, samples: Sequence[int]) -> None:
        """A sum does not ask whose part is whose."""


class Diagonal(Sums):
    """Elementwise sums of squared gradients."""

    def add_linear(self, name: str, kept: Kept, gradients: Tensor) -> None:
        """Σ_i (G_iᵀ A_i)², squared elementwise, a piece of a gradient at a time."""
        add_squared_products(self._tensors[name], gradients, formed(kept))

    def add_vector(self, name: str, gradients: Tensor) -> None:
        """Square, then sum over the rows."""
        self._tensors[name] += wide(gradients).square().sum(0)

    def add_embedding(self, name: str, ids: Tensor, gradients: Tensor) -> None:
        """Sum over the tokens of one id, square, and add once for each id of a sample."""
        same = same_ids(ids)
        gradients = wide(gradients)
        summed = same.to(gradients.dtype) @ gradients
        # Each of n tokens of an id brings the same square: an n-th of it, n times.
        shares = summed.square() / same.sum(2, keepdim=True).clamp_min(1)
        self._tensors[name].index_add_(0, ids.clamp_min(0).flatten(), shares.flatten(0, 1))

    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:  # noqa: ARG002
        """Square and add the whole tensor."""
        self._tensors[name].addcmul_(wide(gradient), wide(gradient))


class Means(Sums):
    """Sums of gradients themselves, for the scores of the mean gradient."""

    def add_linear(self, name: str, kept: Kept, gradients: Tensor) -> None:
        """One product over all rows and tokens."""
        states = formed(kept).flatten(0, 1)
        self._tensors[name] += wide(gradients.flatten(0, 1).mT @ states)

    def add_vector(self, name: str, gradients: Tensor) -> None:
        """Sum over the rows."""
        self._tensors[name] += wide(gradients).sum(0)

    def add_embedding(self, name: str, ids: Tensor, gradients: Tensor) -> None:
        """Add every token's gradient to the row it read."""
        read = (ids >= 0).flatten().unsqueeze(1)
        rows = wide(gradients).flatten(0, 1) * read
        self._tensors[name].index_add_(0, ids.clamp_min(0).flatten(), rows)

    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:  # noqa: ARG002
        """Add the whole tensor."""
        self._tensors[name] += wide(gradient)
