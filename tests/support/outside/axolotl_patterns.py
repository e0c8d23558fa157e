"""How Axolotl reads ``unfrozen_parameters``, as its src/axolotl/utils/freeze.py documents.

Every dot of a pattern stands for itself but in ``.+``; a pattern must match from a name's
beginning; brackets at its end hold a range of rows, which ours never do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def unfrozen(patterns: Sequence[str], names: Iterable[str]) -> set[str]:
    """The parameters that stay trainable."""
    assert not any(pattern.endswith("]") for pattern in patterns)
    literal = [[piece.replace(".", r"\.") for piece in each.split(".+")] for each in patterns]
    expressions = [re.compile(".+".join(pieces)) for pieces in literal]
    return {name for name in names if any(each.match(name) for each in expressions)}
