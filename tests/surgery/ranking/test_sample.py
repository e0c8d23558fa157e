"""The rows that are scored: batches, shares, memory that runs out, and shuffles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from surgery.data.tokens.dataset import Batch
from surgery.data.tokens.sequences import IGNORED
from surgery.data.tokens.tokenize import encode
from surgery.errors import OutOfMemory, SurgeryError
from surgery.io.library_errors import is_out_of_memory
from surgery.models.distributed import Share
from surgery.models.loading import LoadedModel
from surgery.ranking.ranking import rank_layers
from surgery.ranking.sample import Sample, with_shuffled_labels, with_shuffled_tokens
from surgery.schemas.enums import Method, Problem
from surgery.schemas.jobs.ranking import RankingOptions, RankingResult
from tests.support.models.toys import toy_data, toy_model

CPU = torch.device("cpu")


def sample_of(rows: int = 30, **given: Any) -> Sample:
    loaded = toy_model()
    return Sample(encode(toy_data(rows).train, loaded.tokenizer, 32), CPU, **given)


def numbers(batches: Iterator[Batch]) -> list[list[int]]:
    return [batch["sample"].tolist() for batch in batches]


@pytest.mark.parametrize("given", [{}, {"batch_size": 4}, {"tokens": 40}, {"tokens": 1}])
def test_every_row_comes_once_with_its_own_tokens(given: dict[str, int]) -> None:
    sample = sample_of(**given)
    seen = []
    for batch in sample.batches():
        size = batch["input_ids"].numel()
        assert len(batch["labels"]) == 1 or given.get("batch_size") or size <= sample.tokens
        assert len(batch["labels"]) <= given.get("batch_size", 30)
        for row, number in enumerate(batch["sample"].tolist()):
            alone = sample.encoded.batch([number])
            own = batch["attention_mask"][row] > 0
            assert torch.equal(batch["input_ids"][row][own], alone["input_ids"][0])
            assert batch["labels"][row] == alone["labels"][0]
            seen.append(number)
    assert sorted(seen) == list(range(30))


def test_some_rows_keep_their_numbers() -> None:
    sample = sample_of(tokens=30)
    found = [number for batch in numbers(sample.batches([3, 8, 9, 21])) for number in batch]
    assert sorted(found) == [3, 8, 9, 21]


@pytest.mark.parametrize("world", [2, 3, 7])
@pytest.mark.parametrize(
    ("rows", "given"), [(7, {}), (30, {}), (30, {"tokens": 40}), (30, {"batch_size": 16})]
)
def test_processes_share_all_rows_and_none_is_idle(
    rows: int, given: dict[str, int], world: int
) -> None:
    seen: list[int] = []
    for rank in range(world):
        sample = sample_of(rows, share=Share(rank, world), **given)
        own = list(sample.batches())
        assert own
        for batch in own:
            size = batch["input_ids"].numel()
            assert size <= sample.tokens or len(batch["labels"]) == 1 or "batch_size" in given
        seen += [number for batch in own for number in batch["sample"].tolist()]
    assert sorted(seen) == list(range(rows))


def test_more_processes_than_rows() -> None:
    with pytest.raises(SurgeryError, match="3 samples cannot be shared by 4 processes"):
        list(sample_of(3, share=Share(0, 4)).batches())


class Cramped:
    """A device that holds so many tokens of a batch and no more."""

    def __init__(self, model: nn.Module, most: int, error: Callable[[], Exception]) -> None:
        self.sizes: list[int] = []
        self.failures = 0
        self._most, self._error = most, error
        model.register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, *called: Any) -> None:
        size = called[-1]["input_ids"].numel()
        if size > self._most:
            self.failures += 1
            raise self._error()
        self.sizes.append(size)


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def ranked(loaded: LoadedModel, **given: Any) -> RankingResult:
    options = {"samples": 30, "head": {"warmup_epochs": 0}, **given}
    return rank_layers(loaded, toy_data(30), RankingOptions(**options))


def without_time(result: RankingResult) -> dict[str, Any]:
    return result.model_dump(exclude={"seconds"})


def same(first: Any, second: Any) -> bool:
    """Equal but for the rounding of float64."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float):
        return bool(first == pytest.approx(second, rel=1e-9, abs=1e-12))
    return bool(first == second)


@pytest.mark.parametrize(
    "given",
    [
        {"method": Method.FISHER},
        {"aggregate": "frobenius"},
        {"method": Method.GRADIENT_NORM},
        {"method": Method.CLS_SIMILARITY},
        {"method": Method.TANGENT},
        {"method": Method.FISHER, "adaptive": True},
    ],
    ids=lambda given: "-".join(map(str, given.values())),
)
@pytest.mark.parametrize(
    "error",
    [
        out_of_memory,
        lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError,
    ],
)
def test_smaller_batches_where_memory_runs_out_give_the_same(
    given: dict[str, Any], error: Callable[[], Exception]
) -> None:
    expected = ranked(toy_model(), **given)
    loaded = toy_model()
    device = Cramped(loaded.model, 100, error)
    found = ranked(loaded, **given)
    assert device.failures >= 1
    assert max(device.sizes) > 32  # still batches
    assert same(without_time(found), without_time(expected))


def test_a_row_too_large_for_the_device() -> None:
    loaded = toy_model()
    Cramped(loaded.model, 10, out_of_memory)
    with pytest.raises(OutOfMemory, match=r"one row of 14 tokens .* lower max_length below 14"):
        ranked(loaded, model_prior=False)


@pytest.mark.parametrize(("size", "advice"), [(16, "try batch_size 8"), (1, "lower max_length")])
def test_a_batch_size_is_never_changed(size: int, advice: str) -> None:
    loaded = toy_model()
    device = Cramped(loaded.model, 10, out_of_memory)
    with pytest.raises(OutOfMemory, match=advice) as caught:
        ranked(loaded, batch_size=size, model_prior=False)
    assert device.failures == 1
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_other_failures_are_not_taken_for_memory() -> None:
    loaded = toy_model()
    Cramped(loaded.model, 100, lambda: RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        ranked(loaded)
    assert not is_out_of_memory(ValueError("no"))


def test_the_model_is_whole_after_memory_ran_out() -> None:
    loaded = toy_model()
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    Cramped(loaded.model, 100, out_of_memory)
    ranked(loaded)
    assert all(torch.equal(value, before[n]) for n, value in loaded.model.state_dict().items())
    assert not any(module._forward_hooks for module in loaded.model.modules())


def labels_of(batches: list[Batch]) -> list[int]:
    return [label for batch in batches for label in batch["labels"].flatten().tolist()]


def test_shuffled_labels_are_the_same_labels() -> None:
    batches = list(sample_of(tokens=60).batches())
    before = [{name: tensor.clone() for name, tensor in batch.items()} for batch in batches]
    found = with_shuffled_labels(batches, 1)
    assert sorted(labels_of(found)) == sorted(labels_of(batches))
    assert labels_of(found) != labels_of(batches)
    assert labels_of(with_shuffled_labels(batches, 1)) == labels_of(found)
    assert labels_of(with_shuffled_labels(batches, 2)) != labels_of(found)
    for old, batch, new in zip(before, batches, found, strict=True):
        assert all(torch.equal(batch[name], old[name]) for name in batch)  # the given ones are kept
        assert all(torch.equal(new[name], old[name]) for name in batch if name != "labels")


def test_shuffled_tags_stay_on_tagged_tokens() -> None:
    problem = Problem.TOKEN_CLASSIFICATION
    encoded = encode(toy_data(30, problem=problem).train, toy_model().tokenizer, 32)
    batches = list(Sample(encoded, CPU, tokens=100).batches())
    found = with_shuffled_labels(batches, 1)
    assert sorted(labels_of(found)) == sorted(labels_of(batches))
    assert labels_of(found) != labels_of(batches)
    for old, new in zip(batches, found, strict=True):
        assert torch.equal(old["labels"] == IGNORED, new["labels"] == IGNORED)
        assert (old["labels"] == IGNORED).any()


@pytest.mark.parametrize("problem", [Problem.CLASSIFICATION, Problem.TOKEN_CLASSIFICATION])
def test_batches_change_no_shuffle(problem: Problem) -> None:
    loaded = toy_model(problem=problem)
    encoded = encode(toy_data(30, problem=problem).train, loaded.tokenizer, 32)
    seen = []
    for tokens in (4096, 50):
        batches = list(Sample(encoded, CPU, tokens=tokens).batches())
        shuffled = with_shuffled_tokens(with_shuffled_labels(batches, 1), [0, 1, 2, 3, 4], 1)
        rows = {}
        for batch in shuffled:
            for row, number in enumerate(batch["sample"].tolist()):
                own = batch["attention_mask"][row] > 0
                label = batch["labels"][row]
                rows[number] = (
                    batch["input_ids"][row][own].tolist(),
                    (label[own] if label.dim() else label).tolist(),
                )
        seen.append(rows)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("kind", ["bert", "xlnet"])  # padded on the right, on the left
def test_shuffled_tokens_stay_in_their_text(kind: str) -> None:
    loaded = toy_model(kind)
    batches = list(Sample(encode(toy_data(30).train, loaded.tokenizer, 32), CPU).batches())
    special = loaded.tokenizer.all_special_ids
    found = with_shuffled_tokens(batches, special, 1)
    moved = 0
    for old, new in zip(batches, found, strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old if name != "input_ids")
        for before, after, mask in zip(
            old["input_ids"], new["input_ids"], old["attention_mask"], strict=True
        ):
            fixed = (mask == 0) | torch.isin(before, torch.tensor(special))
            assert torch.equal(before[fixed], after[fixed])
            assert sorted(before.tolist()) == sorted(after.tolist())
            moved += int((before != after).any())
    assert moved > 15  # of 30 texts, of which some have one word


def test_shuffled_tokens_of_choices_stay_in_their_choice() -> None:
    ids = torch.arange(10, 34).reshape(2, 3, 4)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.zeros(2)}
    [found] = with_shuffled_tokens([batch], [10], 0)
    assert torch.equal(found["input_ids"].sort(-1).values, ids)
    assert found["input_ids"][0, 0, 0] == 10
    assert not torch.equal(found["input_ids"], ids)


def test_every_order_of_tokens_is_as_likely() -> None:
    ids = torch.tensor([[1, 2, 3, 4]]).expand(6000, 4)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.zeros(6000)}
    [found] = with_shuffled_tokens([batch], [], 3)
    _, counts = np.unique(found["input_ids"].numpy(), axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 250) ** 2 / 250).sum() < 50  # χ² of 23 degrees: once in a thousand


def test_labels_of_a_row_are_shuffled_together() -> None:
    """Two rows of each of five sets, of as many labels as the texts have tokens."""
    generator = torch.Generator().manual_seed(0)
    sets = torch.randint(0, 2, (5, 6), generator=generator).float().repeat(2, 1)
    batches = [
        {"input_ids": torch.zeros(len(rows), 6, dtype=torch.long), "labels": sets[rows],
         "sample": torch.tensor(rows)}
        for rows in ([3, 7, 0, 9], [1, 2, 4], [5, 6, 8])
    ]  # fmt: skip
    shuffled = with_shuffled_labels(batches, 3)
    found = torch.cat([batch["labels"] for batch in shuffled])
    assert sorted(found.tolist()) == sorted(sets.tolist())
    assert not torch.equal(found, torch.cat([batch["labels"] for batch in batches]))
    whole = [{name: torch.cat([each[name] for each in batches]) for name in batches[0]}]
    assert torch.equal(with_shuffled_labels(whole, 3)[0]["labels"], found)
