"""What every submission is checked by, and what its content is called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from app.errors import Unprocessable
from surgery import __version__
from surgery.errors import Fault, SurgeryError
from surgery.io.digests import json_digest
from surgery.schemas.enums import METHODS, Problem
from surgery.schemas.ranking import RankingOptions


@contextmanager
def pointing(pointer: str) -> Iterator[None]:
    """Say which field of the request an error of the science is about."""
    try:
        yield
    except SurgeryError as error:
        unplaced = error.faults or [Fault(error.detail)]
        error.faults = [replace(each, pointer=each.pointer or pointer) for each in unplaced]
        raise


def digest_of(content: dict[str, Any]) -> str:
    """A name for content: equal content, equal name."""
    return f"sha256:{json_digest(content, separators=(',', ':'))}"


def ranking_digest(model: str, dataset: str, options: RankingOptions) -> str:
    """Rankings of equal digest are the same computation. Takes the fingerprints."""
    kept = {name: getattr(options, name) for name in RankingOptions.model_fields}
    shape = RankingOptions.model_construct(**kept).model_dump(mode="json")
    return digest_of({"model": model, "dataset": dataset, "version": __version__, **shape})


def check_method(options: RankingOptions, problem: Problem, pointer: str = "") -> None:
    """Refuse what the worker would refuse after loading the model. Raises Unprocessable."""
    method, facts = options.method, METHODS[options.method]
    fewest, most = facts.samples
    place, detail = "method", None
    if problem not in facts.problems:
        detail = f"method {method} is not defined for problem {problem}; use another method"
    elif not fewest <= options.samples <= most:
        place = "samples"
        detail = f"method {method} takes {fewest:,} to {most:,} samples, for its kernels"
    if detail is not None:
        raise Unprocessable(detail, errors=[{"pointer": f"{pointer}/{place}", "detail": detail}])
