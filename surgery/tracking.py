"""Follow a ranking through a fine-tune: does the order of the layers stay what it was?

The paper claims that it does (Lodha et al. 2023, section 4). The same training rows are scored
before the first step and at every evaluation; the report says how far each order agrees with the
first.
"""

from __future__ import annotations

import numpy as np
import torch

from surgery.data import TaskData, choose_rows
from surgery.head import Warmup
from surgery.loading import LoadedModel
from surgery.passes import prepared
from surgery.progress import Quiet
from surgery.results import RankingTrack
from surgery.sample import Sample
from surgery.scores import Scores
from surgery.scoring import Scorer, ranked_only
from surgery.spec import RankingOptions
from surgery.token_cache import encode_split
from surgery.training_spec import TrainingSpec
from surgery.uncertainty import kendall_tau, top_k_overlap

TRACKED_SAMPLES = 128  # rows scored at each evaluation: a pass costs about as much as 3 steps
WARMUP_SAMPLES = 1024


class RankingTracker:
    """Scores the layers by Fisher information, trace, without changing a weight or a draw.

    At the start a new head is warmed up for the first scores and then put back as it was: the
    gradients of an untrained one say nothing of the task.
    """

    def __init__(self, loaded: LoadedModel, data: TaskData, training: TrainingSpec) -> None:
        self._loaded = loaded
        options = RankingOptions(
            samples=TRACKED_SAMPLES, max_length=training.max_length, seed=training.seed,
            model_prior=False,
        )  # fmt: skip
        rows = choose_rows(len(data.train), TRACKED_SAMPLES, training.seed)
        encoded = encode_split(data, "train", loaded.tokenizer, training.max_length, rows)
        device = next(loaded.model.parameters()).device
        with prepared(loaded.model):
            self._scorer = Scorer(loaded, Sample(encoded, device), data.problem, options, Quiet())
            self._first = self._first_scores(data, training) if loaded.new else self._score()

    def _first_scores(self, data: TaskData, training: TrainingSpec) -> Scores:
        head = self._loaded.head
        kept = {name: parameter.detach().clone() for name, parameter in head.items()}
        rows = choose_rows(len(data.train), WARMUP_SAMPLES, training.seed + 1)
        encoded = encode_split(data, "train", self._loaded.tokenizer, training.max_length, rows)
        warmup = Warmup(self._loaded.model, list(head.values()), encoded, data.problem, Quiet())
        warmup.run(epochs=1, seed=training.seed)
        found = self._score()
        with torch.no_grad():
            for name, parameter in head.items():
                parameter.copy_(kept[name])
        return found

    def _score(self) -> Scores:
        return ranked_only(self._scorer.fisher())

    @property
    def at_start(self) -> dict[str, float]:
        """Layer name → score before the first step."""
        return _by_name(self._first)

    def now(self) -> RankingTrack:
        """The scores as the model is now, beside those at the start."""
        found = self._score()
        return RankingTrack(
            kendall_tau=kendall_tau(self._first.values, found.values),
            top_k_overlap=top_k_overlap(self._first.values, found.values),
            scores=_by_name(found),
        )


def _by_name(scores: Scores) -> dict[str, float]:
    names = [unit.name for unit in scores.units]
    return dict(zip(names, np.asarray(scores.values).tolist(), strict=True))
