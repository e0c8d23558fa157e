import type { Schemas } from "../api/client";
import { api } from "../api/client";
import { usePolled, type Sending } from "../api/usePolled";
import { address } from "../app/router";
import { DataTable } from "../ui/DataTable";
import { Failure } from "../ui/Failure";
import { bytes, duration, wholeNumber } from "../ui/format";
import { Moment } from "../ui/Moment";
import { useTitle } from "../ui/useTitle";

const EVERY_MILLISECONDS = 3000;
const askQueue = (sending: Sending) => api.GET("/v1/queue", { ...sending });
const askWorkers = (sending: Sending) => api.GET("/v1/workers", { params: { query: { limit: 100 } }, ...sending });

/** What waits, what runs, and who does the work. */
export default function QueuePage() {
  useTitle("Queue");
  const queue = usePolled(askQueue, () => EVERY_MILLISECONDS);
  const workers = usePolled(askWorkers, () => EVERY_MILLISECONDS);
  return (
    <>
      <h1>Queue and workers</h1>
      <Failure error={queue.error} />
      <section className="card">
        <h2>Queue</h2>
        {queue.data && <Kinds kinds={queue.data.kinds} />}
      </section>
      <Failure error={workers.error} />
      <section className="card">
        <h2>Workers</h2>
        {workers.data && <Workers workers={workers.data.data} />}
      </section>
    </>
  );
}

function Kinds({ kinds }: { kinds: Schemas["QueueReport"]["kinds"] }) {
  return (
    <DataTable
      title="Queue"
      columns={["Kind", "Queued", "Running", "Paused", "Oldest queued", "Of all projects", "Workers", "Expected wait"]}
      none="There is no kind of run."
      rows={Object.entries(kinds).map(([kind, { project, all, ...rest }]) => ({
        id: kind,
        cells: [
          kind,
          wholeNumber(project.queued),
          wholeNumber(project.running),
          wholeNumber(project.paused),
          <Moment at={project.oldest_queued_at} />,
          `${wholeNumber(all.queued)} queued, ${wholeNumber(all.running)} running`,
          `${wholeNumber(rest.workers_alive)}, ${wholeNumber(rest.workers_idle)} idle`,
          rest.expected_wait_seconds == null ? "not known" : duration(rest.expected_wait_seconds),
        ],
      }))}
    />
  );
}

function Workers({ workers }: { workers: Schemas["WorkerView"][] }) {
  return (
    <DataTable
      title="Workers"
      columns={["Worker", "State", "Run", "Kinds", "Devices", "Last heard of", "Version"]}
      none="No worker has ever started: runs stay queued. Start one with surgeon worker."
      rows={workers.map((worker) => ({
        id: worker.id,
        cells: [
          <code>{worker.id}</code>,
          worker.alive ? (worker.busy ? "busy" : "idle") : worker.stopped_at ? "stopped" : "lost",
          worker.job ? <a href={address(["runs", worker.job])}>{worker.job}</a> : "–",
          worker.kinds.join(", "),
          worker.devices.map(({ name, memory_bytes: memory }) => `${name} ${bytes(memory)}`).join(", "),
          <Moment at={worker.heartbeat_at} />,
          worker.version,
        ],
      }))}
    />
  );
}
