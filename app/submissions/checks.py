"""Checks and digests that several kinds of submission share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from app.errors import Unprocessable
from surgery import __version__
from surgery.errors import Fault, SurgeryError
from surgery.io.digests import json_digest
from surgery.models.source.resolve import ModelSource
from surgery.schemas.enums import METHODS, Problem
from surgery.schemas.jobs.ranking import RankingOptions
from surgery.schemas.jobs.search import SearchOptions, SearchSpec
from surgery.schemas.options.training import TrainingSpec
from surgery.training.search.decision.candidates import candidates_of

OF_THE_REQUEST = {"name", "metadata", "priority", "deadline_seconds"}  # not of what is computed


@contextmanager
def pointing(pointer: str) -> Iterator[None]:
    """Adds to an error's faults which field of the request they are about."""
    try:
        yield
    except SurgeryError as error:
        unplaced = error.faults or [Fault(error.detail)]
        error.faults = [replace(each, pointer=each.pointer or pointer) for each in unplaced]
        raise


def content_digest(content: dict[str, Any]) -> str:
    """The SHA-256 of a JSON document, equal for equal content."""
    return f"sha256:{json_digest(content, separators=(',', ':'))}"


def ranking_digest(model: str, dataset: str, options: RankingOptions) -> str:
    """The digest of a ranking, equal for equal computations.

    ``model`` and ``dataset`` are their fingerprints.
    """
    values = {name: getattr(options, name) for name in RankingOptions.model_fields}
    shape = RankingOptions.model_construct(**values).model_dump(mode="json")
    return content_digest({"model": model, "dataset": dataset, "version": __version__, **shape})


def search_digest(model: str, dataset: str, spec: SearchSpec) -> str:
    """The digest of a search, equal for equal requests.

    ``model`` and ``dataset`` are their fingerprints. Equal searches are run each by itself: what a
    budget of seconds pays for depends on the machine, so a stored result does not stand for a new
    one.
    """
    shape = spec.model_dump(mode="json", exclude=OF_THE_REQUEST)
    return content_digest({**shape, "model": model, "dataset": dataset, "version": __version__})


def check_families(options: SearchOptions, layers: int, pointer: str = "") -> None:
    """Raises Unprocessable if no set of a search's families exists in a model of so many layers."""
    if candidates_of(options.families, layers):
        return
    detail = (
        f"a model of {layers} layers has no {' or '.join(options.families)} to try; name other "
        "families"
    )
    raise Unprocessable(detail, errors=[{"pointer": f"{pointer}/families", "detail": detail}])


def check_method(options: RankingOptions, problem: Problem, pointer: str = "") -> None:
    """Raises Unprocessable if a method cannot rank for this problem or with so many samples."""
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


USUAL_LENGTHS = {
    RankingOptions.model_fields["max_length"].default,
    TrainingSpec.model_fields["max_length"].default,
}
"""Lengths that nobody needs to have asked for: a model that takes less is given less."""


def check_length(max_length: int, model: ModelSource, pointer: str) -> None:
    """Raises Unprocessable if rows are asked to be longer than the model takes, as far as known."""
    longest = model.longest
    if longest is None or max_length <= longest or max_length in USUAL_LENGTHS:
        return
    detail = (
        f"max_length {max_length:,} is more than the {longest:,} tokens of a row that {model.id} "
        f"reads; set it to {longest:,} or less"
    )
    fault = {"pointer": pointer, "detail": detail, "suggestion": longest}
    raise Unprocessable(detail, errors=[fault])
