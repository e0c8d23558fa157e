"""The tables of facts about methods and policies, beside what else speaks of them."""

from __future__ import annotations

import re
from pathlib import Path

from surgery.schemas.enums import METHODS, POLICIES, Method, Policy
from surgery.schemas.jobs.ranking import RankingOptions
from surgery.schemas.jobs.selection import SelectionSpec

DOCS = Path(__file__).parents[4] / "docs" / "science"


def named_in_first_column(document: str, heading: str) -> set[str]:
    """The names in the first cells of the table under a heading."""
    table = (DOCS / document).read_text().partition(f"| `{heading}` |")[2].partition("\n\n")[0]
    return set(re.findall(r"`(\w+)`", " ".join(re.findall(r"(?m)^\|([^|]+)\|", table))))


def test_every_choice_has_its_facts() -> None:
    assert set(METHODS) == set(Method)
    assert set(POLICIES) == set(Policy)
    for facts in (*METHODS.values(), *POLICIES.values()):
        assert facts.meaning
        assert not facts.meaning.endswith(".")


def test_facts_name_options_that_there_are() -> None:
    for facts in METHODS.values():
        assert set(facts.ignores) <= set(RankingOptions.model_fields)
    taken = {facts.takes for facts in POLICIES.values() if facts.takes}
    assert taken <= set(SelectionSpec.model_fields)


def test_the_documents_agree() -> None:
    assert named_in_first_column("methods.md", "method") == set(METHODS)
    assert named_in_first_column("finetuning.md", "policy") == set(POLICIES)
    sentence = next(
        line
        for line in (DOCS / "methods.md").read_text().splitlines()
        if line.endswith("the others also parts of layers and single tensors.")
    )
    whole = {method for method, facts in METHODS.items() if facts.whole_layers_only}
    assert set(re.findall(r"`(\w+)`", sentence)) == whole
