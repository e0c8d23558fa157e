"""The request to hand a checkpoint's model over to a place outside its job, and its result."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, ValidationInfo, field_validator

from surgery.schemas.fields import REPOSITORY_PATTERN, WORD
from surgery.schemas.jobs.ranking import JobRequest

Json = dict[str, Any]
ExportForm = Literal["full", "delta", "adapter"]
NAME_CHARACTERS = 96  # as on the Hub
# Two dots never follow each other, nor two slashes, and none of either is at an end.
BRANCH_PATTERN = rf"^{WORD}(?:/{WORD})*$"


class Destination(StrEnum):
    """Where a model is handed over to."""

    FOLDER = "folder"
    MLFLOW = "mlflow"
    HUB = "hub"


_NAME = "letters, digits, '_', '-' and single dots, at most 96 characters; paths and URLs are not"
TARGETS = {
    Destination.FOLDER: (re.compile(WORD), f"a folder's name has {_NAME} read"),
    Destination.MLFLOW: (re.compile(WORD), f"a registered model's name has {_NAME} read"),
    Destination.HUB: (
        re.compile(REPOSITORY_PATTERN),
        f"a repository of the Hub is owner/name, each of {_NAME} read",
    ),
}
"""What the names at each destination look like, and how to say so."""


class ExportRequest(JobRequest):
    """Hand a checkpoint's model over."""

    to: Destination = Field(description="Where to.", examples=["folder"])
    target: Annotated[str, StringConstraints(min_length=1, max_length=NAME_CHARACTERS)] = Field(
        description="The name that the model gets there: for `folder`, a name of your choice; for "
        "`mlflow`, that of the registered model; for `hub`, a repository, `owner/name`.",
        examples=["cola-reader"],
    )
    form: ExportForm = Field(
        "full",
        description="`full`: a plain transformers folder, whatever form the checkpoint is stored "
        "in. `delta`, `adapter`: as the checkpoint is stored, if that is its form. MLflow takes "
        "`full` alone.",
    )

    private: bool = Field(
        True,
        description="For `hub`: make the repository private if it does not exist, and refuse one "
        "that is public. With `false` it is made public, and one that exists stays as it is.",
    )
    revision: Annotated[str, StringConstraints(pattern=BRANCH_PATTERN, max_length=100)] | None = (
        Field(
            None,
            description="For `hub`: the branch, which is made if it does not exist. Default: "
            "`main`.",
        )
    )
    message: Annotated[str, StringConstraints(pattern=r"^[^\r\n]+$", max_length=200)] | None = (
        Field(
            None,
            description="For `hub`: the first line of the commit. Default: it names the "
            "checkpoint and its fine-tune.",
        )
    )

    @field_validator("target")
    @classmethod
    def _is_a_name(cls, value: str, info: ValidationInfo) -> str:
        """Names become parts of paths and addresses, so they hold nothing that leads elsewhere."""
        destination = info.data.get("to")
        if destination is None:  # wrong itself, and named as such
            return value
        pattern, sentence = TARGETS[destination]
        if not pattern.fullmatch(value):
            raise ValueError(sentence)
        return value

    @field_validator("form")
    @classmethod
    def _is_taken_there(cls, value: ExportForm, info: ValidationInfo) -> ExportForm:
        if info.data.get("to") == Destination.MLFLOW and value != "full":
            raise ValueError("MLflow loads a model without its base: leave form out, or send full")
        return value

    @field_validator("private", "revision", "message")
    @classmethod
    def _is_of_the_hub(cls, value: object, info: ValidationInfo) -> object:
        usual = cls.model_fields[str(info.field_name)].default  # as jobs of any place store it
        if value != usual and info.data.get("to") not in {None, Destination.HUB}:
            raise ValueError("is for exports to the hub alone; leave it out")
        return value


class ExportSpec(ExportRequest):
    """The request with the checkpoint that its path names, as the job shows it."""

    checkpoint: Annotated[str, StringConstraints(pattern=r"^ck_[0-9a-z]{1,37}$")] = Field(
        description="The id of the checkpoint."
    )


class ExportedFile(BaseModel):
    """A file that was handed over."""

    name: str = Field(description="The file's name.")
    bytes: int = Field(description="Its size.")
    sha256: str = Field(description="Its SHA-256, in hexadecimal digits.")


class ExportResult(BaseModel):
    """Where a model is now, and what it consists of."""

    to: Destination = Field(description="The destination.")
    target: str = Field(description="The model's name there.")
    form: ExportForm = Field(description="The form in which it was handed over.")
    location: str = Field(
        description="Where it is: for `folder`, the folder's path within the service's object "
        "store (`SURGEON_ARTIFACTS_URL`); for `mlflow`, the version's URI, `models:/NAME/VERSION`; "
        "for `hub`, the address of the commit's files."
    )
    version: str | None = Field(
        None,
        description="For `mlflow`, the number of the model's version; for `hub`, the commit; null "
        "for `folder`.",
    )
    digest: str = Field(
        description="SHA-256 over the names and digests of the files, equal for equal content."
    )
    bytes: int = Field(description="The size of all files together.")
    files: list[ExportedFile] = Field(
        description="The files, in order of their names, without `manifest.json`, which lists them "
        "too."
    )
    created: bool = Field(
        description="False: the same content was there under this name already, and nothing was "
        "written."
    )
    seconds: dict[str, float] = Field(description="Seconds by phase.")
