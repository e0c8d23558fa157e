"""Layer Surgeon for Airflow 3: an operator, a sensor, and the trigger in which both wait.

URL and API key come from an Airflow connection (type `http`: host, port, schema; the key is its
password). Put this file into the folder of DAGs or on the path, beside `pip install layer-surgeon`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow.exceptions import AirflowException, AirflowFailException
from airflow.sdk import BaseHook, BaseOperator, BaseSensorOperator, Connection, Context
from airflow.sdk.bases.sensor import PokeReturnValue
from airflow.triggers.base import BaseTrigger, TriggerEvent

from surgeon import ApiError, AsyncClient, Client, JobFailed

Json = dict[str, Any]
CONNECTION = "layer_surgeon"
DONE = "done"  # the method of a task with which it goes on after the trigger


def url_of(connection: Connection) -> str:
    """The URL of the service."""
    port = f":{connection.port}" if connection.port else ""
    return f"{connection.schema or 'http'}://{connection.host}{port}"


def client_of(conn_id: str) -> Client:
    """A client of the service that a connection names."""
    connection = BaseHook.get_connection(conn_id)
    return Client(url_of(connection), connection.password)


async def async_client_of(conn_id: str) -> AsyncClient:
    """The same for the event loop of a triggerer."""
    connection = await BaseHook.aget_connection(conn_id)
    return AsyncClient(url_of(connection), connection.password)


def outcome(job: Any) -> Json:
    """Id and result of a job that has ended, as other tasks read them from XCom.

    Raises AirflowException with the service's own words. Where the same request would fail again,
    or somebody has cancelled the job, Airflow does not retry by itself.
    """
    try:
        job.result  # noqa: B018  # raises what went wrong
    except JobFailed as failed:
        error = failed.job["error"] or {}
        again = failed.job["status"] == "failed" and error.get("retriable")
        raise (AirflowException if again else AirflowFailException)(str(failed)) from failed
    return {"id": job.id, "result": job.document["result"]}


class SurgeonJobTrigger(BaseTrigger):
    """Waits for a job, through restarts of the service and broken connections.

    ``owned`` is whether the task has started the job: killing the task then cancels it.
    """

    def __init__(self, job_id: str, conn_id: str = CONNECTION, *, owned: bool = True) -> None:
        super().__init__()
        self.job_id, self.conn_id, self.owned = job_id, conn_id, owned

    def serialize(self) -> tuple[str, Json]:
        """What a triggerer makes it from."""
        kept = {"job_id": self.job_id, "conn_id": self.conn_id, "owned": self.owned}
        return f"{type(self).__module__}.{type(self).__name__}", kept

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event, when the job has ended."""
        async with await async_client_of(self.conn_id) as client:
            job = await (await client.get(self.job_id)).wait()
        yield TriggerEvent({"job_id": job.id, "status": job.status})

    async def on_kill(self) -> None:
        """Called when somebody clears the waiting task or sets its state; not at a restart."""
        if self.owned:
            async with await async_client_of(self.conn_id) as client:
                await client.cancel(self.job_id)


class SurgeonJobOperator(BaseOperator):
    """Starts a job and waits for it; returns its id and its result.

    ``collection`` is where the job is posted (`rankings`, `finetunes`, `searches`, `comparisons`),
    ``body`` the request. All tries of a task in a run of its DAG share one job. With ``wait=False``
    it returns at once, and a ``SurgeonJobSensor`` waits.
    """

    template_fields: Sequence[str] = ("collection", "body")

    def __init__(
        self,
        *,
        collection: str,
        body: Json,
        conn_id: str = CONNECTION,
        wait: bool = True,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.collection, self.body, self.conn_id = collection, body, conn_id
        self.wait, self.deferrable = wait, deferrable
        self.job_id: str | None = None

    def execute(self, context: Context) -> Json:
        """Start the job, or take up the one that an earlier try of this run has started."""
        with client_of(self.conn_id) as client:
            try:
                job = client.start_once(self.collection, self.body, run=self._run_name(context))
            except ApiError as error:  # what may pass, the client has sent again
                raise AirflowFailException(str(error)) from error
            self.job_id = job.id
            self.log.info("%s is %s", job.id, job.status)
            if not self.wait:
                return {"id": job.id}
            if not self.deferrable:
                return outcome(job.wait())
        return self.defer(trigger=SurgeonJobTrigger(job.id, self.conn_id), method_name=DONE)

    def _run_name(self, context: Context) -> str:
        task = context["ti"]
        return f"airflow/{task.dag_id}/{task.run_id}/{task.task_id}/{task.map_index}"

    def done(self, context: Context, event: Json) -> Json:  # noqa: ARG002  # Airflow's own names
        """Go on when the trigger has fired."""
        with client_of(self.conn_id) as client:
            return outcome(client.get(event["job_id"]))

    def on_kill(self) -> None:
        """Called when the task is killed while it runs on a worker."""
        if self.job_id:
            with client_of(self.conn_id) as client:
                client.cancel(self.job_id)


class SurgeonJobSensor(BaseSensorOperator):
    """Waits for a job that something else has started; returns its id and its result.

    It leaves the job alone when it is killed.
    """

    template_fields: Sequence[str] = ("job_id",)

    def __init__(
        self,
        *,
        job_id: str,
        conn_id: str = CONNECTION,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id, self.conn_id, self.deferrable = job_id, conn_id, deferrable

    def execute(self, context: Context) -> Json:
        """Wait in a triggerer, or by asking from time to time."""
        if not self.deferrable:
            return super().execute(context)
        trigger = SurgeonJobTrigger(self.job_id, self.conn_id, owned=False)
        return self.defer(trigger=trigger, method_name=DONE)

    def done(self, context: Context, event: Json) -> Json:  # noqa: ARG002  # Airflow's own names
        """Go on when the trigger has fired."""
        with client_of(self.conn_id) as client:
            return outcome(client.get(event["job_id"]))

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002
        """Whether the job has ended, and with what."""
        with client_of(self.conn_id) as client:
            job = client.get(self.job_id)
        ended = job.document["terminal"]
        return PokeReturnValue(ended, outcome(job) if ended else None)
