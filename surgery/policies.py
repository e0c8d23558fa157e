"""Which layers a selection means, and how other tools write the same choice. Torch-free."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, Literal

from surgery.errors import Fault, SelectionEmpty, SelectionMismatch
from surgery.results import LayerInfo, RankingResult
from surgery.selection_spec import SelectionSpec
from surgery.spec import nearest
from surgery.terms import Granularity, Policy

Format = Literal["json", "regex", "peft", "axolotl"]


def choose_layers(
    selection: SelectionSpec, layers: Sequence[LayerInfo], ranking: RankingResult | None = None
) -> list[LayerInfo]:
    """The layers that train, bottom to top.

    Raises SelectionMismatch when the selection cannot be met by these layers (more than there are,
    unknown names, a ranking of other layers), SelectionEmpty when it matches none.
    """
    match selection.policy:
        case Policy.ALL:
            return list(layers)
        case Policy.HEAD_ONLY:
            return []
        case Policy.LAYERS:
            return _named(selection.layers or [], layers)
        case _:
            return _counted(selection, layers, ranking)


def _counted(
    selection: SelectionSpec, layers: Sequence[LayerInfo], ranking: RankingResult | None
) -> list[LayerInfo]:
    k = selection.k or 0
    if k > len(layers):
        raise SelectionMismatch(
            f"k is {k}, but the model has {len(layers)} layers",
            [Fault(f"at most {len(layers)}", pointer="/selection/k")],
        )
    if selection.policy is Policy.FIRST_K:
        return list(layers[:k])
    if selection.policy is Policy.LAST_K:
        return list(layers[-k:])
    if selection.policy is Policy.RANDOM_K:
        chosen = random.Random(selection.seed).sample(range(len(layers)), k)  # noqa: S311
        return [layers[index] for index in sorted(chosen)]
    if ranking is None:
        raise SelectionMismatch("policy top_k needs a ranking")
    check_ranking(ranking, layers)
    top = {layer.name for layer in ranking.layers[:k]}
    return [layer for layer in layers if layer.name in top]


def check_ranking(ranking: RankingResult, layers: Sequence[LayerInfo]) -> None:
    """A ranking must speak of exactly these layers. Raises SelectionMismatch."""
    require_layers(ranking)
    if {layer.name for layer in ranking.layers} != {layer.name for layer in layers}:
        raise SelectionMismatch(
            "the ranking is of another model: its layers are "
            f"{ranking.layers[0].name} and others, this model's are {layers[0].name} and others",
            [Fault("name a ranking of the same model", pointer="/selection/ranking")],
        )


def require_layers(ranking: RankingResult) -> None:
    """A selection is of whole layers. Raises SelectionMismatch for a finer ranking."""
    if ranking.granularity is not Granularity.LAYER:
        raise SelectionMismatch(
            f"the ranking is of the granularity {ranking.granularity}, and a selection is of whole "
            "layers; rank again without granularity"
        )


def _named(wanted: Sequence[str | int], layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    by_name = {layer.name: layer for layer in layers}
    chosen, faults = set(), []
    for place, want in enumerate(wanted):
        if isinstance(want, int) and 0 <= want < len(layers):
            chosen.add(want)
        elif isinstance(want, str) and want in by_name:
            chosen.add(by_name[want].index)
        else:
            faults.append(
                Fault(
                    f"no layer {want!r}{_hint(want, layers)}", pointer=f"/selection/layers/{place}"
                )
            )
    if faults:
        raise SelectionMismatch(
            f"the model has layers 0 to {len(layers) - 1}, {layers[0].name} to {layers[-1].name}",
            faults,
        )
    if not chosen:
        raise SelectionEmpty
    return [layers[index] for index in sorted(chosen)]


def _hint(want: str | int, layers: Sequence[LayerInfo]) -> str:
    near = nearest(str(want), [layer.name for layer in layers])
    return f"; did you mean {near!r}?" if near else ""


def selection_view(layers: Sequence[LayerInfo], form: Format) -> dict[str, Any]:
    """The chosen layers as a regular expression, a PEFT or an Axolotl setting, or plain JSON."""
    names = [layer.name for layer in layers]
    if not layers and form != "json":
        raise SelectionEmpty(f"no layer is selected: there is nothing to write as {form}")
    if form == "regex":
        return {"regex": _pattern(names)}
    if form == "peft":
        # LoraConfig(**this) adapts these layers only.
        lists = names[0].rpartition(".")[0].rpartition(".")[2]
        return {
            "layers_to_transform": [layer.index for layer in layers],
            "layers_pattern": lists,
        }
    if form == "axolotl":
        return {"unfrozen_parameters": [_pattern([name]) for name in names]}
    return {"layers": [layer.model_dump() for layer in layers]}


def _pattern(names: Sequence[str]) -> str:
    """Matches the parameters of exactly these layers: ``layer.1`` is not ``layer.11``."""
    inner = "|".join(re.escape(name) for name in names)
    return rf"^(?:.*\.)?(?:{inner})\."
