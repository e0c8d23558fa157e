"""The choices that requests and results are made of."""

from __future__ import annotations

from enum import StrEnum


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
    """The diagonal of the Fisher information: mean squared per-sample gradients."""
    GRADIENT_NORM = "gradient_norm"
    """‖ḡ‖ of the mean gradient."""
    RELATIVE_GRADIENT_NORM = "relative_gradient_norm"
    """Mean over tensors of ‖ḡ_p‖/‖θ_p‖ (Lee et al., "Surgical Fine-Tuning", ICLR 2023)."""
    SNIP = "snip"
    """Σ|ḡ·θ| (Lee et al., "SNIP", ICLR 2019)."""
    WEIGHT_SNR = "weight_snr"
    """Singular values above the noise edge over those below (Spectrum, 2024); uses no data."""
    CLS_SIMILARITY = "cls_similarity"
    """How far a layer turns the first token's state: 1 − cosine. One forward pass."""
    TANGENT = "tangent"
    """How well the layer's tangent kernel predicts what the head leaves unexplained."""
    LAST = "last"
    """Upper layers first."""
    FIRST = "first"
    """Lower layers first."""
    RANDOM = "random"
    """A seeded order: what any method has to beat."""
    PAPER_COMPAT = "paper_compat"
    """The computation of the paper's released code, for comparison only."""
    ALL = "all"
    """Rank by `fisher`, and tabulate every other method beside it."""


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
    """The k of highest score."""
    TOP_SHARE = "top_share"
    """The fewest, best first, that hold a share of the total score."""
    MAX_PARAMETERS = "max_parameters"
    """Down the ranking, all that still fits into a number of parameters."""
    BOTTOM_K = "bottom_k"
    """The k of lowest score: what the score has to beat."""
    FIRST_K = "first_k"
    LAST_K = "last_k"
    RANDOM_K = "random_k"
    LAYERS = "layers"
    ALL = "all"
    HEAD_ONLY = "head_only"


RANKED = (Policy.TOP_K, Policy.TOP_SHARE, Policy.MAX_PARAMETERS, Policy.BOTTOM_K)
"""The policies that go by the scores of a ranking."""

ORDER_ONLY = (Method.FIRST, Method.LAST, Method.RANDOM)
"""The methods whose scores order and do not weigh."""
