"""How many parameters an adapter trains, from the names and sizes of tensors. Torch-free."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from surgery.results import LayerInfo
from surgery.training_spec import AdapterSpec
from surgery.work import Trained


def adapter_trained(
    inside: Mapping[str, int], layers: list[LayerInfo], adapter: AdapterSpec, head: int
) -> Trained | None:
    """What an adapter trains, with the ``head``, of an encoder with these tensors.

    ``inside`` are those that the task model has. LoRA's two matrices of a linear map of n to m take
    rank·(n + m); a bias tells m. None where a map has no bias, so that n and m are not known.
    """
    if adapter.type == "bitfit":
        return _biases(inside, layers, head)
    blocks: dict[int, int] = {}
    for layer in layers:
        start = f"{layer.name}."
        held = {name: size for name, size in inside.items() if name.startswith(start)}
        widths = [_widths(name, held) for name in held if name.endswith(".weight")]
        if None in widths:
            return None
        blocks[layer.index] = adapter.rank * sum(filter(None, widths))
    return Trained(blocks, head)


def _widths(name: str, held: Mapping[str, int]) -> int | None:
    """Inputs and outputs of a linear map together; 0 for a norm."""
    outputs = held.get(f"{name.removesuffix('weight')}bias")
    if outputs is None:
        return None
    inputs = held[name] // outputs
    return inputs + outputs if inputs > 1 else 0


def _biases(inside: Mapping[str, int], layers: list[LayerInfo], head: int) -> Trained:
    index = {layer.name: layer.index for layer in layers}
    blocks: dict[int, int] = defaultdict(int)
    beside = head
    for name, size in inside.items():
        own = name.rpartition(".")[2]
        if own != "bias" and not own.endswith("_bias"):
            continue
        block = next((at for start, at in index.items() if name.startswith(f"{start}.")), None)
        if block is None:
            beside += size
        else:
            blocks[block] += size
    below = beside > head
    return Trained(dict(blocks), beside, below=below, keeps_inputs=False)
