"""The warm process: imports torch once, then runs one job at a time, as its supervisor says.

It reads JSON lines on standard input and answers on the descriptor that was its standard output;
whatever libraries print goes to standard error. It has no database, no network and no secret, and
reads no files but its own (see `worker.confinement`): all it knows of a job is in the message. It
dies with its supervisor and may be killed at any moment.
"""

from __future__ import annotations

import sys

from worker.child.process import Child, open_channel, uncollected
from worker.confinement import Confinement, confine
from worker.protocol import CHILD_ORDERS, JobOrder


def main() -> None:
    """Confine this process, then import torch and serve."""
    parent, kept = int(sys.argv[1]), Confinement.from_json(sys.argv[2])
    for failure in confine(kept):
        print(f"the job's process is not fully confined: {failure}", file=sys.stderr)  # noqa: T201
    # After it: new namespaces make the kernel forget whose death is to be followed.
    channel = open_channel(parent)
    with uncollected():
        from worker.child.failures import unexpected
        from worker.child.runners import run_job

    Child[JobOrder](channel, CHILD_ORDERS, run_job, unexpected).serve()


if __name__ == "__main__":
    main()
