"""Hand an export over to another service: ``python -m worker.publisher PARENT``.

The process is started for one export and ends with it. Of all processes it alone has the secrets of
the service that it speaks to. It reads the files that it hands over as they are: it loads no model,
and never imports torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from surgery.errors import DestinationUnavailable, InternalError, SurgeryError
from surgery.schemas.jobs.export import Destination, ExportSpec
from worker.child.process import Child, internal_error, open_channel
from worker.protocol import PUBLISHER_ORDERS, JobReporter, Published, PublishOrder
from worker.publisher.hub import to_hub
from worker.publisher.mlflow_models import to_mlflow

PLACES: dict[Destination, Callable[[PublishOrder], Published]] = {
    Destination.MLFLOW: to_mlflow,
    Destination.HUB: to_hub,
}


def publish(order: PublishOrder, report: JobReporter) -> Published:
    """Hand over what the order names."""
    report.check()
    return PLACES[ExportSpec.model_validate(order.spec).to](order)


def unexpected(error: BaseException, order: PublishOrder) -> SurgeryError:
    """The error to report for an exception that no place explains.

    Only its type is told: a client's message may contain an address with a password.
    """
    known = internal_error(error)
    if known.code != InternalError.code:  # a full disk
        return known
    told = f"{order.spec['to']} failed with {type(error).__name__}"
    if isinstance(error, OSError):
        return DestinationUnavailable(told)
    return InternalError(f"{told}; the worker's log tells more")


def main() -> None:
    """Carry out the supervisor's orders until it ends this process."""
    channel = open_channel(int(sys.argv[1]))
    Child(channel, PUBLISHER_ORDERS, publish, unexpected).serve()


if __name__ == "__main__":
    main()
