"""Count how long rows are in tokens, and how many of them a maximum length truncates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.data.tokens.sequences import usable_length
from surgery.schemas import JobWarning
from surgery.schemas.data.dataset import SplitLengths, TokenLengths

if TYPE_CHECKING:  # they import torch, which whoever only counts need not load
    from surgery.data.tokens.dataset import Encoded
    from surgery.models.loading import LoadedModel

# Each bin ends at a usual max_length, which truncates the rows in all later bins.
TOKEN_BINS = (0, 9, 17, 33, 65, 129, 257, 513, 1025, 2049, 4097, 8193)
SUGGESTED = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
MAY_BE_CUT = 0.01  # share of rows that a suggested maximum may truncate
WORTH_A_WARNING = 0.05  # share of truncated rows from which on there is a warning


def token_lengths(
    train: Encoded, loaded: LoadedModel, max_length: int, validation: Encoded | None = None
) -> TokenLengths:
    """How many rows ``max_length`` truncates, from their lengths before truncation.

    A row of choices counts as long as its longest choice, since each is truncated by itself.
    """
    splits = [_longest(rows) for rows in (train, validation) if rows is not None]
    most = most_tokens(loaded.tokenizer, loaded.model.config)
    limit = usable_length(loaded.tokenizer, max_length)
    of_train, *of_validation = (count_lengths(longest, limit) for longest in splits)
    return TokenLengths(
        **vars(of_train),
        bins=list(TOKEN_BINS),
        suggested_max_length=max(suggested_length(longest, most) for longest in splits),
        validation=next(iter(of_validation), None),
    )


def _longest(encoded: Encoded) -> np.ndarray[Any, Any]:
    longest: np.ndarray[Any, Any] = encoded.whole.reshape(-1, encoded.choices).max(1)
    return longest


def count_lengths(longest: np.ndarray[Any, Any], max_length: int) -> SplitLengths:
    """A histogram of lengths before truncation, and the share that ``max_length`` truncates."""
    counts, _ = np.histogram(longest, bins=[*TOKEN_BINS, np.inf])
    return SplitLengths(
        rows=len(longest),
        counts=counts.tolist(),
        longest=int(longest.max()),
        truncated=_cut(longest, max_length),
    )


def _cut(longest: np.ndarray[Any, Any], limit: int) -> float:
    return float((longest > limit).mean())


def suggested_length(longest: np.ndarray[Any, Any], most: int) -> int:
    """The smallest usual maximum, up to ``most``, that truncates almost no row."""
    usable = [limit for limit in SUGGESTED if limit <= most] or [most]
    enough = (limit for limit in usable if _cut(longest, limit) <= MAY_BE_CUT)
    return next(enough, usable[-1])


def most_tokens(tokenizer: Any, config: Any) -> int:
    """The most tokens that a model takes, as far as its tokenizer and config tell."""
    positions = getattr(config, "max_position_embeddings", None)
    known = [int(tokenizer.model_max_length), SUGGESTED[-1]]
    return min([*known, positions] if positions and positions > 0 else known)


def truncation_warnings(
    lengths: TokenLengths, max_length: int, field: str = "max_length"
) -> list[JobWarning]:
    """A warning for each split of which a large share of the rows was truncated.

    ``field`` is where the request has the maximum.
    """
    suggested, more = lengths.suggested_max_length, "; the model takes no more"
    remedy = "split longer texts into several rows, or use a model that takes more tokens"
    if suggested > max_length:
        more, remedy = "", f"set {field} to {suggested}"
    splits = {"training": lengths, "validation": lengths.validation}
    return [
        JobWarning(
            code="rows_truncated",
            message=f"max_length {max_length} cut {split.truncated:.0%} of {split.rows:,} {name} "
            f"rows; the longest has {split.longest:,} tokens{more}",
            remedy=remedy,
        )
        for name, split in splits.items()
        if split is not None and split.truncated > WORTH_A_WARNING
    ]
