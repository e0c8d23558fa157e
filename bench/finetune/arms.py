"""One way to fine-tune, timed in a process of its own.

    python -m bench.finetune.arms '{"task": "cola", "rows": 64, …}' 'ours last-2'

prints one line of JSON. transformers' Trainer and PEFT get the rows as jobs have them (tokenised
once, outside the timed part; batches of like length, padded to their own longest), the same head,
AdamW, rates and number of steps, and write nothing while the clock runs.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import TaskType, get_peft_model
from torch import nn
from transformers import (
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from bench.tables import resident
from surgery.checkpoints.lora import head_modules
from surgery.data.references import materialise, resolve_dataset
from surgery.data.tokens.dataset import Encoded, TaskData, open_data
from surgery.data.tokens.tokenize import encode
from surgery.evaluation.evaluate import evaluate
from surgery.io.reporter import CheckpointSummary, Quiet
from surgery.io.sources import Sources
from surgery.models.loading import LoadedModel, load_model
from surgery.models.memory import peak_bytes, reset_peak, synchronize
from surgery.models.source.resolve import local_model
from surgery.models.trainable import freeze_all_but, layers_of_model, lora_config
from surgery.ranking.selection import choose_layers
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.selection import SelectionSpec
from surgery.schemas.options.adapter import AdapterSpec
from surgery.schemas.options.head import HeadSpec
from surgery.schemas.options.training import TrainingSpec, steps_per_epoch
from surgery.training.loop import finetune

Json = dict[str, Any]
RANK = 8
EVALUATED = 32  # rows, by our loop


@dataclass(frozen=True)
class Setting:
    """The settings that all arms share. ``encoder`` is a folder, ``top`` the layers of top-2."""

    encoder: str
    task: str
    rows: int
    epochs: int = 3
    batch_size: int = 16
    learning_rate: float = 1e-4
    lora_learning_rate: float = 5e-4
    max_length: int = 128
    threads: int = 2
    seed: int = 0
    cache: str = "bench/results/cache"
    top: tuple[int, ...] = ()
    device: str = "cpu"
    precision: str = "fp32"

    @property
    def training(self) -> TrainingSpec:
        """The settings for our own loop. It evaluates once, at the end."""
        spec = TrainingSpec(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            max_length=self.max_length,
            seed=self.seed,
            precision=self.precision,
            head=HeadSpec(warmup_epochs=0),  # the same first weights for all arms
        )
        steps = steps_per_epoch(spec, self.rows) * self.epochs
        return spec.model_copy(update={"evaluate_every_steps": steps})

    def opened(self) -> tuple[LoadedModel, TaskData]:
        """The first rows of the task and the encoder with a new head, the same in every process."""
        mirrors = os.environ.get("SURGEON_MIRROR_DIR", "").split(os.pathsep)
        sources = Sources(tuple(Path(p) for p in mirrors if p), cache=Path(self.cache))
        source = resolve_dataset(f"glue/{self.task}", sources)
        folder, report = materialise(source, sources)
        whole = open_data(folder, report, source.metrics)
        data = replace(whole, train=whole.train.select(range(self.rows)), fingerprint=None)
        model = local_model(Path(self.encoder))
        return load_model(model, sources, data, seed=self.seed, head="new"), data


@dataclass
class Clock:
    """Notes the end of each epoch, and how much device memory training adds at its peak."""

    device: torch.device
    began: float = 0.0
    resident: int = 0
    ends: tuple[float, ...] = ()

    def start(self) -> None:
        """Note that training begins."""
        gc.collect()
        reset_peak()
        if self.device.type == "cuda":
            self.resident = torch.cuda.memory_allocated(self.device)
        else:
            self.resident = resident("VmRSS")
        self.began = time.perf_counter()

    def end_epoch(self) -> None:
        """Note the end of an epoch."""
        synchronize(self.device)
        self.ends = (*self.ends, time.perf_counter())

    def measured(self) -> Json:
        """The seconds of each epoch, and the peak memory in bytes."""
        seconds = np.diff([self.began, *self.ends]).tolist()
        return {"epochs": seconds, "peak_bytes": peak_bytes() - self.resident}


def size_of(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class _Collator(DataCollatorWithPadding):
    """Pads a batch, and drops the lengths, which only the sampler needs."""

    def __call__(self, features: list[Json]) -> Any:
        kept = [{k: v for k, v in row.items() if k != "length"} for row in features]
        return super().__call__(kept)


class _Timed(TrainerCallback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.clock.start()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.clock.end_epoch()


def peer(setting: Setting, prepare: Callable[[LoadedModel], nn.Module], rate: float) -> Json:
    """Train with transformers' Trainer, after ``prepare`` has made the model ready."""
    loaded, data = setting.opened()
    tokenizer = loaded.tokenizer
    others = [name for name in tokenizer.model_input_names if name != "input_ids"]
    tokenizer.model_input_names = ["input_ids", *others]  # what is padded goes by the first
    model, clock = prepare(loaded), Clock(torch.device(setting.device))
    rows = _rows(encode(data.train, tokenizer, setting.max_length))
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model,
            args=_arguments(setting, rate, scratch),
            train_dataset=rows,
            data_collator=_Collator(tokenizer),
            processing_class=tokenizer,
            callbacks=[_Timed(clock)],
        )
        trainer.train()
        measured = clock.measured()
        assert len(measured["epochs"]) == setting.epochs
        trainer.save_model(scratch)
        kept = size_of(Path(scratch))
    return {**measured, **_told(model, loaded, data, setting), "checkpoint_bytes": kept}


def _rows(encoded: Encoded) -> Dataset:
    spans = list(zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True))
    columns: dict[str, list[Any]] = {
        "input_ids": [encoded.ids[start:end].tolist() for start, end in spans],
        "attention_mask": [[1] * int(end - start) for start, end in spans],
        "labels": encoded.labels.tolist(),
        "length": encoded.lengths.tolist(),
    }
    if encoded.types is not None:
        columns["token_type_ids"] = [encoded.types[start:end].tolist() for start, end in spans]
    return Dataset.from_dict(columns)


def _arguments(setting: Setting, rate: float, scratch: str) -> TrainingArguments:
    spec = setting.training
    return TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=setting.batch_size,
        num_train_epochs=setting.epochs,
        learning_rate=rate,
        weight_decay=spec.weight_decay,
        warmup_steps=math.floor(spec.warmup_ratio * (spec.evaluate_every_steps or 0)),
        lr_scheduler_type="linear",
        max_grad_norm=spec.max_grad_norm,
        seed=setting.seed,
        train_sampling_strategy="group_by_length",
        optim="adamw_torch_fused",
        use_cpu=setting.device == "cpu",
        bf16=setting.precision == "bf16",
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        remove_unused_columns=False,
    )


def _told(model: nn.Module, loaded: LoadedModel, data: TaskData, setting: Setting) -> Json:
    validation = encode(data.validation, loaded.tokenizer, setting.max_length)
    plain = loaded.model  # PEFT adapts it in place
    values = evaluate(plain, validation, data, next(plain.parameters()).device)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"metric": values[data.metrics[0]], "trainable": trained}


class _Watch(Quiet):
    """The clock of our loop: it starts after tokenising and includes the filling of the cache."""

    def __init__(self, out: Path, steps: int, device: torch.device) -> None:
        super().__init__(out)
        self.clock, self.steps, self.kept = Clock(device), steps, 0

    def phase(self, name: str) -> None:
        """The first phase after tokenising begins the first epoch."""
        if name in {"prefix", "train"} and not self.clock.began:
            self.clock.start()

    def step(self, done: int, total: int | None, unit: str) -> None:  # noqa: ARG002
        """A step ends an epoch where its number says so."""
        if unit == "steps" and done % self.steps == 0:
            self.clock.end_epoch()
            self.last = self.clock.measured()

    def checkpoint(self, directory: Path, record: CheckpointSummary) -> None:  # noqa: ARG002
        """Note the size of the checkpoint, which was written after the last step."""
        self.kept = size_of(directory)


def ours(setting: Setting, selection: SelectionSpec, cache: str) -> Json:
    """Our own loop, from Python. As `Trainer`'s, the metric is measured when the clock is read.

    The loop itself evaluates a few rows, as it must: it keeps a prefix's states of those too.
    """
    loaded, data = setting.opened()
    few = replace(data, validation=data.validation.select(range(EVALUATED)))
    training = setting.training.model_copy(update={"prefix_cache": cache})
    spec = FinetuneSpec(model="local", dataset="local", selection=selection, training=training)
    layers = choose_layers(selection, layers_of_model(loaded))
    with tempfile.TemporaryDirectory() as scratch:
        steps = steps_per_epoch(training, setting.rows)
        watch = _Watch(Path(scratch) / "out", steps, torch.device(setting.device))
        finetune(loaded, few, spec, layers, watch)
    assert len(watch.last["epochs"]) == setting.epochs
    told = _told(loaded.model, loaded, data, setting)
    return {**watch.last, **told, "checkpoint_bytes": watch.kept}


def _selection(name: str, setting: Setting) -> SelectionSpec:
    if name == "all":  # as Trainer's: the embeddings and the pooler train too
        return SelectionSpec.model_validate({"policy": "all", "include": ["embeddings", "pooler"]})
    if name == "top-2":
        layers = list(setting.top)
        return SelectionSpec.model_validate({"policy": "layers", "layers": layers})
    return SelectionSpec.model_validate({"policy": "last_k", "k": int(name.removeprefix("last-"))})


def _frozen_but(name: str, setting: Setting) -> Callable[[LoadedModel], nn.Module]:
    """Freeze all other parameters as a user of Trainer does, with requires_grad = False."""

    def prepare(loaded: LoadedModel) -> nn.Module:
        layers = choose_layers(_selection(name, setting), layers_of_model(loaded))
        if name != "all":
            freeze_all_but(loaded, layers, [])
        return loaded.model

    return prepare


def _lora(loaded: LoadedModel) -> nn.Module:
    """Wrap the model with PEFT: LoRA on every linear layer of the blocks, and the head."""
    inside = {id(module) for block in loaded.blocks for module in block.module.modules()}
    targets = [
        name
        for name, module in loaded.model.named_modules()
        if id(module) in inside and isinstance(module, nn.Linear)
    ]
    config = lora_config(AdapterSpec(type="lora", rank=RANK), targets)
    config.task_type, config.modules_to_save = TaskType.SEQ_CLS, head_modules(loaded)
    return get_peft_model(loaded.model, config)


def run(arm: str, setting: Setting) -> Json:
    """Run an arm by name: ``trainer``, ``peft`` or ``ours``; what trains; ``off`` without cache."""
    whose, what, *rest = arm.split()
    if whose == "trainer":
        return peer(setting, _frozen_but(what, setting), setting.learning_rate)
    if whose == "peft":
        return peer(setting, _lora, setting.lora_learning_rate)
    return ours(setting, _selection(what, setting), "off" if rest else "auto")


def main() -> None:
    """Run one arm and print its result as a line of JSON."""
    warnings.simplefilter("ignore")
    given = json.loads(sys.argv[1])
    setting = Setting(**{**given, "top": tuple(given["top"])})
    torch.set_num_threads(setting.threads)
    print(json.dumps(run(sys.argv[2], setting)))


if __name__ == "__main__":
    main()
