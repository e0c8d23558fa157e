"""What a library throws over a stranger's files, told as the fault of those files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surgery.errors import ModelUnsupported, SurgeryError
from surgery.progress import Stopped
from surgery.sample import is_out_of_memory

MAX_WORDS = 300  # characters of another's message
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
