"""Set a part of train aside for validation."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable
from itertools import repeat

from surgery.errors import DatasetInvalid, Fault


def hold_out(repeated: bytes | bytearray, strata: Iterable[int] | None, seed: int) -> bytearray:
    """One byte a row, 1 for the tenth (at least one row) that becomes validation.

    The tenth is drawn with the seed, from each stratum (class) in proportion. Rows whose text
    occurs elsewhere (1 in ``repeated``) stay in train while others are left, so that no text is
    on both sides; and the last row of a class stays in train. Raises DatasetInvalid where
    nothing can be spared.
    """
    rows = len(repeated)
    eligible = _eligible(repeated, strata)
    if not eligible:  # nothing but repetitions: a leak, which the report will count
        eligible = _eligible(bytes(rows), strata)
    total = min(max(1, round(rows / 10)), rows - 2)
    if total < 1 or not eligible:
        detail = "too few rows to set some aside for validation; send a validation file, or more"
        raise DatasetInvalid(detail, [Fault(detail)])
    shares = _shares({code: len(found) for code, found in eligible.items()}, total)
    draw = random.Random(seed)  # noqa: S311  # a sample, not a secret
    mask = bytearray(rows)
    for code in sorted(eligible):
        for position in draw.sample(range(len(eligible[code])), shares[code]):
            mask[eligible[code][position]] = 1
    return mask


def _eligible(repeated: bytes | bytearray, strata: Iterable[int] | None) -> dict[int, array[int]]:
    """The rows of each stratum that may go; never all rows of one."""
    found: dict[int, array[int]] = {}
    sizes: dict[int, int] = {}
    codes = repeat(0, len(repeated)) if strata is None else strata
    for row, (twice, code) in enumerate(zip(repeated, codes, strict=True)):
        sizes[code] = sizes.get(code, 0) + 1
        if not twice:
            found.setdefault(code, array("i")).append(row)
    for code, members in found.items():
        if len(members) == sizes[code]:
            members.pop(0)
    return {code: members for code, members in found.items() if members}


def _shares(sizes: dict[int, int], total: int) -> dict[int, int]:
    """How many of each stratum, by largest remainder; never more than there are."""
    whole = sum(sizes.values())
    total = min(total, whole)
    exact = {code: total * size / whole for code, size in sizes.items()}
    shares = {code: int(share) for code, share in exact.items()}
    by_remainder = sorted(sizes, key=lambda code: (shares[code] - exact[code], code))
    for code in by_remainder[: total - sum(shares.values())]:
        shares[code] += 1
    return shares
