"""accelerate's launcher, made to die with the job's process: ``launcher.py PARENT OPTION …``.

The launcher starts its processes in new sessions, where a signal to the job's process group does
not reach them. So they are killed when the launcher dies; they read its id from the environment.
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
