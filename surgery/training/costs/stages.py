"""What trains in which steps of a fine-tune with a layer schedule, in sizes alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from surgery.models.shape import EncoderShape
from surgery.schemas.options.layer_schedule import (
    GradualUnfreezing,
    SampledLayers,
    lowest_chances,
    unfrozen_at,
)
from surgery.schemas.options.training import TrainingSpec
from surgery.training.costs.flops import RowLength, TrainedSizes, forward_work, suffix_work


@dataclass(frozen=True)
class Stage:
    """Steps that cost the same.

    ``work`` is that of a row's forward and backward pass through the blocks above the frozen
    prefix, which has ``prefix`` blocks.
    """

    steps: int
    work: float
    prefix: int


def stages(
    shape: EncoderShape,
    row: RowLength,
    trained: TrainedSizes,
    training: TrainingSpec,
    *,
    steps: int,
    steps_per_epoch: int,
) -> list[Stage]:
    """The stages of a run in order: one, unless layers are unfrozen gradually.

    Where layers are drawn, the work is its mean over all draws.
    """
    schedule = training.layer_schedule
    if isinstance(schedule, GradualUnfreezing):
        return [
            Stage(count, suffix_work(shape, row, sizes), sizes.lowest(shape))
            for count, sizes in _unfreezing(schedule, trained, steps, steps_per_epoch)
        ]
    lowest = trained.lowest(shape)
    if isinstance(schedule, SampledLayers):
        return [Stage(steps, _drawn_work(shape, row, trained, schedule), lowest)]
    return [Stage(steps, suffix_work(shape, row, trained), lowest)]


def _unfreezing(
    schedule: GradualUnfreezing, trained: TrainedSizes, steps: int, steps_per_epoch: int
) -> Iterator[tuple[int, TrainedSizes]]:
    """The number of steps of each stage, with what trains in it."""
    period, step = schedule.period(steps_per_epoch), 0
    while step < steps:
        sizes = unfrozen_sizes(schedule, trained, step, steps_per_epoch)
        is_last = len(sizes.blocks) == len(_layers(trained)) and sizes.below == trained.below
        count = steps - step if is_last else min(period, steps - step)
        yield count, sizes
        step += count


def unfrozen_sizes(
    schedule: GradualUnfreezing, trained: TrainedSizes, step: int, steps_per_epoch: int
) -> TrainedSizes:
    """What trains in a step. The embeddings are below the lowest layer, as one more.

    ``beside`` counts them from the start, since their size is not known apart from the head's.
    """
    layers = _layers(trained)
    places = [None, *layers] if trained.below else list[int | None](layers)
    active = [places[at] for at in unfrozen_at(schedule, len(places), step, steps_per_epoch)]
    blocks = {index: trained.blocks[index] for index in active if index is not None}
    return replace(trained, blocks=blocks, below=None in active)


def _drawn_work(
    shape: EncoderShape, row: RowLength, trained: TrainedSizes, schedule: SampledLayers
) -> float:
    """The mean work of a row above the frozen prefix, over all draws.

    The backward pass ends at the lowest layer that is drawn. What is above it trains in a share of
    the draws.
    """
    layers = _layers(trained)
    lowest, total = trained.lowest(shape), 0.0
    for place, chance in enumerate(lowest_chances(schedule, len(layers))):
        if not chance:
            continue
        above = layers[place + 1 :]
        share = (schedule.layers - 1) / len(above) if above else 0.0
        blocks = {index: round(share * trained.blocks[index]) for index in above}
        blocks[layers[place]] = trained.blocks[layers[place]]
        drawn = replace(trained, blocks=blocks)
        between = forward_work(shape, row, lowest, drawn.lowest(shape))
        total += chance * (between + suffix_work(shape, row, drawn))
    return total


def largest_sizes(
    trained: TrainedSizes, training: TrainingSpec, steps: int | None, steps_per_epoch: int | None
) -> TrainedSizes:
    """The most that trains in one step; every selected layer if the steps are not known.

    Where layers are drawn, the lowest one counts among them, since a draw with it keeps the most
    activations.
    """
    schedule, layers = training.layer_schedule, _layers(trained)
    if isinstance(schedule, GradualUnfreezing) and steps and steps_per_epoch:
        return unfrozen_sizes(schedule, trained, steps - 1, steps_per_epoch)
    if isinstance(schedule, SampledLayers):
        others = sorted(layers[1:], key=lambda index: -trained.blocks[index])
        drawn = [*layers[:1], *others[: schedule.layers - 1]]
        return replace(trained, blocks={index: trained.blocks[index] for index in drawn})
    return trained


def _layers(trained: TrainedSizes) -> list[int]:
    """The indices of the blocks of which something trains, bottom to top."""
    return sorted(index for index, size in trained.blocks.items() if size)
