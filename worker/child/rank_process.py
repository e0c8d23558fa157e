"""One process of several, as the launcher starts it: ``-m worker.child.rank_process FOLDER``.

It dies with its launcher from its first moment on: importing torch takes seconds, in which the
job may be cancelled or killed.
"""

from __future__ import annotations

import os

from worker.child.launcher import LAUNCHER
from worker.child.process import uncollected
from worker.protocol import die_with_parent

if __name__ == "__main__":
    die_with_parent(int(os.environ[LAUNCHER]))
    with uncollected():
        from worker.child.rank import main

    main()
