"""Set training rows aside on which the thresholds of labels are fitted."""

from __future__ import annotations

from dataclasses import replace

from surgery.data.tokens.dataset import Encoded, TaskData
from surgery.data.tokens.held_out import held_out_rows
from surgery.errors import DatasetInvalid, Fault, TrainingInvalid
from surgery.schemas.options.training import TrainingSpec, threshold_share


def without_set_aside(
    data: TaskData, encoded: Encoded, training: TrainingSpec
) -> tuple[TaskData, Encoded, Encoded | None]:
    """The dataset with the rows that are trained on, those rows, and those set aside, if any are.

    ``encoded`` has all rows of train. Raises TrainingInvalid if they cannot be divided.
    """
    share = threshold_share(training, data.problem)
    if not share:
        return data, encoded, None
    try:
        fit, judged = held_out_rows(data, share, training.seed)
    except DatasetInvalid as few:
        detail = f"{few.detail}; or set threshold_share to 0, for thresholds of 0.5"
        raise TrainingInvalid(detail, [Fault(detail, pointer="/training/threshold_share")]) from few
    rest = replace(data, train=data.train.select(fit), fingerprint=None)
    return rest, encoded.select(fit), encoded.select(judged)
