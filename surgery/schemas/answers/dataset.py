"""A stored dataset."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from surgery.schemas.data.dataset import DatasetReport, HubDataset


class DatasetView(DatasetReport):
    """A stored dataset: what was found in its files, and under which id it is stored."""

    id: str = Field(description="The dataset's id, which other requests take as `dataset`.")
    name: str | None = Field(
        description="The name that it was given, or else that of its train file, or its id on the "
        "Hub."
    )
    bytes: int = Field(description="Size of its stored form.")
    source: str | None = Field(
        None,
        description="The name of its train file, or its id on the Hub; null for datasets that "
        "early versions stored.",
    )
    reference: HubDataset | None = Field(
        None, description="For a dataset of the Hub: what was stored, with the commit it is from."
    )
    note: str | None = Field(
        None,
        description="Where a request was answered with a dataset stored earlier: what it kept.",
    )
    created_at: datetime = Field(description="When it was first stored.")
