"""An adapter that trains in place of layers, as a request says it or options of a command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from surgery.errors import SurgeryError
from surgery.schemas import Strict
from surgery.schemas.fields import Option, option_of

# Of LoRA where no rate is given: that of the layers would hardly move it. Hu et al. (ICLR 2022,
# table 9) train RoBERTa on the tasks of GLUE at 4e-4 and 5e-4.
LORA_LEARNING_RATE = 5e-4


class AdapterSpec(Strict):
    """An adapter to train in place of layers, for comparison. The head trains too."""

    type: Literal["lora", "bitfit"] = Field(
        description="`lora`: low-rank updates of every linear map of the blocks (Hu et al., ICLR "
        "2022; PEFT). `bitfit`: the biases (Ben Zaken et al., ACL 2022)."
    )
    rank: int = Field(8, ge=1, le=1024, description="Rank of the updates, for lora.")
    alpha: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Scale of the updates, for lora. Default: twice the rank.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of the updates, for lora.")

    @model_validator(mode="after")
    def _consistent(self) -> AdapterSpec:
        if self.type == "lora":
            return self
        # Stored requests name every field, so defaults are accepted.
        for name in ("rank", "alpha", "dropout"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} means nothing to bitfit; leave it out")
        return self


ADAPTER_OPTIONS = (
    option_of(
        AdapterSpec,
        "rank",
        name="lora",
        default=None,
        metavar="RANK",
        help="Train a LoRA adapter of this rank in place of layers.",
    ),
    Option("bitfit", bool, default=False, help="Train the biases in place of layers."),
)
"""The command-line options of an adapter."""


def adapter_from(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The adapter that ADAPTER_OPTIONS describe; None without. Raises SurgeryError for two."""
    if given["lora"] is not None and given["bitfit"]:
        raise SurgeryError("only one of --lora and --bitfit can be given")
    if given["bitfit"]:
        return {"type": "bitfit"}
    return None if given["lora"] is None else {"type": "lora", "rank": given["lora"]}
