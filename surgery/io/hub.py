"""Talk to the Hugging Face Hub: translate its failures, and read headers of its files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from surgery.errors import (
    DatasetNotFound,
    ModelGated,
    ModelNotFound,
    SurgeryError,
    UpstreamUnavailable,
)
from surgery.io.safetensors import TensorHeader, header_length, parse_header
from surgery.io.sources import Sources

TIMEOUT_SECONDS = 10.0
LENGTH_BYTES = 8


def hub_header(
    model: str, revision: str | None, name: str, sources: Sources
) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file of a model, read in two small requests.

    The Hub's client is not used, since it multiplies out each shape before a check can refuse it.
    Raises UnsafeWeights, and what `hub_errors` raises.
    """
    from huggingface_hub import hf_hub_url

    with hub_errors(MODEL, model, revision):
        url = hf_hub_url(model, name, revision=revision, endpoint=sources.endpoint)
        length = header_length(_fetched(url, sources.token, (0, LENGTH_BYTES)), name)
        span = LENGTH_BYTES, LENGTH_BYTES + length
        return parse_header(_fetched(url, sources.token, span), name)


def _fetched(url: str, token: str | None, span: tuple[int, int]) -> bytes:
    import httpx2

    start, end = span
    headers = {"range": f"bytes={start}-{end - 1}"}
    if token:  # httpx drops it when a redirect leads to another host
        headers["authorization"] = f"Bearer {token}"
    answer = httpx2.get(url, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=True)
    answer.raise_for_status()
    # A server may ignore the range and answer with the whole file.
    return answer.content if answer.status_code == 206 else answer.content[start:end]


@dataclass(frozen=True)
class RepositoryKind:
    """A kind of repository, and the errors for one that does not exist or may not be read."""

    word: str
    missing: type[SurgeryError]
    gated: type[SurgeryError]


MODEL = RepositoryKind("model", ModelNotFound, ModelGated)
DATASET = RepositoryKind("dataset", DatasetNotFound, DatasetNotFound)


@contextmanager
def hub_errors(kind: RepositoryKind, name: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises about a repository into this package's errors."""
    from huggingface_hub import errors

    what = f"the {kind.word} {name}"
    try:
        yield
    except errors.GatedRepoError:
        raise kind.gated(
            f"{what} is gated; ask its owner for access on the Hub, "
            "then set HF_TOKEN of an account that has it"
        ) from None
    except errors.RevisionNotFoundError:
        raise kind.missing(
            f"{what} has no revision {revision!r}; leave it out for the newest"
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise kind.missing(
            f"the Hub has no {kind.word} {name}, or it is private; check the spelling, "
            "or set HF_TOKEN of an account that can read it"
        ) from None
    except errors.OfflineModeIsEnabled:
        raise kind.missing(
            f"{what} is not in the mirror, and HF_HUB_OFFLINE forbids the Hub"
        ) from None
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        if _is_local(error):
            raise
        raise _unanswered(kind, what, error) from None


def _is_local(error: Exception) -> bool:
    """Whether this machine failed, for example by a full disk, and not the Hub."""
    network = isinstance(error, ConnectionError | TimeoutError)
    return getattr(error, "errno", None) is not None and not network


def _unanswered(kind: RepositoryKind, what: str, error: Exception) -> SurgeryError:
    # The message names only the error's class: its text may contain a signed address.
    status = getattr(getattr(error, "response", None), "status_code", 500)
    if 400 <= status < 500 and status not in {408, 429}:
        return kind.missing(f"the Hub refuses {what} with status {status}")
    return UpstreamUnavailable(
        f"the Hub did not answer for {what} ({type(error).__name__}); try again"
    )
