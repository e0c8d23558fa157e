"""What a fine-tune will take, from sizes alone: parameters, memory, steps, seconds."""

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
from surgery.training.costs.activations import kept_by_block
from surgery.training.costs.flops import RowLength, Trained, forward_work, suffix_work

FLOAT = 4  # bytes; weights, gradients and moments are float32 in every precision
MOMENTS = 2  # of AdamW, a parameter
STATE_BYTES = {"fp32": 4, "bf16": 2}
PASS_TOKENS = 4096  # of a batch without gradients; see surgery.data.tokens.dataset.BATCH_TOKENS


def adapter_trained(
    inside: Mapping[str, int], layers: list[LayerInfo], adapter: AdapterSpec, head: int
) -> Trained | None:
    """What an adapter trains, with the ``head``, of an encoder with these tensors.

    ``inside`` are those that the task model has. LoRA's two matrices of a linear map of n to m take
    rank·(n + m); a bias tells m. None where a map has no bias, so that n and m are not known.
    """
    if adapter.type == "bitfit":
        return _biases(inside, layers, head)
    blocks: dict[int, int] = {}
    for layer in layers:
        start = f"{layer.name}."
        held = {name: size for name, size in inside.items() if name.startswith(start)}
        widths = [_widths(name, held) for name in held if name.endswith(".weight")]
        if None in widths:
            return None
        blocks[layer.index] = adapter.rank * sum(filter(None, widths))
    return Trained(blocks, head)


def _widths(name: str, held: Mapping[str, int]) -> int | None:
    """Inputs and outputs of a linear map together; 0 for a norm."""
    outputs = held.get(f"{name.removesuffix('weight')}bias")
    if outputs is None:
        return None
    inputs = held[name] // outputs
    return inputs + outputs if inputs > 1 else 0


def _biases(inside: Mapping[str, int], layers: list[LayerInfo], head: int) -> Trained:
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
    return Trained(dict(blocks), beside, below=below, keeps_inputs=False)


@dataclass(frozen=True)
class Data:
    """A dataset as far as it is known: ``row`` is None where its tokens are not.

    ``longest`` is a sequence's length after the cut, at most; ``choices`` the sequences of a row;
    ``first_only`` says that the head reads no state of one but its first token's.
    """

    train: int | None
    validation: int | None
    row: RowLength | None
    longest: int
    choices: int = 1
    first_only: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes, None where there is no formula."""

    weights: int
    gradients: int
    moments: int
    activations: int | None
    cache: int | None

    @property
    def peak(self) -> int | None:
        """All at once."""
        if self.activations is None or self.cache is None:
            return None
        return self.weights + self.gradients + self.moments + self.activations + self.cache


def memory(
    shape: EncoderShape, total: int, trained: Trained, data: Data, training: TrainingSpec
) -> Memory:
    """Bytes that training holds; ``total`` are the parameters of the model with its head."""
    return Memory(
        weights=FLOAT * total,
        gradients=FLOAT * trained.parameters,
        moments=FLOAT * MOMENTS * trained.parameters,
        activations=_activations(shape, trained, data, training),
        cache=_cache(shape, trained, data, training),
    )


def _activations(
    shape: EncoderShape, trained: Trained, data: Data, training: TrainingSpec
) -> int | None:
    """Of the largest batch, training or not."""
    rows = min(training.batch_size, data.train or training.batch_size)
    tokens = rows * data.choices * data.longest
    kept = 0
    for index in range(trained.lowest(shape), len(shape.blocks)):
        keeps = bool(trained.blocks.get(index)) and trained.keeps_inputs
        own = kept_by_block(shape, data.longest, trained=keeps)
        if own is None:
            return None
        kept += own
    passing = kept_by_block(shape, data.longest, trained=True)
    if passing is None:
        return None
    whole_pass = max(PASS_TOKENS, data.longest)
    # A pass without gradients holds what one block works on, a step that beside what it keeps.
    return FLOAT * max(tokens * (shape.runs * kept + passing), whole_pass * passing)


def caches_prefix(
    shape: EncoderShape, trained: Trained, training: TrainingSpec, rows: int | None
) -> bool:
    """Whether there is a frozen prefix whose states are kept, where they have room."""
    if training.prefix_cache == "off" or trained.lowest(shape) == 0:
        return False
    # `auto` keeps none for a run that does not see each row of train once.
    short = rows is not None and total_steps(training, rows) < steps_per_epoch(training, rows)
    return not (short and training.prefix_cache == "auto")


def _cache(shape: EncoderShape, trained: Trained, data: Data, training: TrainingSpec) -> int | None:
    if not caches_prefix(shape, trained, training, data.train):
        return 0
    states = _states_of_row(shape, trained, data)
    if states is None or data.train is None or data.validation is None or shape.hidden is None:
        return None
    states *= data.train + data.validation
    return math.ceil(states * shape.hidden * STATE_BYTES[training.prefix_cache_dtype])


def _states_of_row(shape: EncoderShape, trained: Trained, data: Data) -> float | None:
    """One a token; where only the head trains, one a sequence if it reads no more."""
    if data.first_only and trained.lowest(shape) == len(shape.blocks):
        return float(data.choices)
    return data.row.tokens if data.row else None


def seconds(
    shape: EncoderShape, trained: Trained, data: Data, training: TrainingSpec, rate: float
) -> EstimatedSeconds | None:
    """How long training and evaluation take at ``rate`` operations a second.

    None where rows or tokens are not known.
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
    total = fill + step * data.train * epochs + measure * evaluations
    later = step * data.train + measure * evaluations / max(1.0, epochs)
    first = fill + later if epochs > 1 else total
    return EstimatedSeconds(
        first_epoch=first / rate,
        later_epoch=later / rate if epochs > 1 else None,
        total=total / rate,
    )


def outputs_of(problem: Problem, labels: int) -> int:
    """How many numbers the head puts out: one a class, or one."""
    return labels if problem in {Problem.CLASSIFICATION, Problem.TOKEN_CLASSIFICATION} else 1
