"""Turn what a library raises on a user's model files into an error about those files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from surgery.errors import ModelUnsupported, SurgeryError
from surgery.io.reporter import Stopped

MAX_MESSAGE = 300  # characters of a library's message that are passed on
_MODELS = ("transformers.models.", "torch.autograd.")
_OWN = ("surgery.", "worker.")
_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


@contextmanager
def blamed_on_model(what: str, folder: Path | None = None) -> Iterator[None]:
    """Turn any failure inside into ModelUnsupported, whose message begins with ``what``.

    This includes the panics of the tokenizers library, which are not an ``Exception``. Errors of
    this package, requests to stop, and full memory or disks pass unchanged. The path of ``folder``
    is removed from the message.
    """
    try:
        yield
    except (SurgeryError, Stopped, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if is_out_of_memory(error) or any(words in str(error) for words in _FULL):
            raise
        words = str(error) if folder is None else str(error).replace(str(folder), "the model")
        raise ModelUnsupported(
            f"{what}: {type(error).__name__}: {' '.join(words.split())[:MAX_MESSAGE]}"
        ) from error


def failure_of_model(error: BaseException) -> ModelUnsupported | None:
    """ModelUnsupported if the model's code raised this error in a pass, and None otherwise.

    A config may hold sizes whose mismatch shows only when a batch is run. Failures of a device or
    of the connection between processes are not the model's.
    """
    if is_out_of_memory(error) or "CUDA" in str(error) or "NCCL" in str(error):
        return None
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__))
    # Hooks of this package run inside the model's code; their failures are not the model's.
    known = [name for name in modules if name.startswith((*_MODELS, *_OWN))]
    if not known or not known[-1].startswith(_MODELS):
        return None
    words = " ".join(str(error).split())[:MAX_MESSAGE]
    where = known[-1].rpartition(".")[2] if known[-1].startswith(_MODELS[0]) else "backward"
    return ModelUnsupported(
        f"the model's own code ({where}) fails on a batch: "
        f"{type(error).__name__}: {words}; correct the sizes in its config.json"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host ran out of memory."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        # torch's error by its name, since processes without torch import this file
        or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
        or "not enough memory" in text
        or "can't allocate" in text
    )
