"""Publishes a model on the Hugging Face Hub, as one commit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from surgery.checkpoints.merge import ADAPTER_CONFIG, ADAPTER_FILE, DELTA
from surgery.errors import DestinationUnavailable, ExportRefused
from surgery.models.source.folder import WEIGHTS_FILE
from surgery.schemas.jobs.export import ExportSpec
from worker.protocol import Published, PublishOrder

MAIN = "main"  # the branch that every repository has
WEIGHTS = {WEIGHTS_FILE, DELTA, ADAPTER_CONFIG, ADAPTER_FILE}
"""Files that say how a model is loaded: of another form they would mislead whoever loads it."""


def to_hub(order: PublishOrder) -> Published:
    """Commit the order's folder to the repository that is its target.

    Nothing of it is to be seen before the commit, and a commit whose files are those of the branch
    already is not made. Raises ExportRefused and DestinationUnavailable.
    """
    from huggingface_hub import HfApi

    spec = ExportSpec.model_validate(order.spec)
    branch = spec.revision or MAIN
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=os.environ["HF_TOKEN"])
    with hub_errors(spec.target):
        _make_repository(api, spec, branch)
        head = api.model_info(spec.target, revision=branch)
        present = {each.rfilename for each in head.siblings or ()}
        commit = api.create_commit(
            spec.target,
            _operations(order.folder, present),
            commit_message=spec.message or f"Export {spec.checkpoint} of {order.about.job}",
            revision=branch,
            parent_commit=head.sha,  # another commit meanwhile makes this one fail
        )
    return Published(
        location=f"{api.endpoint}/{spec.target}/tree/{commit.oid}",
        version=commit.oid,
        created=commit.oid != head.sha,
    )


def _make_repository(api: Any, spec: ExportSpec, branch: str) -> None:
    """Make the repository and the branch, unless they exist.

    Raises ExportRefused if the repository is public and the request does not say so: what is meant
    to be private must not become public because somebody made the repository before.
    """
    api.create_repo(spec.target, private=spec.private, exist_ok=True)
    if spec.private and not api.model_info(spec.target).private:
        raise ExportRefused(
            f"{spec.target} is a public repository; send private: false to publish there, or "
            "choose another name"
        )
    if branch != MAIN:
        api.create_branch(spec.target, branch=branch, exist_ok=True)


def _operations(folder: Path, present: set[str]) -> Sequence[Any]:
    """Every file of the folder, and the removal of weights that are there in another form."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    paths = sorted(folder.iterdir())
    names = {path.name for path in paths}
    added = [CommitOperationAdd(path.name, str(path)) for path in paths]
    removed = [CommitOperationDelete(name) for name in sorted(WEIGHTS & present - names)]
    return [*added, *removed]


@contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into this package's errors, without its words."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in {408, 412, 429} or status >= 500:
            raise DestinationUnavailable(
                f"the Hub answers {status} for {repository}; try again"
            ) from None
        hint = {
            401: "; the worker's SURGEON_HUB_TOKEN is not valid",
            403: "; the account of the worker's token may not write there",
        }.get(status, "")
        raise ExportRefused(f"the Hub refuses {repository} with status {status}{hint}") from None
    except errors.HFValidationError:
        raise ExportRefused(f"the Hub takes no repository of the name {repository}") from None
    except ValueError as error:  # of the card's metadata, or of a file that is too large
        told = " ".join(str(error).split())[:300]
        raise ExportRefused(f"the Hub refuses {repository}: {told}") from None
    except errors.HTTPError as error:  # type: ignore[attr-defined]
        raise DestinationUnavailable(
            f"the Hub did not answer for {repository} ({type(error).__name__}); try again"
        ) from None
