"""Share batches between the processes of torch.distributed, and add their results up.

Processes are started by torchrun or accelerate launch; without them there is only one.
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
    """The part of the work of one process: number ``rank`` of ``world`` processes."""

    rank: int = 0
    world: int = 1

    def own(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items that this process takes: every world-th."""
        return (item for place, item in enumerate(items) if place % self.world == self.rank)

    def most_rows(self, rows: int) -> int | None:
        """The most rows in a batch that leave a batch for every process; None for one process.

        Raises SurgeryError if there are fewer samples than processes.
        """
        if self.world == 1:
            return None
        if rows < self.world:
            raise SurgeryError(
                f"{rows} samples cannot be shared by {self.world} processes; start fewer"
            )
        return rows // self.world


def present_share() -> Share:
    """The share of this process in its group, or all of the work if there is no group."""
    if dist.is_available() and dist.is_initialized():
        return Share(dist.get_rank(), dist.get_world_size())
    return Share()


def all_reduce(tensor: Tensor, share: Share) -> Tensor:
    """Sum a tensor over all processes, in place; NCCL does so on this process's GPU."""
    if share.world > 1:
        moved = tensor.cuda() if dist.get_backend() == "nccl" else tensor
        dist.all_reduce(moved)
        if moved is not tensor:
            tensor.copy_(moved)
    return tensor


def from_first(value: int, share: Share) -> int:
    """The first process's value; every process must call this at the same time."""
    return int(all_reduce(torch.tensor(value if share.rank == 0 else 0), share))


def gather_rows(rows: Tensor, numbers: list[int], total: int, share: Share) -> Tensor:
    """A matrix (total, U) of the rows of all processes, each at its number, for every process."""
    whole = torch.zeros(total, rows.shape[1], dtype=rows.dtype)
    whole[torch.tensor(numbers, dtype=torch.long)] = rows.cpu()
    return all_reduce(whole, share)


def broadcast_weights(model: nn.Module, share: Share) -> None:
    """Copy the first process's parameters to all: a warmed-up head must not differ by rounding."""
    if share.world == 1:
        return
    for parameter in model.parameters():
        dist.broadcast(parameter.data, 0)
