"""Check by its tensor names whether a checkpoint's weights belong to its config.json.

Nothing here needs torch, so that a submission fails with what a worker would find after loading.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from surgery.errors import ModelUnsupported, UnsafeFiles
from surgery.io.regular_files import read_regular
from surgery.models.shape import DEPTH_KEYS
from surgery.models.source.json_checks import read_object

MAX_JSON_BYTES = 1_000_000
ADAPTER, MODULES = "adapter_config.json", "modules.json"
# File name endings of weights, in formats or under names that are never read here.
OTHER_WEIGHTS = (
    ".bin",
    ".h5",
    ".msgpack",
    ".ckpt",
    ".pt",
    ".pth",
    ".gguf",
    ".onnx",
    ".safetensors",
)


def check_weights(
    config: Mapping[str, Any], tensors: Collection[str], layers: int, model: str
) -> None:
    """Raise ModelUnsupported if weights and config describe different models.

    ``layers`` is the number of blocks among the tensors.
    """
    check_positions(config, tensors, model)
    check_direction(config, model)
    depth = depth_of(config)
    if depth is not None and depth != layers:
        raise ModelUnsupported(
            f"config.json of {model!r} speaks of {depth} layers and the weights hold {layers}: "
            "layers would be missing or never run; correct the number in config.json, or save the "
            "model anew with both together"
        )


def check_wrapper(tensors: Collection[str], prefix: str, model: str) -> None:
    """Raise ModelUnsupported if all names begin with that of a wrapper around the model.

    ``prefix`` is the name under which a task model holds the encoder.
    """
    wrapper = wrapper_of(tensors, prefix)
    if wrapper:
        example = min(tensors)
        raise ModelUnsupported(
            f"the weights of {model!r} are named {wrapper}…, such as {example[:100]}: the model "
            "was saved inside a wrapper (DataParallel, torch.compile, Lightning, "
            f"sentence-transformers), whose name comes first; save them without {wrapper!r}"
        )


def wrapper_of(tensors: Collection[str], prefix: str) -> str:
    """The part before every name that is not the encoder's ``prefix``; "" if there is none.

    An encoder has several parts (embeddings, blocks …), so its own names share no beginning.
    """
    names, wrapper = set(tensors), ""
    while names:
        first = {name.partition(".")[0] for name in names}
        if len(first) != 1 or first == {prefix} or not all("." in name for name in names):
            return wrapper
        wrapper += f"{min(first)}."
        names = {name.partition(".")[2] for name in names}
    return wrapper


def check_positions(config: Mapping[str, Any], tensors: Collection[str], model: str) -> None:
    """Raise ModelUnsupported for relative positions, which transformers 5 no longer computes."""
    kind = config.get("position_embedding_type")
    distances = [name for name in tensors if ".distance_embedding." in name]
    if kind not in {None, "absolute", "rotary"} or distances:
        holds = f"; the weights hold {min(distances)[:100]} for it" if distances else ""
        raise ModelUnsupported(
            f"model {model!r} has the position_embedding_type {kind!r}, and only 'absolute' is "
            f"computed{holds}: its scores would be those of another model"
        )


def check_direction(config: Mapping[str, Any], model: str) -> None:
    """Raise ModelUnsupported for a model whose tokens attend only to earlier ones."""
    for key in ("is_decoder", "add_cross_attention"):
        if config.get(key):
            raise ModelUnsupported(
                f"config.json of {model!r} has {key}: true, which makes it a decoder, but only "
                "encoders are ranked and tuned here; if the model is an encoder, set it to false"
            )
    if config.get("attn_type", "bi") != "bi":
        raise ModelUnsupported(
            f"config.json of {model!r} has the attn_type {config['attn_type']!r}: its tokens "
            "attend only to earlier ones, and only 'bi' makes an encoder"
        )


def depth_of(config: Mapping[str, Any]) -> int | None:
    """The number of blocks in the config; None if the config leaves it to its class."""
    if config["model_type"] == "albert":
        groups, inner = config.get("num_hidden_groups", 1), config.get("inner_group_num", 1)
        return int(groups) * int(inner)
    if config["model_type"] == "funnel":
        sizes = config.get("block_sizes")
        return None if sizes is None else int(sum(sizes))
    depths = (config.get(name) for name in DEPTH_KEYS)
    return next((depth for depth in depths if depth is not None), None)


def explain_folder(directory: Path, model: str) -> None:
    """Raise ModelUnsupported if a folder is an adapter or a sentence-transformers folder."""
    adapter = _read(directory / ADAPTER, model)
    if adapter is not None:
        base = str(adapter.get("base_model_name_or_path"))[:200]
        raise ModelUnsupported(
            f"{model} is a PEFT adapter of {base} ({ADAPTER}) and not a whole model: merge it into "
            "its base (merge_and_unload, then save_pretrained) and name that"
        )
    inner = sorted(
        path.parent.name
        for path in directory.glob("*/config.json")
        if not path.parent.is_symlink() and (directory / MODULES).exists()
    )
    if inner:
        raise ModelUnsupported(
            f"{model} is a sentence-transformers folder ({MODULES}), and the model lies in its "
            f"folder {inner[0]}: move the files of {inner[0]} into a separate folder, "
            "models/<owner>/<name>, and name that"
        )


def _read(path: Path, model: str) -> dict[str, Any] | None:
    try:
        return read_object(read_regular(path, MAX_JSON_BYTES), path.name, model)
    except (UnsafeFiles, ModelUnsupported):
        return None


def other_weights(names: Collection[str]) -> list[str]:
    """Files of a folder that look like weights of another format."""
    return sorted(name for name in names if name.endswith(OTHER_WEIGHTS))
