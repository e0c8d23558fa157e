"""Which layers, or parts of layers, a selection chooses, and how other tools write that choice."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, islice
from typing import Any, Literal, Protocol, TypeVar

from surgery.errors import MAX_FAULTS, Fault, SelectionEmpty, SelectionMismatch, nearest
from surgery.models.layers import ATTENTION, SUBLAYERS, part_of_block
from surgery.schemas.enums import METHODS, POLICIES, Granularity, Method, Policy
from surgery.schemas.jobs.ranking import LayerScore, RankingOptions, RankingResult
from surgery.schemas.jobs.search import SearchOptions, SearchResult
from surgery.schemas.jobs.selection import SelectionSpec
from surgery.schemas.resolved import LayerInfo, ResolvedSelection

ROUNDING = 1e-12  # allowed when a share counts as reached, here and in recommended_k

SelectionFormat = Literal["json", "regex", "peft", "axolotl"]


class LayerLike(Protocol):
    """What a selection chooses among: a layer, or a part of one."""

    @property
    def name(self) -> str:
        """The name within the encoder: ``encoder.layer.4`` or ``encoder.layer.4.attention``."""

    @property
    def parameters(self) -> int:
        """How many parameters it has."""


P = TypeVar("P", bound=LayerLike)


def choose_layers(
    selection: SelectionSpec,
    layers: Sequence[P],
    ranking: RankingResult | None = None,
    included: int = 0,
) -> list[P]:
    """The layers that train beside the head, bottom to top.

    ``layers`` are all those of the model at the selection's granularity, bottom to top. If the
    selection names no granularity it is the ranking's, or else whole layers. ``included`` is the
    number of parameters in what `include` names, which counts towards `max_parameters`.

    Raises SelectionMismatch when these layers cannot satisfy the selection (it asks for more than
    there are, names unknown ones, or its ranking is of other layers), and SelectionEmpty when none
    is chosen.
    """
    granularity = granularity_of(selection, ranking)
    match selection.policy:
        case Policy.ALL:
            return list(layers)
        case Policy.HEAD_ONLY:
            return []
        case Policy.LAYERS:
            return _named(selection.layers or [], layers, granularity)
        case Policy.SEARCH:
            raise SelectionMismatch(
                "policy search chooses by a search and not by a ranking",
                [Fault("use another policy", pointer="/selection/policy")],
            )
        case policy if POLICIES[policy].needs_ranking:
            check_reachable(selection, layers, granularity, included)
            if ranking is None:
                raise SelectionMismatch(f"policy {policy} needs a ranking")
            check_ranking(ranking, layers, granularity)
            chosen = {layer.name for layer in _by_score(selection, ranking, included)}
            return [layer for layer in layers if layer.name in chosen]
        case _:
            check_reachable(selection, layers, granularity, included)
            return _by_place(selection, layers)


def ranking_options(selection: SelectionSpec) -> RankingOptions:
    """The options of the ranking to compute for a selection that names none by its id."""
    if isinstance(selection.ranking, RankingOptions):
        return selection.ranking
    return RankingOptions(granularity=selection.granularity or Granularity.LAYER)


def granularity_of(selection: SelectionSpec, ranking: RankingResult | None = None) -> Granularity:
    """What a selection chooses among: as it says, else what its ranking ranks, else layers."""
    if selection.granularity is None and ranking is not None:
        return ranking.granularity
    return ranking_options(selection).granularity


def resolved_choice(
    chosen: Sequence[LayerLike],
    granularity: Granularity,
    ranking: RankingResult | None = None,
    included: int = 0,
) -> ResolvedSelection:
    """A choice as a job stores it, with the scores that it was made by, if any."""
    weighs = ranking is not None and METHODS[Method(ranking.method)].weighs
    scored = ranking.layers if ranking is not None and weighs else None
    return ResolvedSelection(
        granularity=granularity,
        layers=[layer.name for layer in chosen],
        selected_parameters=sum(layer.parameters for layer in chosen) + included,
        scores=None if scored is None else {layer.name: layer.score for layer in scored},
    )


def found_by_search(search: SearchResult, layers: Sequence[LayerLike]) -> ResolvedSelection:
    """What a search found, as a job that trains it stores it.

    ``layers`` are all those of the model, bottom to top. Raises SelectionMismatch if the search
    found others.
    """
    known = {layer.name: layer.parameters for layer in layers}
    unknown = [name for name in search.layers if name not in known]
    if unknown:
        raise SelectionMismatch(
            f"the search is of another model: it found {unknown[0]}, and this model's layers are "
            f"{layers[0].name} to {layers[-1].name}",
            [Fault("name a search of the same model", pointer="/selection/search")],
        )
    return ResolvedSelection(
        granularity=Granularity.LAYER,
        layers=search.layers,
        selected_parameters=sum(known[name] for name in search.layers),
        scores=search.scores.get(Method.FISHER),
        learning_rate=search.learning_rate,
    )


def search_options(selection: SelectionSpec) -> SearchOptions:
    """The options of the search to run for a selection that names none by its id."""
    return selection.search if isinstance(selection.search, SearchOptions) else SearchOptions()


def check_reachable(
    selection: SelectionSpec,
    layers: Sequence[LayerLike],
    granularity: Granularity,
    included: int = 0,
) -> None:
    """Raise SelectionMismatch or SelectionEmpty for a selection that no ranking can satisfy."""
    k, budget = selection.k, selection.max_parameters
    if k is not None and k > len(layers):
        most, parts = len(layers), _PLURAL[granularity]
        advice = f"at most {most}; pass a smaller number, or {most} for all of its {parts}"
        raise SelectionMismatch(
            f"k is {k}, but the model has {most} {parts}",
            [Fault(advice, pointer="/selection/k", suggestion=most)],
        )
    if budget is None:
        return
    least = included + min(layer.parameters for layer in layers)
    if least > budget:
        beside = f" beside the {included:,} in what `include` names" if included else ""
        raise SelectionEmpty(
            f"no {_SINGULAR[granularity]} fits into {budget:,} parameters{beside}",
            [
                Fault(
                    f"at least {least:,}; pass so many, or train the head alone",
                    pointer="/selection/max_parameters",
                    suggestion=least,
                )
            ],
        )


_SINGULAR = {
    Granularity.LAYER: "layer",
    Granularity.SUBLAYER: "sublayer",
    Granularity.TENSOR: "tensor",
}
_PLURAL = {granularity: f"{name}s" for granularity, name in _SINGULAR.items()}


def _by_place(selection: SelectionSpec, layers: Sequence[P]) -> list[P]:
    k = selection.k or 0
    if selection.policy is Policy.FIRST_K:
        return list(layers[:k])
    if selection.policy is Policy.LAST_K:
        return list(layers[-k:])
    chosen = random.Random(selection.seed).sample(range(len(layers)), k)  # noqa: S311
    return [layers[place] for place in sorted(chosen)]


def _by_score(
    selection: SelectionSpec, ranking: RankingResult, included: int
) -> Sequence[LayerScore]:
    """The chosen entries of the ranking, best first."""
    ranked = ranking.layers
    match selection.policy:
        case Policy.TOP_SHARE:
            return _top_share(selection.share or 0.0, ranking)
        case Policy.MAX_PARAMETERS:
            return _fitting((selection.max_parameters or 0) - included, ranked)
        case Policy.BOTTOM_K:
            return ranked[-(selection.k or 0) :]
        case _:
            return ranked[: selection.k]


def _top_share(share: float, ranking: RankingResult) -> Sequence[LayerScore]:
    """The fewest layers that hold the share, best first; negative scores count as zero."""
    if not METHODS[Method(ranking.method)].weighs:
        raise SelectionMismatch(
            f"policy top_share adds up scores, and method {ranking.method} gives an order only",
            [Fault("use top_k, or a ranking by another method", pointer="/selection/policy")],
        )
    sums = list(accumulate(max(layer.score, 0.0) for layer in ranking.layers))
    total = sums[-1]
    if total <= 0:
        raise SelectionEmpty(
            "no score of the ranking is above zero, so none holds a share of them",
            [Fault("use top_k, or a ranking by another method", pointer="/selection/policy")],
        )
    enough = next(n for n, reached in enumerate(sums, 1) if reached >= (share - ROUNDING) * total)
    return ranking.layers[:enough]


def _fitting(budget: int, ranked: Sequence[LayerScore]) -> Sequence[LayerScore]:
    """Go down the ranking and take each layer that still fits into the budget."""
    chosen = []
    for layer in ranked:
        if layer.parameters <= budget:
            chosen.append(layer)
            budget -= layer.parameters
    return chosen


def check_ranking(
    ranking: RankingResult,
    layers: Sequence[LayerLike],
    granularity: Granularity = Granularity.LAYER,
) -> None:
    """Raise SelectionMismatch unless a ranking ranks exactly these layers."""
    if ranking.granularity is not granularity:
        raise SelectionMismatch(
            f"the selection is of {_PLURAL[granularity]}, and the ranking of "
            f"{_PLURAL[ranking.granularity]}",
            [
                Fault(
                    f"set granularity to {ranking.granularity}, or name a ranking of "
                    f"{_PLURAL[granularity]}",
                    pointer="/selection/granularity",
                )
            ],
        )
    if {layer.name for layer in ranking.layers} != {layer.name for layer in layers}:
        raise SelectionMismatch(
            "the ranking is of another model: its layers are "
            f"{ranking.layers[0].name} and others, this model's are {layers[0].name} and others",
            [Fault("name a ranking of the same model", pointer="/selection/ranking")],
        )


def _named(entries: Sequence[str | int], layers: Sequence[P], granularity: Granularity) -> list[P]:
    names = [layer.name for layer in layers]
    places: dict[str | int, int] = {name: place for place, name in enumerate(names)}
    if granularity is Granularity.LAYER:
        places |= {place: place for place in range(len(names))}
    unknown = ((place, entry) for place, entry in enumerate(entries) if entry not in places)
    faults = [
        Fault(
            f"no {_SINGULAR[granularity]} {entry!r}{_hint(entry, names, granularity)}",
            pointer=f"/selection/layers/{place}",
        )
        for place, entry in islice(unknown, MAX_FAULTS)
    ]
    if faults:
        raise SelectionMismatch(
            f"the model has {len(names)} {_PLURAL[granularity]}, {names[0]} to {names[-1]}", faults
        )
    if not entries:
        raise SelectionEmpty
    return [layers[place] for place in sorted({places[entry] for entry in entries})]


def _hint(entry: str | int, names: list[str], granularity: Granularity) -> str:
    if isinstance(entry, int):
        finer = granularity is not Granularity.LAYER
        return "; finer parts have names only" if finer else f"; indices are 0 to {len(names) - 1}"
    near = nearest(entry, names)
    return f"; did you mean {near!r}?" if near else ""


def selection_view(
    layers: Sequence[LayerInfo], form: SelectionFormat, granularity: Granularity = Granularity.LAYER
) -> dict[str, Any]:
    """The choice as a regular expression, a PEFT or Axolotl setting, or plain JSON.

    Raises SelectionEmpty if nothing is chosen, and SelectionMismatch for a choice that PEFT's
    setting cannot express.
    """
    names = [layer.name for layer in layers]
    if not layers and form != "json":
        raise SelectionEmpty(f"no layer is selected: there is nothing to write as {form}")
    if form == "regex":
        return {"regex": _pattern(names, granularity)}
    if form == "peft":
        return _peft(names, granularity)
    if form == "axolotl":
        return {"unfrozen_parameters": [_axolotl(_pattern([n], granularity)) for n in names]}
    return {"layers": [layer.model_dump() for layer in layers]}


def tensors_of(
    layers: Sequence[LayerLike], granularity: Granularity, names: Iterable[str]
) -> set[str]:
    """The tensors of these layers or parts, among those with these names inside the encoder."""
    chosen = {layer.name for layer in layers}
    if granularity is Granularity.TENSOR:
        return chosen.intersection(names)
    whole = granularity is Granularity.LAYER
    blocks = chosen if whole else {name.rpartition(".")[0] for name in chosen}
    found = set()
    for name in names:
        block = next((each for each in blocks if name.startswith(f"{each}.")), None)
        if block is not None:
            part = part_of_block(name.removeprefix(f"{block}."), granularity)
            if (f"{block}.{part}" if part else block) in chosen:
                found.add(name)
    return found


def matched_tensors(
    view: Mapping[str, Any], form: SelectionFormat, names: Iterable[str]
) -> set[str]:
    """The tensors that a tool takes for chosen by what ``selection_view`` wrote for it.

    The view is read as its tool reads it: a regular expression has to match the whole name, Axolotl
    takes every dot for itself but in ``.+``, and PEFT looks at the names of modules.
    """
    if form == "peft":
        listed = "|".join(map(str, view["layers_to_transform"]))
        pattern = re.compile(rf"(?:^|.*?\.){view['layers_pattern']}\.(?:{listed})\.")
        return {name for name in names if pattern.match(name.rpartition(".")[0])}
    if form == "axolotl":
        literal = [re.sub(r"\.(?!\+)", r"\\.", each) for each in view["unfrozen_parameters"]]
        patterns = [re.compile(each) for each in literal]
        return {name for name in names if any(each.match(name) for each in patterns)}
    return {name for name in names if re.fullmatch(view["regex"], name)}


def _pattern(names: Sequence[str], granularity: Granularity) -> str:
    """A pattern that matches the parameters of exactly these; ``layer.1`` is not ``layer.11``.

    It matches the whole of each name, so that it is right however a tool applies it.
    """
    if granularity is Granularity.LAYER:
        return rf"^(?:.*\.)?(?:{_any(names)})\..*$"
    if granularity is Granularity.TENSOR:
        return rf"^(?:.*\.)?(?:{_any(names)})$"
    layers = {
        part: [name.removesuffix(f".{part}") for name in names if name.endswith(f".{part}")]
        for part in SUBLAYERS
    }
    looks = {"attention": f"(?={ATTENTION})", "feed_forward": f"(?!{ATTENTION})"}
    inner = "|".join(rf"(?:{_any(layers[p])})\.{looks[p]}" for p in SUBLAYERS if layers[p])
    return rf"^(?:.*\.)?(?:{inner}).*$"


def _axolotl(pattern: str) -> str:
    """The pattern as Axolotl expects it: it escapes every dot itself, except in ``.+``."""
    return pattern.replace(".*", ".+").replace(r"\.", ".")


def _any(names: Sequence[str]) -> str:
    return "|".join(re.escape(name) for name in names)


def _peft(names: Sequence[str], granularity: Granularity) -> dict[str, Any]:
    """Arguments of ``LoraConfig`` with which it adapts these layers only."""
    pointer = "/format"
    if granularity is not Granularity.LAYER:
        raise SelectionMismatch(
            f"PEFT's layers_to_transform names whole layers, and the ranking is of {granularity}s",
            [Fault("use regex, or a ranking of layers", pointer=pointer)],
        )
    lists = {name.rpartition(".")[0] for name in names}
    if len(lists) > 1:
        raise SelectionMismatch(
            "PEFT's layers_to_transform names layers of one list, and this model has several: "
            + ", ".join(sorted(lists)),
            [Fault("use regex", pointer=pointer)],
        )
    return {
        "layers_to_transform": [int(name.rpartition(".")[2]) for name in names],
        "layers_pattern": _list_pattern(lists.pop()),
    }


def _list_pattern(name: str) -> str:
    """The pattern for a list of layers: the last name of its path.

    If the path contains an index, the pattern begins with the name before the first one, because
    each of ALBERT's groups has a list of the same last name. It begins no earlier: PEFT requires
    another name before the pattern, and a bare encoder's path may have none to spare.
    """
    parts = name.split(".")
    first = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[first - 1 :])
