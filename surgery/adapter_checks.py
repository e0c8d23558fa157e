"""Whether an adapter fits a model, by the names of its tensors alone. Torch-free."""

from __future__ import annotations

from surgery.errors import Fault, SelectionMismatch
from surgery.results import ModelInfo
from surgery.terms import Granularity
from surgery.training_spec import AdapterSpec


def check_adapter(adapter: AdapterSpec, info: ModelInfo) -> None:
    """Raise SelectionMismatch, naming the field, unless the model has something to adapt."""
    if adapter.type == "bitfit":
        if not any(is_bias(tensor.name) for tensor in info.at(Granularity.TENSOR)):
            raise no_biases(info.id)
    elif info.hidden_size is not None and adapter.rank > info.hidden_size:
        raise SelectionMismatch(
            f"an update of rank {adapter.rank} holds more than the weights it is added to, which "
            f"are {info.hidden_size} wide",
            [Fault(f"at most {info.hidden_size}", pointer="/adapter/rank")],
        )


def is_bias(name: str) -> bool:
    """Whether a tensor is a bias by its name: ``bias``, and DeBERTa's ``q_bias`` and the like."""
    own = name.rpartition(".")[2]
    return own == "bias" or own.endswith("_bias")


def no_biases(model: str) -> SelectionMismatch:
    """What is wrong with bitfit for a model whose blocks have no biases, and what to do."""
    return SelectionMismatch(
        f"the blocks of {model} have no biases; use adapter type lora, or a selection of layers",
        [Fault("the model has no biases", pointer="/adapter/type")],
    )
