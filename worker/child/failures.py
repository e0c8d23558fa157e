"""What became of a job that failed in a way nobody foresaw."""

from __future__ import annotations

from surgery.errors import OutOfMemory
from surgery.io.library_errors import failure_of_model, is_out_of_memory
from surgery.training.prefix_cache.store import release_held
from worker.child.process import internal_problem
from worker.protocol import Json


def unexpected(error: BaseException, message: Json) -> Json:
    """The problem of a job's failure that no error of the science describes."""
    if is_out_of_memory(error):
        release_held()
        options = message["spec"].get("training") or message["spec"]
        size = options.get("batch_size")
        hint = f"try batch_size {max(1, size // 2)}" if size else "give a smaller batch_size"
        shorter = f" or max_length below {options['max_length']}"
        return OutOfMemory(f"the device ran out of memory; {hint}{shorter}").as_problem()
    failed = failure_of_model(error)
    if failed is not None:
        return failed.as_problem()
    return internal_problem(error, message)
