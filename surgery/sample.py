"""The rows that are scored: tokenised once, batched by length, shared out among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from surgery.architecture import model_inputs
from surgery.data import BATCH_TOKENS, Batch, Encoded, batches_by_length
from surgery.errors import OutOfMemory
from surgery.likelihood import IGNORED
from surgery.parallel import Share

Result = TypeVar("Result")
GPU_TOKENS = 262_144  # a batch at most: past that a GPU gains nothing
FREE_SHARE = 0.6  # of the free memory: the estimate is from one row


@dataclass
class Sample:
    """Rows 0 to N − 1 of ``encoded`` are the samples; ``tokens`` is the budget of a batch."""

    encoded: Encoded
    device: torch.device
    batch_size: int | None = None
    share: Share = field(default_factory=Share)
    tokens: int = BATCH_TOKENS

    def __len__(self) -> int:
        return len(self.encoded)

    def whole(self) -> Sample:
        """The same rows, all of them this process's own."""
        return replace(self, share=Share())

    def batches(self, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """This process's batches of all samples or of some, on the device, longest first.

        ``sample`` holds their numbers, the even ones first: the halves of an elementwise pass are
        then slices of the batch.
        """
        chosen = np.arange(len(self)) if rows is None else np.asarray(rows)
        groups = batches_by_length(
            self.encoded.lengths[chosen], self.batch_size, self.tokens,
            self.share.most_rows(len(chosen)),
        )  # fmt: skip
        for group in self.share.own(groups):
            numbers = sorted(chosen[group].tolist(), key=lambda number: number % 2)
            batch = self.encoded.batch(numbers)
            moved = {name: _move(tensor, self.device) for name, tensor in batch.items()}
            yield moved | {"sample": torch.tensor(numbers)}

    def fit_to_memory(self, model: nn.Module) -> None:
        """On a GPU, set the budget by what one row needs; elsewhere the default is the fastest."""
        if self.device.type != "cuda" or self.batch_size is not None:
            return
        longest = int(np.argmax(self.encoded.lengths))
        batch = self.encoded.batch([longest])
        moved = {name: tensor.to(self.device) for name, tensor in batch.items()}
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        # With gradients on, as in scoring: what the backward pass needs is kept.
        model.requires_grad_(True)
        logits = model(**model_inputs(model, moved)).logits
        used = torch.cuda.max_memory_allocated(self.device) - before
        del logits
        free, _ = torch.cuda.mem_get_info(self.device)
        tokens = moved["input_ids"].numel()
        fitting = int(FREE_SHARE * free / max(1, used) * tokens)
        self.tokens = max(tokens, min(GPU_TOKENS, fitting))

    def scored(self, score: Callable[[], Result]) -> Result:
        """Score, beginning again with half the budget whenever memory runs out.

        Raises OutOfMemory when a single row does not fit, or the batch size was given.
        """
        while True:
            try:
                return score()
            except (RuntimeError, MemoryError) as error:
                longest = int(self.encoded.lengths.max())
                if not is_out_of_memory(error):
                    raise
                fixed = self.batch_size is not None or self.share.world > 1  # all must agree
                if fixed or self.tokens <= longest:
                    raise OutOfMemory(self._advice(longest)) from error
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.tokens //= 2

    def _advice(self, longest: int) -> str:
        if self.batch_size is not None and self.batch_size > 1:
            smaller = self.batch_size // 2
            return f"the device ran out of memory; try batch_size {smaller}, or leave it out"
        if self.share.world > 1:
            return "a device ran out of memory; give a batch_size, or a smaller max_length"
        return (
            f"one row of {longest} tokens does not fit into the device's memory; "
            f"lower max_length below {longest}, or use a smaller model"
        )


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    """Pinned memory lets the copy run beside the computation."""
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host had no memory left."""
    text = str(error)
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "not enough memory" in text
        or "can't allocate" in text
    )


def with_shuffled_labels(batches: Sequence[Batch], seed: int) -> list[Batch]:
    """The same batches with the labels dealt out anew among all their rows (or tagged tokens)."""
    flat = torch.cat([batch["labels"].flatten() for batch in batches])
    places = (flat != IGNORED).nonzero().flatten()
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
    flat[places] = flat[places[order.to(flat.device)]]
    found, start = [], 0
    for batch in batches:
        count = batch["labels"].numel()
        labels = flat[start : start + count].reshape(batch["labels"].shape)
        found.append({**batch, "labels": labels})
        start += count
    return found


def with_shuffled_tokens(
    batches: Sequence[Batch], special_ids: Sequence[int], seed: int
) -> list[Batch]:
    """The same batches with the tokens of each text in random order; special ones stay."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for batch in batches:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        special = torch.isin(ids, torch.tensor(list(special_ids), device=ids.device))
        free = (mask > 0) & ~special
        keys = torch.rand(ids.shape, generator=generator).to(ids.device)
        # Sorting free places before others twice, by place and at random, pairs them up.
        by_place = (~free).to(torch.int8).argsort(dim=-1, stable=True)
        at_random = torch.where(free, keys, 2.0).argsort(dim=-1, stable=True)
        moved = ids.clone().scatter(-1, by_place, ids.gather(-1, at_random))
        found.append({**batch, "input_ids": torch.where(free, moved, ids)})
    return found
