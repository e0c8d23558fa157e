"""The HTTP client of the service."""

from __future__ import annotations

import contextlib
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import httpx2

from surgery.errors import fault_line

Json = dict[str, Any]
POLL_SECONDS = 0.25  # between two requests that the service answers at once
WAIT_SECONDS = 30  # for which a request asks the service to wait for news
LOG_SECONDS = 1.0  # between two looks at a log, to which a worker adds every two seconds
RETRY_SECONDS = 1.0  # between two tries to reach the service
PATIENCE_SECONDS = 60.0  # after which a service that does not answer is given up
TIMEOUT = httpx2.Timeout(30.0, write=300.0, read=300.0)


@contextlib.contextmanager
def _sendable(what: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, httpx2.InvalidURL) as error:
        raise InvalidRequest(f"{what} cannot be sent: {error}") from error


class ApiError(Exception):
    """The service answered with an error. ``problem`` is its JSON; the text is for people."""

    def __init__(self, problem: Json) -> None:
        self.problem = problem
        lines = [
            f"{problem.get('title', 'Error')} ({problem.get('code')}): {problem.get('detail')}"
        ]
        lines += [fault_line(fault, problem.get("detail")) for fault in problem.get("errors", [])]
        super().__init__("\n".join(lines))


def _not_found(detail: str) -> ApiError:
    return ApiError({"code": "not_found", "detail": detail})


def _of_another_service(answer: httpx2.Response, detail: str) -> ApiError:
    problem = {"title": "Unexpected answer", "code": answer.status_code, "detail": detail[:300]}
    return ApiError(problem)


class Unreachable(Exception):
    """No service answers at the URL, or its answer broke off."""


def _passing(error: Unreachable | ApiError) -> bool:
    """Whether the same request may succeed a little later."""
    return isinstance(error, Unreachable) or error.problem.get("status") in {502, 503, 504}


class InvalidRequest(Exception):
    """The arguments make no valid request: a malformed URL, malformed Unicode, or NaN."""


class Client:
    """Sends requests to one service. Raises InvalidRequest if the URL or the key is malformed."""

    def __init__(self, url: str, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url = url.rstrip("/")
        with _sendable("the URL or the key"):
            self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> Json:
        """Send a request and return the JSON of the answer.

        Raises ApiError, Unreachable or InvalidRequest.
        """
        with _sendable("the request"):
            request = self._http.build_request(method, path, **options)
        with self._reaching():
            answer = self._http.send(request)
        return self._checked(answer)

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx2.TransportError as error:
            raise Unreachable(
                f"no service answers at {self.url} ({error}); start one with: surgeon serve"
            ) from error

    def _checked(self, answer: httpx2.Response) -> Json:
        try:
            body = answer.json() if answer.content else {}
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise _of_another_service(answer, answer.text)
        if answer.is_error:
            raise ApiError(body)
        return body

    def submit(self, collection: str, body: Json) -> Json:
        """Submit a job. If the same ranking is stored already, the answer is that finished job."""
        return self.call("POST", f"/v1/{collection}", json=body)

    def job(self, job_id: str) -> Json:
        """The current state of a job."""
        return self.call("GET", f"/v1/jobs/{job_id}")

    def cancel(self, job_id: str) -> Json:
        """End a job; a running one has ``cancel_requested`` until its worker has stopped it."""
        return self.call("POST", f"/v1/jobs/{job_id}/cancel")

    def pause(self, job_id: str) -> Json:
        """Pause a job; a running one has ``pause_requested`` until its worker has stopped it."""
        return self.call("POST", f"/v1/jobs/{job_id}/pause")

    def resume(self, job_id: str) -> Json:
        """Let a paused job go on."""
        return self.call("POST", f"/v1/jobs/{job_id}/resume")

    def retry(self, job_id: str) -> Json:
        """Submit the request of a failed or cancelled job again; returns the new job."""
        return self.call("POST", f"/v1/jobs/{job_id}/retry")

    def change(self, job_id: str, changes: Json) -> Json:
        """Change the name, the metadata or the priority of a job, as a JSON Merge Patch."""
        return self.call("PATCH", f"/v1/jobs/{job_id}", json=changes)

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with everything that belongs to it."""
        self.call("DELETE", f"/v1/jobs/{job_id}")

    def wait(self, job: Json, on_update: Callable[[Json], None] | None = None) -> Json:
        """Wait until the job has ended; ``on_update`` is called with every state.

        A connection that breaks off is made again. Raises Unreachable after a minute without one.
        """
        tag: str | None = None
        reached = time.monotonic()
        while True:
            if on_update:
                on_update(job)
            if job["terminal"]:
                return job
            try:
                job, tag = self._next_state(job, tag)
            except (Unreachable, ApiError) as error:
                if not _passing(error) or time.monotonic() - reached > PATIENCE_SECONDS:
                    raise
                time.sleep(RETRY_SECONDS)
            else:
                reached = time.monotonic()

    def _next_state(self, job: Json, tag: str | None) -> tuple[Json, str | None]:
        """The job when it has changed since the answer with this ETag, or after a while."""
        waiting = {"Prefer": f"wait={WAIT_SECONDS}", "If-None-Match": tag} if tag else {}
        with self._reaching():
            answer = self._http.get(f"/v1/jobs/{job['id']}", headers=waiting)
        if "preference-applied" not in answer.headers:
            time.sleep(POLL_SECONDS)
        if answer.status_code == 304:
            return job, tag
        return self._checked(answer), answer.headers.get("etag")

    def log_lines(
        self, job_id: str, attempt: int | None = None, *, follow: bool = False
    ) -> Iterator[Json]:
        """The lines of a job's log: those of one attempt, by default the latest one.

        ``follow`` waits for further lines until the attempt has ended or, if none is named, until
        the job has.
        """
        path, number, after = f"/v1/jobs/{job_id}/logs", attempt, 0
        while True:
            where = {"attempt": number, "after": after} if number else {}
            page = self.call("GET", path, params=where)
            yield from page["data"]
            number, after = page["attempt"], page["next"]
            if not follow or (page["complete"] and (attempt or self.job(job_id)["terminal"])):
                return
            if page["complete"] and number and self.call("GET", path)["attempt"] > number:
                number, after = number + 1, 0
                continue
            time.sleep(LOG_SECONDS)

    def upload(
        self, train: Path, validation: Path | None, spec: str = "{}", name: str | None = None
    ) -> Json:
        """Upload a dataset; ``spec`` is the JSON of its `UploadSpec`, ``name`` is for lists."""
        with contextlib.ExitStack() as stack:
            files: dict[str, tuple[str, IO[bytes]]] = {
                "train": (train.name, stack.enter_context(train.open("rb")))
            }
            if validation is not None:
                opened = stack.enter_context(validation.open("rb"))
                files["validation"] = (validation.name, opened)
            data = {"spec": spec} | ({} if name is None else {"name": name})
            return self.call("POST", "/v1/datasets", files=files, data=data)

    def create_key(
        self,
        scope: str,
        *,
        name: str | None = None,
        days: float | None = None,
        project: str | None = None,
    ) -> Json:
        """Make an API key, which expires after some ``days``; the answer holds the key."""
        wanted = {"name": name, "expires_in_days": days, "project": project}
        body = {field: value for field, value in wanted.items() if value is not None}
        return self.call("POST", "/v1/keys", json={**body, "scopes": [scope]})

    def keys(self, project: str | None = None) -> list[Json]:
        """The API keys of a project, by default of the key's own, newest first."""
        return self._all("/v1/keys", {"project": project} if project else {})

    def revoke_key(self, key_id: str) -> None:
        """Revoke an API key for ever."""
        self.call("DELETE", f"/v1/keys/{key_id}")

    def create_project(self, name: str, limits: Json | None = None) -> Json:
        """Make a project, with limits that differ from the service's if there are any."""
        return self.call("POST", "/v1/projects", json={"name": name, "limits": limits or {}})

    def projects(self) -> list[Json]:
        """Every project that the key may see, newest first."""
        return self._all("/v1/projects", {})

    def _all(self, path: str, params: Json) -> list[Json]:
        """The entries of every page of a list."""
        query = {**params, "limit": 200}
        page = self.call("GET", path, params=query)
        entries = list(page["data"])
        while page["has_more"]:
            page = self.call("GET", path, params={**query, "cursor": page["next_cursor"]})
            entries += page["data"]
        return entries

    def create_webhook(
        self, url: str, events: Sequence[str] | None = None, description: str | None = None
    ) -> Json:
        """Create a webhook; the answer holds its secret. Without ``events``, the ends of jobs."""
        body: Json = {"url": url, "description": description}
        if events:
            body["events"] = list(events)
        return self.call("POST", "/v1/webhooks", json=body)

    def webhooks(self) -> list[Json]:
        """Every webhook, newest first."""
        return list(self.call("GET", "/v1/webhooks", params={"limit": 200})["data"])

    def delete_webhook(self, webhook_id: str) -> None:
        """Delete a webhook and its log."""
        self.call("DELETE", f"/v1/webhooks/{webhook_id}")

    def test_webhook(self, webhook_id: str, seconds: float = 30.0) -> Json:
        """Send a test event, and wait ``seconds`` at most for the first attempt to end."""
        sent = self.call("POST", f"/v1/webhooks/{webhook_id}/test")
        deadline = time.monotonic() + seconds
        while not sent["attempts"] and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            sent = self.call("GET", f"/v1/webhooks/{webhook_id}/deliveries/{sent['id']}")
        return sent

    def checkpoints(self, job_id: str) -> list[Json]:
        """A job's checkpoints, oldest first."""
        return list(self.call("GET", f"/v1/jobs/{job_id}/checkpoints")["data"])

    def best_checkpoint(self, job_id: str, arm: str | None = None) -> str:
        """The id of a fine-tune's best checkpoint, or of that to take of a comparison.

        ``arm`` names another arm of the comparison than the decided one. Raises ApiError if there
        is no such checkpoint; its text says which others exist.
        """
        job = self.job(job_id)
        if job["kind"] == "comparison":
            return self._decided_checkpoint(job, arm)
        if arm is not None:
            raise _not_found(f"{job_id} is a {job['kind']} and has no arms; leave --arm out")
        if job["kind"] != "finetune":
            raise _not_found(f"{job_id} is a {job['kind']}, which leaves no checkpoint")
        if job["result_of"] is not None:  # an equal run of its comparison has trained
            return self.best_checkpoint(job["result_of"])
        checkpoints = self.checkpoints(job_id)
        for each in checkpoints:
            if each["is_best"]:
                return str(each["id"])
        if checkpoints:
            detail = f"the best checkpoint of {job_id} was deleted or not kept; there are:"
            for each in checkpoints:
                detail += f"\n  surgeon download {each['id']} DIR   # step {each['step']}"
        elif job["terminal"]:
            detail = f"{job_id} {job['status']}, and no checkpoint of it is left"
        else:
            detail = f"{job_id} is {job['status']} and has no checkpoint yet"
        raise _not_found(detail)

    def _decided_checkpoint(self, job: Json, arm: str | None) -> str:
        """The checkpoint of a comparison's decided arm, or of the best run of another."""
        if job["result"] is None:
            raise _not_found(f"{job['id']} has no result to decide by: {self._runs_of(job)}")
        arms = {each["name"]: each for each in job["result"]["arms"]}
        if arm is None:
            decision = job["result"].get("decision") or {"summary": "it was not decided."}
            if decision.get("checkpoint"):
                return str(decision["checkpoint"])
            why = f"{job['id']}: {decision['summary']} --arm names the one to take all the same:"
            raise _not_found(f"{why} {', '.join(arms)}")
        if arm not in arms:
            raise _not_found(f"{job['id']} has no arm {arm!r}; its arms are {', '.join(arms)}")
        known = [run for run in arms[arm]["runs"] if run["metric"] is not None]
        if not known:
            raise _not_found(f"no run of arm {arm!r} has a result: {self._runs_of(job)}")
        return self.best_checkpoint(max(known, key=lambda run: float(run["metric"]))["job"])

    def _runs_of(self, job: Json) -> str:
        """The commands that download the best checkpoint of each of a comparison's runs."""
        query = {"parent": job["id"], "limit": 200}
        runs = [
            run
            for run in self.call("GET", "/v1/jobs", params=query)["data"]
            if run["kind"] == "finetune"
        ]
        runs.sort(key=lambda run: (run["resolved"]["arm"], run["spec"]["training"]["seed"]))
        lines = [
            f"  surgeon download {run['id']} DIR   # {run['resolved']['arm']}, seed "
            f"{run['spec']['training']['seed']}, {run['status']}"
            for run in runs
        ]
        return "\n".join(["its runs are", *lines])

    def download(
        self,
        checkpoint_id: str,
        folder: Path,
        form: str | None = None,
        on_update: Callable[[int, int], None] | None = None,
    ) -> Path:
        """Download a checkpoint and unpack it into a folder, which is created if it does not exist.

        ``on_update`` is called with the bytes received so far and their total.
        """
        folder.mkdir(parents=True, exist_ok=True)
        params = {"form": form} if form else {}
        with _sendable("the request"):
            path = f"/v1/checkpoints/{checkpoint_id}/archive"
            request = self._http.build_request("GET", path, params=params)
        with tempfile.TemporaryFile(dir=folder) as packed:
            with self._reaching():
                answer = self._http.send(request, stream=True)
            with contextlib.closing(answer):
                self._fetch(answer, packed, on_update)
            packed.seek(0)
            try:
                with tarfile.open(fileobj=packed, mode="r:") as archive:
                    archive.extractall(folder, filter="data")
            except tarfile.TarError as error:
                raise _of_another_service(answer, f"no archive: {error}") from error
        return folder

    def _fetch(
        self,
        answer: httpx2.Response,
        packed: IO[bytes],
        on_update: Callable[[int, int], None] | None,
    ) -> None:
        if answer.is_error:
            answer.read()
            self._checked(answer)
        total, done = int(answer.headers.get("content-length", 0)), 0
        try:
            for chunk in answer.iter_bytes():
                packed.write(chunk)
                done += len(chunk)
                if on_update:
                    on_update(done, max(total, done))
        except httpx2.TransportError as error:
            raise Unreachable(
                f"the download broke off after {done:,} of {total:,} bytes ({error}): the service "
                "may have stopped, or the checkpoint was deleted; ask again"
            ) from error
