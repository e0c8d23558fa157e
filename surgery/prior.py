"""How much of a ranking is the model's own: the same ranking without the task in it."""

from __future__ import annotations

import numpy as np
import torch

from surgery.data import Batch
from surgery.head import Warmup
from surgery.loading import renew_head
from surgery.results import Agreement, ModelPrior
from surgery.sample import with_shuffled_labels, with_shuffled_tokens
from surgery.scores import Scores
from surgery.scoring import Scorer, ranked_only
from surgery.uncertainty import kendall_tau, top_k_overlap

PRIOR_SAMPLES = 128  # rows scored again, twice: enough for an order, half the cost of the ranking


def model_prior(scorer: Scorer, warmup: Warmup | None, ranking: Scores) -> ModelPrior:
    """Agreement of a ranking with those on shuffled labels and on shuffled tokens.

    Labels: dealt out anew among the rows; a head that was warmed up is drawn and warmed up anew on
    shuffled labels too. Tokens: in random order within each text, through the ranking's own head.
    The head is put back afterwards.
    """
    options, loaded = scorer.options, scorer.loaded
    sample = scorer.sample
    count = min(len(sample), PRIOR_SAMPLES)
    rows = np.random.default_rng(options.seed + 2).permutation(len(sample))[:count]
    chosen, special = sorted(rows.tolist()), loaded.tokenizer.all_special_ids

    def batches() -> list[Batch]:  # every process scores all of these few rows by itself
        return list(sample.whole().batches(chosen))

    tokens = ranked_only(
        scorer.fisher(lambda: with_shuffled_tokens(batches(), special, options.seed))
    )
    kept = {name: p.detach().clone() for name, p in loaded.head.items()}
    try:
        if warmup is not None:
            renew_head(loaded.model, options.seed, loaded.new)
            epochs = options.head.warmup_epochs or 1
            warmup.run(
                epochs=epochs, seed=options.seed,
                relabel=lambda found: with_shuffled_labels(found, options.seed),
            )  # fmt: skip
            scorer.head_changed()
        labels = ranked_only(scorer.fisher(lambda: with_shuffled_labels(batches(), options.seed)))
    finally:
        _put_back(loaded.head, kept)
        scorer.head_changed()
    agreement = _agreement(ranking, labels)
    return ModelPrior(
        **agreement.model_dump(), shuffled_tokens=_agreement(ranking, tokens), samples=count,
        note=_note(agreement.kendall_tau),
    )  # fmt: skip


@torch.no_grad()
def _put_back(head: dict[str, torch.nn.Parameter], kept: dict[str, torch.Tensor]) -> None:
    for name, parameter in head.items():
        parameter.copy_(kept[name])


def _agreement(first: Scores, second: Scores) -> Agreement:
    return Agreement(
        kendall_tau=kendall_tau(first.values, second.values),
        top_k_overlap=top_k_overlap(first.values, second.values),
    )


def _note(tau: float | None) -> str:
    told = "agreement with the ranking of the same model on shuffled labels"
    if tau is None:
        return told
    if tau >= 0.8:
        return f"{told}: most of this ranking is the model's own, little is about the task"
    if tau >= 0.4:
        return f"{told}: part of this ranking is the model's own"
    return f"{told}: most of this ranking is about the task"
