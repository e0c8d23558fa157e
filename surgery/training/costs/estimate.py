"""Estimate the parameters, memory, steps and seconds of a fine-tune from sizes alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from surgery.models.layers import is_bias
from surgery.models.shape import EncoderShape
from surgery.schemas.enums import Problem
from surgery.schemas.estimate import EstimatedSeconds
from surgery.schemas.resolved import LayerInfo
from surgery.schemas.training import AdapterSpec, TrainingSpec, steps_per_epoch, total_steps
from surgery.training.costs.activations import block_activations
from surgery.training.costs.flops import RowLength, TrainedSizes, forward_work, suffix_work

FLOAT = 4  # bytes; weights, gradients and moments are float32 in every precision
MOMENTS = 2  # that AdamW has for each parameter
STATE_BYTES = {"fp32": 4, "bf16": 2}
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
    """The memory that training takes; ``total`` is the number of the model's parameters."""
    return Memory(
        weights=FLOAT * total,
        gradients=FLOAT * trained.parameters,
        moments=FLOAT * MOMENTS * trained.parameters,
        activations=_activations(shape, trained, data, training),
        cache=_cache(shape, trained, data, training),
    )


def _activations(
    shape: EncoderShape, trained: TrainedSizes, data: Data, training: TrainingSpec
) -> int | None:
    """The bytes of activations of the largest batch, in training or evaluation."""
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
    if training.prefix_cache == "off" or trained.lowest(shape) == 0:
        return False
    # `auto` stores none for a run that does not see each row of train at least once.
    short = rows is not None and total_steps(training, rows) < steps_per_epoch(training, rows)
    return not (short and training.prefix_cache == "auto")


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
    cached = caches_prefix(shape, trained, training, data.train)
    lowest = trained.lowest(shape)
    prefix = forward_work(shape, data.row, 0, lowest)
    step = suffix_work(shape, data.row, trained) + (0 if cached else prefix)
    measure = forward_work(shape, data.row, lowest if cached else 0) * data.validation
    steps, whole = total_steps(training, data.train), steps_per_epoch(training, data.train)
    epochs, every = steps / whole, training.evaluate_every_steps
    evaluations = math.ceil(steps / every if every else epochs)
    fill = prefix * (data.train + data.validation) if cached else 0.0
    begins = training.head.training_of(new=True) != "none"
    rows = min(training.head.warmup_samples, data.train) if begins else 0
    fill += forward_work(shape, data.row, 0) * rows
    total = fill + step * data.train * epochs + measure * evaluations
    later = step * data.train + measure * evaluations / max(1.0, epochs)
    first = fill + later if epochs > 1 else total
    return EstimatedSeconds(
        first_epoch=first / rate,
        later_epoch=later / rate if epochs > 1 else None,
        total=total / rate,
    )


def outputs_of(problem: Problem, labels: int) -> int:
    """How many numbers the head outputs: one for each class, or one."""
    return labels if problem in {Problem.CLASSIFICATION, Problem.TOKEN_CLASSIFICATION} else 1
