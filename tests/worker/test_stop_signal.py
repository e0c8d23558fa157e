"""A worker hears that it should stop, whatever its main thread is in the middle of."""

from __future__ import annotations

import subprocess
import sys

# The signal arrives while the main thread holds the lock that stopping needs: the lock of the
# event that an idle worker waits for, for example.
PROGRAM = """
import os, signal, threading
from worker.main import call_when_stopped

lock, stopped = threading.Lock(), threading.Event()

def stop():
    with lock:
        stopped.set()

call_when_stopped(stop)
with lock:
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
assert stopped.wait(20)
print("stopped")
"""


def test_a_signal_is_heard_while_the_main_thread_holds_the_lock() -> None:
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout) == (0, "stopped\n"), run.stderr
