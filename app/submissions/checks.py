"""What every submission is checked by, and what its content is called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from app.errors import Unprocessable
from surgery import __version__
from surgery.errors import Fault, SurgeryError
from surgery.schemas.enums import Method, Problem
from surgery.schemas.ranking import RankingOptions

KERNEL_METHODS = (Method.TANGENT, Method.ALL)
MIN_KERNEL, MAX_KERNEL = 10, 2000  # samples, as surgery.ranking.tangent has them
UNDEFINED = {
    Method.PAPER_COMPAT: (Problem.MULTIPLE_CHOICE, Problem.TOKEN_CLASSIFICATION),
    Method.TANGENT: (Problem.TOKEN_CLASSIFICATION,),
}


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
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def ranking_digest(model: str, dataset: str, options: RankingOptions) -> str:
    """Rankings of equal digest are the same computation. Takes the fingerprints."""
    kept = {name: getattr(options, name) for name in RankingOptions.model_fields}
    shape = RankingOptions.model_construct(**kept).model_dump(mode="json")
    return digest_of({"model": model, "dataset": dataset, "version": __version__, **shape})


def check_method(options: RankingOptions, problem: Problem, pointer: str = "") -> None:
    """Refuse what the worker would refuse after loading the model. Raises Unprocessable."""
    method = options.method
    place, detail = "method", None
    if problem in UNDEFINED.get(method, ()):
        detail = f"method {method} is not defined for problem {problem}; use another method"
    elif method in KERNEL_METHODS and not MIN_KERNEL <= options.samples <= MAX_KERNEL:
        place = "samples"
        detail = f"method {method} takes {MIN_KERNEL} to {MAX_KERNEL:,} samples, for its kernels"
    if detail is not None:
        raise Unprocessable(detail, errors=[{"pointer": f"{pointer}/{place}", "detail": detail}])
