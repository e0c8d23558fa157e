"""What every request carries, and how a ranking is asked for. Torch-free.

Each shape is defined once, for the API, the worker and the library.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from surgery.dataset_spec import WORD, DatasetRef, Strict
from surgery.terms import Aggregate, Fisher, Granularity, Method, Precision

# The Hub's own rules: names of up to 96 characters, no "--", no "-" or ".git" at their end.
_HUB_RULES = r"(?=(?:[^@/]{1,96}/)?[^@/]{1,96}(?:@|$))(?![^@]*(?:--|-(?:[/@]|$)|\.git(?:@|$)))"
MODEL_PATTERN = rf"^{_HUB_RULES}{WORD}(?:/{WORD})?(?:@{WORD})?$"

ModelId = Annotated[
    str,
    StringConstraints(max_length=300),
    Field(
        description="Hugging Face model id, `owner/name` or `name`, with an optional `@revision`.",
        examples=["google-bert/bert-base-cased"],
    ),
]


Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16, description="Your own labels: up to 16 pairs of strings."),
]


class HeadSpec(Strict):
    """The task head through which gradients flow."""

    init: Literal["auto", "new"] = Field(
        "auto",
        description="`auto` keeps the checkpoint's own head when it fits the labels; `new` never.",
    )
    warmup_epochs: int | None = Field(
        None,
        ge=0,
        le=100,
        description="Passes over cached features with the encoder frozen. "
        "Default: 1 for a new head, 0 for the checkpoint's own.",
    )
    warmup_samples: int = Field(
        1024, ge=1, le=100_000, description="Training rows whose features are computed for it."
    )


class RankingOptions(Strict):
    """How layers are ranked, the same wherever a ranking is asked for."""

    method: Method = Method.FISHER
    aggregate: Aggregate = Field(Aggregate.TRACE, description="For method fisher.")
    granularity: Granularity = Granularity.LAYER
    samples: int = Field(256, ge=2, le=1_000_000, description="Training rows scored, each once.")
    adaptive: bool = Field(
        False,
        description="Score ever more rows, up to `samples`, until the set of the top "
        "`recommended_k` recurs in 95 % of the resamples. For trace and mean.",
    )
    max_length: int = Field(128, ge=4, le=8192, description="Tokens kept of a row.")
    batch_size: int | None = Field(
        None, ge=1, le=4096, description="Rows a batch; default: by a budget of tokens."
    )
    seed: int = Field(0, ge=0, lt=2**31)
    fisher: Fisher = Field(Fisher.EMPIRICAL, description="For method fisher.")
    draws: int = Field(1, ge=1, le=64, description="Labels drawn a sample, for fisher sampled.")
    head: HeadSpec = HeadSpec()
    head_seeds: int = Field(
        1, ge=1, le=16, description="Average over so many new heads and report their spread."
    )
    bootstrap: int = Field(1000, ge=0, le=20_000, description="Resamples behind the intervals.")
    model_prior: bool = Field(
        True,
        description="Also rank on shuffled labels and on shuffled tokens, with up to 128 rows "
        "each, to tell how much of the ranking is about the task. For method fisher.",
    )
    precision: Precision | None = Field(
        None,
        description="Default: bf16 on a GPU that has it, else fp32; the result says which.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> RankingOptions:
        for name in self._meaningless():
            default = type(self).model_fields[name].default
            if name in self.model_fields_set and getattr(self, name) != default:
                raise ValueError(f"{name} means nothing to method {self.method}; leave it out")
        if self.draws > 1 and self.fisher is not Fisher.SAMPLED:
            raise ValueError("draws goes with fisher sampled; leave it out")
        if self.head_seeds > 1 and self.head.init != "new":
            raise ValueError("head_seeds averages over new heads: set head.init to new with it")
        if self.adaptive and self.aggregate is Aggregate.FROBENIUS:
            raise ValueError("adaptive needs a score for each sample: aggregate trace or mean")
        if self.adaptive and self.bootstrap < 200:
            raise ValueError("adaptive looks at resamples: set bootstrap to 200 or more")
        if self.adaptive and self.head_seeds > 1:
            raise ValueError("adaptive goes with one head: leave head_seeds out")
        if self.granularity is not Granularity.LAYER and self.method in _BY_LAYER:
            raise ValueError(f"method {self.method} scores whole layers: leave granularity out")
        return self

    @property
    def scores_in_precision(self) -> bool:
        """Whether the method computes in ``precision``; the others do in float32."""
        return "precision" not in self._meaningless()

    def _meaningless(self) -> tuple[str, ...]:
        if self.method is Method.PAPER_COMPAT:
            return (*_FISHER_ONLY, "samples", "max_length", "head_seeds", "bootstrap", "precision")
        if self.method is Method.ALL:
            return ("adaptive",)
        if self.method is Method.FISHER:
            return ()
        if self.method in _HEADLESS:
            return (*_FISHER_ONLY, "head_seeds", "precision")
        if self.method is Method.TANGENT:
            return (*_FISHER_ONLY, "precision")
        return _FISHER_ONLY


_FISHER_ONLY = ("aggregate", "fisher", "draws", "adaptive", "model_prior")
_HEADLESS = {
    Method.WEIGHT_SNR, Method.CLS_SIMILARITY, Method.FIRST, Method.LAST, Method.RANDOM,
}  # fmt: skip
_BY_LAYER = {Method.CLS_SIMILARITY, Method.TANGENT, Method.PAPER_COMPAT, Method.ALL}


class Submission(Strict):
    """What every job carries."""

    model: ModelId
    dataset: DatasetRef
    name: Annotated[str, StringConstraints(max_length=200)] | None = None
    metadata: Metadata = {}  # noqa: RUF012  # pydantic copies it
    priority: int = Field(0, ge=-100, le=100, description="Higher runs first.")


class RankingSpec(Submission, RankingOptions):
    """Rank the layers of a model on a dataset."""

    cache: Literal["use", "bypass"] = Field(
        "use", description="`use` answers a repeated ranking from the stored result."
    )


def nearest(word: str, known: list[str]) -> str | None:
    """The known name most like a misspelt one, if any is near."""
    from difflib import get_close_matches

    found = get_close_matches(word, known, n=1, cutoff=0.6)
    return found[0] if found else None
