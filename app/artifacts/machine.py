"""What a machine's disk holds beside the stored artifacts, and how long it stays there.

Folders of requests belong to API processes, caches to whatever runs with the data directory. Who
uses one marks it; what nobody used for long is removed, by any number of processes at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from app.process.restarts import lasting_thread, surviving
from app.settings import Settings
from surgery.io.folders import last_used, make_room, put_away, remove_older
from surgery.models.source.copy import copies_in

DAY = 24 * 3600.0
EVERY_SECONDS = 3600.0
REQUESTS_AGE_SECONDS = DAY  # a request is answered much sooner
DOWNLOADS_AGE_SECONDS = 7 * DAY  # of models of the Hub, which are copied once they are whole
CACHES_AGE_SECONDS = 30 * DAY  # checked models, datasets and tokens that no job read
PREFIXES_AGE_SECONDS = 7 * DAY  # which take far more room


def requests_in(settings: Settings) -> Path:
    """Where the folders of requests are."""
    return settings.data_dir.resolve() / "requests"


@contextmanager
def request_folder(settings: Settings, purpose: str) -> Iterator[Path]:
    """A folder for the files of one request, which goes with it.

    That of a process that was killed is left to `remove_unused`.
    """
    root = requests_in(settings)
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{purpose}-", dir=root) as folder:
        yield Path(folder)


def remove_unused(settings: Settings) -> None:
    """Remove what dead processes have left, and what nobody has used for long."""
    sources = settings.sources
    remove_older(requests_in(settings), REQUESTS_AGE_SECONDS)
    remove_older(sources.downloads, DOWNLOADS_AGE_SECONDS, "models--*")
    for cache in (copies_in(sources), sources.datasets, sources.tokens):
        remove_older(cache, CACHES_AGE_SECONDS)
        if cache.is_dir():  # and sooner if all of it takes too much of the disk
            make_room(cache, remove=partial(_put_away_if_idle, settings))
    remove_older(sources.prefixes, PREFIXES_AGE_SECONDS)


def _put_away_if_idle(settings: Settings, folder: Path) -> bool:
    """Remove what no running attempt can need: it marks what it reads when it begins."""
    longest = settings.deadline.total_seconds()
    return time.time() - last_used(folder) > longest and put_away(folder)


@contextmanager
def tidying(settings: Settings) -> Iterator[None]:
    """Remove what is unused at once, and every hour from then on."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            with surviving("tidier", OSError):
                remove_unused(settings)
            stop.wait(EVERY_SECONDS)

    thread = lasting_thread("tidier", loop, stop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)
