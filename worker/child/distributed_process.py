"""One process of a distributed job: ``-m worker.child.distributed_process FOLDER``.

The launcher starts it. It asks the kernel to be killed with its launcher before it imports torch:
the import takes seconds, and the job may be cancelled or killed meanwhile.
"""

from __future__ import annotations

import os

from worker.child.launcher import LAUNCHER
from worker.child.process import uncollected
from worker.protocol import die_with_parent

if __name__ == "__main__":
    die_with_parent(int(os.environ[LAUNCHER]))
    with uncollected():
        from worker.child.distributed_training import main

    main()
