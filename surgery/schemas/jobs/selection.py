"""Which parts of a model train, as a request says it or as options of a command line do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from surgery.errors import SurgeryError
from surgery.schemas import Strict
from surgery.schemas.enums import METHODS, POLICIES, Granularity, Policy
from surgery.schemas.fields import Option, option_of, options_of
from surgery.schemas.jobs.ranking import RankingOptions
from surgery.schemas.jobs.search import SearchOptions

_MEANING = {
    "k": "how many to train",
    "share": "the share of the total score to cover",
    "max_parameters": "the most parameters to train beside the head",
    "layers": "their names or indices",
}

OPTIONS = ", ".join(f"--{policy.value.replace('_', '-')}" for policy in Policy)


class SelectionSpec(Strict):
    """Which layers, or finer parts of them, train. The head always trains."""

    policy: Policy = Field(Policy.TOP_K, description="How the layers that train are chosen.")
    k: int | None = Field(
        None, ge=1, le=10_000, description="The number of layers, for the *_k policies."
    )
    share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="For top_share: train the fewest layers, best first, whose scores add up to "
        "this share of the total.",
    )
    max_parameters: int | None = Field(
        None,
        ge=1,
        description="For max_parameters: go down the ranking and train every layer that still fits "
        "into this many parameters. What `include` names counts, the head does not.",
    )
    ranking: Annotated[str, StringConstraints(max_length=64)] | RankingOptions | None = Field(
        None,
        description="For policies that choose by scores: the id of a ranking, or the options of a "
        "ranking to compute first. Default: the default ranking of the same model and dataset.",
    )
    search: Annotated[str, StringConstraints(max_length=64)] | SearchOptions | None = Field(
        None,
        description="For policy `search`: the id of a finished search of the same model and "
        "dataset, or the options of a search to run first. Default: a search with the default "
        "options.",
    )
    granularity: Granularity | None = Field(
        None,
        description="What is chosen: layers, their attention and feed-forward parts, or single "
        "tensors. Default: what the ranking ranks, otherwise layers.",
    )
    layers: list[str | int] | None = Field(
        None,
        max_length=10_000,
        description="Names or indices, for policy `layers`; finer parts have names only.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed with which random_k draws layers.")
    include: list[Literal["embeddings", "pooler"]] = Field(
        [],
        description="What else trains beside the layers and the head: `embeddings`, `pooler`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _ranking_of_the_same(cls, values: Any) -> Any:
        """Give the options of a ranking the selection's granularity if they name none."""
        given = values.get("ranking") if isinstance(values, dict) else None
        if isinstance(given, RankingOptions):
            given = given.model_dump(exclude_unset=True)
        if not isinstance(given, dict) or given.get("granularity") is not None:
            return values
        if values.get("granularity") not in [*Granularity]:
            return values
        return {**values, "ranking": {**given, "granularity": values["granularity"]}}

    @model_validator(mode="after")
    def _complete(self) -> SelectionSpec:
        facts = POLICIES[self.policy]
        for name, meaning in _MEANING.items():
            given = getattr(self, name) is not None
            if name == facts.takes and not given:
                raise ValueError(f"policy {self.policy.value} needs {name}, {meaning}")
            if name != facts.takes and given:
                raise ValueError(self._means_nothing(name))
        if self.layers == []:
            raise ValueError("layers is empty: name a layer, or use policy head_only")
        if self.ranking is not None and not facts.needs_ranking:
            raise ValueError(self._means_nothing("ranking"))
        if self.search is not None and not facts.searches:
            raise ValueError(self._means_nothing("search"))
        if self.granularity is not None and not facts.takes_granularity:
            raise ValueError(self._means_nothing("granularity"))
        if self.include and not facts.takes_include:
            raise ValueError(self._means_nothing("include"))
        return self

    def _means_nothing(self, name: str) -> str:
        return f"{name} means nothing to policy {self.policy.value}; leave it out"

    @model_validator(mode="after")
    def _fits_the_ranking(self) -> SelectionSpec:
        options = self.ranking
        if not isinstance(options, RankingOptions):
            return self
        if self.granularity not in {None, options.granularity}:
            raise ValueError("granularity differs from the ranking's; leave one of them out")
        if self.policy is Policy.TOP_SHARE and not METHODS[options.method].weighs:
            raise ValueError(
                f"policy top_share adds up scores, and method {options.method} gives an order "
                "only; use top_k"
            )
        return self


_METAVAR = {"k": "K", "share": "SHARE", "max_parameters": "N", "layers": "A,B"}


def _option_for(policy: Policy) -> Option:
    """The option of a policy, whose value is the field that the policy requires."""
    needed, meaning = POLICIES[policy].takes, POLICIES[policy].meaning
    text = f"{meaning[0].upper()}{meaning[1:]}."
    if needed is None:
        return Option(policy.value, bool, default=False, help=text)
    metavar = _METAVAR[needed]
    return option_of(SelectionSpec, needed, name=policy.value, help=text, metavar=metavar)


SELECTION_OPTIONS = (
    *map(_option_for, Policy),
    *options_of(SelectionSpec, "granularity"),
    option_of(SelectionSpec, "include", metavar="PART,…"),
)
"""The command-line options of a selection: one for each policy, granularity and include."""


def selection_from(given: Mapping[str, Any], default: Policy | None = None) -> dict[str, Any]:
    """The fields of a selection from command-line options; ``default`` replaces a missing policy.

    ``given`` maps a policy to its number, to comma-separated names or indices for `layers`, or to a
    flag. It also holds `granularity`, `include` (comma-separated) and `seed`. Raises SurgeryError
    unless exactly one policy is given.
    """
    values = {policy: given.get(policy) for policy in Policy}
    chosen = [p for p, value in values.items() if value is not None and value is not False]
    if not chosen and default is not None:
        chosen = [default]
    if len(chosen) != 1:
        raise SurgeryError(f"choose what trains with exactly one of {OPTIONS}")
    [policy] = chosen
    selection: dict[str, Any] = {"policy": policy.value}
    facts = POLICIES[policy]
    if facts.takes is not None:
        value = given[policy]
        selection[facts.takes] = _names(value) if policy is Policy.LAYERS else value
    if facts.takes_seed:
        selection["seed"] = given.get("seed", 0)
    if given.get("granularity") is not None:
        selection["granularity"] = str(given["granularity"])
    if given.get("include"):
        selection["include"] = [part.strip() for part in given["include"].split(",")]
    return selection


def _names(listed: str) -> list[str | int]:
    parts = [part.strip() for part in listed.split(",") if part.strip()]
    # isdigit alone would accept ², and numbers that are too long to be read.
    digits = {part for part in parts if part.isascii() and part.isdigit() and len(part) <= 18}
    return [int(part) if part in digits else part for part in parts]
