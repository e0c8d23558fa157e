"""One of a job's processes: ``python -m worker.rank_process FOLDER``, as the launcher starts it.

It dies with its launcher from its first moment on: importing torch takes seconds, in which the
job may be cancelled or killed.
"""

from __future__ import annotations

import os

from worker.child import die_with_parent, uncollected
from worker.launcher import LAUNCHER

if __name__ == "__main__":
    die_with_parent(int(os.environ[LAUNCHER]))
    with uncollected():
        from worker.ranks import main

    main()
