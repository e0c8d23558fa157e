"""Load a resolved model for a task, with safetensors only.

``transformers`` never sees the original folder, but a checked copy that
`surgery.models.source.copy` makes of it.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_MULTIPLE_CHOICE_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from surgery.data.tokens.dataset import TaskData
from surgery.errors import ModelUnsupported
from surgery.io.library_errors import blamed_on_model
from surgery.io.safetensors import read_header
from surgery.io.sources import Sources
from surgery.models.blocks import (
    Block,
    accepts,
    find_blocks,
    head_parameters,
    part_of,
    positions_of,
)
from surgery.models.inputs import wanted_inputs
from surgery.models.source.copy import checked_copy
from surgery.models.source.resolve import ModelSource
from surgery.schemas.enums import Problem

# Keys that a model reads although its config class does not declare them.
UNDECLARED_KEYS = {
    "deberta": {"cls_dropout", "embedding_size", "talking_head"},
    "deberta-v2": {
        "attention_head_size",
        "cls_dropout",
        "conv_act",
        "conv_groups",
        "conv_kernel_size",
        "embedding_size",
        "norm_rel_ebd",
        "position_buckets",
        "share_att_key",
    },
    "electra": {"summary_first_dropout", "summary_proj_to_labels"},
    # The keys of transformers 4 for attention and rotary positions.
    "modernbert": {"global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"},
    "nomic_bert": {"partial_rotary_factor", "rope_scaling", "rope_theta"},
    "xlnet": {"summary_first_dropout", "summary_proj_to_labels"},
}
# Times what the weights hold, a config may claim and is loaded: what is missing then has a name.
MOST_CLAIMED = 2
SEVERAL_LABELS = "multi_label_classification"  # transformers' name in a config
LABEL_KEYS = {"id2label", "architectures", "model_type"}
HEAD_CLASSES = {
    Problem.CLASSIFICATION: MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    Problem.MULTI_LABEL: MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    Problem.REGRESSION: MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    Problem.MULTIPLE_CHOICE: MODEL_FOR_MULTIPLE_CHOICE_MAPPING,
    Problem.TOKEN_CLASSIFICATION: MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
}
# Config values that are used whatever the checkpoint's config says: of all models, and by type.
OVERRIDES: dict[str, Any] = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
}
OVERRIDES_OF_TYPE: dict[str, dict[str, Any]] = {
    # Sparse attention turns itself off for good at the first short batch, and draws its blocks
    # from numpy's global generator: neither a score nor a run could be repeated.
    "big_bird": {"attention_type": "original_full"},
    # Memories hold the states of earlier segments. Rows have none, but memory would be used.
    "xlnet": {"use_mems_eval": False, "use_mems_train": False},
}
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass
class LoadedModel:
    """A task model in float32 with its tokenizer and blocks.

    ``new`` names the tensors that the checkpoint does not hold: they are drawn at random and always
    train with the head. ``continued``: the weights of an earlier fine-tune, head included, have
    replaced those that were loaded.
    """

    source: ModelSource
    model: nn.Module
    tokenizer: Any
    blocks: list[Block]
    new: list[str]
    snapshot: Path
    continued: bool = False

    @property
    def has_new_head(self) -> bool:
        """Whether the head, or a part of it, is as it was drawn."""
        return bool(self.new) and not self.continued

    @property
    def head(self) -> dict[str, nn.Parameter]:
        """The parameters that always train: the head, and what the checkpoint does not hold."""
        parameters = dict(self.model.named_parameters())
        return head_parameters(self.model) | {
            name: parameters[name] for name in self.new if name in parameters
        }


def load_model(
    source: ModelSource,
    sources: Sources,
    data: TaskData,
    *,
    seed: int,
    head: str = "auto",
    device: torch.device | str = "cpu",
) -> LoadedModel:
    """The encoder with a head for the task, in float32 and eval mode.

    ``head`` is ``auto`` (keep the checkpoint's head if it fits the labels) or ``new``. New tensors
    are drawn from ``seed`` alone. Raises ModelUnsupported if the weights do not fit the config or
    this process's memory, the architecture has no head for the problem, or the tokenizer has no
    padding token.
    """
    snapshot = checked_copy(source, sources)
    entries = json.loads((snapshot / "config.json").read_bytes())
    with blamed_on_model(f"config.json of {source.id!r} does not describe a model"):
        config = _config_for(entries, data)
    kind = head_class(config, data.problem)
    _check_claims(kind, config, snapshot, source)
    fits = head == "auto" and _head_fits(entries, data, kind)
    torch.manual_seed(seed)
    with blamed_on_model(f"model {source.id!r} does not load", snapshot):
        model, info = kind.from_pretrained(
            snapshot,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    with blamed_on_model(f"the tokenizer of {source.id!r} does not load", snapshot):
        tokenizer = AutoTokenizer.from_pretrained(
            snapshot, local_files_only=True, trust_remote_code=False
        )
    _fit_tokenizer(tokenizer, model, source)
    new = sorted(info["missing_keys"]) + sorted(key[0] for key in info["mismatched_keys"])
    if not fits:
        new = sorted({*new, *renew_head(model, seed)})
    _check_encoder(model, new, info["unexpected_keys"], source)
    model.to(device).eval()
    return LoadedModel(source, model, tokenizer, find_blocks(model), new, snapshot)


def _check_claims(kind: Any, config: Any, snapshot: Path, source: ModelSource) -> None:
    """Raise ModelUnsupported for sizes that the weights lack or this process cannot hold.

    The model is made without memory first, as loading would fill all there is with what a config
    claims. Another try would meet the same, so the error is not that a batch was too large.
    """
    with blamed_on_model(f"config.json of {source.id!r} does not describe a model"):
        with torch.device("meta"):
            model = kind(config)
        claimed = sum(each.numel() for each in _needed(model))
    headers = [read_header(path)[0] for path in snapshot.glob("*.safetensors")]
    held = sum(tensor.size for header in headers for tensor in header.values())
    if claimed > MOST_CLAIMED * held:
        raise ModelUnsupported(
            f"config.json of {source.id!r} describes blocks and embeddings of {claimed:,} "
            f"parameters, and its weights hold {held:,}; correct its sizes, such as vocab_size "
            "and max_position_embeddings, or save the model anew with both together"
        )
    size = sum(
        each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers())
    )
    most = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if most != resource.RLIM_INFINITY and size > most:
        raise ModelUnsupported(
            f"model {source.id!r} takes {size:,} bytes in float32, and jobs of this worker have "
            f"{most:,}; a worker with more memory can run it (SURGEON_JOB_MEMORY_BYTES)"
        )


def _fit_tokenizer(tokenizer: Any, model: Any, source: ModelSource) -> None:
    """Set the tokenizer's inputs to those that the model uses, and limit its length.

    ``embedding_rows`` becomes the number of tokens that the model knows, see
    `tokenize.check_tokens`.
    """
    if tokenizer.pad_token_id is None:
        raise ModelUnsupported(
            f"the tokenizer of {source.id!r} has no token for padding, so its rows cannot be "
            "batched; name one as pad_token in its tokenizer_config.json"
        )
    inputs = wanted_inputs(model.config, tokenizer.model_input_names)
    tokenizer.model_input_names = sorted(name for name in inputs if accepts(model, name))
    tokenizer.embedding_rows = model.get_input_embeddings().num_embeddings
    tokenizer.model_max_length = min(int(tokenizer.model_max_length), positions_of(model))


def _config_for(entries: dict[str, Any], data: TaskData) -> Any:
    model_type = entries["model_type"]
    known = AutoConfig.for_model(model_type).to_dict().keys() | LABEL_KEYS
    known |= UNDECLARED_KEYS.get(model_type, set())
    kept = {key: value for key, value in entries.items() if key in known - {"model_type"}}
    if "id2label" in kept:
        kept["label2id"] = {label: int(index) for index, label in kept["id2label"].items()}
    overrides = OVERRIDES | OVERRIDES_OF_TYPE.get(model_type, {})
    return AutoConfig.for_model(model_type, **kept | _labels(data) | overrides)


def _labels(data: TaskData) -> dict[str, Any]:
    if data.problem is Problem.MULTIPLE_CHOICE:
        return {}  # the head gives each choice one score, and has no labels
    if data.problem is Problem.REGRESSION:
        return {"num_labels": 1, "problem_type": "regression"}
    several = data.problem is Problem.MULTI_LABEL
    return {
        "id2label": dict(enumerate(data.labels)),
        "label2id": {label: index for index, label in enumerate(data.labels)},
        "problem_type": SEVERAL_LABELS if several else "single_label_classification",
    }


def head_class(config: Any, problem: Problem) -> Any:
    """The class of transformers for this encoder with a head for the problem.

    Raises ModelUnsupported, naming the problems that there are heads for, if there is none.
    """
    kinds = {each: mapping for each, mapping in HEAD_CLASSES.items() if type(config) in mapping}
    if problem not in kinds:
        raise ModelUnsupported(
            f"{config.model_type} models have no head for {problem.value}; they have one for "
            + ", ".join(kinds)
        )
    return kinds[problem][type(config)]


def _head_fits(config: dict[str, Any], data: TaskData, kind: type) -> bool:
    """Whether the checkpoint's head is of this kind, for the same labels in the same order."""
    saved = str((config.get("architectures") or [""])[0])
    if not saved.endswith(f"For{kind.__name__.rpartition('For')[2]}"):
        return False
    if data.problem is Problem.MULTIPLE_CHOICE:
        return True
    if (config.get("problem_type") == SEVERAL_LABELS) != (data.problem is Problem.MULTI_LABEL):
        return False  # trained for a softmax, or for a sigmoid of each output
    named = config.get("id2label") or {}
    names = [str(named[key]).lower() for key in sorted(named, key=int)]
    if data.problem is Problem.REGRESSION:
        return len(names) == 1
    # The names LABEL_0, LABEL_1 … would not say which label is which.
    return names == [label.lower() for label in data.labels]


def renew_head(model: nn.Module, seed: int, also: Collection[str] = ()) -> list[str]:
    """Initialise a task model's head again from ``seed``, in place, as its architecture does.

    ``also`` names further tensors, inside the encoder, that the checkpoint did not hold, such as
    those of a new pooler. Returns the names of the tensors drawn; nothing else changes.
    """
    torch.manual_seed(seed)
    names = {*head_parameters(model), *also}
    for path, module in model.named_modules():
        own = dict(module.named_parameters(prefix=path, recurse=False))
        if own and own.keys() <= names:
            # Loading marks modules as initialised, which would make this a no-op.
            module._is_hf_initialized = False  # noqa: SLF001
            for parameter in own.values():
                parameter._is_hf_initialized = False  # noqa: SLF001
            model._init_weights(module)  # type: ignore[operator]  # noqa: SLF001
    return sorted(names)


# Ends of buffers' names that old checkpoints hold and models now compute themselves.
BUFFERS = ("inv_freq", "position_ids", "token_type_ids", "masked_bias", "num_batches_tracked")


def _check_encoder(
    model: nn.Module, new: list[str], unexpected: Collection[str], source: ModelSource
) -> None:
    """Raise ModelUnsupported unless the checkpoint holds exactly the blocks and the embeddings.

    Missing tensors would be random, and so would be their scores. Unexpected ones belong to blocks
    of another model.
    """
    blocks = tuple(f".{block.name}." for block in find_blocks(model))
    foreign = sorted(
        name
        for name in unexpected
        if not name.endswith(BUFFERS) and any(block in f".{name}" for block in blocks)
    )
    if foreign:
        raise ModelUnsupported(
            f"the blocks of {source.id!r} hold {foreign[0]} and {len(foreign) - 1} more tensors "
            "that this model has no place for: its scores would be those of another model"
        )
    inside = {id(parameter) for parameter in _needed(model)}
    parameters = dict(model.named_parameters())
    missing = [name for name in new if name in parameters and id(parameters[name]) in inside]
    if missing:
        raise ModelUnsupported(
            f"the weights of {source.id!r} lack {missing[0]} and {len(missing) - 1} more tensors "
            "of its blocks and embeddings; they do not belong to its config.json"
        )


def _needed(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the blocks and embeddings, each once, however many share it."""
    modules = [block.module for block in find_blocks(model)]
    embeddings = part_of(model, "embeddings")
    modules += [embeddings] if embeddings is not None else []
    return list({id(each): each for module in modules for each in module.parameters()}.values())
