"""How similar rankings are with and without the task, and before and during a fine-tune."""

from __future__ import annotations

import numpy as np

from surgery.data.tokens.dataset import Batch, TaskData
from surgery.gradients.passes import scoring_mode
from surgery.heads.converge import fit_head
from surgery.heads.features import HeadFeatures, preserved_head
from surgery.heads.prepare import prepare_head
from surgery.io.reporter import Quiet
from surgery.models.loading import LoadedModel, renew_head
from surgery.ranking.sample import (
    Sample,
    training_rows,
    with_shuffled_labels,
    with_shuffled_tokens,
)
from surgery.ranking.scorer import Scorer, ranked_only
from surgery.ranking.scores import Scores
from surgery.ranking.uncertainty import kendall_tau, top_k_overlap
from surgery.schemas.jobs.finetune import RankingTrack
from surgery.schemas.jobs.ranking import Agreement, ModelPrior, RankingOptions
from surgery.schemas.options.training import TrainingSpec

PRIOR_SAMPLES = 128  # rows, scored twice: enough for an order, and half the cost of the ranking

TRACKED_SAMPLES = 128  # rows scored at each evaluation, at the cost of about 3 training steps


def model_prior(
    scorer: Scorer, features: HeadFeatures | None, ridge: float | None, ranking: Scores
) -> ModelPrior:
    """How far a ranking agrees with those on shuffled labels and on shuffled tokens.

    Labels are shuffled among the rows. If the head was trained on ``features``, a new one is drawn
    and trained on shuffled labels in the same way, with the same ``ridge`` if there was one: no
    ridge predicts shuffled labels, so that choosing one would only make the head small. Tokens are
    shuffled within each text, and scored through the ranking's own head. The head is restored
    afterwards.
    """
    options, loaded = scorer.options, scorer.loaded
    sample = scorer.sample
    count = min(len(sample), PRIOR_SAMPLES)
    rows = np.random.default_rng(options.seed + 2).permutation(len(sample))[:count]
    chosen, special = sorted(rows.tolist()), loaded.tokenizer.all_special_ids

    def batches() -> list[Batch]:  # these rows are few: every process scores all of them
        return list(sample.whole().batches(chosen))

    tokens = ranked_only(
        scorer.fisher(lambda: with_shuffled_tokens(batches(), special, options.seed))
    )
    with preserved_head(loaded.head):
        if features is not None:
            renew_head(loaded.model, options.seed, loaded.new)
            prepare_head(
                features,
                options.head,
                new=bool(loaded.new),
                seed=options.seed,
                relabel=lambda found: with_shuffled_labels(found, options.seed),
                ridge=ridge,
            )
            scorer.head_changed()
        labels = ranked_only(scorer.fisher(lambda: with_shuffled_labels(batches(), options.seed)))
    scorer.head_changed()
    agreement = _agreement(ranking, labels)
    return ModelPrior(
        **agreement.model_dump(),
        shuffled_tokens=_agreement(ranking, tokens),
        samples=count,
        note=_note(agreement.kendall_tau),
    )


def _agreement(first: Scores, second: Scores) -> Agreement:
    return Agreement(
        kendall_tau=kendall_tau(first.values, second.values),
        top_k_overlap=top_k_overlap(first.values, second.values),
    )


def _note(tau: float | None) -> str:
    subject = "agreement with the ranking of the same model on shuffled labels"
    if tau is None:
        return subject
    if tau >= 0.8:
        return f"{subject}: most of this ranking is the model's own, little is about the task"
    if tau >= 0.4:
        return f"{subject}: part of this ranking is the model's own"
    return f"{subject}: most of this ranking is about the task"


class RankingTracker:
    """Scores the layers during a fine-tune, by the trace of the Fisher information.

    It changes neither weights nor random draws. The gradients of an ``untrained`` head say nothing
    of the task, so that such a head is fitted for the first scores and then restored.
    """

    def __init__(
        self, loaded: LoadedModel, data: TaskData, training: TrainingSpec, *, untrained: bool
    ) -> None:
        self._loaded = loaded
        options = RankingOptions(
            samples=TRACKED_SAMPLES,
            max_length=training.max_length,
            seed=training.seed,
            model_prior=False,
        )
        encoded = training_rows(loaded, data, TRACKED_SAMPLES, training.max_length, training.seed)
        device = next(loaded.model.parameters()).device
        with scoring_mode(loaded.model):
            self._scorer = Scorer(loaded, Sample(encoded, device), data.problem, options, Quiet())
            self._first = self._first_scores(data, training) if untrained else self._score()

    def _first_scores(self, data: TaskData, training: TrainingSpec) -> Scores:
        loaded, seed = self._loaded, training.seed
        rows = training.head.warmup_samples
        encoded = training_rows(loaded, data, rows, training.max_length, seed + 1)
        with preserved_head(loaded.head):
            fit_head(loaded, encoded, data.problem, seed=seed)
            return self._score()

    def _score(self) -> Scores:
        return ranked_only(self._scorer.fisher())

    @property
    def at_start(self) -> dict[str, float]:
        """Maps a layer's name to its score before the first step."""
        return _by_name(self._first)

    def now(self) -> RankingTrack:
        """The scores of the model in its present state, compared with those at the start."""
        found = self._score()
        agreement = _agreement(self._first, found)
        return RankingTrack(**agreement.model_dump(), scores=_by_name(found))


def _by_name(scores: Scores) -> dict[str, float]:
    names = [unit.name for unit in scores.units]
    return dict(zip(names, np.asarray(scores.values).tolist(), strict=True))
