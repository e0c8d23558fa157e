"""Estimates what jobs would cost from a model's sizes and from what finished jobs measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from app.service import Service
from app.submissions.checks import check_families
from app.submissions.estimating.lengths import row_lengths
from app.submissions.estimating.speeds import throughput
from app.submissions.resolve import Subject
from app.submissions.selections import resolve_selection
from app.submissions.submit import check_training_field
from surgery.data.lengths import expected_rows, first_rows
from surgery.errors import SelectionMismatch
from surgery.models.layers import BESIDE, encoder_sizes
from surgery.models.shape import (
    EncoderShape,
    encoder_shape,
    has_pooler,
    head_size,
    reads_first_token,
    total_parameters,
)
from surgery.ranking.selection import search_options
from surgery.schemas.enums import POLICIES, Granularity, Policy, Problem
from surgery.schemas.jobs.estimate import (
    Estimate,
    EstimateRow,
    EstimateSpec,
    Position,
    SearchEstimate,
)
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.search import SearchOptions, SearchSpec
from surgery.schemas.jobs.selection import SelectionSpec
from surgery.schemas.options.layer_schedule import check_layer_count
from surgery.schemas.options.training import run_rows, total_steps, with_dropout_decided
from surgery.schemas.resolved import LayerInfo, ModelInfo
from surgery.training.costs.estimate import Data, adapter_trained, memory, outputs_of, seconds
from surgery.training.costs.flops import TrainedSizes
from surgery.training.search.decision.candidates import candidates_of

Json = dict[str, Any]


@dataclass(frozen=True)
class EstimateInputs:
    """A request, and what all rows of its answer have in common."""

    spec: EstimateSpec
    info: ModelInfo
    shape: EncoderShape
    tensors: dict[str, int]  # sizes of the encoder's tensors that the task model has
    head: int | None  # parameters of the head; None if only the data tell its size
    total: int | None  # parameters of the task model
    data: Data
    rate: float | None  # operations per second

    def row(
        self,
        trained: TrainedSizes,
        policy: str,
        k: int | None,
        position: Position,
        *,
        exactly: bool = True,
    ) -> EstimateRow:
        """The costs of one fine-tune.

        If the sizes of what trains are not known exactly, ``trained`` has about these, and only
        the seconds are answered, on which that has next to no effect.
        """
        training, data = self.spec.training, self.data
        values: Json = dict.fromkeys(EstimateRow.model_fields)
        values |= {"k": k, "policy": policy, "position": position}
        if data.train is not None:
            values["steps"] = total_steps(training, data.train)
        if self.total is not None:
            values["weights_bytes"] = 4 * self.total
        lowest = trained.lowest(self.shape)
        values["lowest_layer"] = lowest if lowest < len(self.shape.blocks) else None
        if self.rate is not None:
            values["seconds"] = seconds(self.shape, trained, data, training, self.rate)
        if self.head is None or self.total is None or not exactly:
            return EstimateRow(**values)
        needed = memory(self.shape, self.total, trained, data, training)
        values |= {
            "trainable_parameters": trained.parameters,
            "gradient_bytes": needed.gradients,
            "optimizer_bytes": needed.moments,
            "activation_bytes": needed.activations,
            "prefix_cache_bytes": needed.cache,
            "peak_memory_bytes": needed.peak,
            "checkpoint_bytes": None if policy == "lora" else 4 * trained.parameters,
        }
        return EstimateRow(**values)


def estimate(service: Service, spec: EstimateSpec, subject: Subject) -> Estimate:
    """Answer a request about this subject. Raises the errors that a submission would raise."""
    dataset, info, problem = subject.dataset, subject.info, subject.dataset.problem
    training = with_dropout_decided(spec.training, problem)
    spec = spec.model_copy(update={"training": training})
    check_training_field(training, subject, processes=1)
    if spec.search is not None:
        check_families(spec.search, len(info.layers), "/search")
    outputs, choices = _outputs(problem, dataset.labels or [])
    first = first_rows(subject.data) if subject.data else None
    rows = expected_rows(subject.data, first) if subject.data else dataset.rows
    lengths, row = row_lengths(service.database, subject, first, training.max_length, choices)
    prefix = subject.source.prefix
    shape = encoder_shape(subject.source.config, subject.sizes, prefix, info.layers)
    rate, process = throughput(
        service.database, subject.model.fingerprint, training.precision, shape.hidden
    )
    inputs = EstimateInputs(
        spec=spec,
        info=info,
        shape=shape,
        tensors=_of_encoder(encoder_sizes(subject.sizes, prefix), shape, problem),
        head=None if outputs is None else head_size(shape, problem, outputs),
        total=None if outputs is None else total_parameters(shape, problem, outputs),
        data=Data(
            *run_rows(training, problem, rows),
            row,
            lengths.longest,
            choices,
            first_only=reads_first_token(shape, problem),
        ),
        rate=rate.operations_per_second,
    )
    return Estimate(
        model=subject.model.id,
        dataset=dataset.id,
        layers=len(info.layers),
        lengths=lengths,
        total_parameters=inputs.total,
        throughput=rate,
        process_bytes=process,
        rows=[] if spec.search else list(_rows(service, inputs, subject)),
        search=_search(inputs),
    )


def _outputs(problem: Problem, labels: Sequence[str]) -> tuple[int | None, int]:
    """How many outputs the head has, None if only the data tell, and how many choices a row has."""
    if problem is Problem.MULTIPLE_CHOICE:
        return 1, len(labels) or 2  # the one preset has two; an upload's labels are its choices
    if problem is Problem.REGRESSION or labels:
        return outputs_of(problem, len(labels)), 1
    return None, 1


def _of_encoder(sizes: dict[str, int], shape: EncoderShape, problem: Problem) -> dict[str, int]:
    """The sizes of the checkpoint's tensors that the task model has below its head."""
    pooler = has_pooler(shape, problem)
    return {name: n for name, n in sizes.items() if pooler or not name.startswith(BESIDE["pooler"])}


def estimate_spec_of(spec: FinetuneSpec | SearchSpec) -> EstimateSpec:
    """The request for an estimate of exactly this fine-tune or search."""
    if isinstance(spec, SearchSpec):
        options = {name: getattr(spec, name) for name in SearchOptions.model_fields}
        return EstimateSpec(
            model=spec.model,
            dataset=spec.dataset,
            training=spec.training,
            search=SearchOptions(**options),
        )
    return EstimateSpec(
        model=spec.model,
        dataset=spec.dataset,
        training=spec.training,
        adapter=spec.adapter,
        selection=None if spec.adapter else spec.selection,
    )


def _rows(service: Service, inputs: EstimateInputs, subject: Subject) -> Iterator[EstimateRow]:
    spec = inputs.spec
    if spec.adapter is not None:
        layers, head = inputs.info.layers, inputs.head or 0
        trained = adapter_trained(inputs.tensors, layers, spec.adapter, head)
        about = TrainedSizes({layer.index: spec.adapter.rank for layer in layers}, head)
        known = trained is not None
        yield inputs.row(trained or about, spec.adapter.type, None, "exact", exactly=known)
        return
    for place, selection in enumerate(_selections(spec, inputs.info)):
        with _of_list(spec, place):
            resolved = resolve_selection(service, selection, subject)
        parts = inputs.info.at(resolved.granularity or Granularity.LAYER)
        if resolved.layers is not None:
            names = set(resolved.layers)
            chosen = [part for part in parts if part.name in names]
            yield _row(inputs, selection, chosen, "exact")
        elif POLICIES[selection.policy].searches:
            candidates = _candidates(inputs, search_options(selection))
            yield _row(inputs, selection, _costliest(candidates), "lowest")
            yield _row(inputs, selection, _cheapest(candidates), "highest")
        elif selection.k is None:
            # How many layers the scores will choose is not known before they are computed.
            most = _lowest_within(parts, selection.max_parameters)
            yield _costs(inputs, selection, most, "lowest").model_copy(update={"k": None})
            yield _costs(inputs, selection, parts[-1:], "highest").model_copy(update={"k": None})
        else:
            k = selection.k
            yield _row(inputs, selection, [*parts[:1], *parts[len(parts) - k + 1 :]], "lowest")
            yield _row(inputs, selection, parts[-k:], "highest")


@contextmanager
def _of_list(spec: EstimateSpec, place: int) -> Iterator[None]:
    """Lets faults of ``selection.k`` point at the entry of the list ``k`` that it came from."""
    try:
        yield
    except SelectionMismatch as error:
        if spec.k is not None:
            error.faults = [
                replace(fault, pointer=f"/k/{place}") if fault.pointer == "/selection/k" else fault
                for fault in error.faults
            ]
        raise


def _selections(spec: EstimateSpec, info: ModelInfo) -> list[SelectionSpec]:
    base = spec.selection or SelectionSpec(policy=Policy.TOP_K, k=1)
    if spec.k is None and spec.selection is not None:
        return [base]
    counts = spec.k or range(1, len(info.layers) + 1)
    return [base.model_copy(update={"k": k}) for k in counts]


def _row(
    inputs: EstimateInputs, selection: SelectionSpec, chosen: list[LayerInfo], position: Position
) -> EstimateRow:
    """The costs of training these parts. Raises TrainingInvalid if too few could take turns."""
    blocks = {part.index for part in chosen}
    check_layer_count(inputs.spec.training.layer_schedule, len(blocks))
    return _costs(inputs, selection, chosen, position)


def _costs(
    inputs: EstimateInputs, selection: SelectionSpec, chosen: list[LayerInfo], position: Position
) -> EstimateRow:
    blocks: dict[int, int] = defaultdict(int)
    for part in chosen:
        blocks[part.index] += part.parameters
    included = set(selection.include)
    beside = (inputs.head or 0) + sum(inputs.info.groups[part] for part in included)
    trained = TrainedSizes(dict(blocks), beside, below="embeddings" in included)
    return inputs.row(trained, selection.policy, len(chosen), position)


def _lowest_within(parts: Sequence[LayerInfo], most: int | None) -> list[LayerInfo]:
    """As many parts from the lowest one up as have at most this many parameters together."""
    chosen: list[LayerInfo] = []
    for part in parts:
        if most is None or sum(each.parameters for each in chosen) + part.parameters <= most:
            chosen.append(part)
    return chosen


def _candidates(inputs: EstimateInputs, options: SearchOptions) -> list[list[LayerInfo]]:
    """The sets of layers that a search may try."""
    layers = inputs.info.layers
    found = candidates_of(options.families, len(layers))
    return [[layers[place] for place in candidate.layers] for candidate in found]


def _costliest(candidates: Sequence[list[LayerInfo]]) -> list[LayerInfo]:
    """Of the candidates whose lowest layer is lowest, that with the most layers."""
    return min(candidates, key=lambda chosen: (chosen[0].index, -len(chosen)))


def _cheapest(candidates: Sequence[list[LayerInfo]]) -> list[LayerInfo]:
    """Of the candidates whose lowest layer is highest, that with the fewest layers."""
    return max(candidates, key=lambda chosen: (chosen[0].index, -len(chosen)))


def _search(inputs: EstimateInputs) -> SearchEstimate | None:
    """What the search of a request would cost, if it asks for one that has not run yet."""
    spec = inputs.spec
    selection, options = spec.selection, spec.search
    if selection is not None and POLICIES[selection.policy].searches:
        options = None if isinstance(selection.search, str) else search_options(selection)
    if options is None:
        return None
    candidates = _candidates(inputs, options)
    of_search = SelectionSpec(policy=Policy.SEARCH)
    rows = [_row(inputs, of_search, [layer], "exact") for layer in inputs.info.layers]
    seconds = [row.seconds.total for row in rows if row.seconds is not None]
    singles = round(sum(seconds), 3) if len(seconds) == len(rows) else None
    budget = options.budget_seconds
    if budget is None and singles is not None:
        budget = round(options.budget_share * singles, 3)
    return SearchEstimate(
        candidates=len(candidates),
        singles_seconds=singles,
        budget_seconds=budget,
        peak_memory_bytes=_row(
            inputs, of_search, _costliest(candidates), "exact"
        ).peak_memory_bytes,
    )
