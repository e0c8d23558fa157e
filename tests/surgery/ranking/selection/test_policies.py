"""What each policy chooses, against a search through every choice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest
from pydantic import ValidationError

from surgery.errors import SelectionEmpty, SelectionMismatch
from surgery.models.blocks import find_blocks, units_of
from surgery.models.layers import in_module_order, ranked_parts
from surgery.ranking.selection import choose_layers, granularity_of, ranking_options
from surgery.ranking.uncertainty import fewest_holding_half
from surgery.schemas.enums import Granularity
from surgery.schemas.jobs.ranking import LayerScore, RankingResult, RecommendedK, Stability
from surgery.schemas.jobs.selection import SelectionSpec
from surgery.schemas.resolved import LayerInfo
from tests.support.models.encoders import CONFIGS, tiny

LAYERS = [
    LayerInfo(name=f"encoder.layer.{place}", index=place, parameters=size)
    for place, size in enumerate([40, 10, 30, 20, 50, 5])
]
SCORES = {1: 7.0, 4: 3.0, 0: 3.0, 5: 0.5, 2: 0.0, 3: -1.0}  # by place, best first; one tie


def ranking(
    layers: Sequence[LayerInfo] = LAYERS, scores: dict[int, float] = SCORES, **fields: Any
) -> RankingResult:
    """The ranking of these layers with these scores, the best first."""
    total = sum(max(score, 0.0) for score in scores.values())
    ranked = [
        LayerScore(
            rank=rank, score=score, share=max(score, 0.0) / total if total else 0.0, ci=None,
            p_top_k=None, **layers[place].model_dump(),
        )
        for rank, (place, score) in enumerate(scores.items(), 1)
    ]  # fmt: skip
    known: dict[str, Any] = {
        "method": "fisher", "aggregate": "trace", "fisher": "empirical", "samples": 8,
        "path": "batched", "head": None, "warnings": [], "seconds": {},
    }  # fmt: skip
    nothing = Stability(split_half_kendall_tau=None, rank_confidence=None, ambiguous_k=None)
    return RankingResult(
        **known | fields, layers=ranked, stability=nothing,
        recommended_k=RecommendedK(k=1, reason="-"),
    )  # fmt: skip


def chosen(included: int = 0, ranked: RankingResult | None = None, **fields: Any) -> list[int]:
    selection = SelectionSpec.model_validate(fields)
    found = choose_layers(selection, LAYERS, ranked or ranking(), included)
    return [layer.index for layer in found]


@pytest.mark.parametrize("k", range(1, 7))
def test_a_number_of_the_ranking_s_ends(k: int) -> None:
    best_first = list(SCORES)
    assert chosen(policy="top_k", k=k) == sorted(best_first[:k])
    assert chosen(policy="bottom_k", k=k) == sorted(best_first[len(best_first) - k :])


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 7 / 13.5, 0.52, 0.75, 0.9, 0.97, 1.0])
def test_the_fewest_that_hold_a_share(share: float) -> None:
    """No choice of fewer layers holds it; of as many, the ranking's first are taken."""
    positive = {place: max(score, 0.0) for place, score in SCORES.items()}
    needed = share * sum(positive.values()) * (1 - 1e-12)
    size = next(
        size
        for size in range(1, 7)
        if any(sum(positive[p] for p in some) >= needed for some in combinations(positive, size))
    )
    assert chosen(policy="top_share", share=share) == sorted(list(SCORES)[:size])


def test_half_the_score_is_the_recommended_k() -> None:
    random_scores = random.Random(0)
    for _ in range(50):
        values = sorted((random_scores.uniform(-1, 3) for _ in LAYERS), reverse=True)
        ranked = ranking(scores=dict(enumerate(values)))
        k = fewest_holding_half([layer.share for layer in ranked.layers])
        assert len(chosen(ranked=ranked, policy="top_share", share=0.5)) == k


@pytest.mark.parametrize("included", [0, 7])
@pytest.mark.parametrize("budget", [5, 9, 10, 15, 47, 54, 60, 100, 130, 155, 1000])
def test_down_the_ranking_all_that_fits(budget: int, included: int) -> None:
    """The first choice, best first, in the order of "take it if it can be had"."""
    sizes = {layer.index: layer.parameters for layer in LAYERS}
    fitting = [
        some
        for size in range(1, 7)
        for some in combinations(SCORES, size)
        if included + sum(sizes[place] for place in some) <= budget
    ]
    if not fitting:
        with pytest.raises(SelectionEmpty, match="fits") as refused:
            chosen(included, policy="max_parameters", max_parameters=budget)
        [fault] = refused.value.faults
        assert fault.pointer == "/selection/max_parameters"
        assert fault.detail.startswith(f"at least {5 + included};")
        assert fault.suggestion == 5 + included
        return
    greedy = max(fitting, key=lambda some: [place in some for place in SCORES])
    found = chosen(included, policy="max_parameters", max_parameters=budget)
    assert found == sorted(greedy)


def test_a_tie_is_broken_as_the_ranking_breaks_it() -> None:
    other = {1: 7.0, 0: 3.0, 4: 3.0, 5: 0.5, 2: 0.0, 3: -1.0}
    assert chosen(policy="top_k", k=2) == [1, 4]
    assert chosen(policy="top_k", k=2, ranked=ranking(scores=other)) == [0, 1]


def test_places_need_no_ranking() -> None:
    assert chosen(policy="first_k", k=2) == [0, 1]
    assert chosen(policy="last_k", k=2) == [4, 5]
    drawn = chosen(policy="random_k", k=3, seed=1)
    assert drawn == sorted(set(drawn)) == chosen(policy="random_k", k=3, seed=1)
    assert any(drawn != chosen(policy="random_k", k=3, seed=seed) for seed in range(2, 6))
    assert chosen(policy="layers", layers=[3, "encoder.layer.0", 3]) == [0, 3]
    assert chosen(policy="all") == [0, 1, 2, 3, 4, 5]
    assert chosen(policy="head_only") == []


@pytest.mark.parametrize(
    ("scores", "method", "error", "word"),
    [
        (dict.fromkeys(range(6), 0.0), "fisher", SelectionEmpty, "above zero"),
        (dict.fromkeys(range(6), -1.0), "tangent", SelectionEmpty, "above zero"),
        (SCORES, "last", SelectionMismatch, "order only"),
        (SCORES, "random", SelectionMismatch, "order only"),
    ],
)
def test_a_share_of_nothing_is_refused(
    scores: dict[int, float], method: str, error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        chosen(ranked=ranking(scores=scores, method=method), policy="top_share", share=0.5)


def test_a_ranking_of_another_granularity_is_refused() -> None:
    finer = ranking(granularity="tensor")
    with pytest.raises(SelectionMismatch, match="the selection is of layers") as refused:
        chosen(ranked=finer, policy="top_k", k=1, granularity="layer")
    [fault] = refused.value.faults
    assert fault.pointer == "/selection/granularity"
    assert "set granularity to tensor" in fault.detail


def test_the_granularity_is_the_selection_s_else_the_ranking_s() -> None:
    def granularity(ranked: RankingResult | None = None, **fields: Any) -> str:
        selection = SelectionSpec.model_validate({"policy": "top_k", "k": 1, **fields})
        return granularity_of(selection, ranked).value

    assert granularity() == "layer"
    assert granularity(ranking(granularity="sublayer")) == "sublayer"
    assert granularity(granularity="tensor") == "tensor"
    assert granularity(ranking={"granularity": "tensor"}) == "tensor"
    assert granularity(ranking={"samples": 8}) == "layer"
    assert granularity(ranking={"samples": 8}, granularity="sublayer") == "sublayer"


def test_options_of_a_ranking_take_the_selection_s_granularity_and_keep_it() -> None:
    given = {"policy": "top_k", "k": 1, "granularity": "tensor", "ranking": {"samples": 8}}
    selection = SelectionSpec.model_validate(given)
    options = ranking_options(selection)
    assert (options.granularity, options.samples) == (Granularity.TENSOR, 8)
    assert SelectionSpec.model_validate(selection.model_dump(mode="json")) == selection
    bare = SelectionSpec.model_validate({"policy": "top_k", "k": 1, "granularity": "sublayer"})
    assert ranking_options(bare).granularity is Granularity.SUBLAYER
    with pytest.raises(ValidationError, match="scores whole layers"):
        SelectionSpec.model_validate({**given, "ranking": {"method": "tangent"}})
    with pytest.raises(ValidationError, match="granularity differs"):
        SelectionSpec.model_validate({**given, "ranking": {"granularity": "layer"}})


def infos(kind: str, granularity: Granularity) -> tuple[Any, list[LayerInfo], list[Any]]:
    model = tiny(kind)
    units = units_of(model, find_blocks(model), granularity)
    parts = [LayerInfo(name=u.name, index=u.index or 0, parameters=u.parameters) for u in units]
    return model, parts, units


@pytest.mark.parametrize("granularity", Granularity)
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_ranking_s_parts_come_in_the_order_of_the_model(
    kind: str, granularity: Granularity
) -> None:
    _, parts, _ = infos(kind, granularity)
    shuffled = list(range(len(parts)))
    random.Random(1).shuffle(shuffled)
    ranked = ranking(parts, dict.fromkeys(shuffled, 1.0), granularity=granularity)
    assert ranked_parts(ranked) == parts


def test_names_no_block_is_known_by_come_last() -> None:
    names = ["zeta.weight", "output.dense.bias", "output.dense.weight", "alpha"]
    assert in_module_order(names) == [
        "output.dense.weight", "output.dense.bias", "alpha", "zeta.weight",
    ]  # fmt: skip


@pytest.mark.parametrize("policy", ["first_k", "last_k", "random_k"])
@pytest.mark.parametrize("granularity", [Granularity.SUBLAYER, Granularity.TENSOR])
def test_places_among_finer_parts(policy: str, granularity: Granularity) -> None:
    _, parts, _ = infos("bert", granularity)
    given = {"policy": policy, "k": 3, "granularity": granularity}
    found = choose_layers(SelectionSpec.model_validate(given), parts)
    expected = {"first_k": parts[:3], "last_k": parts[-3:]}.get(policy, found)
    assert found == expected
    assert [part for part in parts if part in found] == found
    with pytest.raises(SelectionMismatch, match=f"has {len(parts)} {granularity}s"):
        choose_layers(SelectionSpec.model_validate({**given, "k": len(parts) + 1}), parts)


def test_finer_parts_go_by_name() -> None:
    _, parts, _ = infos("bert", Granularity.SUBLAYER)
    wanted: list[str | int] = ["encoder.layer.2.attention", "encoder.layer.0.feed_forward"]
    given = {"policy": "layers", "layers": wanted, "granularity": "sublayer"}
    found = choose_layers(SelectionSpec.model_validate(given), parts)
    assert [part.name for part in found] == wanted[::-1]
    given["layers"] = [0, "encoder.layer.0.attentoin", "encoder.layer.0"]
    with pytest.raises(SelectionMismatch) as refused:
        choose_layers(SelectionSpec.model_validate(given), parts)
    first, second, _ = refused.value.faults
    assert (first.pointer, second.pointer) == ("/selection/layers/0", "/selection/layers/1")
    assert "names only" in first.detail
    assert "did you mean 'encoder.layer.0.attention'" in second.detail
