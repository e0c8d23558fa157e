"""The choices that requests and results are made of, and what is true of each.

``METHODS`` and ``POLICIES`` say all there is to know of a method of ranking and of a policy of
selection beside how it is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal


class Problem(StrEnum):
    """What is predicted from a row."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    MULTIPLE_CHOICE = "multiple_choice"
    TOKEN_CLASSIFICATION = "token_classification"  # noqa: S105  # no password


class Aggregate(StrEnum):
    """How the diagonal of a layer's Fisher information becomes one number."""

    TRACE = "trace"
    """Its sum: the mean over samples of the squared gradient norm. Cheapest; exact intervals."""
    MEAN = "mean"
    """The trace over the number of parameters: layers of different sizes on one scale."""
    FROBENIUS = "frobenius"
    """The norm of the diagonal, summed over tensors: the released code of the paper."""


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
    """What a method is and needs: validation, scoring and descriptions all go by these."""

    meaning: str
    needs_head: bool = True
    """Whether gradients flow through the task head. The others take no gradient."""
    reads_data: bool = True
    of_mean_gradient: bool = False
    """Whether it scores the mean gradient of the samples: such methods share one pass."""
    weighs: bool = True
    """Whether scores can be added up. The others give an order and nothing more."""
    whole_layers_only: bool = False
    problems: frozenset[Problem] = frozenset(Problem)
    """Those it is defined for."""
    samples: tuple[int, int] = SAMPLES
    """The fewest and the most that a request may ask for."""
    ignores: tuple[str, ...] = ()
    """Options that mean nothing to it."""


_OF_FISHER = ("aggregate", "fisher", "draws", "adaptive", "model_prior")
_OF_GRADIENTS = (*_OF_FISHER, "head_seeds", "precision")
_KERNEL_SAMPLES = (10, 2000)  # two to predict in each of five folds; a kernel has N² numbers

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
        meaning="a random order drawn by the seed: what any method has to beat",
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
        meaning="ranks by `fisher`, and puts every other method beside it in one table",
        whole_layers_only=True,
        samples=_KERNEL_SAMPLES,
        ignores=("adaptive",),
    ),
}
"""In the order in which a table of all methods lists them."""


class Granularity(StrEnum):
    """What is ranked."""

    LAYER = "layer"
    """Transformer blocks."""
    SUBLAYER = "sublayer"
    """Attention and feed-forward part of each block, each with its norms."""
    TENSOR = "tensor"
    """Single parameter tensors of the blocks."""


class Fisher(StrEnum):
    """Which labels the squared gradients are taken at. Cost in backward passes a batch."""

    EMPIRICAL = "empirical"
    """The dataset's labels: one pass."""
    SAMPLED = "sampled"
    """Labels drawn from the model's own prediction: one pass a draw."""
    EXACT = "exact"
    """The expectation over the model's prediction: one pass for two classes and for regression,
    C − 1 for C classes, as many a labelled token for token classification."""


class Precision(StrEnum):
    """Number format of weights and activations while scoring; sums are always float32 or wider."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class TrainingPrecision(StrEnum):
    """Number format of the matrix products while training; weights and moments stay float32."""

    FP32 = "fp32"
    TF32 = "tf32"
    """float32 with products rounded to 10 bits of mantissa, on GPUs that have it."""
    BF16 = "bf16"
    FP16 = "fp16"


class Policy(StrEnum):
    """Which layers train."""

    TOP_K = "top_k"
    TOP_SHARE = "top_share"
    MAX_PARAMETERS = "max_parameters"
    BOTTOM_K = "bottom_k"
    FIRST_K = "first_k"
    LAST_K = "last_k"
    RANDOM_K = "random_k"
    LAYERS = "layers"
    ALL = "all"
    HEAD_ONLY = "head_only"


@dataclass(frozen=True, kw_only=True)
class PolicyFacts:
    """What a policy chooses and what a selection has to say with it."""

    meaning: str
    takes: Literal["k", "share", "max_parameters", "layers"] | None = None
    """The field of a selection that it needs; the other three mean nothing to it."""
    needs_ranking: bool = False
    """Whether it goes by the scores of a ranking."""
    takes_seed: bool = False
    takes_granularity: bool = True


POLICIES: dict[Policy, PolicyFacts] = {
    Policy.TOP_K: PolicyFacts(meaning="the k best of the ranking", takes="k", needs_ranking=True),
    Policy.TOP_SHARE: PolicyFacts(
        meaning="the fewest of the ranking, best first, that hold this share of the total score",
        takes="share",
        needs_ranking=True,
    ),
    Policy.MAX_PARAMETERS: PolicyFacts(
        meaning="down the ranking, all that still fits into so many parameters beside the head",
        takes="max_parameters",
        needs_ranking=True,
    ),
    Policy.BOTTOM_K: PolicyFacts(
        meaning="the k worst of the ranking: what its scores have to beat",
        takes="k",
        needs_ranking=True,
    ),
    Policy.FIRST_K: PolicyFacts(meaning="the k lowest layers", takes="k"),
    Policy.LAST_K: PolicyFacts(meaning="the k highest layers", takes="k"),
    Policy.RANDOM_K: PolicyFacts(
        meaning="k layers drawn at random, by the seed", takes="k", takes_seed=True
    ),
    Policy.LAYERS: PolicyFacts(
        meaning="the layers named, or whole layers by their index", takes="layers"
    ),
    Policy.ALL: PolicyFacts(meaning="every layer", takes_granularity=False),
    Policy.HEAD_ONLY: PolicyFacts(meaning="no layer, only the head", takes_granularity=False),
}


def described(choices: Mapping[Any, MethodFacts | PolicyFacts]) -> str:
    """A Markdown list of the choices and their meanings."""
    return "\n".join(f"- `{choice}`: {facts.meaning}" for choice, facts in choices.items())
