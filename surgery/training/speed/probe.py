"""Measure how fast a device trains before any job has run on it, with batches of made tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from transformers import BertConfig, BertModel

from surgery.errors import SurgeryError
from surgery.models.memory import synchronize
from surgery.models.numerics import Numerics
from surgery.models.shape import EncoderShape
from surgery.schemas.enums import TrainingPrecision
from surgery.schemas.jobs.estimate import Probe, ProbedSpeed
from surgery.schemas.options.training import TrainingSpec
from surgery.training.costs.flops import RowLength, TrainedSizes, suffix_work
from surgery.training.optimizer import make_optimizer
from surgery.training.speed.throughput import device_name

ROWS, TOKENS = 16, 24  # of a batch: short texts, as in most of the presets
BLOCKS = 2
# MiniLM's width; a GPU is not busy with that, so that it is also measured at a large encoder's.
WIDTHS = {"cpu": (384,), "cuda": (384, 1024)}
HEAD_WIDTH = 32  # of an attention head; MiniLM's
SECONDS = 0.4  # after which no further step begins, for each width and precision
STEPS = (2, 10)  # fewest and most steps; the first one is slower, as it allocates and compiles


def probe(precisions: Sequence[str]) -> Probe:
    """The floating-point operations per second of training steps, at each of these precisions.

    Takes one or two seconds on two cores. What fails is told in the result.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    began, speeds, failures = time.perf_counter(), [], {}
    for precision in precisions:
        try:
            for width in WIDTHS[device.type]:
                rate = _rate(TrainingPrecision(precision), width, device)
                found = ProbedSpeed(precision=precision, width=width, operations_per_second=rate)
                speeds.append(found)
        # Torch's errors are all RuntimeErrors; a SurgeryError refuses the precision.
        except (SurgeryError, RuntimeError, MemoryError) as error:
            failures[str(precision)] = f"{type(error).__name__}: {str(error)[:200]}"
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Probe(
        device=device_name(device),
        torch=torch.__version__,
        speeds=speeds,
        failures=failures,
        seconds=round(time.perf_counter() - began, 3),
    )


def _rate(precision: TrainingPrecision, width: int, device: torch.device) -> float:
    """The operations per second of the fastest step.

    Whatever else starts with the worker slows some of the steps; a run outlasts it.
    """
    training = TrainingSpec(precision=precision)
    numerics = Numerics(training, device)
    with torch.random.fork_rng(), numerics.settings():
        model = _encoder(width, device)
        blocks = tuple(sum(p.numel() for p in block.parameters()) for block in model.encoder.layer)
        fastest = min(_step_seconds(model, training, numerics, device))
    shape = EncoderShape(model.config.to_dict(), blocks, sum(blocks), 0, 0)
    trained = TrainedSizes(dict(enumerate(blocks)), 0)
    return ROWS * suffix_work(shape, RowLength(TOKENS, TOKENS**2), trained) / fastest


def _encoder(width: int, device: torch.device) -> BertModel:
    """A small encoder with random weights."""
    config = BertConfig(
        vocab_size=TOKENS,
        hidden_size=width,
        num_hidden_layers=BLOCKS,
        num_attention_heads=width // HEAD_WIDTH,
        intermediate_size=4 * width,
        max_position_embeddings=TOKENS,
    )
    with device:
        return BertModel(config, add_pooling_layer=False)


def _step_seconds(
    model: BertModel, training: TrainingSpec, numerics: Numerics, device: torch.device
) -> list[float]:
    """The seconds of each training step but the first: both passes and the optimizer's update."""
    model.train()
    model.embeddings.requires_grad_(False)
    trained = dict(model.encoder.named_parameters())
    optimizer = make_optimizer(trained, training, dict.fromkeys(trained, 1.0))
    scaler = numerics.scaler()
    tokens = torch.arange(TOKENS, device=device).expand(ROWS, TOKENS)
    mask = torch.ones_like(tokens)
    fewest, most = STEPS
    took: list[float] = []
    while len(took) < most and (len(took) < fewest or sum(took) < SECONDS):
        synchronize(device)
        began = time.perf_counter()
        with numerics.autocast():
            states = model(input_ids=tokens, attention_mask=mask).last_hidden_state
        scaler.scale(states.float().square().mean()).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(trained.values(), training.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        synchronize(device)
        took.append(time.perf_counter() - began)
    return took[1:]
