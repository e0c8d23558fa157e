"""The rows that are scored: tokenised once, batched by length, divided among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from surgery.data.tokens.cache import encode_split
from surgery.data.tokens.dataset import (
    BATCH_TOKENS,
    Batch,
    Encoded,
    TaskData,
    batches_by_length,
    choose_rows,
    has_tags,
    on_device,
    sample_numbers,
)
from surgery.data.tokens.sequences import IGNORED
from surgery.errors import OutOfMemory
from surgery.io.library_errors import is_out_of_memory
from surgery.models.blocks import model_inputs
from surgery.models.distributed import Share
from surgery.models.loading import LoadedModel
from surgery.models.memory import available_bytes, reset_peak

Result = TypeVar("Result")
GPU_TOKENS = 262_144  # the most tokens in a batch: beyond that a GPU gains nothing
FREE_SHARE = 0.6  # share of the free memory to use: the estimate is from one row only


def training_rows(
    loaded: LoadedModel, data: TaskData, count: int, max_length: int, seed: int
) -> Encoded:
    """Tokenise ``count`` training rows drawn by the seed, or all if there are fewer."""
    rows = choose_rows(len(data.train), count, seed)
    return encode_split(data, "train", loaded.tokenizer, max_length, rows)


@dataclass
class Sample:
    """The samples are the rows of ``encoded``; a batch has at most ``tokens`` tokens."""

    encoded: Encoded
    device: torch.device
    batch_size: int | None = None
    share: Share = field(default_factory=Share)
    tokens: int = BATCH_TOKENS

    def __len__(self) -> int:
        return len(self.encoded)

    def whole(self) -> Sample:
        """The same rows, all of them for this process."""
        return replace(self, share=Share())

    @contextmanager
    def replaced(self, encoded: Encoded) -> Iterator[None]:
        """Take the rows from ``encoded`` in the block: the same rows, with other labels."""
        own = self.encoded
        self.encoded = encoded
        try:
            yield
        finally:
            self.encoded = own

    def halves(self) -> tuple[list[int], list[int]]:
        """Two disjoint halves, of even and odd numbers; the samples are already in random order."""
        numbers = list(range(len(self)))
        return numbers[::2], numbers[1::2]

    def batches(self, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """This process's batches of all samples or of ``rows``, on the device, longest first.

        ``sample`` in each batch holds the numbers of its samples.
        """
        chosen = np.arange(len(self)) if rows is None else np.asarray(rows)
        lengths, most_rows = self.encoded.lengths[chosen], self.share.most_rows(len(chosen))
        groups = batches_by_length(lengths, self.batch_size, self.tokens, most_rows)
        for group in self.share.own(groups):
            numbers = chosen[group].tolist()
            batch = self.encoded.batch(numbers)
            yield on_device(batch, self.device) | {"sample": torch.tensor(numbers)}

    def fit_to_memory(self, model: nn.Module) -> None:
        """On a GPU, set the token budget by what one row needs; on a CPU the default is fastest."""
        if self.device.type != "cuda" or self.batch_size is not None:
            return
        longest = int(np.argmax(self.encoded.lengths))
        batch = self.encoded.batch([longest])
        moved = on_device(batch, self.device)
        reset_peak()
        before = torch.cuda.memory_allocated(self.device)
        # With gradients, as in scoring, so that what the backward pass needs is counted.
        model.requires_grad_(True)
        logits = model(**model_inputs(model, moved)).logits
        used = torch.cuda.max_memory_allocated(self.device) - before
        del logits
        tokens = moved["input_ids"].numel()
        fitting = int(FREE_SHARE * available_bytes(self.device) / max(1, used) * tokens)
        self.tokens = max(tokens, min(GPU_TOKENS, fitting))

    def retry_with_smaller_batches(self, score: Callable[[], Result]) -> Result:
        """Score; whenever memory runs out, start again with half the token budget.

        Raises OutOfMemory when a single row does not fit, and when the batch size is fixed, by the
        request or because several processes share the samples.
        """
        while True:
            try:
                return score()
            except (RuntimeError, MemoryError) as error:
                longest = int(self.encoded.lengths.max())
                if not is_out_of_memory(error):
                    raise
                fixed = self.batch_size is not None or self.share.world > 1  # all need the same one
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


def with_shuffled_labels(batches: Sequence[Batch], seed: int) -> list[Batch]:
    """The same batches with the labels shuffled among all their rows (or tagged tokens).

    Several labels of a row stay together. The order depends on the samples' numbers, not on how
    they are batched.
    """
    labels = [batch["labels"].cpu().clone() for batch in batches]
    rows = [labels[place][row] for _, place, row in sorted(_rows(batches))]
    generator = torch.Generator().manual_seed(seed)
    if labels[0].dim() == 2 and not has_tags(batches[0]):
        order = torch.randperm(len(rows), generator=generator).tolist()
        dealt_rows = [rows[place].clone() for place in order]
        for row, part in zip(rows, dealt_rows, strict=True):
            row.copy_(part)
        return _with_labels(batches, labels)
    tagged = [row != IGNORED for row in rows]
    dealt = torch.cat([row[has] for row, has in zip(rows, tagged, strict=True)])
    dealt = dealt[torch.randperm(len(dealt), generator=generator)]
    parts = dealt.split([int(has.sum()) for has in tagged])
    for row, has, part in zip(rows, tagged, parts, strict=True):
        row.masked_scatter_(has, part)  # rows are views of the copies
    return _with_labels(batches, labels)


def _with_labels(batches: Sequence[Batch], labels: Sequence[torch.Tensor]) -> list[Batch]:
    return [
        {**batch, "labels": own.to(batch["labels"].device)}
        for batch, own in zip(batches, labels, strict=True)
    ]


def with_shuffled_tokens(
    batches: Sequence[Batch], special_ids: Sequence[int], seed: int
) -> list[Batch]:
    """The same batches with the tokens of each text in random order, except for special ones.

    The order depends on the seed and the sample's number alone.
    """
    copies = [batch["input_ids"].cpu().clone() for batch in batches]
    special = torch.tensor(list(special_ids))
    for number, place, row in _rows(batches):
        generator = np.random.default_rng((seed, number))
        mask = batches[place]["attention_mask"][row].cpu() > 0
        texts = copies[place][row].view(-1, mask.shape[-1])
        for text, free in zip(
            texts, mask.view_as(texts) & ~torch.isin(texts, special), strict=True
        ):
            order = torch.from_numpy(generator.permutation(int(free.sum())))
            text[free] = text[free][order]
    return [
        {**batch, "input_ids": own.to(batch["input_ids"].device)}
        for batch, own in zip(batches, copies, strict=True)
    ]


def _rows(batches: Sequence[Batch]) -> list[tuple[int, int, int]]:
    """For each sample its number (default: in order), the index of its batch, and its row there."""
    found: list[tuple[int, int, int]] = []
    for place, batch in enumerate(batches):
        numbers = sample_numbers(batch, len(found))
        found += [(number, place, row) for row, number in enumerate(numbers)]
    return found
