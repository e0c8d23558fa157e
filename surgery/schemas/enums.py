"""The enums that requests and results use, and the facts about each choice.

``METHODS`` and ``POLICIES`` hold all facts about ranking methods and selection policies, except how
they are computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal


class Problem(StrEnum):
    """What is predicted from a row."""

    CLASSIFICATION = "classification"
    MULTI_LABEL = "multi_label"
    REGRESSION = "regression"
    MULTIPLE_CHOICE = "multiple_choice"
    TOKEN_CLASSIFICATION = "token_classification"  # noqa: S105  # not a password


NAMED = frozenset({Problem.CLASSIFICATION, Problem.MULTI_LABEL, Problem.TOKEN_CLASSIFICATION})
"""The problems whose labels have names."""
ERROR_METRICS = ("rmse", "mae")
"""The metrics that are lower for better models, by which no checkpoint is chosen."""


class Aggregate(StrEnum):
    """How the diagonal of a layer's Fisher information becomes one number."""

    TRACE = "trace"
    """Its sum: the mean over samples of the squared gradient norm. Cheapest, with intervals."""
    MEAN = "mean"
    """The trace divided by the number of parameters, to compare layers of different sizes."""
    FROBENIUS = "frobenius"
    """The norm of the diagonal, summed over tensors, as in the paper's released code."""


class Method(StrEnum):
    """What a layer's score measures."""

    FISHER = "fisher"
    GRADIENT_NORM = "gradient_norm"
    RELATIVE_GRADIENT_NORM = "relative_gradient_norm"
    SNIP = "snip"
    WEIGHT_SNR = "weight_snr"
    CLS_SIMILARITY = "cls_similarity"
    TANGENT = "tangent"
    LAST = "last"
    FIRST = "first"
    RANDOM = "random"
    PAPER_COMPAT = "paper_compat"
    ALL = "all"


SAMPLES = (2, 1_000_000)  # the fewest and the most rows that any ranking scores


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """What a method is and needs. Validation, scoring and descriptions all read these facts."""

    meaning: str
    needs_head: bool = True
    """Whether it takes gradients, which flow through the task head."""
    reads_data: bool = True
    of_mean_gradient: bool = False
    """Whether it scores the mean gradient over the samples. Such methods share one pass."""
    weighs: bool = True
    """Whether its scores can be added up. The other methods only give an order."""
    whole_layers_only: bool = False
    problems: frozenset[Problem] = frozenset(Problem)
    """The problems for which it is defined."""
    samples: tuple[int, int] = SAMPLES
    """The fewest and the most samples that a request may ask for."""
    ignores: tuple[str, ...] = ()
    """Options that have no meaning for it."""


_OF_FISHER = ("aggregate", "fisher", "draws", "adaptive", "model_prior", "minus")
_OF_GRADIENTS = (*_OF_FISHER, "head_seeds", "precision")
_KERNEL_SAMPLES = (10, 2000)  # two in each of five folds; a kernel has N² numbers

METHODS: dict[Method, MethodFacts] = {
    Method.FISHER: MethodFacts(
        meaning="the diagonal of the Fisher information, which is the mean over samples of the "
        "squared gradient of the log-likelihood"
    ),
    Method.GRADIENT_NORM: MethodFacts(
        meaning="the norm of the mean gradient, ‖ḡ‖",
        of_mean_gradient=True,
        ignores=_OF_FISHER,
    ),
    Method.RELATIVE_GRADIENT_NORM: MethodFacts(
        meaning="the mean over tensors of ‖ḡ_p‖/‖θ_p‖, the norm of the mean gradient over that of "
        "the weights (Lee et al., ICLR 2023)",
        of_mean_gradient=True,
        ignores=_OF_FISHER,
    ),
    Method.SNIP: MethodFacts(
        meaning="the sum of |ḡ·θ|, mean gradient times weight (Lee et al., ICLR 2019)",
        of_mean_gradient=True,
        ignores=_OF_FISHER,
    ),
    Method.TANGENT: MethodFacts(
        meaning="how well the layer's tangent kernel predicts what the head leaves unexplained",
        whole_layers_only=True,
        problems=frozenset(Problem) - {Problem.TOKEN_CLASSIFICATION},
        samples=_KERNEL_SAMPLES,
        ignores=(*_OF_FISHER, "precision"),
    ),
    Method.CLS_SIMILARITY: MethodFacts(
        meaning="how far the layer turns the state of the classification token, 1 − cosine, from "
        "one forward pass",
        needs_head=False,
        whole_layers_only=True,
        ignores=_OF_GRADIENTS,
    ),
    Method.WEIGHT_SNR: MethodFacts(
        meaning="the singular values of the weights above the noise edge over those below it; "
        "reads no data (Spectrum, 2024)",
        needs_head=False,
        reads_data=False,
        ignores=_OF_GRADIENTS,
    ),
    Method.LAST: MethodFacts(
        meaning="upper layers first",
        needs_head=False,
        reads_data=False,
        weighs=False,
        ignores=_OF_GRADIENTS,
    ),
    Method.FIRST: MethodFacts(
        meaning="lower layers first",
        needs_head=False,
        reads_data=False,
        weighs=False,
        ignores=_OF_GRADIENTS,
    ),
    Method.RANDOM: MethodFacts(
        meaning="a random order drawn by the seed, which any useful method has to beat",
        needs_head=False,
        reads_data=False,
        weighs=False,
        ignores=_OF_GRADIENTS,
    ),
    Method.PAPER_COMPAT: MethodFacts(
        meaning="the computation of the paper's released code, for comparison only",
        whole_layers_only=True,
        problems=frozenset({Problem.CLASSIFICATION, Problem.REGRESSION}),
        ignores=(*_OF_FISHER, "samples", "max_length", "head_seeds", "bootstrap", "precision"),
    ),
    Method.ALL: MethodFacts(
        meaning="ranks by `fisher`, and adds a table with the scores by every other method",
        whole_layers_only=True,
        samples=_KERNEL_SAMPLES,
        ignores=("adaptive", "minus"),
    ),
}
"""The methods, in the order in which a table of all methods lists them."""


class Granularity(StrEnum):
    """The parts of the model that are ranked."""

    LAYER = "layer"
    """Transformer blocks."""
    SUBLAYER = "sublayer"
    """The attention and the feed-forward part of each block, with their norms."""
    TENSOR = "tensor"
    """Single parameter tensors of the blocks."""


class Fisher(StrEnum):
    """The labels at which the squared gradients are taken, with the backward passes per batch."""

    EMPIRICAL = "empirical"
    """The labels of the dataset: one pass."""
    SAMPLED = "sampled"
    """Labels drawn from the model's own prediction: one pass for each draw."""
    EXACT = "exact"
    """The expectation over the model's prediction: one pass for two classes and for regression, C −
    1 passes for C classes, and as many for each labelled token in token classification; C passes
    for C labels of which a row may have several."""


class Precision(StrEnum):
    """The number format of weights and activations while scoring. Sums are float32 or wider."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class TrainingPrecision(StrEnum):
    """The number format of matrix products in training. Weights and moments stay float32."""

    FP32 = "fp32"
    TF32 = "tf32"
    """float32 with factors rounded to 10 bits of mantissa, on GPUs that support it."""
    BF16 = "bf16"
    FP16 = "fp16"


class Policy(StrEnum):
    """How the layers that train are chosen."""

    TOP_K = "top_k"
    TOP_SHARE = "top_share"
    MAX_PARAMETERS = "max_parameters"
    BOTTOM_K = "bottom_k"
    SEARCH = "search"
    FIRST_K = "first_k"
    LAST_K = "last_k"
    RANDOM_K = "random_k"
    LAYERS = "layers"
    ALL = "all"
    HEAD_ONLY = "head_only"


@dataclass(frozen=True, kw_only=True)
class PolicyFacts:
    """What a policy chooses, and which fields a selection must or may set for it."""

    meaning: str
    takes: Literal["k", "share", "max_parameters", "layers"] | None = None
    """The field of a selection that it requires. The other three have no meaning for it."""
    needs_ranking: bool = False
    """Whether it chooses by the scores of a ranking."""
    searches: bool = False
    """Whether short training runs choose, which also find the learning rate."""
    takes_seed: bool = False
    takes_granularity: bool = True
    takes_include: bool = True


POLICIES: dict[Policy, PolicyFacts] = {
    Policy.TOP_K: PolicyFacts(
        meaning="the k best layers of the ranking", takes="k", needs_ranking=True
    ),
    Policy.TOP_SHARE: PolicyFacts(
        meaning="the fewest layers, best first, that hold this share of the total score",
        takes="share",
        needs_ranking=True,
    ),
    Policy.MAX_PARAMETERS: PolicyFacts(
        meaning="going down the ranking, each layer that still fits into this many parameters "
        "beside the head",
        takes="max_parameters",
        needs_ranking=True,
    ),
    Policy.BOTTOM_K: PolicyFacts(
        meaning="the k worst layers of the ranking, as a control for its scores",
        takes="k",
        needs_ranking=True,
    ),
    Policy.SEARCH: PolicyFacts(
        meaning="the layers that a search finds, trained at the learning rate that it finds for "
        "them",
        searches=True,
        takes_granularity=False,
        takes_include=False,
    ),
    Policy.FIRST_K: PolicyFacts(meaning="the k lowest layers", takes="k"),
    Policy.LAST_K: PolicyFacts(meaning="the k highest layers", takes="k"),
    Policy.RANDOM_K: PolicyFacts(
        meaning="k layers drawn at random by the seed", takes="k", takes_seed=True
    ),
    Policy.LAYERS: PolicyFacts(
        meaning="the named layers, or whole layers by their indices", takes="layers"
    ),
    Policy.ALL: PolicyFacts(meaning="every layer", takes_granularity=False),
    Policy.HEAD_ONLY: PolicyFacts(
        meaning="no layer: only the head trains", takes_granularity=False
    ),
}


def described(choices: Mapping[Any, MethodFacts | PolicyFacts]) -> str:
    """A Markdown list of the choices and their meanings."""
    return "\n".join(f"- `{choice}`: {facts.meaning}" for choice, facts in choices.items())
