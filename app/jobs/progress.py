"""How far a job is: one number for the whole of it, which never falls.

A job is a sequence of parts. Each has the seconds that it would take on a small machine, by what
is known when the job begins: so a part weighs in the percentage as much as it costs, and the
seconds that are left are estimated by how much slower or faster this machine turns out to be.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import ValidationError

from app.db.tables import Job, JobKind
from surgery.ranking.selection import ranking_options, search_options
from surgery.schemas.enums import POLICIES, Problem
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.ranking import SHUFFLES, RankingOptions
from surgery.schemas.jobs.search import SearchOptions, SearchSpec
from surgery.schemas.options.training import (
    TrainingSpec,
    rows_tried_on,
    run_rows,
    steps_per_epoch,
    total_steps,
)
from surgery.schemas.resolved import Resolved, ResolvedFinetune, ResolvedPrediction

Json = dict[str, Any]
ROWS_A_SECOND = 300.0  # that a small machine reads with a small encoder
TRAINED = 3.0  # a training row costs as much as this many that are only read
START, FETCH, LOAD, TOKENIZE, BOOTSTRAP, EXPORT = 0.5, 2.0, 3.0, 1.0, 1.0, 15.0  # seconds
ASSEMBLE, PUBLISH = 2.0, 4.0  # seconds of an export
SCORES = 5.0  # seconds for the scores that say which candidates of a search come first
PRIOR_ROWS = 128  # that the agreement with shuffled labels is measured on
UNKNOWN_ROWS = 1000  # taken for the rows of a dataset that nobody has counted
UNKNOWN_LAYERS = 12  # taken for those of a model that a job of an early version does not tell
TRUST = 5.0  # seconds after which the measured speed counts more than the assumed one
LARGEST = 99.9  # before the end, whatever is left
TRAINING = {"train", "evaluate", "save"}  # the phases that alternate until the last step


@dataclass(frozen=True)
class Part:
    """A part of a job, begun by the phase of that name."""

    name: str
    seconds: float

    def has(self, phase: str) -> bool:
        """Whether a phase belongs to this part."""
        return phase == self.name or (self.name == "train" and phase in TRAINING)


@dataclass(frozen=True)
class Training:
    """What is known of a fine-tune's steps before the first one."""

    steps: int | None
    evaluations: int
    evaluation_steps: float  # that cost as much as one evaluation
    seconds: float

    @classmethod
    def of(
        cls, training: TrainingSpec, problem: Problem, rows: Mapping[str, int], processes: int
    ) -> Self:
        """By the options, the problem and the number of rows."""
        known, measured = run_rows(training, problem, rows)
        train = UNKNOWN_ROWS if known is None else known
        validation = max(1, train // 9) if measured is None else measured
        steps = total_steps(training, train, processes)
        every = training.evaluate_every_steps or steps_per_epoch(training, train, processes)
        evaluations = math.ceil(steps / every)
        batch = training.batch_size * training.gradient_accumulation_steps * processes
        seconds = steps * min(batch, train) * TRAINED + evaluations * validation
        return cls(
            steps=steps if "train" in rows else None,
            evaluations=evaluations,
            evaluation_steps=validation / (TRAINED * min(batch, train)),
            seconds=seconds / ROWS_A_SECOND,
        )


def _ranking_parts(options: RankingOptions, rows: int) -> list[Part]:
    samples, warmup = min(options.samples, rows), min(options.head.warmup_samples, rows)
    if options.head.training_of(new=True) == "none":  # nobody knows yet whether it is new
        warmup = 0
    scored = samples * TRAINED / ROWS_A_SECOND
    rounds = [
        Part("warmup", warmup / ROWS_A_SECOND),
        Part("score", scored),
    ] * options.head_seeds
    if options.minus is not None:
        rounds.append(Part("minus", SHUFFLES * scored))
    prior = [Part("prior", 2 * PRIOR_ROWS * TRAINED / ROWS_A_SECOND)] if options.model_prior else []
    return [Part("tokenize", TOKENIZE), *rounds, Part("bootstrap", BOOTSTRAP), *prior]


def _search_parts(options: SearchOptions, layers: int, rows: int, training: Training) -> list[Part]:
    """The parts of a search beside loading the model: its budget is a share of single layers'."""
    budget = options.budget_seconds or options.budget_share * layers * training.seconds
    return [
        Part("tokenize", TOKENIZE),
        Part("head", rows / ROWS_A_SECOND),
        Part("score", SCORES),
        Part("prefix", rows / ROWS_A_SECOND),
        Part("search", budget),
    ]


def _first_parts(spec: FinetuneSpec, job: Job, rows: int, training: Training) -> list[Part]:
    """The parts of a fine-tune that choose its layers, if they are not chosen yet."""
    resolved = ResolvedFinetune.of(job.resolved)
    if resolved.layers is not None:
        return []
    if resolved.ranking or resolved.search:  # it has waited for that, and only reads the result
        return [Part("load", LOAD)]
    if POLICIES[spec.selection.policy].searches:
        layers = resolved.model.layers or UNKNOWN_LAYERS
        return [
            Part("load", LOAD),
            *_search_parts(search_options(spec.selection), layers, rows, training),
        ]
    return [Part("load", LOAD), *_ranking_parts(ranking_options(spec.selection), rows)]


def _finetune_parts(spec: FinetuneSpec, job: Job, rows: int, training: Training) -> list[Part]:
    parts = _first_parts(spec, job, rows, training)
    export = [Part("export", EXPORT)] if spec.checkpoints.onnx else []
    parts += [Part("load", LOAD), *export, Part("tokenize", TOKENIZE)]
    head = spec.training.head
    if head.training_of(new=not spec.continue_from) != "none":
        parts.append(Part("head", min(head.warmup_samples, rows) / ROWS_A_SECOND))
    if spec.track_ranking:
        parts.append(Part("rank", LOAD))
    if spec.training.prefix_cache != "off":
        parts.append(Part("prefix", rows / ROWS_A_SECOND))
    if spec.training.learning_rates:
        trial = training.seconds * rows_tried_on(rows) / rows
        parts.append(Part("rates", len(spec.training.learning_rates) * trial))
    return [*parts, Part("train", training.seconds), *export]


def _plan(job: Job) -> tuple[list[Part], Training | None]:
    """The parts of a job after its start, and for a fine-tune what is known of its steps."""
    dataset = Resolved.of(job.resolved).dataset
    rows = {name: count for name, count in dataset.rows.items() if count}
    count = rows.get("train", UNKNOWN_ROWS)
    if job.kind == JobKind.RANKING:
        given = {each: job.spec[each] for each in RankingOptions.model_fields if each in job.spec}
        options = RankingOptions.model_validate(given)
        return [Part("load", LOAD), *_ranking_parts(options, count)], None
    if job.kind == JobKind.SEARCH:
        search = SearchSpec.model_validate(job.spec)
        layers = Resolved.of(job.resolved).model.layers or UNKNOWN_LAYERS
        training = Training.of(search.training, dataset.problem, rows, processes=1)
        parts = _search_parts(search, layers, count, training)
        return [Part("load", LOAD), *parts], None
    if job.kind == JobKind.PREDICTION:
        asked = ResolvedPrediction.of(job.resolved).given_rows
        return [Part("load", LOAD), Part("predict", asked / ROWS_A_SECOND)], None
    if job.kind == JobKind.EXPORT:
        return [Part("assemble", ASSEMBLE), Part("publish", PUBLISH)], None
    spec = FinetuneSpec.model_validate(job.spec)
    training = Training.of(spec.training, dataset.problem, rows, spec.processes)
    return _finetune_parts(spec, job, count, training), training


class JobProgress:
    """The progress of one attempt at a job; every method answers it as it is stored."""

    def __init__(self, job: Job) -> None:
        parts: list[Part] = []
        self._training: Training | None = None
        with contextlib.suppress(ValidationError):  # a request that another version accepted
            parts, self._training = _plan(job)
        self._parts = [Part("starting", START), Part("fetch", FETCH), *parts]
        self._percent = float((job.progress or {}).get("percent") or 0.0)
        self._place, self._phase = 0, "starting"
        self._share = 0.0  # of the current part that is done
        self._evaluations = self._saved = 0
        trains = job.kind == JobKind.FINETUNE and job.resolved.get("layers") is not None
        self._steps = int((job.state or {}).get("step", 0)) if trains else 0
        self._resumes = job.state is not None
        self._counted: Json | None = None  # what the current phase counts itself
        self._began = self._part_began = time.monotonic()
        self._first_share = 0.0
        if self._training and self._steps:  # an interrupted run, which goes on from there
            done = self._steps / (self._training.steps or self._steps)
            self._evaluations = self._saved = int(done * self._training.evaluations)

    def begin(self, phase: str) -> Json:
        """Note that a phase begins."""
        if self._phase == "evaluate" and phase != "evaluate":
            self._evaluations += 1
        if self._phase == "save" and phase != "save":
            self._saved += 1
        self._phase, self._counted = phase, None
        if not self._parts[self._place].has(phase):
            later = range(self._place + 1, len(self._parts))
            place = next((each for each in later if self._parts[each].has(phase)), None)
            if place is not None:
                self._place, self._share, self._part_began = place, 0.0, time.monotonic()
                self._first_share = self._share = self._trained()
        self._share = max(self._share, self._trained())
        return self.now()

    def advance(self, done: int, total: int | None, unit: str) -> Json:
        """Note how much of the current phase is done."""
        self._counted = {"step": done, "total_steps": total, "unit": unit}
        if not self._parts[self._place].has(self._phase):
            return self.now()  # a phase inside a part, such as a prefix that is computed again
        if self._parts[self._place].name == "train":
            self._steps = done
            self._share = max(self._share, self._trained(total))
        elif total:
            if self._resumes and self._share == 0.0:  # what an interrupted search had done
                self._first_share = min(1.0, done / total)
            self._share = max(self._share, min(1.0, done / total))
        return self.now()

    def _trained(self, steps: int | None = None) -> float:
        """The share of the training that is done, an evaluation counting as several steps."""
        training = self._training
        if training is None or self._parts[self._place].name != "train":
            return 0.0
        steps = steps or training.steps
        if not steps:
            return 0.0
        evaluations = min(self._evaluations, training.evaluations)
        done = self._steps + evaluations * training.evaluation_steps
        return min(1.0, done / (steps + training.evaluations * training.evaluation_steps))

    def now(self) -> Json:
        """The progress as it is stored."""
        whole = sum(part.seconds for part in self._parts)
        before = sum(part.seconds for part in self._parts[: self._place])
        current = self._parts[self._place].seconds
        done = before + current * self._share
        self._percent = max(self._percent, min(LARGEST, round(100 * done / whole, 1)))
        counted = self._counted or self._units()
        eta = round((whole - done) * self._slowness(before, current), 1)
        return {"percent": self._percent, **counted, "eta_seconds": eta if self._place else None}

    def _units(self) -> Json:
        """What is counted in a phase that does not count: what is known of its kind."""
        training = self._training
        if training is not None and self._phase in TRAINING:
            step, total, unit = {
                "train": (self._steps, training.steps, "steps"),
                "evaluate": (self._evaluations, training.evaluations, "evaluations"),
                "save": (self._saved, training.evaluations, "checkpoints"),
            }[self._phase]
            return {"step": step, "total_steps": total, "unit": unit}
        return {"step": self._place, "total_steps": len(self._parts), "unit": "phases"}

    def _slowness(self, before: float, current: float) -> float:
        """How many seconds one second of the plan takes here."""
        now = time.monotonic()
        assumed = (now - self._began + TRUST) / (before + current * self._share + TRUST)
        measured = current * (self._share - self._first_share)
        if measured <= 0:
            return assumed
        trust = min(TRUST, current / 20)  # one step tells little of a thousand
        return (now - self._part_began + trust * assumed) / (measured + trust)


def not_falling(progress: Json, before: float | None) -> Json:
    """A progress whose percentage is not less than the one before."""
    return {**progress, "percent": max(progress.get("percent") or 0.0, before or 0.0)}


def set_aside_progress(progress: Json | None) -> Json | None:
    """The progress of a job that waits: nobody knows for how long."""
    return {**progress, "eta_seconds": None} if progress else None


def at_the_end(progress: Json | None, *, early: bool) -> Json:
    """The progress of a job that succeeded, with or without all its steps."""
    last = progress or {}
    step = last.get("step") if early else last.get("total_steps", last.get("step"))
    return {**last, "step": step, "percent": 100.0, "eta_seconds": 0.0}
