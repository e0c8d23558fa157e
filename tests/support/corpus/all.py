"""All models of the corpus by a name, with those that the service's own tests have."""

from __future__ import annotations

from tests.support.corpus import code, tokenizers, values, weights
from tests.support.corpus.case import Case, Comes, refused
from tests.support.models.hostile_folders import FOLDERS, HARMLESS
from tests.support.models.odd_files import ODD

MODELS: dict[str, Case] = {
    **{f"code {name}": case for name, case in code.MODELS.items()},
    **{f"weights {name}": case for name, case in weights.MODELS.items()},
    **{f"tokenizer {name}": case for name, case in tokenizers.MODELS.items()},
    **{f"value {name}": case for name, case in values.MODELS.items()},
    **{
        f"path {name}": Case(change, Comes.RUNS if name in HARMLESS else Comes.REFUSED)
        for name, change in FOLDERS.items()
    },
    **{f"odd {name}": refused(change) for name, change in ODD.items()},
}


def some_of(models: dict[str, Case]) -> dict[str, Case]:
    """Each eighth of those that no other test has."""
    own = [name for name in models if not name.startswith(("path", "odd"))]
    return {name: models[name] for name in own[::8]}
