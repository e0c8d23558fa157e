"""Where a worker can export models to, by its settings and its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec

from app.settings import Settings
from surgery.schemas.jobs.export import Destination

MISSING = {
    Destination.FOLDER: "exports to folders",
    Destination.MLFLOW: "can reach MLflow: set MLFLOW_TRACKING_URI of a worker with the client "
    "(pip install layer-surgeon[mlflow])",
    Destination.HUB: "publishes on the Hub: set SURGEON_HUB_TOKEN of a worker that is not offline",
}
"""What no worker does if none can export to a place, and what would let one."""


def destinations_of(settings: Settings, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The destinations that a worker with these settings and this environment can export to."""
    found = [Destination.FOLDER]
    if environment.get("MLFLOW_TRACKING_URI") and find_spec("mlflow"):
        found.append(Destination.MLFLOW)
    if settings.hub_token and not settings.offline:
        found.append(Destination.HUB)
    return [each.value for each in found]
