"""How long rows are in tokens, and what a maximum cuts of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.data import Encoded
from surgery.loading import LoadedModel
from surgery.results import TokenLengths

# A bin ends where a usual max_length does: whoever is in a later one is cut by it.
TOKEN_BINS = (0, 9, 17, 33, 65, 129, 257, 513, 1025, 2049, 4097, 8193)
SUGGESTED = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
MAY_BE_CUT = 0.01  # share of rows that a suggested maximum may cut
WORTH_A_WARNING = 0.05


def token_lengths(encoded: Encoded, loaded: LoadedModel, max_length: int) -> TokenLengths:
    """What ``max_length`` cuts of the rows, from their lengths before the cut.

    A row of choices is as long as its longest one, for each choice is cut by itself.
    """
    longest = encoded.whole.reshape(-1, encoded.choices).max(1)
    counts, _ = np.histogram(longest, bins=[*TOKEN_BINS, np.inf])
    return TokenLengths(
        rows=len(longest),
        bins=list(TOKEN_BINS),
        counts=counts.tolist(),
        longest=int(longest.max()),
        truncated=_cut(longest, max_length),
        suggested_max_length=_suggested(longest, _most_tokens(loaded)),
    )


def _cut(longest: np.ndarray[Any, Any], limit: int) -> float:
    return float((longest > limit).mean())


def _suggested(longest: np.ndarray[Any, Any], most: int) -> int:
    usable = [limit for limit in SUGGESTED if limit <= most] or [most]
    enough = (limit for limit in usable if _cut(longest, limit) <= MAY_BE_CUT)
    return next(enough, usable[-1])


def _most_tokens(loaded: LoadedModel) -> int:
    """Tokens the model takes at most, as far as tokenizer and config say so."""
    positions = getattr(loaded.model.config, "max_position_embeddings", None)
    known = [int(loaded.tokenizer.model_max_length), SUGGESTED[-1]]
    return min([*known, positions] if positions and positions > 0 else known)


def truncation_warnings(lengths: TokenLengths, max_length: int) -> list[str]:
    """One where more rows are cut than one would overlook."""
    if lengths.truncated <= WORTH_A_WARNING:
        return []
    suggested, more = lengths.suggested_max_length, "the model takes no more"
    if suggested > max_length:
        more = f"max_length {suggested} is suggested"
    longest = f"the longest has {lengths.longest:,} tokens; {more}"
    return [
        f"max_length {max_length} cut {lengths.truncated:.0%} of {lengths.rows:,} rows; {longest}"
    ]
