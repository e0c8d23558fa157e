"""Search for the layers, and the learning rate, that learn a task best."""

from __future__ import annotations

import time
from pathlib import Path

from surgery.data.tokens.cache import encode_split
from surgery.data.tokens.dataset import TaskData
from surgery.data.tokens.held_out import held_out_rows
from surgery.errors import TrainingDiverged
from surgery.evaluation.learning import NO_BETTER, Baseline
from surgery.heads.features import preserved_head
from surgery.io.reporter import Quiet, Reporter
from surgery.models.loading import LoadedModel
from surgery.models.numerics import Numerics, with_precision
from surgery.models.trainable import layers_of_model
from surgery.ranking.ranking import Phases
from surgery.schemas import JobWarning
from surgery.schemas.enums import Method
from surgery.schemas.jobs.search import SearchArm, SearchedLayer, SearchResult, SearchSpec
from surgery.schemas.options.training import TrainingSpec, check_training, with_dropout_decided
from surgery.training.prefix_cache.store import Room
from surgery.training.search.boundaries import Boundaries
from surgery.training.search.decision.candidates import (
    always_tried,
    candidates_of,
    highest,
    most_promising,
    promise_of,
)
from surgery.training.search.decision.race import Budget, Contest, Outcome, Race
from surgery.training.search.pieces import Pieces
from surgery.training.search.preparation import prepared, set_head
from surgery.training.search.result import arms_of, cost_of, gain_over
from surgery.training.search.state import SearchState, load_search
from surgery.training.search.trials import JudgedRows, Trainer
from surgery.training.search.work import work_of

OVERDRAWN = 1.1  # times the budget; a little more is the rest of a run


def search_layers(
    loaded: LoadedModel,
    data: TaskData,
    spec: SearchSpec,
    report: Reporter | None = None,
    resume: Path | None = None,
    room: Room | None = None,
) -> SearchResult:
    """Try sets of layers at several learning rates by short runs, and choose the best.

    ``loaded`` is the model as `load_model` returns it for ``spec.training.seed``, on its device; it
    trains in place and has its own weights again at the end. Of ``data`` only the train rows are
    read, a part of which judges. ``resume`` is a state that ``report.state`` named in an
    interrupted search of the same spec. ``room.memory_bytes`` limits what the states of frozen
    layers may take. ``report.step`` counts seconds of the budget, and may raise Stopped; a
    resumable stop saves a state first.

    Which piece of which run comes next depends on the readings, and through the budget on the
    seconds that they took. Raises DatasetInvalid if no rows can be set aside, TrainingInvalid if
    the options do not fit the data, TrainingDiverged if no candidate can be trained at any of the
    rates that were tried, OutOfMemory, and Stopped.
    """
    phases = Phases(report or Quiet())
    training = with_precision(spec.training, next(loaded.model.parameters()).device)
    training = with_dropout_decided(training, data.problem)
    fit, judged = held_out_rows(data, spec.held_out, spec.seed)
    check_training(training, data.problem, data.metrics, classes=len(data.labels), rows=len(fit))
    with phases.timed("tokenize"):
        encoded = encode_split(data, "train", loaded.tokenizer, training.max_length)
    rows = JudgedRows(data, encoded, fit, judged, training.metric or data.metrics[0])
    with preserved_head(loaded.head):
        began = time.perf_counter()
        state = load_search(resume) if resume else prepared(loaded, rows, training, phases)
        set_head(loaded, state)
        search = _Search(loaded, rows, spec, training, state, phases, room or Room())
        if not resume:
            state.overhead = time.perf_counter() - began
        with phases.timed("search"):
            outcome = search.run()
        return search.result(outcome)


class _Search:
    """One search: the race, and the trainer that runs its pieces."""

    def __init__(
        self,
        loaded: LoadedModel,
        rows: JudgedRows,
        spec: SearchSpec,
        training: TrainingSpec,
        state: SearchState,
        phases: Phases,
        room: Room,
    ) -> None:
        self._loaded, self._rows, self._spec = loaded, rows, spec
        self._state, self._phases = state, phases
        depth, scores = len(loaded.blocks), state.scores
        every = candidates_of(spec.families, depth)
        self._candidates = [every[place] for place in most_promising(every, depth, scores)]
        numerics = Numerics(training, next(loaded.model.parameters()).device)
        lowest = {one.lowest for one in self._candidates} | set(range(depth))
        self._boundaries = Boundaries(loaded, rows.encoded, lowest, numerics, room.memory_bytes)
        with phases.timed("prefix"), numerics.settings():
            self._boundaries.fill(phases.report)
        names = [unit.name for unit in layers_of_model(loaded)]
        fisher = dict(zip(names, scores[Method.FISHER], strict=True))
        self._trainer = Trainer(loaded, rows, training, numerics, self._boundaries, fisher)

    def run(self) -> Outcome:
        """Race the candidates until it is decided."""
        spec, state = self._spec, self._state
        self._race = Race(
            self._contest(),
            Budget(spec.budget_seconds, spec.budget_share),
            spec.confidence,
            spec.seed,
            state,
        )
        pieces = Pieces(self._race, self._trainer, state, self._phases.report, self._rows.metric)
        outcome = self._race.run(pieces.train, pieces.resample)
        if all(reading.metric is None for reading in state.readings):
            raise TrainingDiverged(
                "no candidate gives a defined metric at any rate that was tried; lower "
                "learning_rates"
            )
        return outcome

    def _contest(self) -> Contest:
        rows, depth = self._rows, len(self._loaded.blocks)
        work = work_of(
            self._loaded,
            rows.encoded,
            self._candidates,
            self._boundaries,
            passes=self._trainer.steps / self._trainer.steps_per_epoch,
            sides=(len(rows.fit), len(rows.judged)),
        )
        return Contest(
            candidates=self._candidates,
            rates=self._spec.learning_rates,
            depth=depth,
            work=work.training,
            judging=work.judging,
            singles=work.singles,
            promise=promise_of(self._candidates, self._state.scores),
            first=always_tried(self._candidates, depth, self._state.scores),
            resolution=1 / len(rows.judged),
        )

    def result(self, outcome: Outcome) -> SearchResult:
        """The result of a race that is over."""
        race, rows, state = self._race, self._rows, self._state
        units, of = layers_of_model(self._loaded), self._race.contest
        sizes = [
            sum(p.numel() for p in self._trainer.trained_by(one).values())
            for one in self._candidates
        ]
        place, rate = divmod(outcome.point, len(of.rates))
        names, scores = [unit.name for unit in units], state.scores
        epochs = self._trainer.steps / self._trainer.steps_per_epoch
        depth, baseline = len(names), self._trainer.baseline
        arms = arms_of(race, outcome, names, sizes, epochs)
        return SearchResult(
            primary_metric=rows.metric,
            baseline=dict(baseline.metrics),
            baseline_loss=baseline.loss,
            layers=[names[layer] for layer in of.candidates[place].layers],
            learning_rate=of.rates[rate],
            winner=None if outcome.winner is None else of.candidates[outcome.winner].name,
            stopped=outcome.stopped,
            gain_over_all=gain_over(race, outcome, tuple(range(depth))),
            gain_over_fisher=gain_over(race, outcome, highest(scores[Method.FISHER], 2)),
            arms=arms,
            model_layers=[
                SearchedLayer(name=unit.name, index=index, parameters=unit.parameters)
                for index, unit in enumerate(units)
            ],
            scores={
                method: dict(zip(names, values, strict=True)) for method, values in scores.items()
            },
            train_rows=len(rows.fit),
            held_out_rows=len(rows.judged),
            looks=outcome.looks,
            confidence=self._spec.confidence,
            cost=cost_of(outcome),
            seconds=self._phases.seconds,
            warnings=[
                *state.warnings,
                *self._boundaries.warnings,
                *_warnings(race, outcome),
                *_learned(rows.metric, arms[0], baseline),
            ],
        )


def _learned(metric: str, chosen: SearchArm, baseline: Baseline) -> list[JobWarning]:
    """A warning if what the choice is expected to reach may be no more than a constant's metric."""
    constant, expected = baseline.metrics[metric] or 0.0, chosen.expected
    if expected is None or expected.low > constant:
        return []
    message = (
        f"the choice is expected to reach {metric} {expected.mean:.4f} "
        f"({expected.low:.4f} to {expected.high:.4f}), and a constant prediction has {constant:.4f}"
    )
    remedy = (
        "see whether the labels belong to their texts; if they do, give other learning_rates, a "
        "larger budget_share or more training.epochs"
    )
    return [JobWarning(code=NO_BETTER, message=message, remedy=remedy)]


def _warnings(race: Race, outcome: Outcome) -> list[JobWarning]:
    """What a reader should know who sees only the choice."""
    of = race.contest
    best = race.latest()
    finished = any(reading.piece.fraction == 1 for reading in best.values())
    warnings = []
    if outcome.stopped == "budget" and not finished:
        warnings.append(
            JobWarning(
                code="none_trained_to_the_end",
                message="no candidate was trained to the end within the budget, so that all "
                "expectations are extrapolated from shorter runs",
                remedy="give a larger budget_share or budget_seconds",
            )
        )
    if outcome.spent > OVERDRAWN * outcome.allowed:
        warnings.append(
            JobWarning(
                code="budget_exceeded",
                message=f"the search took {outcome.spent:.3g} s and its budget was "
                f"{outcome.allowed:.3g} s: a head, scores and stored states are needed before "
                "anything can be tried, and a run is not broken off",
                remedy="give a larger budget_share or budget_seconds",
            )
        )
    rate = of.rates[outcome.point % len(of.rates)]
    if len(of.rates) > 1 and rate in {min(of.rates), max(of.rates)}:
        edge, beyond = ("lowest", "lower") if rate == min(of.rates) else ("highest", "higher")
        warnings.append(
            JobWarning(
                code="rate_at_the_edge",
                message=f"the chosen learning rate is the {edge} of learning_rates; one beyond it "
                "may be better",
                remedy=f"add a {beyond} rate to learning_rates",
            )
        )
    return warnings
