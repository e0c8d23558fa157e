"""The header of a safetensors file on the Hub, fetched within the caps of those on disk."""

from __future__ import annotations

from surgery.errors import UpstreamUnavailable
from surgery.headers import TensorHeader, header_length, parse_header
from surgery.sources import Sources

TIMEOUT_SECONDS = 10.0
LENGTH_BYTES = 8


def hub_header(
    model: str, revision: str | None, name: str, sources: Sources
) -> dict[str, TensorHeader]:
    """The tensors of a file of a model, in two small requests.

    Not by the Hub's client, which multiplies out each shape before anyone can refuse it. Raises
    UnsafeWeights and UpstreamUnavailable.
    """
    from httpx2 import HTTPError
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(model, name, revision=revision, endpoint=sources.endpoint)
    try:
        length = header_length(_fetched(url, sources.token, (0, LENGTH_BYTES)), name)
        span = LENGTH_BYTES, LENGTH_BYTES + length
        return parse_header(_fetched(url, sources.token, span), name)
    except HTTPError as error:
        raise UpstreamUnavailable from error


def _fetched(url: str, token: str | None, span: tuple[int, int]) -> bytes:
    import httpx2

    start, end = span
    headers = {"range": f"bytes={start}-{end - 1}"}
    if token:  # which a redirect to another host does not get
        headers["authorization"] = f"Bearer {token}"
    answer = httpx2.get(url, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=True)
    answer.raise_for_status()
    # A server may answer with all of it.
    return answer.content if answer.status_code == 206 else answer.content[start:end]
