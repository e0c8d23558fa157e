"""What a library throws over a stranger's files, told as the fault of those files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from surgery.errors import ModelUnsupported, SurgeryError
from surgery.io.reporter import Stopped

MAX_WORDS = 300  # characters of another's message
_MODELS = ("transformers.models.", "torch.autograd.")
_OWN = ("surgery.", "worker.")
_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


@contextmanager
def blamed_on_model(what: str, folder: Path | None = None) -> Iterator[None]:
    """Turn any failure inside into ModelUnsupported, which begins with ``what``.

    The tokenizers library panics with an exception that is no ``Exception``. Left as they are:
    errors of this package, a job that is to stop, memory or a disk that ran out. The path of
    ``folder`` is not told.
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
            f"{what}: {type(error).__name__}: {' '.join(words.split())[:MAX_WORDS]}"
        ) from error


def failure_of_model(error: BaseException) -> ModelUnsupported | None:
    """The error of a forward or backward pass that the model's own code raised; None for others.

    A config may hold sizes that only meet when a batch is run. What a device reports (a fault of
    its own, a lost connection between processes) is not the model's.
    """
    if is_out_of_memory(error) or "CUDA" in str(error) or "NCCL" in str(error):
        return None
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__))
    # Hooks of this package run inside the model's code; a fault of theirs is none of the model.
    known = [name for name in modules if name.startswith((*_MODELS, *_OWN))]
    if not known or not known[-1].startswith(_MODELS):
        return None
    words = " ".join(str(error).split())[:MAX_WORDS]
    where = known[-1].rpartition(".")[2] if known[-1].startswith(_MODELS[0]) else "backward"
    return ModelUnsupported(
        f"the model's own code ({where}) fails on a batch: "
        f"{type(error).__name__}: {words}; correct the sizes in its config.json"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host had no memory left."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        # torch's own, by its name: this file is read by processes without torch
        or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
        or "not enough memory" in text
        or "can't allocate" in text
    )
