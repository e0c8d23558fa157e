"""Scores are sums over samples: each process takes some batches, and the sums are added up.

Processes are those of torch.distributed (torchrun, accelerate launch); without them there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from surgery.errors import SurgeryError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """This process's part of the work: number ``rank`` of ``world``."""

    rank: int = 0
    world: int = 1

    def own(self, items: Iterable[Item]) -> Iterator[Item]:
        """Every world-th item."""
        return (item for place, item in enumerate(items) if place % self.world == self.rank)

    def most_rows(self, rows: int) -> int | None:
        """Rows a batch at most, so that every process has one; None for a single process.

        Raises SurgeryError when there are fewer samples than processes.
        """
        if self.world == 1:
            return None
        if rows < self.world:
            raise SurgeryError(
                f"{rows} samples cannot be shared by {self.world} processes; start fewer"
            )
        return rows // self.world


def present_share() -> Share:
    """The share of this process in its group, or all of it."""
    if dist.is_available() and dist.is_initialized():
        return Share(dist.get_rank(), dist.get_world_size())
    return Share()


def add_up(tensor: Tensor, share: Share) -> Tensor:
    """The sum over all processes, in place; NCCL reduces on the GPU it was given."""
    if share.world > 1:
        moved = tensor.cuda() if dist.get_backend() == "nccl" else tensor
        dist.all_reduce(moved)
        if moved is not tensor:
            tensor.copy_(moved)
    return tensor


def first_says(value: int, share: Share) -> int:
    """The number of the first process, to all; every process asks at once."""
    return int(add_up(torch.tensor(value if share.rank == 0 else 0), share))


def gather_rows(rows: Tensor, numbers: list[int], total: int, share: Share) -> Tensor:
    """A matrix (total, U) of every process's rows, each at its number; all get it whole."""
    whole = torch.zeros(total, rows.shape[1], dtype=rows.dtype)
    whole[torch.tensor(numbers, dtype=torch.long)] = rows.cpu()
    return add_up(whole, share)


def same_weights(model: nn.Module, share: Share) -> None:
    """Copy the first process's parameters to all: a warmed-up head must not differ by rounding."""
    if share.world == 1:
        return
    for parameter in model.parameters():
        dist.broadcast(parameter.data, 0)
