"""Tells what went wrong in words that a language model can act on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mcp.server.mcpserver.exceptions import ToolError

from surgeon.client import ApiError, InvalidRequest, JobFailed, Unreachable

__all__ = ["ToolError", "told", "tool_failures"]

# Requests that the service's messages name, and the tools that send them.
_TOOLS = (
    (r"GET /v1/tasks(?= lists)", "list_datasets"),
    (r"GET /v1/datasets(?= lists)", "list_datasets"),
    (r"GET /v1/(?:jobs|rankings|finetunes|searches|comparisons)(?= lists)", "list_jobs"),
    (r"GET /v1/jobs/(\w+)(?= has it)", r"job_status of \1"),
    (r"with POST /v1/datasets(?![/?])", "with `surgeon upload FILE` in a shell"),
)
_REMEDIES = {
    "unauthorized": "The server of these tools needs a key of the service: whoever runs it sets "
    "SURGEON_API_KEY.",
    "forbidden": "The key of the server of these tools may not do this; whoever runs it can set "
    "another one as SURGEON_API_KEY.",
}


def told(text: str) -> str:
    """A sentence of the service with tools in place of requests."""
    for request, tool in _TOOLS:
        text = re.sub(request, tool, text)
    return text


@contextmanager
def tool_failures() -> Iterator[None]:
    """Turn what can go wrong with the service into an error of the tool, with what to do."""
    try:
        yield
    except ApiError as error:
        raise ToolError("\n".join([told(str(error)), *_remedies(error)])) from error
    except (Unreachable, InvalidRequest, JobFailed) as error:
        raise ToolError(str(error)) from error


def _remedies(error: ApiError) -> Iterator[str]:
    problem = error.problem
    suggested = [
        f"  try {fault['pointer']}: {fault['suggestion']!r}"
        for fault in problem.get("errors") or []
        if fault.get("suggestion") is not None and fault.get("pointer")
    ]
    yield from suggested
    if problem.get("code") in _REMEDIES:
        yield _REMEDIES[str(problem["code"])]
    if error.retry_after is not None:
        yield f"The same call may succeed in {error.retry_after:.0f} seconds."
    elif problem.get("retriable"):
        yield "The same call may succeed later."
