"""What the warm process tells of a failure."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from safetensors import SafetensorError

from worker.child.failures import unexpected
from worker.protocol import FinetuneOrder, RankingOrder


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_ran_out_is_an_expected_failure(error: Exception) -> None:
    training = {"training": {"batch_size": 32, "max_length": 128}}
    problem = unexpected(error, FinetuneOrder.model_construct(spec=training)).as_problem()
    assert (problem["code"], problem["retriable"]) == ("out_of_memory", True)
    assert "batch_size 16" in problem["detail"]
    ranking = RankingOrder.model_construct(spec={"batch_size": None, "max_length": 64})
    assert "max_length below 64" in unexpected(error, ranking).as_problem()["detail"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_full_disk_is_an_expected_failure(error: Exception) -> None:
    problem = unexpected(error, RankingOrder.model_construct()).as_problem()
    assert (problem["code"], problem["retriable"]) == ("storage_failed", True)
    assert "earlier checkpoints are as they were" in problem["detail"]


def test_any_other_failure_is_internal() -> None:
    problem = unexpected(KeyError("x" * 1000), RankingOrder.model_construct()).as_problem()
    assert (problem["code"], problem["retriable"]) == ("internal", False)
    assert problem["detail"].startswith("KeyError: ")
    assert len(problem["detail"]) < 600
