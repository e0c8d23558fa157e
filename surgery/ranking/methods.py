"""Methods other than Fisher: by the mean gradient, weights, a token's state, or position."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.data.tokens.dataset import Batch, sample_numbers
from surgery.errors import ModelUnsupported, ScoresNotFinite
from surgery.gradients.accumulators import Means
from surgery.gradients.passes import scoring_mode
from surgery.models.blocks import Block, Unit, model_inputs, units_of
from surgery.ranking.scores import Matrix, Scores, from_samples
from surgery.schemas.enums import Method

Uses = list[tuple[Tensor, Tensor]]  # inputs and outputs of a block, one pair for each use
NORMAL_IQR = 1.349  # inter-quartile range of a normal distribution of unit variance


def gradient_scores(
    halves: tuple[Means, Means], units: Sequence[Unit], sizes: tuple[int, int]
) -> dict[Method, Scores]:
    """Scores of the mean gradient ḡ over two halves of the samples, ``sizes`` of them in each.

    - ``gradient_norm``: √(Σ_p ‖ḡ_p‖²).
    - ``relative_gradient_norm``: mean over the unit's tensors of ‖ḡ_p‖/‖θ_p‖ (Lee et al.,
      "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts", ICLR 2023). A tensor of
      zeros, such as a new bias, has no ratio and is left out of the mean; a unit of such tensors
      alone scores 0.
    - ``snip``: Σ_j |ḡ_j θ_j| (Lee et al., "SNIP", ICLR 2019).

    The ``halves`` of the scores follow from the same formulas for the mean over each half. Sums are
    float64, computed for one tensor at a time. Raises ScoresNotFinite.
    """
    counts = (sum(sizes), *sizes)
    table = np.array([_gradient_measures(halves, unit, counts) for unit in units])
    if not np.isfinite(table).all():
        raise ScoresNotFinite
    methods = (Method.GRADIENT_NORM, Method.RELATIVE_GRADIENT_NORM, Method.SNIP)
    found = {}
    for place, method in enumerate(methods):
        whole, first, second = table[:, :, place].T
        found[method] = Scores(list(units), whole, halves=(first, second))
    return found


def _gradient_measures(halves: tuple[Means, Means], unit: Unit, counts: Sequence[int]) -> Matrix:
    """A row each for the whole, the first and the second half, and a column for each method."""
    found = np.zeros((3, 3))
    ratios = 0
    for name in unit.members:
        first, second = (half.sums[name] for half in halves)
        weights = halves[0].scored[name].detach()
        size = float(torch.linalg.vector_norm(weights, dtype=torch.float64))
        ratios += size > 0
        for row, parts in enumerate(((first, second), (first,), (second,))):
            mean = torch.stack(parts).sum(0, dtype=torch.float64) / counts[row]
            norm = float(mean.norm())
            found[row] += norm**2, norm / size if size else 0.0, float((mean * weights).abs().sum())
    found[:, 0] **= 0.5
    found[:, 1] /= max(1, ratios)
    return found


def linear_weights(model: nn.Module, units: Sequence[Unit]) -> list[Unit]:
    """The units reduced to the weights of their Linears, without units that have none."""
    weights = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    named = {name: p for name, p in model.named_parameters() if id(p) in weights}
    found = []
    for unit in units:
        members = tuple(name for name in unit.members if name in named)
        size = sum(named[name].numel() for name in members)
        if members:
            found.append(replace(unit, members=members, parameters=size))
    return found


def weight_snr(model: nn.Module, units: Sequence[Unit]) -> Scores:
    """The mean signal-to-noise ratio of the weights of each unit's Linears; it reads no data.

    Let S be the singular values of a matrix, β ≤ 1 the ratio of its sides, and σ = IQR(S) / 1.349
    the noise level. Then the noise edge is σ (1 + √β), and the score is Σ S above it over Σ S below
    it. This is the threshold of Spectrum (Hartford et al., "Spectrum: Targeted Training on Signal
    to Noise Ratio", 2024). Its released code also divides by the largest singular value, so that
    scaling a matrix changes its score; that is not done here. The edge is not the exact one: the
    singular values of a matrix far from square do not begin at zero, so that nearly all of them lie
    above it, be they noise or not, and such matrices dominate the mean.

    The smallest singular value always counts as noise, so that the ratio is finite even if all are
    above the edge, as for an orthogonal matrix. If none is, the score is 0. Units without a Linear
    (a bias, a norm) have no score and are left out. Singular values are float64.
    Raises ModelUnsupported when no unit has a Linear, and ScoresNotFinite.
    """
    parameters = dict(model.named_parameters())
    matrices = linear_weights(model, units)
    if not matrices:
        raise ModelUnsupported(
            f"no unit of {type(model).__name__} has the weight of a Linear, which method "
            "weight_snr needs; use another method"
        )
    values = [
        np.mean([signal_to_noise(parameters[name].detach()) for name in unit.members])
        for unit in matrices
    ]
    kept = {unit.name for unit in matrices}
    return Scores([unit for unit in units if unit.name in kept], np.array(values))


def signal_to_noise(matrix: Tensor) -> float:
    """The sum of the singular values above the noise edge over that below; see ``weight_snr``."""
    if not torch.isfinite(matrix).all():
        raise ScoresNotFinite
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT  # twice as fast
    values = torch.linalg.svdvals(tall.double())
    low, high = torch.quantile(values, values.new_tensor([0.25, 0.75])).tolist()
    ratio = min(matrix.shape) / max(matrix.shape)
    edge = (high - low) / NORMAL_IQR * (1 + ratio**0.5)
    above = values > edge
    above[-1] = False
    if not above.any():
        return 0.0
    # In a matrix of lower rank, what rounding leaves of singular values of zero is not noise.
    rounding = float(values[0]) * max(matrix.shape) * torch.finfo(torch.float64).eps
    return float(values[above].sum()) / max(float(values[~above].sum()), rounding)


def cls_similarity(model: nn.Module, blocks: Sequence[Block], batches: Iterable[Batch]) -> Scores:
    """How far each block turns the state of the classification token: 1 − cosine(before, after).

    ``batches`` are as for ``fisher_scores``; the cost is one forward pass. States are the inputs
    and outputs of the block's module, because ``output_hidden_states`` sometimes differs from these
    (the last of ModernBERT and nomic_bert is normalised once more, ALBERT's groups count as one).

    The token is the one that the model's own head reads: the first that is not padding, or the last
    for a model whose config says so (XLNet). The score is the mean over the uses of a block that is
    used several times, and over the choices of a sample. Raises ModelUnsupported where the token's
    state cannot be identified, and ScoresNotFinite.
    """
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise ValueError("no batch to score")
    parts: list[Tensor] = []
    numbers: list[int] = []
    with scoring_mode(model), torch.no_grad():
        tokens_first = _tokens_first(model, blocks, first)
        for batch in chain([first], iterator):
            samples = sample_numbers(batch, len(numbers))
            turns = _turns(model, blocks, batch, tokens_first=tokens_first)
            parts.append(turns.reshape(len(samples), -1, len(blocks)).mean(1))
            numbers += samples
    matrix = torch.cat(parts)[torch.tensor(numbers).argsort()]
    if not torch.isfinite(matrix).all():
        raise ScoresNotFinite
    return from_samples(units_of(model, blocks), matrix.numpy())


@contextmanager
def _states(blocks: Sequence[Block]) -> Iterator[list[Uses]]:
    """Lists, one for each block, that record inputs and outputs of its uses."""
    seen: list[Uses] = [[] for _ in blocks]
    handles = [
        block.module.register_forward_hook(partial(_keep, uses), with_kwargs=True)
        for block, uses in zip(blocks, seen, strict=True)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep(
    uses: Uses, _: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any
) -> None:
    before = args[0] if args else named["hidden_states"]
    uses.append((before, output if isinstance(output, Tensor) else output[0]))


def _tokens_first(model: nn.Module, blocks: Sequence[Block], batch: Batch) -> bool:
    """Whether states are (T, N, d), found on a batch whose numbers of texts and tokens differ."""
    ids = batch["input_ids"]
    texts = ids.shape[1] if ids.dim() == 3 else 1
    rows = [0] if texts != ids.shape[-1] else [0, 0]
    some = {name: tensor[rows] for name, tensor in batch.items()}
    with _states(blocks) as seen:
        model(**model_inputs(model, some))
    return bool(seen[0]) and len(seen[0][0][0]) != texts * len(rows)


def _turns(
    model: nn.Module, blocks: Sequence[Block], batch: Batch, *, tokens_first: bool
) -> Tensor:
    """1 − cosine for each text and block, (texts, L), float64 on the CPU."""
    mask = batch["attention_mask"].flatten(0, -2)
    width = mask.shape[1]
    places = mask.argmax(1)
    if getattr(getattr(model, "config", None), "summary_type", None) == "last":
        places = width - 1 - mask.flip(1).argmax(1)
    with _states(blocks) as seen:
        model(**model_inputs(model, batch))
    columns = []
    for block, uses in zip(blocks, seen, strict=True):
        if not uses:
            raise _unseen(block, "took no part in the forward pass")
        turns = []
        for use in uses:
            pair = [states.transpose(0, 1) if tokens_first else states for states in use]
            before, after = (_token(block, states, places, width) for states in pair)
            turns.append(1 - F.cosine_similarity(before, after, dim=-1))
        columns.append(torch.stack(turns).mean(0))
    return torch.stack(columns, dim=1).cpu()


def _token(block: Block, states: Tensor, places: Tensor, width: int) -> Tensor:
    """The state of one token of each text, (texts, d), float64."""
    texts = len(places)
    if states.dim() != 3 or len(states) != texts:
        raise _unseen(block, f"has states of shape {tuple(states.shape)} for {texts} texts")
    if states.shape[1] < width and bool(places.any()):  # Funnel pools all but the first
        raise _unseen(block, "pools tokens, and the classification token is not the first")
    return states[torch.arange(texts, device=states.device), places].double()


def _unseen(block: Block, reason: str) -> ModelUnsupported:
    return ModelUnsupported(
        f"{block.name} {reason}: method cls_similarity cannot follow the classification token; "
        "use another method"
    )


def by_position(units: Sequence[Unit], method: Method, seed: int) -> Scores:
    """Scores by position alone, from U for the best down to 1: ``first``, ``last`` or ``random``.

    ``units`` are listed bottom to top; ``seed`` is that of ``random``.
    """
    rising = np.arange(1.0, len(units) + 1)
    orders = {
        Method.LAST: rising,
        Method.FIRST: rising[::-1].copy(),
        Method.RANDOM: np.random.default_rng(seed).permutation(rising),
    }
    return Scores(list(units), orders[method])
