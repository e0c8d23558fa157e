"""Turns unexpected exceptions of a job into errors that a user can act on."""

from __future__ import annotations

from surgery.errors import OutOfMemory, SurgeryError
from surgery.io.library_errors import failure_of_model, is_out_of_memory
from surgery.training.prefix_cache.store import release_memory
from worker.child.process import internal_error
from worker.protocol import ExportOrder, JobOrder, PredictionOrder


def unexpected(error: BaseException, order: JobOrder) -> SurgeryError:
    """The error to report for an exception that is no `SurgeryError`."""
    if is_out_of_memory(error):
        release_memory()
        if isinstance(order, PredictionOrder):
            return OutOfMemory("the device ran out of memory; send fewer rows at once")
        if isinstance(order, ExportOrder):
            return OutOfMemory("the worker ran out of memory; export in the form that is stored")
        size = order.batching.get("batch_size")
        hint = f"try batch_size {max(1, size // 2)}" if size else "set a smaller batch_size"
        shorter = f" or max_length below {order.batching['max_length']}"
        return OutOfMemory(f"the device ran out of memory; {hint}{shorter}")
    return failure_of_model(error) or internal_error(error)
