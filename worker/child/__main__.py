"""The process that runs jobs. It imports torch once, then runs the jobs that its supervisor sends.

It reads JSON lines from standard input and writes its answers to the descriptor that was its
standard output; whatever libraries print goes to standard error. It has no access to the database,
the network or any secret, and can read only the files of its jobs (see `worker.confinement`). All
it knows of a job is in the order it receives. It dies with its supervisor and may be killed at any
moment.
"""

from __future__ import annotations

import sys

from worker.child.process import Child, open_channel, uncollected
from worker.confinement import Confinement, confine
from worker.protocol import CHILD_ORDERS, JobOrder, Probed


def main() -> None:
    """Confine this process, then import torch and run jobs.

    A third argument names precisions, separated by commas, in which to measure the device first.
    """
    parent, confinement = int(sys.argv[1]), Confinement.from_json(sys.argv[2])
    precisions = sys.argv[3].split(",") if sys.argv[3:] else []
    for failure in confine(confinement):
        print(f"the job's process is not fully confined: {failure}", file=sys.stderr)  # noqa: T201
    # Only now: a new namespace makes the kernel forget which parent this process dies with.
    channel = open_channel(parent)
    with uncollected():
        from surgery.models.memory import job_peaks
        from surgery.training.speed.probe import probe
        from worker.child.failures import unexpected
        from worker.child.runners import run_job

    if precisions:  # orders wait in the pipe meanwhile
        channel.send(Probed(probe=probe(precisions)))
    Child[JobOrder](channel, CHILD_ORDERS, run_job, unexpected, job_peaks).serve()


if __name__ == "__main__":
    main()
