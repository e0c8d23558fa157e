"""What can be asked of a service, as flows: requests, waits and lists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

import httpx2

from surgeon.client.answers import checked, document, parsed
from surgeon.client.errors import ApiError, Unreachable
from surgeon.client.events import Event, EventStreamParser, event_of
from surgeon.client.requests import IDEMPOTENCY_KEY, Request, json_of
from surgeon.client.retries import Retries
from surgeon.client.steps import (
    Emit,
    Flow,
    Opened,
    Step,
    Stream,
    close,
    open_answer,
    read,
    send,
    sleep,
)
from surgery.schemas.jobs.estimate import Estimate

Json = dict[str, Any]
POLL_SECONDS = 0.25  # between two requests that the service answers at once
WAIT_SECONDS = 30  # for which a request asks the service to wait for news
LOG_SECONDS = 1.0  # between two looks at a log, to which a worker adds every two seconds
RECONNECT_SECONDS = 0.5  # after a stream has ended that was to go on
SILENCE = httpx2.Timeout(30.0, read=45.0)  # a stream says something every 15 s
REPLAYED = "Idempotent-Replayed"  # the answer to a key that an earlier request had
STREAM_HEADERS = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}


class Service:
    """What a client knows of the service that it speaks to.

    ``patience`` is for how many seconds a service that does not answer is asked again. ``reached``
    is whether it has ever answered: a wrong URL is told at once. ``driver`` takes the steps of
    flows.
    """

    driver: Any

    def __init__(self, url: str, patience: float) -> None:
        self.url = url.rstrip("/")
        self.patience = patience
        self.reached = False


def retried(
    service: Service, attempt: Callable[[], Flow[httpx2.Response]]
) -> Flow[httpx2.Response]:
    """The answer of the first attempt that succeeds. Raises Unreachable or ApiError."""
    retries = Retries(service.patience)
    while True:
        try:
            answer = yield from attempt()
        except (Unreachable, ApiError) as error:
            yield from sleep(seconds_until_next(service, retries, error))
        else:
            service.reached = True
            return answer


def seconds_until_next(service: Service, retries: Retries, error: Unreachable | ApiError) -> float:
    """How long to wait after an error. Raises it if the same would only happen again."""
    if isinstance(error, Unreachable) and error.refused and not service.reached:
        raise error
    return retries.seconds_until_next(error)


def answer_to(service: Service, request: Request) -> Flow[httpx2.Response]:
    """The answer to a request, which is sent again if it may succeed later.

    A request that creates something has the same idempotency key each time, so that it is carried
    out once. Raises ApiError, Unreachable or InvalidRequest.
    """
    request, tries = request.with_key(), 0

    def attempt() -> Flow[httpx2.Response]:
        nonlocal tries
        tries += 1
        answer = yield from send(request)
        # An earlier try whose answer was lost may have deleted it.
        gone = request.method == "DELETE" and answer.status_code == 404 and tries > 1
        return answer if gone else checked(answer)

    return (yield from retried(service, attempt))


def call(service: Service, /, method: str, path: str, **options: Any) -> Flow[Json]:
    """Send a request and return the JSON of the answer; ``options`` are those of httpx.

    Raises ApiError, Unreachable or InvalidRequest.
    """
    return document((yield from answer_to(service, Request(method, path, options))))


def submit(service: Service, collection: str, body: Mapping[str, Any]) -> Flow[Json]:
    """Submit a job. If the same ranking is stored already, the answer is that finished job."""
    return (yield from call(service, "POST", f"/v1/{collection}", json=json_of(body)))


def start_once(service: Service, collection: str, body: Mapping[str, Any], run: str) -> Flow[Json]:
    """Submit a job, or take up the one that this run has submitted already.

    For orchestrators, whose tasks are repeated: ``run`` is a name that all tries of a task share.
    The job that an earlier try has started is found by it, waiting, running or finished; one that
    failed or was cancelled is tried again, one that was deleted submitted anew. So a call starts
    one job at most. The service remembers a run's jobs for a day.
    """
    path, content = f"/v1/{collection}", json_of(body)
    named = json.dumps([run, path, content], sort_keys=True)
    first = key = f"once-{hashlib.sha256(named.encode()).hexdigest()}"
    while True:
        options = {"json": content, "headers": {IDEMPOTENCY_KEY: key}}
        answer = yield from answer_to(service, Request("POST", path, options))
        started = document(answer)
        if REPLAYED not in answer.headers:
            return started
        found = yield from _if_there(service, started["id"])
        if found and (not found["terminal"] or found["status"] == "succeeded"):
            return found
        key = f"{first}-{started['id']}"
        if found:
            path, content = f"/v1/jobs/{found['id']}/retry", None
        else:
            path, content = f"/v1/{collection}", json_of(body)


def _if_there(service: Service, job_id: str) -> Flow[Json | None]:
    try:
        return (yield from job(service, job_id))
    except ApiError as error:
        if error.problem.get("status") != HTTPStatus.NOT_FOUND:
            raise
        return None


def rank(service: Service, /, model: str, dataset: object, **options: object) -> Flow[Json]:
    """Rank the layers of a model on a dataset; ``options`` are the fields of `RankingSpec`.

    A dataset is the name of a preset, an uploaded dataset or its id, or a reference to the Hub. If
    the same ranking is stored already, the job has ended at once.
    """
    return (yield from submit(service, "rankings", _body(model, dataset, options)))


def tune(
    service: Service, /, model: str, dataset: object, *, selection: object = None, **options: object
) -> Flow[Json]:
    """Fine-tune the layers that ``selection`` chooses; ``options`` are those of `FinetuneSpec`.

    A selection is a `SelectionSpec` or its fields, such as `{"policy": "top_k", "k": 2, "ranking":
    ranking}`, where the ranking is a job or an id. An ``adapter`` trains in place of layers.
    """
    chosen = {} if selection is None else {"selection": selection}
    return (yield from submit(service, "finetunes", _body(model, dataset, {**chosen, **options})))


def search(service: Service, /, model: str, dataset: object, **options: object) -> Flow[Json]:
    """Search for the layers that learn a dataset best; ``options`` as in `SearchSpec`."""
    return (yield from submit(service, "searches", _body(model, dataset, options)))


def predict(
    service: Service, /, checkpoint: str, rows: Sequence[Json], **options: object
) -> Flow[Json]:
    """Ask a checkpoint about rows; ``options`` as in `PredictionSpec`."""
    body = {"checkpoint": checkpoint, "rows": list(rows), **options}
    return (yield from submit(service, "predictions", body))


def export(
    service: Service, /, checkpoint: str, to: str, target: str, **options: object
) -> Flow[Json]:
    """Hand a checkpoint's model over; ``options`` as in `ExportRequest`."""
    body = {"to": to, "target": target, **options}
    return (yield from submit(service, f"checkpoints/{checkpoint}/exports", body))


def compare(
    service: Service, /, model: str, dataset: object, arms: Sequence[object], **options: object
) -> Flow[Json]:
    """Compare several ways to train; ``arms`` and ``options`` as in `ComparisonSpec`."""
    body = _body(model, dataset, {"arms": list(arms), **options})
    return (yield from submit(service, "comparisons", body))


def _body(model: str, dataset: object, options: Mapping[str, object]) -> Json:
    return {"model": model, "dataset": dataset, **options}


def job(service: Service, job_id: str) -> Flow[Json]:
    """The current state of a job."""
    return (yield from call(service, "GET", f"/v1/jobs/{job_id}"))


def cancel(service: Service, job_id: str) -> Flow[Json]:
    """End a job; a running one has ``cancel_requested`` until its worker has stopped it."""
    return (yield from call(service, "POST", f"/v1/jobs/{job_id}/cancel"))


def pause(service: Service, job_id: str) -> Flow[Json]:
    """Pause a job; a running one has ``pause_requested`` until its worker has stopped it."""
    return (yield from call(service, "POST", f"/v1/jobs/{job_id}/pause"))


def resume(service: Service, job_id: str) -> Flow[Json]:
    """Let a paused job go on."""
    return (yield from call(service, "POST", f"/v1/jobs/{job_id}/resume"))


def retry(service: Service, job_id: str) -> Flow[Json]:
    """Submit the request of a failed or cancelled job again; returns the new job."""
    return (yield from call(service, "POST", f"/v1/jobs/{job_id}/retry"))


def change(service: Service, job_id: str, changes: Json) -> Flow[Json]:
    """Change the name, the metadata or the priority of a job, as a JSON Merge Patch."""
    return (yield from call(service, "PATCH", f"/v1/jobs/{job_id}", json=changes))


def delete(service: Service, job_id: str) -> Flow[None]:
    """Delete a job that has ended, with everything that belongs to it."""
    yield from call(service, "DELETE", f"/v1/jobs/{job_id}")


def estimate(service: Service, /, model: str, dataset: object, **options: object) -> Flow[Estimate]:
    """The memory and the time that fine-tunes would take; ``options`` as in `EstimateSpec`."""
    body = json_of(_body(model, dataset, options))
    return parsed(Estimate, (yield from call(service, "POST", "/v1/estimates", json=body)))


def wait(
    service: Service, job: Json, on_update: Callable[[Json], None] | None = None
) -> Flow[Json]:
    """Wait until the job has ended; ``on_update`` is called with every state.

    A connection that breaks off is made again, so the service may be restarted meanwhile.
    """
    tag: str | None = None
    while True:
        if on_update:
            on_update(job)
        if job["terminal"]:
            return job
        headers = {"Prefer": f"wait={WAIT_SECONDS}", "If-None-Match": tag} if tag else {}
        path = f"/v1/jobs/{job['id']}"
        answer = yield from answer_to(service, Request("GET", path, {"headers": headers}))
        if "preference-applied" not in answer.headers:
            yield from sleep(POLL_SECONDS)
        if answer.status_code != HTTPStatus.NOT_MODIFIED:
            job, tag = document(answer), answer.headers.get("etag")


def follow(service: Service, job_id: str, after: int = 0) -> Stream[Event]:
    """The events of a job after the one with this number, each as it happens, until it has ended.

    A connection that breaks off is made again: no event is lost, none comes twice.
    """
    parser, retries = EventStreamParser(str(after)), Retries(service.patience)
    while True:
        try:
            if (yield from _events_of_connection(service, job_id, parser, retries)):
                return
            delay = RECONNECT_SECONDS
        except (Unreachable, ApiError) as error:
            delay = seconds_until_next(service, retries, error)
        parser.restart()
        yield from sleep(delay)


def _events_of_connection(
    service: Service, job_id: str, parser: EventStreamParser, retries: Retries
) -> Generator[Step | Emit[Event], Any, bool]:
    """The events that one connection brings. Returns whether the job has ended."""
    opened = yield from _open_events(service, job_id, parser.last_id)
    while piece := (yield from read(opened)):
        retries.succeeded()
        for message in parser.feed(piece):
            if message.event == "done":
                return True
            yield Emit(event_of(message))
    yield from close(opened)
    return False


def _open_events(service: Service, job_id: str, last: str | None) -> Flow[Opened]:
    headers = {**STREAM_HEADERS, "Last-Event-ID": last or "0"}
    options = {"headers": headers, "timeout": SILENCE}
    opened = yield from open_answer(Request("GET", f"/v1/jobs/{job_id}/events", options))
    checked(opened.response)
    service.reached = True
    return opened


def log_lines(
    service: Service, job_id: str, attempt: int | None = None, *, follow: bool = False
) -> Stream[Json]:
    """The lines of a job's log: those of one attempt, by default the latest one.

    ``follow`` waits for further lines until the attempt has ended or, if none is named, until the
    job has.
    """
    ask = partial(call, service, "GET", f"/v1/jobs/{job_id}/logs")
    number, after = attempt, 0
    while True:
        page = yield from ask(params={"attempt": number, "after": after} if number else {})
        yield from map(Emit, page["data"])
        number, after = page["attempt"], page["next"]
        if not follow:
            return
        if page["complete"]:
            if attempt or (yield from job(service, job_id))["terminal"]:
                return
            if number and (yield from ask())["attempt"] > number:
                number, after = number + 1, 0
                continue
        yield from sleep(LOG_SECONDS)


def listed(service: Service, path: str, params: Json) -> Flow[list[Json]]:
    """The entries of every page of a list."""
    query = {**params, "limit": 200}
    page = yield from call(service, "GET", path, params=query)
    entries = list(page["data"])
    while page["has_more"]:
        page = yield from call(
            service, "GET", path, params={**query, "cursor": page["next_cursor"]}
        )
        entries += page["data"]
    return entries


def datasets(service: Service, limit: int = 200, name: str | None = None) -> Flow[list[Json]]:
    """The newest stored datasets, newest first; only those of a name if one is given."""
    wanted = {"limit": limit, **({} if name is None else {"name": name})}
    return list((yield from call(service, "GET", "/v1/datasets", params=wanted))["data"])


def dataset_names(service: Service, ids: Collection[str]) -> Flow[dict[str, str]]:
    """The names of those of these datasets that are among the newest uploads, by id."""
    if not any(each.startswith("ds_") for each in ids):
        return {}
    named = {each["id"]: each["name"] for each in (yield from datasets(service))}
    return {each: named[each] for each in ids if named.get(each)}


def checkpoints(service: Service, job_id: str) -> Flow[list[Json]]:
    """A job's checkpoints, oldest first."""
    return list((yield from call(service, "GET", f"/v1/jobs/{job_id}/checkpoints"))["data"])


def record(service: Service, checkpoint_id: str) -> Flow[Json]:
    """What a checkpoint's ``surgery.json`` records about its run."""
    path = f"/v1/checkpoints/{checkpoint_id}/files/surgery.json"
    return (yield from call(service, "GET", path))


def best_checkpoint(service: Service, job_id: str, arm: str | None = None) -> Flow[str]:
    """The id of a fine-tune's best checkpoint, or of the one to take of a comparison.

    ``arm`` names another arm of the comparison than the decided one. Raises ApiError if there is
    none; its text says which other checkpoints exist.
    """
    found = yield from job(service, job_id)
    if found["kind"] == "comparison":
        return (yield from _decided_checkpoint(service, found, arm))
    if arm is not None:
        raise _not_found(f"{job_id} is a {found['kind']} and has no arms; name none")
    if found["kind"] != "finetune":
        raise _not_found(f"{job_id} is a {found['kind']}, which leaves no checkpoint")
    if found.get("result_of") is not None:  # an equal run of its comparison has trained
        return (yield from best_checkpoint(service, found["result_of"]))
    stored = yield from checkpoints(service, job_id)
    for each in stored:
        if each["is_best"]:
            return str(each["id"])
    if stored:
        detail = f"the best checkpoint of {job_id} was deleted or not kept; there are:"
        for each in stored:
            detail += f"\n  surgeon download {each['id']} DIR   # step {each['step']}"
    elif found["terminal"]:
        detail = f"{job_id} {found['status']}, and no checkpoint of it is left"
    else:
        detail = f"{job_id} is {found['status']} and has no checkpoint yet"
    raise _not_found(detail)


def _not_found(detail: str) -> ApiError:
    return ApiError({"code": "not_found", "detail": detail})


def _decided_checkpoint(service: Service, compared: Json, arm: str | None) -> Flow[str]:
    """The checkpoint of a comparison's decided arm, or of the best run of another."""
    if compared["result"] is None:
        runs = yield from _runs_of(service, compared)
        raise _not_found(f"{compared['id']} has no result to decide by; {runs}")
    arms = {each["name"]: each for each in compared["result"]["arms"]}
    if arm is None:
        decision = compared["result"].get("decision") or {"summary": "it was not decided."}
        if decision.get("checkpoint"):
            return str(decision["checkpoint"])
        why = f"{compared['id']}: {decision['summary']} Name the arm to take all the same:"
        raise _not_found(f"{why} {', '.join(arms)}")
    if arm not in arms:
        raise _not_found(f"{compared['id']} has no arm {arm!r}; its arms are {', '.join(arms)}")
    known = [run for run in arms[arm]["runs"] if run["metric"] is not None]
    if not known:
        raise _not_found(f"no run of arm {arm!r} has a result")
    best = max(known, key=lambda run: float(run["metric"]))
    return (yield from best_checkpoint(service, best["job"]))


def _runs_of(service: Service, compared: Json) -> Flow[str]:
    """The commands that download the best checkpoint of each of a comparison's runs."""
    children = yield from listed(service, "/v1/jobs", {"parent": compared["id"]})
    runs = [run for run in children if run["kind"] == "finetune"]
    runs.sort(key=lambda run: (run["resolved"]["arm"], run["spec"]["training"]["seed"]))
    lines = [
        f"  surgeon download {run['id']} DIR   # {run['resolved']['arm']}, seed "
        f"{run['spec']['training']['seed']}, {run['status']}"
        for run in runs
    ]
    return "\n".join(["its runs are", *lines])
