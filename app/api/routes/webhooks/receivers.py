"""What receivers of webhooks are sent, for the OpenAPI document."""

from __future__ import annotations

from fastapi import APIRouter

from app.jobs.webhooks.notices import EventType, Notice

documented = APIRouter()


def _document(event: EventType, text: str) -> None:
    @documented.post(
        event.value,
        summary=text,
        status_code=204,
        response_description="Any 2xx takes the delivery. Anything else, redirects included, and "
        "no answer within 10 seconds are tried again for a day.",
        responses={"4XX": {"description": "Tried again for a day; 410 disables the webhook."}},
        tags=["webhooks"],
    )
    def receive(body: Notice) -> None:
        """Sent to webhooks with the headers `webhook-id`, `webhook-timestamp` and
        `webhook-signature` of the Standard Webhooks specification. An event may arrive more than
        once, with the same `webhook-id`, and events may arrive in another order.
        """


for _event, _text in {
    EventType.QUEUED: "A job was accepted, or is back in the queue",
    EventType.RUNNING: "A worker has begun with a job",
    EventType.PAUSED: "A job was paused",
    EventType.SUCCEEDED: "A job has succeeded",
    EventType.FAILED: "A job has failed",
    EventType.CANCELLED: "A job was cancelled",
    EventType.CHECKPOINT: "A job has stored a checkpoint",
}.items():
    _document(_event, _text)
