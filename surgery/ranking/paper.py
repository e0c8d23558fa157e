"""Method paper_compat: the computation of the paper's released code, for comparison only.

Lodha et al., "On Surgical Fine-tuning for Language Encoders" (EMNLP 2023) define the score by the
log-likelihood. Their released code differs from this definition, and this module repeats it: it
takes the gradient of the label's raw logit instead of its log-probability, uses no attention mask
although every row is padded to the model's maximum, scores the first 100 rows of the *validation*
split through an untrained head, and sums ‖D_p‖_F over a layer's tensors. A raw logit does not give
Fisher information, attention to padding changes the ranking, and scoring the validation split leaks
it into the selection. The default method does none of this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from surgery.data.tokens.dataset import BATCH_TOKENS, Batch, TaskData
from surgery.errors import MethodUndefined
from surgery.gradients.engine import plan_for, score_samples
from surgery.gradients.passes import Objective
from surgery.gradients.plan import Plan
from surgery.io.reporter import Reporter
from surgery.models.blocks import units_of
from surgery.models.loading import LoadedModel
from surgery.ranking.scores import Scores, frobenius_of_halves
from surgery.schemas.enums import METHODS, Method, Problem

ROWS = 100
LONGEST = 512  # tokens, if neither tokenizer nor config sets a maximum


@dataclass(frozen=True)
class RawLogit(Objective):
    """The gradient of the label's own logit or, for a regression, of the output."""

    def directions(
        self,
        logits: Tensor,
        batch: Batch,
        samples: Sequence[int],  # noqa: ARG002
    ) -> Iterator[Tensor]:
        """Yield one direction for each row."""
        if self.problem is Problem.REGRESSION:
            yield torch.ones_like(logits)
        else:
            yield F.one_hot(batch["labels"], logits.shape[-1]).to(logits.dtype)


def paper_scores(loaded: LoadedModel, data: TaskData, report: Reporter) -> tuple[Scores, Plan]:
    """Score the layers as the released code does. Raises MethodUndefined for other problems."""
    if data.problem not in METHODS[Method.PAPER_COMPAT].problems:
        raise MethodUndefined(
            f"paper_compat is not defined for problem {data.problem}; use method fisher"
        )
    objective = RawLogit(data.problem)
    units = units_of(loaded.model, loaded.blocks)
    total = min(ROWS, len(data.validation))
    plan: Plan | None = None
    halves, done = [], 0

    def tell(before: int, rows: int) -> None:
        report.step(before + rows, total, "samples")

    for rows in (range(0, total, 2), range(1, total, 2)):
        batches = list(padded_batches(loaded, data, rows))
        plan = plan or plan_for(loaded.model, units, batches[0], objective)
        on_batch = partial(tell, done)
        found = score_samples(
            loaded.model, plan, batches, objective, kinds=["diagonal"], on_batch=on_batch
        )
        halves.append(found.offloaded())
        done += len(rows)
    assert plan is not None
    return frobenius_of_halves(*halves), plan


def padded_batches(loaded: LoadedModel, data: TaskData, rows: Sequence[int]) -> Iterator[Batch]:
    """Batches of some validation rows, padded to the model's maximum, with attention to padding."""
    device = next(loaded.model.parameters()).device
    length = longest_input(loaded)
    table = data.validation.select(rows)
    for chunk in table.iter(batch_size=max(1, BATCH_TOKENS // length)):
        texts = [chunk[name] for name in ("text", "text_pair") if name in chunk]
        tokens = loaded.tokenizer(
            *texts, truncation=True, max_length=length, padding="max_length", return_tensors="pt"
        )
        ids = tokens["input_ids"].to(device)
        labels = torch.tensor(chunk["label"], device=device)
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def longest_input(loaded: LoadedModel) -> int:
    """The most tokens that the model takes."""
    positions = getattr(loaded.model.config, "max_position_embeddings", None) or LONGEST
    return min(int(loaded.tokenizer.model_max_length), int(positions), LONGEST)
