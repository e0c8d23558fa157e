"""Accumulators of per-sample gradients: of their norms, or of sums over the samples.

Each applies a batched formula to what the hooks saw of a layer. Shapes: N samples, T tokens each.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self
from weakref import ReferenceType, ref

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.linalg import vecdot

from surgery.gradients.squares import add_squared_products

# Rows of a Gram matrix that are computed at once. As the matrix is symmetric, nearly half of it is
# skipped. Measured on two cores: smaller products run slower, larger ones skip less.
GRAM_ROWS = 64
FEW_ROWS = 32  # the same for samples of at most GRAM_ROWS tokens
GRAM_COST = 0.75  # cost of one number of a Gram matrix, relative to one of a formed gradient
CHUNK_NUMBERS = 4_000_000  # numbers of formed gradients held at once: 16 MB in float32

OFFLOADED_BYTES = 64 << 20  # smaller sums are not worth moving


class Gram:
    """X Xᵀ of each sample, (N, T, T). It is symmetric, so only the lower half is stored.

    Block b holds the rows of tokens ``starts[b]`` to ``starts[b + 1]``, with the columns of all
    tokens before ``starts[b + 1]``.
    """

    def __init__(self, states: Tensor) -> None:
        tokens = states.shape[1]
        size = FEW_ROWS if tokens <= GRAM_ROWS else GRAM_ROWS
        self.starts = range(0, tokens, size)
        self.scale: Tensor | float = 1.0
        if states.dtype is torch.float16:  # squares of states would overflow it
            largest = states.abs().amax((1, 2)).clamp_min(torch.finfo(torch.float16).tiny)
            states = states / largest[:, None, None]
            self.scale = largest.float().square()
        self.blocks = [states[:, s : s + size] @ states[:, : s + size].mT for s in self.starts]

    def doubled(self) -> Self:
        """Double what lies left of the diagonal blocks, to account for its mirror image."""
        for start, block in zip(self.starts, self.blocks, strict=True):
            block[:, :, :start] *= 2
        return self

    def dot(self, doubled: Gram) -> Tensor:
        """The sum of the elementwise product with a ``doubled`` Gram matrix, shape (N,)."""
        pairs = zip(self.blocks, doubled.blocks, strict=True)
        parts = [vecdot(upcast(a).flatten(1), upcast(b).flatten(1)) for a, b in pairs]
        return torch.stack(parts).sum(0) * self.scale * doubled.scale


def upcast(tensor: Tensor) -> Tensor:
    """Half precision as float32, in which sums keep their digits; wider types are unchanged."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


SavedInputs = Tensor | Gram


def whole_inputs(saved: SavedInputs) -> Tensor:
    """The inputs themselves, from an accumulator that never saves a Gram matrix instead."""
    assert isinstance(saved, Tensor)
    return saved


class Accumulator(ABC):
    """Takes the gradients of the scored parameters, one batch after the other.

    A sample is identified by its number among all samples, whichever batch or process has it.
    """

    def __init__(self, scored: Mapping[str, nn.Parameter]) -> None:
        self.scored = dict(scored)

    @abstractmethod
    def begin(self, samples: Sequence[int]) -> None:
        """Announce the next batch: the gradients that follow are of these samples."""

    def save_inputs(self, inputs: Tensor, outputs: int) -> SavedInputs:  # noqa: ARG002
        """What to save for the backward pass of a Linear's inputs (N, T, d); it has ``outputs``."""
        return inputs

    @abstractmethod
    def add_linear(self, name: str, saved: SavedInputs, gradients: Tensor) -> None:
        """Add a Linear's weight, from its saved inputs and its output gradients (N, T, p)."""

    @abstractmethod
    def add_vector(self, name: str, gradients: Tensor) -> None:
        """Add a bias or a norm's weight, from its gradient for every sample, (N, d)."""

    @abstractmethod
    def add_embedding(self, name: str, ids: Tensor, gradients: Tensor) -> None:
        """Add an embedding table: ids (N, T), negative where none is read; gradients (N, T, d)."""

    @abstractmethod
    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:
        """Add the whole gradient of one parameter for one row of the batch."""


def same_ids(ids: Tensor) -> Tensor:
    """Whether two tokens of a sample read the same row of an embedding table, (N, T, T)."""
    return (ids.unsqueeze(2) == ids.unsqueeze(1)) & (ids >= 0).unsqueeze(2)


class Traces(Accumulator):
    """Squared gradient norms of each sample, summed over the parameters of each unit.

    ``columns`` maps a parameter's name to its unit. With ``grams``, gradients are not formed where
    Gram matrices cost less: ‖GᵀA‖² = Σ_{t,s} (A Aᵀ)_{ts} (G Gᵀ)_{ts}. These lose twice as many
    digits where a gradient is a small difference of large ones, as between the choices of a
    question.
    """

    def __init__(
        self,
        scored: Mapping[str, nn.Parameter],
        columns: Mapping[str, int],
        *,
        grams: bool = True,
    ) -> None:
        super().__init__(scored)
        self._grams = grams
        self._columns = columns
        self._units = max(columns.values(), default=-1) + 1
        self._parts: list[Tensor] = []
        # A Gram matrix A Aᵀ serves every Linear fed by the same tensor (query, key and value).
        self._last: tuple[ReferenceType[Tensor], Gram] | None = None

    def begin(self, samples: Sequence[int]) -> None:
        """Begin the rows of a new batch."""
        device = next(iter(self.scored.values())).device
        size = (self._units, len(samples))  # transposed, so that a unit is contiguous in memory
        self._parts.append(torch.zeros(size, dtype=torch.float64, device=device))

    def _add(self, name: str, values: Tensor) -> None:
        self._parts[-1][self._columns[name]] += values

    def save_inputs(self, inputs: Tensor, outputs: int) -> SavedInputs:
        """Save Gram matrices where they will be used: T × T numbers a sample instead of T × d."""
        if not self._prefers_grams(inputs.shape[1], inputs.shape[2], outputs):
            return inputs
        if self._last is None or self._last[0]() is not inputs:
            self._last = (ref(inputs), Gram(inputs.detach()).doubled())
        return self._last[1]

    def _prefers_grams(self, tokens: int, width: int, outputs: int) -> bool:
        """Whether T²(d + p) operations cost less than the T·d·p of forming gradients."""
        return self._grams and GRAM_COST * tokens * (width + outputs) <= width * outputs

    def add_linear(self, name: str, saved: SavedInputs, gradients: Tensor) -> None:
        """Add ‖GᵀA‖² of each sample, by Gram matrices or by forming a few gradients at a time."""
        if isinstance(saved, Tensor):
            saved = self.save_inputs(saved, gradients.shape[2])
        if isinstance(saved, Gram):
            self._add(name, Gram(gradients).dot(saved))
            return
        chunk = max(1, CHUNK_NUMBERS // (saved.shape[2] * gradients.shape[2]))
        norms = [
            upcast(g.mT @ a).square().sum((1, 2))
            for g, a in zip(gradients.split(chunk), saved.split(chunk), strict=True)
        ]
        self._add(name, torch.cat(norms))

    def add_vector(self, name: str, gradients: Tensor) -> None:
        """Add the squared norm of each row."""
        self._add(name, upcast(gradients).square().sum(1))

    def add_embedding(self, name: str, ids: Tensor, gradients: Tensor) -> None:
        """Add Σ_t G_t · (sum of G over the tokens of the same id)."""
        gradients = upcast(gradients)
        summed = same_ids(ids).to(gradients.dtype) @ gradients
        self._add(name, (gradients * summed).sum((1, 2)))

    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:
        """Add the squared norm of the whole tensor."""
        self._parts[-1][self._columns[name], row] += upcast(gradient).square().sum()

    def matrix(self) -> Tensor:
        """Squared norms (N, units), float64, on the CPU, in the order in which the samples came."""
        if not self._parts:
            return torch.zeros(0, self._units, dtype=torch.float64)
        return torch.cat(self._parts, dim=1).mT.contiguous().cpu()


class CombinedAccumulator(Accumulator):
    """Several accumulators that are fed by the same pass."""

    def __init__(self, parts: Sequence[Accumulator]) -> None:
        super().__init__(parts[0].scored)
        self.parts = parts

    def begin(self, samples: Sequence[int]) -> None:
        for part in self.parts:
            part.begin(samples)

    def add_linear(self, name: str, saved: SavedInputs, gradients: Tensor) -> None:
        for part in self.parts:
            part.add_linear(name, saved, gradients)

    def add_vector(self, name: str, gradients: Tensor) -> None:
        for part in self.parts:
            part.add_vector(name, gradients)

    def add_embedding(self, name: str, ids: Tensor, gradients: Tensor) -> None:
        for part in self.parts:
            part.add_embedding(name, ids, gradients)

    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:
        for part in self.parts:
            part.add_gradient(name, row, gradient)


class Offloaded(Mapping[str, Tensor]):
    """Tensors moved out of the way: from a GPU to host memory, from host memory to a file.

    Each access reads the tensor again, so that only one is in memory at a time.
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


def offloaded(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The same tensors, moved out of the way of the next ones unless they are small."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    return Offloaded(tensors) if size > OFFLOADED_BYTES else tensors


class Sums(Accumulator):
    """Keeps one sum for each parameter, in float32 or wider: see ``sums``."""

    def __init__(self, scored: Mapping[str, nn.Parameter]) -> None:
        super().__init__(scored)
        self._tensors = {
            name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
            for name, p in scored.items()
        }
        self.sums: Mapping[str, Tensor] = self._tensors
        """Maps a parameter's name to its sum over the samples so far, in the parameter's shape."""

    def offload(self) -> None:
        """Move the sums out of the way of the next ones; nothing can be added afterwards."""
        self.sums, self._tensors = offloaded(self.sums), {}

    def scale(self, factor: float) -> None:
        """Multiply all sums, in place."""
        for tensor in self._tensors.values() if factor != 1 else ():
            tensor.mul_(factor)

    def begin(self, samples: Sequence[int]) -> None:
        """Do nothing: a sum does not depend on which sample is which."""


class Diagonal(Sums):
    """Elementwise sums of the squared per-sample gradients."""

    def add_linear(self, name: str, saved: SavedInputs, gradients: Tensor) -> None:
        """Add Σ_i (G_iᵀ A_i)², squared elementwise; see ``add_squared_products``."""
        add_squared_products(self._tensors[name], gradients, whole_inputs(saved))

    def add_vector(self, name: str, gradients: Tensor) -> None:
        """Add the sum over the rows of their elementwise squares."""
        self._tensors[name] += upcast(gradients).square().sum(0)

    def add_embedding(self, name: str, ids: Tensor, gradients: Tensor) -> None:
        """Sum over the tokens of each id of a sample, and add the square of that sum."""
        same = same_ids(ids)
        gradients = upcast(gradients)
        summed = same.to(gradients.dtype) @ gradients
        # All n tokens of an id have the same square, so each adds an n-th of it.
        shares = summed.square() / same.sum(2, keepdim=True).clamp_min(1)
        self._tensors[name].index_add_(0, ids.clamp_min(0).flatten(), shares.flatten(0, 1))

    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:  # noqa: ARG002
        """Add the elementwise square of the whole tensor."""
        self._tensors[name].addcmul_(upcast(gradient), upcast(gradient))


class Means(Sums):
    """Sums of the gradients themselves, from which the mean gradient is taken."""

    def add_linear(self, name: str, saved: SavedInputs, gradients: Tensor) -> None:
        """Add Gᵀ A, as one product over all rows and tokens."""
        states = whole_inputs(saved).flatten(0, 1)
        self._tensors[name] += upcast(gradients.flatten(0, 1).mT @ states)

    def add_vector(self, name: str, gradients: Tensor) -> None:
        """Add the sum over the rows."""
        self._tensors[name] += upcast(gradients).sum(0)

    def add_embedding(self, name: str, ids: Tensor, gradients: Tensor) -> None:
        """Add every token's gradient to the row of the table that it read."""
        read = (ids >= 0).flatten().unsqueeze(1)
        rows = upcast(gradients).flatten(0, 1) * read
        self._tensors[name].index_add_(0, ids.clamp_min(0).flatten(), rows)

    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:  # noqa: ARG002
        """Add the whole tensor."""
        self._tensors[name] += upcast(gradient)
