"""Traces for OpenTelemetry, from a request through the queue to the attempts at its job.

They are made where the environment asks for them, by OpenTelemetry's own variables, and where the
extra ``otel`` is installed. FastAPI makes the spans of requests; the ones of attempts are made
here. Otherwise nothing of it is imported.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from app.errors import Misconfigured

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("surgeon.tracing")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
HTTP = "http/protobuf"
_state = {"on": False}


def is_asked_for() -> bool:
    """Whether the environment says where traces go."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    return exporter != "none" and bool(exporter or any(map(os.environ.get, ENDPOINTS)))


def set_up_tracing(process: str) -> bool:
    """Export the traces of this process, which is ``api`` or ``worker``, if that is asked for.

    Raises Misconfigured if it is, and cannot be done.
    """
    if not is_asked_for() or _state["on"]:
        return _state["on"]
    if find_spec("opentelemetry.sdk") is None:
        raise Misconfigured("OTEL_* asks for traces: pip install 'layer-surgeon[otel]'")
    from opentelemetry import trace
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    own = {} if named else {SERVICE_NAME: f"layer-surgeon-{process}"}
    provider = TracerProvider(resource=Resource.create(own))
    provider.add_span_processor(BatchSpanProcessor(_exporter()))
    trace.set_tracer_provider(provider)
    _state["on"] = True
    log.info("traces are exported")
    return True


def _exporter() -> SpanExporter:
    name = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(formatter=lambda span: f"{span.to_json(indent=None)}\n")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", HTTP
    )
    if name != "otlp" or protocol != HTTP:
        raise Misconfigured(
            f"OTEL_TRACES_EXPORTER={name} with the protocol {protocol} is not supported; there are "
            f"otlp, with {HTTP}, and console"
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def traceparent() -> str | None:
    """The current span in the form of W3C Trace Context; None without tracing or a span."""
    if not _state["on"]:
        return None
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def attempt_span(
    parent: str | None, queued_at: datetime, attributes: dict[str, str | int]
) -> Iterator[dict[str, Any]]:
    """The span of an attempt within the trace of the request that submitted its job.

    A span before it tells how long the job has waited in the queue. What is put into the yielded
    dictionary becomes attributes of the attempt's span.
    """
    learned: dict[str, Any] = {}
    if not _state["on"]:
        yield learned
        return
    from opentelemetry import trace
    from opentelemetry.propagate import extract

    tracer = trace.get_tracer("surgeon")
    context = extract({"traceparent": parent} if parent else {})
    started = int(queued_at.timestamp() * 1e9)
    queue = tracer.start_span("queue", context, start_time=started, attributes=attributes)
    queue.end()
    kind = trace.SpanKind.CONSUMER
    with tracer.start_as_current_span("attempt", context, kind, attributes) as span:
        yield learned
        span.set_attributes(learned)
