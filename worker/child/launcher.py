"""accelerate's launcher, which dies with the job's process: ``launcher.py PARENT OPTION …``.

Its processes have sessions of their own, out of reach of a signal to the job's group; they die with
the launcher, whose number they find in the environment.
"""

from __future__ import annotations

import os
import sys

from worker.child.process import uncollected
from worker.protocol import die_with_parent

LAUNCHER = "SURGEON_LAUNCHER"

if __name__ == "__main__":
    die_with_parent(int(sys.argv.pop(1)))
    os.environ[LAUNCHER] = str(os.getpid())
    with uncollected():
        from accelerate.commands.launch import main

    main()
