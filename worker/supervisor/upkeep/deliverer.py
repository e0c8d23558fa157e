"""Sends webhooks' deliveries as soon as they are due.

The supervisor's process does this and not the one that runs jobs, which has no network.
"""

from __future__ import annotations

import logging
import threading

from sqlalchemy.exc import SQLAlchemyError

from app.db import Database
from app.jobs.webhooks import deliveries
from app.jobs.webhooks.deliveries import Claim
from app.jobs.webhooks.sender import send
from app.process.restarts import lasting_thread, surviving
from app.settings import Settings

log = logging.getLogger("surgeon.webhooks")
POLL_SECONDS = 1.0  # between two looks for deliveries that are due
AT_ONCE = 8  # deliveries that one worker sends at the same time
STOP_SECONDS = 5.0


class Deliverer:
    """A thread of each worker. Any number of deliverers may run at the same time."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._networks, self._database = settings.webhook_networks, database
        self._stop = threading.Event()
        self._free = threading.Semaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Thread] = {}  # by webhook, one delivery at a time
        self._thread = lasting_thread("deliverer", self._loop, self._stop)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Claim nothing more. What is still being sent after a while will be sent once more."""
        self._stop.set()
        self._thread.join(timeout=STOP_SECONDS)
        with self._lock:
            sending = list(self._busy.values())
        for thread in sending:
            thread.join(timeout=STOP_SECONDS)

    def _loop(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                while not self._stop.is_set() and self._deliver_next():
                    pass
            except SQLAlchemyError as error:
                log.warning("webhooks wait: the database does not answer: %s", error)

    def _deliver_next(self) -> bool:
        """Claim one delivery and send it on a thread of its own. False if none is due."""
        if not self._free.acquire(timeout=POLL_SECONDS):
            return False
        claimed = None
        try:
            with self._lock:
                busy = list(self._busy)
            claimed = deliveries.claim(self._database, busy)
            if claimed is None:
                return False
            thread = threading.Thread(target=self._deliver, args=(claimed,), daemon=True)
            with self._lock:
                self._busy[claimed.webhook] = thread
            thread.start()
            return True
        finally:
            if claimed is None:
                self._free.release()

    def _deliver(self, claimed: Claim) -> None:
        try:
            with surviving("deliverer", SQLAlchemyError):
                self._send(claimed)
        finally:
            with self._lock:
                del self._busy[claimed.webhook]
            self._free.release()

    def _send(self, claimed: Claim) -> None:
        """Send a delivery and note the answer; one that is not noted will be sent once more."""
        answer = send(claimed.url, claimed.id, claimed.body, claimed.secrets, self._networks)
        log.log(
            logging.INFO if answer.delivered else logging.WARNING,
            "%s to webhook %s: %s",
            claimed.id,
            claimed.webhook,
            answer.status or answer.error,
        )
        deliveries.record(self._database, claimed, answer)
