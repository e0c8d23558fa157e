"""Accumulate per-sample gradients by batched formulas: their norms, or sums over samples."""

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

# Rows of a Gram matrix computed at once: nearly half of a symmetric one is skipped. Measured on two
# cores: more and smaller products run slower, larger ones skip less.
GRAM_ROWS = 64
FEW_ROWS = 32  # where there are no more tokens than GRAM_ROWS
GRAM_COST = 0.75  # of a number of a Gram matrix, against one of a formed gradient
CHUNK_NUMBERS = 4_000_000  # of formed gradients held at once: 16 MB in float32

OFFLOADED_BYTES = 64 << 20  # smaller sums stay where they are


class Gram:
    """X Xᵀ of each sample, (N, T, T), as the rows of its lower half: it is symmetric.

    Block b holds tokens ``starts[b]`` to ``starts[b + 1]`` against all up to the latter.
    """

    def __init__(self, states: Tensor) -> None:
        tokens = states.shape[1]
        size = FEW_ROWS if tokens <= GRAM_ROWS else GRAM_ROWS
        self.starts = range(0, tokens, size)
        self.scale: Tensor | float = 1.0
        if states.dtype is torch.float16:  # squares of states would leave its range
            largest = states.abs().amax((1, 2)).clamp_min(torch.finfo(torch.float16).tiny)
            states = states / largest[:, None, None]
            self.scale = largest.float().square()
        self.blocks = [states[:, s : s + size] @ states[:, : s + size].mT for s in self.starts]

    def doubled(self) -> Self:
        """With what lies left of the diagonal blocks twice: it stands for its mirror image too."""
        for start, block in zip(self.starts, self.blocks, strict=True):
            block[:, :, :start] *= 2
        return self

    def dot(self, doubled: Gram) -> Tensor:
        """Sum of the elementwise product with a ``doubled`` Gram matrix, (N,)."""
        pairs = zip(self.blocks, doubled.blocks, strict=True)
        parts = [vecdot(upcast(a).flatten(1), upcast(b).flatten(1)) for a, b in pairs]
        return torch.stack(parts).sum(0) * self.scale * doubled.scale


def upcast(tensor: Tensor) -> Tensor:
    """In float32, where sums of half-precision numbers keep their digits; wider stays as it is."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


SavedInputs = Tensor | Gram


def whole_inputs(saved: SavedInputs) -> Tensor:
    """The inputs themselves, from an accumulator that keeps nothing else."""
    assert isinstance(saved, Tensor)
    return saved


class Accumulator(ABC):
    """Takes the gradients of the scored parameters of one batch after the other.

    A sample is known by its number among all samples, whatever batch or process it comes in.
    """

    def __init__(self, scored: Mapping[str, nn.Parameter]) -> None:
        self.scored = dict(scored)

    @abstractmethod
    def begin(self, samples: Sequence[int]) -> None:
        """A batch of the samples of these numbers follows."""

    def save_inputs(self, inputs: Tensor, outputs: int) -> SavedInputs:  # noqa: ARG002  # Traces asks for it
        """What the backward pass needs of the inputs (N, T, d) of a Linear with so many outputs."""
        return inputs

    @abstractmethod
    def add_linear(self, name: str, saved: SavedInputs, gradients: Tensor) -> None:
        """A Linear's weight: what was kept of its inputs, and output gradients (N, T, p)."""

    @abstractmethod
    def add_vector(self, name: str, gradients: Tensor) -> None:
        """A bias or a norm's weight: its gradient for every sample, (N, d)."""

    @abstractmethod
    def add_embedding(self, name: str, ids: Tensor, gradients: Tensor) -> None:
        """An embedding table: ids (N, T), negative where none is read, and gradients (N, T, d)."""

    @abstractmethod
    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:
        """The whole gradient of one parameter for one row of the batch."""


def same_ids(ids: Tensor) -> Tensor:
    """(N, T, T): whether two tokens of a sample read the same row of an embedding table."""
    return (ids.unsqueeze(2) == ids.unsqueeze(1)) & (ids >= 0).unsqueeze(2)


class Traces(Accumulator):
    """Squared gradient norms of each sample, summed over the parameters of each unit.

    ``columns``: parameter name → unit. With ``grams``, gradients are not formed where Gram matrices
    cost less: ‖GᵀA‖² = Σ_{t,s} (A Aᵀ)_{ts} (G Gᵀ)_{ts}. They lose twice as many digits where a
    gradient is a small difference of large ones, as between the choices of a question.
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
        """Open a new part of the matrix."""
        device = next(iter(self.scored.values())).device
        size = (self._units, len(samples))  # transposed: a column is then one run of memory
        self._parts.append(torch.zeros(size, dtype=torch.float64, device=device))

    def _add(self, name: str, values: Tensor) -> None:
        self._parts[-1][self._columns[name]] += values

    def save_inputs(self, inputs: Tensor, outputs: int) -> SavedInputs:
        """The Gram matrices where they will be used: T × T numbers a sample stay, not T × d."""
        if not self._prefers_grams(inputs.shape[1], inputs.shape[2], outputs):
            return inputs
        if self._last is None or self._last[0]() is not inputs:
            self._last = (ref(inputs), Gram(inputs.detach()).doubled())
        return self._last[1]

    def _prefers_grams(self, tokens: int, width: int, outputs: int) -> bool:
        """Where T²(d + p) costs less than the T·d·p of forming gradients."""
        return self._grams and GRAM_COST * tokens * (width + outputs) <= width * outputs

    def add_linear(self, name: str, saved: SavedInputs, gradients: Tensor) -> None:
        """‖GᵀA‖² of each sample, by Gram matrices or by gradients formed a few at a time."""
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
        """Square and sum each row."""
        self._add(name, upcast(gradients).square().sum(1))

    def add_embedding(self, name: str, ids: Tensor, gradients: Tensor) -> None:
        """Σ_t G_t · (sum of G over the tokens of the same id)."""
        gradients = upcast(gradients)
        summed = same_ids(ids).to(gradients.dtype) @ gradients
        self._add(name, (gradients * summed).sum((1, 2)))

    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:
        """Square and sum the whole tensor."""
        self._parts[-1][self._columns[name], row] += upcast(gradient).square().sum()

    def matrix(self) -> Tensor:
        """Squared norms (N, units), float64, on the CPU, in the order the samples came."""
        if not self._parts:
            return torch.zeros(0, self._units, dtype=torch.float64)
        return torch.cat(self._parts, dim=1).mT.contiguous().cpu()


class CombinedAccumulator(Accumulator):
    """More than one of the others, fed by one pass."""

    def __init__(self, parts: Sequence[Accumulator]) -> None:
        super().__init__(parts[0].scored)
        self.parts = parts

    def begin(self, samples: Sequence[int]) -> None:
        """Tell each."""
        for part in self.parts:
            part.begin(samples)

    def add_linear(self, name: str, saved: SavedInputs, gradients: Tensor) -> None:
        """Tell each."""
        for part in self.parts:
            part.add_linear(name, saved, gradients)

    def add_vector(self, name: str, gradients: Tensor) -> None:
        """Tell each."""
        for part in self.parts:
            part.add_vector(name, gradients)

    def add_embedding(self, name: str, ids: Tensor, gradients: Tensor) -> None:
        """Tell each."""
        for part in self.parts:
            part.add_embedding(name, ids, gradients)

    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:
        """Tell each."""
        for part in self.parts:
            part.add_gradient(name, row, gradient)


class Offloaded(Mapping[str, Tensor]):
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


def offloaded(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The same tensors out of the way of the next ones, unless they are small."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    return Offloaded(tensors) if size > OFFLOADED_BYTES else tensors


class Sums(Accumulator):
    """One tensor a parameter, float32 or wider: ``sums``."""

    def __init__(self, scored: Mapping[str, nn.Parameter]) -> None:
        super().__init__(scored)
        self._tensors = {
            name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
            for name, p in scored.items()
        }
        self.sums: Mapping[str, Tensor] = self._tensors
        """Parameter name → sum over the samples so far, in the parameter's shape."""

    def offload(self) -> None:
        """Put the sums out of the way of the next ones: nothing can be added any more."""
        self.sums, self._tensors = offloaded(self.sums), {}

    def scale(self, factor: float) -> None:
        """Multiply all sums, in place."""
        for tensor in self._tensors.values() if factor != 1 else ():
            tensor.mul_(factor)

    def begin(self, samples: Sequence[int]) -> None:
        """A sum does not ask whose part is whose."""


class Diagonal(Sums):
    """Elementwise sums of squared gradients."""

    def add_linear(self, name: str, saved: SavedInputs, gradients: Tensor) -> None:
        """Σ_i (G_iᵀ A_i)², squared elementwise, a piece of a gradient at a time."""
        add_squared_products(self._tensors[name], gradients, whole_inputs(saved))

    def add_vector(self, name: str, gradients: Tensor) -> None:
        """Square, then sum over the rows."""
        self._tensors[name] += upcast(gradients).square().sum(0)

    def add_embedding(self, name: str, ids: Tensor, gradients: Tensor) -> None:
        """Sum over the tokens of one id, square, and add once for each id of a sample."""
        same = same_ids(ids)
        gradients = upcast(gradients)
        summed = same.to(gradients.dtype) @ gradients
        # Each of n tokens of an id brings the same square: an n-th of it, n times.
        shares = summed.square() / same.sum(2, keepdim=True).clamp_min(1)
        self._tensors[name].index_add_(0, ids.clamp_min(0).flatten(), shares.flatten(0, 1))

    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:  # noqa: ARG002
        """Square and add the whole tensor."""
        self._tensors[name].addcmul_(upcast(gradient), upcast(gradient))


class Means(Sums):
    """Sums of gradients themselves, for the scores of the mean gradient."""

    def add_linear(self, name: str, saved: SavedInputs, gradients: Tensor) -> None:
        """One product over all rows and tokens."""
        states = whole_inputs(saved).flatten(0, 1)
        self._tensors[name] += upcast(gradients.flatten(0, 1).mT @ states)

    def add_vector(self, name: str, gradients: Tensor) -> None:
        """Sum over the rows."""
        self._tensors[name] += upcast(gradients).sum(0)

    def add_embedding(self, name: str, ids: Tensor, gradients: Tensor) -> None:
        """Add every token's gradient to the row it read."""
        read = (ids >= 0).flatten().unsqueeze(1)
        rows = upcast(gradients).flatten(0, 1) * read
        self._tensors[name].index_add_(0, ids.clamp_min(0).flatten(), rows)

    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:  # noqa: ARG002
        """Add the whole tensor."""
        self._tensors[name] += upcast(gradient)
