"""Estimate the parameters, memory, steps and seconds of a fine-tune from sizes alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from surgery.models.layers import is_bias
from surgery.models.shape import EncoderShape
from surgery.schemas.enums import NAMED, Problem
from surgery.schemas.jobs.estimate import EstimatedSeconds
from surgery.schemas.options.adapter import AdapterSpec
from surgery.schemas.options.training import (
    TrainingSpec,
    rows_tried_on,
    steps_per_epoch,
    total_steps,
)
from surgery.schemas.resolved import LayerInfo
from surgery.training.costs.activations import block_activations, without_dropout
from surgery.training.costs.flops import RowLength, TrainedSizes, forward_work
from surgery.training.costs.stages import Stage, largest_sizes, stages

FLOAT = 4  # bytes; weights, gradients and moments are float32 in every precision
MOMENTS = 2  # that AdamW has for each parameter
STATE_BYTES = {"fp32": 4, "bf16": 2}
NO_LENGTH = RowLength(0.0, 0.0)  # where only the stages count, not their work
PASS_TOKENS = 4096  # in a batch without gradients, as surgery.data.tokens.dataset.BATCH_TOKENS


def adapter_trained(
    inside: Mapping[str, int], layers: list[LayerInfo], adapter: AdapterSpec, head: int
) -> TrainedSizes | None:
    """The parameters that an adapter trains, with those of the ``head``.

    ``inside`` has the sizes of the encoder's tensors in the task model. LoRA's two matrices for a
    linear layer from n to m take rank·(n + m), where m is the size of the bias. None if a layer has
    no bias, so that n and m are not known.
    """
    if adapter.type == "bitfit":
        return _biases(inside, layers, head)
    blocks: dict[int, int] = {}
    for layer in layers:
        start = f"{layer.name}."
        own = {name: size for name, size in inside.items() if name.startswith(start)}
        widths = [_widths(name, own) for name in own if name.endswith(".weight")]
        if None in widths:
            return None
        blocks[layer.index] = adapter.rank * sum(filter(None, widths))
    return TrainedSizes(blocks, head)


def _widths(name: str, sizes: Mapping[str, int]) -> int | None:
    """The sum of a linear layer's inputs and outputs, 0 for a norm, None without a bias."""
    outputs = sizes.get(f"{name.removesuffix('weight')}bias")
    if outputs is None:
        return None
    inputs = sizes[name] // outputs
    return inputs + outputs if inputs > 1 else 0


def _biases(inside: Mapping[str, int], layers: list[LayerInfo], head: int) -> TrainedSizes:
    index = {layer.name: layer.index for layer in layers}
    blocks: dict[int, int] = defaultdict(int)
    beside = head
    for name, size in inside.items():
        if not is_bias(name):
            continue
        block = next((at for start, at in index.items() if name.startswith(f"{start}.")), None)
        if block is None:
            beside += size
        else:
            blocks[block] += size
    below = beside > head
    return TrainedSizes(dict(blocks), beside, below=below, keeps_inputs=False)


@dataclass(frozen=True)
class Data:
    """What is known of a dataset; ``row`` is None if its lengths in tokens are not.

    ``longest`` is the largest length of a sequence after truncation, and ``choices`` the number of
    sequences in a row. ``first_only`` says that the head reads only the state of a sequence's first
    token.
    """

    train: int | None
    validation: int | None
    row: RowLength | None
    longest: int
    choices: int = 1
    first_only: bool = False


@dataclass(frozen=True)
class Memory:
    """The bytes that training takes; None for what there is no formula for."""

    weights: int
    gradients: int
    moments: int
    activations: int | None
    cache: int | None

    @property
    def peak(self) -> int | None:
        """The sum of all, or None if one is not known."""
        if self.activations is None or self.cache is None:
            return None
        return self.weights + self.gradients + self.moments + self.activations + self.cache


def memory(
    shape: EncoderShape, total: int, trained: TrainedSizes, data: Data, training: TrainingSpec
) -> Memory:
    """The memory that training takes; ``total`` is the number of the model's parameters.

    With a layer schedule, gradients and moments are those of the most that trains in one step.
    """
    steps = whole = None
    if data.train is not None:
        steps, whole = total_steps(training, data.train), steps_per_epoch(training, data.train)
    largest = largest_sizes(trained, training, steps, whole)
    return Memory(
        weights=FLOAT * total,
        gradients=FLOAT * largest.parameters,
        moments=FLOAT * MOMENTS * largest.parameters,
        activations=_activations(shape, largest, data, training),
        cache=_cache(shape, trained, data, training),
    )


def _activations(
    shape: EncoderShape, trained: TrainedSizes, data: Data, training: TrainingSpec
) -> int | None:
    """The bytes of activations of the largest batch, in training or evaluation."""
    shape = without_dropout(shape) if training.dropout is False else shape
    rows = min(training.batch_size, data.train or training.batch_size)
    tokens = rows * data.choices * data.longest
    kept = 0
    for index in range(trained.lowest(shape), len(shape.blocks)):
        keeps = bool(trained.blocks.get(index)) and trained.keeps_inputs
        own = block_activations(shape, data.longest, trained=keeps)
        if own is None:
            return None
        kept += own
    passing = block_activations(shape, data.longest, trained=True)
    if passing is None:
        return None
    whole_pass = max(PASS_TOKENS, data.longest)
    # A pass without gradients holds the activations of one block; a step also all that is kept.
    return FLOAT * max(tokens * (shape.runs * kept + passing), whole_pass * passing)


def caches_prefix(
    shape: EncoderShape, trained: TrainedSizes, training: TrainingSpec, rows: int | None
) -> bool:
    """Whether there is a frozen prefix whose states are stored, if there is room for them."""
    if rows is None:
        return training.prefix_cache != "off" and _first_prefix(shape, trained, training) > 0
    whole = steps_per_epoch(training, rows)
    run = stages(
        shape,
        NO_LENGTH,
        trained,
        training,
        steps=total_steps(training, rows),
        steps_per_epoch=whole,
    )
    return any(_caches(stage, training, whole) for stage in run)


def _first_prefix(shape: EncoderShape, trained: TrainedSizes, training: TrainingSpec) -> int:
    """How many blocks are below everything that trains at first."""
    (first, *_) = stages(shape, NO_LENGTH, trained, training, steps=1, steps_per_epoch=1)
    return first.prefix


def _caches(stage: Stage, training: TrainingSpec, whole: int) -> bool:
    """Whether a stage stores the states of its prefix; ``whole`` is the steps of an epoch."""
    if training.prefix_cache == "off" or stage.prefix == 0:
        return False
    # `auto` stores none for steps that do not see each row of train at least once.
    return stage.steps >= whole or training.prefix_cache != "auto"


def _cache(
    shape: EncoderShape, trained: TrainedSizes, data: Data, training: TrainingSpec
) -> int | None:
    if not caches_prefix(shape, trained, training, data.train):
        return 0
    states = _states_of_row(shape, trained, data)
    if states is None or data.train is None or data.validation is None or shape.hidden is None:
        return None
    states *= data.train + data.validation
    return math.ceil(states * shape.hidden * STATE_BYTES[training.prefix_cache_dtype])


def _states_of_row(shape: EncoderShape, trained: TrainedSizes, data: Data) -> float | None:
    """One state for each token, or one for each sequence if only the head trains and reads one."""
    if data.first_only and trained.lowest(shape) == len(shape.blocks):
        return float(data.choices)
    return data.row.tokens if data.row else None


def seconds(
    shape: EncoderShape, trained: TrainedSizes, data: Data, training: TrainingSpec, rate: float
) -> EstimatedSeconds | None:
    """How long training and evaluation take at ``rate`` operations per second.

    None if the numbers of rows or tokens are not known.
    """
    if data.row is None or data.train is None or data.validation is None:
        return None
    run = RunWork.of(shape, trained, data.train, data.validation, data.row, training)
    total, first = run.until(run.steps), run.until(min(run.steps, run.whole))
    epochs = run.steps / run.whole
    tried = _trials_work(shape, trained, data, training)
    begins = training.head.training_of(new=True) != "none"
    rows = min(training.head.warmup_samples, data.train) if begins else 0
    head = forward_work(shape, data.row, 0) * rows
    total, first = total + head, first + head
    return EstimatedSeconds(
        first_epoch=first / rate,
        later_epoch=(total - first) / (epochs - 1) / rate if epochs > 1 else None,
        rates=tried / rate if training.learning_rates else None,
        total=(tried + total) / rate,
    )


@dataclass(frozen=True)
class RunWork:
    """The operations of a run on ``train`` rows that is evaluated on ``validation`` rows.

    ``steps`` are all its steps, ``whole`` those of an epoch.
    """

    shape: EncoderShape
    row: RowLength
    training: TrainingSpec
    train: int
    validation: int
    steps: int
    whole: int
    stages: list[Stage]

    @classmethod
    def of(
        cls,
        shape: EncoderShape,
        trained: TrainedSizes,
        train: int,
        validation: int,
        row: RowLength,
        training: TrainingSpec,
    ) -> RunWork:
        """The work of a run of these options."""
        steps, whole = total_steps(training, train), steps_per_epoch(training, train)
        own = stages(shape, row, trained, training, steps=steps, steps_per_epoch=whole)
        return cls(shape, row, training, train, validation, steps, whole, own)

    def until(self, end: int) -> float:
        """The operations of the first ``end`` steps, with their share of the evaluations."""
        every = self.training.evaluate_every_steps
        evaluations = math.ceil(self.steps / (every or self.whole))
        total = 0.0
        for stage in self.stages:
            taken = min(stage.steps, end)
            if taken <= 0:
                break
            end -= taken
            cached = _caches(stage, self.training, self.whole)
            prefix = forward_work(self.shape, self.row, 0, stage.prefix)
            step = (stage.work + (0 if cached else prefix)) * self.train / self.whole
            total += taken * (step + self.evaluation(stage) * evaluations / self.steps)
            total += prefix * (self.train + self.validation) if cached else 0.0
        return total

    def evaluation(self, stage: Stage) -> float:
        """The operations of one evaluation in a stage."""
        cached = _caches(stage, self.training, self.whole)
        return forward_work(self.shape, self.row, stage.prefix if cached else 0) * self.validation


def _trials_work(
    shape: EncoderShape, trained: TrainedSizes, data: Data, training: TrainingSpec
) -> float:
    """The operations of trying each of ``learning_rates``: on fewer rows, measured once.

    The states of the frozen prefix are those of the run, but where unfreezing replaces them.
    """
    rates = len(training.learning_rates or ())
    if not rates or data.row is None or data.train is None:
        return 0.0
    rows = rows_tried_on(data.train)
    silent = training.model_copy(update={"evaluate_every_steps": None})
    trial = RunWork.of(shape, trained, rows, 0, data.row, silent)
    judged = replace(trial, validation=data.train - rows)
    own = trial.until(trial.steps) + judged.evaluation(trial.stages[-1])
    if len(trial.stages) == 1 and _caches(trial.stages[0], training, trial.whole):
        own -= forward_work(shape, data.row, 0, trial.stages[0].prefix) * rows
    return rates * own


def outputs_of(problem: Problem, labels: int) -> int:
    """How many numbers the head outputs: one for each class, or one."""
    return labels if problem in NAMED else 1
